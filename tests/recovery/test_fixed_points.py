"""Fixed points from nothing: found where they are known, their basins counted, and nothing made up elsewhere."""

from dataclasses import replace

import pytest
import torch

from lightning_memaudit.recovery.extraction import Extraction, FixedPointSearch, _anderson

SHAPE = (1, 8, 8)
SEARCH = FixedPointSearch(num_starts=300, unseen_share=0.0)


@pytest.fixture
def stored():
    return torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0))


def nearest(stored):
    def autoencoder(images):
        return stored[torch.cdist(images.flatten(1).double(), stored.flatten(1).double()).argmin(1)]

    return autoencoder


def test_the_fixed_points_of_a_memory_are_found_with_their_basins(stored):
    found = SEARCH(nearest(stored), SHAPE)
    # After the first step the image is one of those stored: the basin is the share of starts nearest to it.
    own = SEARCH._own_outputs(nearest(stored), torch.zeros(1, *SHAPE), 64)
    starts = SEARCH._starts(range(300), SHAPE, own)
    counts = torch.cdist(starts.flatten(1), stored.flatten(1)).argmin(1).bincount(minlength=6)
    number = torch.cdist(found.images.flatten(1), stored.flatten(1)).argmin(1)
    assert len(found.images) == (counts > 0).sum() > 3
    assert torch.equal(found.images, stored[number])
    assert torch.equal(found.basin, counts[number])
    assert torch.equal(found.end.bincount(), found.basin)
    assert found.num_settled == found.num_starts == 300
    assert found.num_diverged == 0
    assert not found.residual.any()
    assert not found.identity_like
    # One evaluation finds out that the point is fixed, after the plain ones; 64 outputs for the starts.
    assert found.num_evaluations == 64 + 300 * (SEARCH.num_plain + 1)


def test_a_contraction_has_one_fixed_point_and_the_search_ends_early():
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(64, 64, generator=generator, dtype=torch.float64)
    matrix = (0.95 * matrix / torch.linalg.matrix_norm(matrix, 2)).float()
    center = torch.rand(64, generator=generator)
    truth = torch.linalg.solve(torch.eye(64) - matrix, center)
    found = FixedPointSearch(num_starts=5000)(lambda x: (x.flatten(1) @ matrix.T + center).view_as(x), SHAPE)
    assert len(found.images) == 1
    assert found.complete
    assert found.num_starts < 500
    assert torch.allclose(found.images[0].flatten(), truth, atol=1e-3)


def test_fixed_points_that_repel_are_found_where_plain_iteration_leaves_them():
    """Along one direction the slope is 3 at the fixed point: iteration runs away, acceleration solves for it."""
    direction = torch.nn.functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(2)), dim=0)

    def repelling(images):
        flat = images.flatten(1) - 0.5
        along = flat @ direction
        return (0.5 + 0.1 * flat + ((3 - 0.1) * along)[:, None] * direction).view_as(images)

    found = replace(SEARCH, num_plain=1)(repelling, SHAPE)
    assert found.num_settled == 300
    assert len(found.images) == 1
    assert torch.allclose(found.images[0], torch.full(SHAPE, 0.5), atol=1e-3)
    plain = FixedPointSearch(num_starts=50, num_plain=200, num_accelerated=1)(repelling, SHAPE)
    assert plain.num_settled == 0
    assert plain.num_diverged == 50


def test_the_identity_is_said_to_be_one():
    for autoencoder in (lambda images: images, lambda images: images + 1e-3 * (40 * images).sin()):
        found = SEARCH(autoencoder, SHAPE)
        assert found.identity_like
        assert not found.complete
    assert found.num_starts <= 128  # the rest would tell nothing either


def test_starts_that_run_off_are_counted_and_do_not_stop_the_others():
    def partly(images):
        bright = images.mean((1, 2, 3), keepdim=True) > 0.6
        return torch.where(bright, torch.nan, images * 0 + 0.25)

    found = SEARCH(partly, SHAPE)
    assert 0 < found.num_diverged < 300
    assert found.num_diverged + found.num_settled == 300
    assert len(found.images) == 1
    assert bool((found.end[found.end >= 0] == 0).all())
    assert int((found.end == -1).sum()) == found.num_diverged
    nothing = SEARCH(lambda images: torch.full_like(images, torch.nan), SHAPE)
    assert nothing.num_diverged == 300
    assert not len(nothing.images)
    assert not nothing.identity_like


def test_what_never_settles_is_no_fixed_point():
    found = FixedPointSearch(num_starts=20)(lambda images: 1.0 - images.round(), SHAPE)
    assert found.num_settled == 0
    assert found.num_diverged < 20


def test_the_same_seed_gives_the_same_and_the_batch_does_not_matter(stored):
    autoencoder = nearest(stored)
    first = SEARCH(autoencoder, SHAPE)
    for other in (SEARCH(autoencoder, SHAPE), replace(SEARCH, chunk_size=7)(autoencoder, SHAPE)):
        assert torch.equal(first.images, other.images)
        assert torch.equal(first.end, other.end)
        assert first.num_evaluations == other.num_evaluations
    assert not torch.equal(first.end, replace(SEARCH, seed=1)(autoencoder, SHAPE).end)
    # More starts begin with the same ones.
    more = replace(SEARCH, num_starts=400)(autoencoder, SHAPE)
    assert torch.equal(more.end[:300], first.end)


def test_the_input_of_f_is_not_overwritten_and_no_graph_is_kept(stored):
    layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def writing(images):
        output = layer(images)
        images.zero_()
        return output

    found = FixedPointSearch(num_starts=10)(writing, SHAPE)
    copied = FixedPointSearch(num_starts=10)(layer, SHAPE)
    assert found.num_settled == copied.num_settled > 0
    assert torch.equal(found.images, copied.images)
    assert not found.images.requires_grad
    assert all(weight.grad is None for weight in layer.parameters())


def test_chunks_are_halved_when_the_memory_is_full(stored):
    def small(images):
        if len(images) > 20:
            raise torch.OutOfMemoryError("full")
        return nearest(stored)(images)

    with pytest.warns(UserWarning, match="out of memory"):
        found = SEARCH(small, SHAPE)
    assert torch.equal(found.end, SEARCH(nearest(stored), SHAPE).end)


def test_anderson_solves_a_linear_equation_exactly():
    """With as many differences as dimensions it is the secant method, exact for a linear map, however steep."""
    generator = torch.Generator().manual_seed(3)
    matrix, center = torch.randn(3, 3, generator=generator), torch.rand(3, generator=generator)
    truth = torch.linalg.solve(torch.eye(3) - matrix, center)
    points = list(torch.randn(4, 1, 3, generator=generator))
    errors = [point @ matrix.T + center - point for point in points]
    assert torch.allclose(_anderson(points, errors)[0], truth, atol=1e-3)


@pytest.mark.parametrize(
    "bad",
    [
        {"num_starts": 0},
        {"num_plain": -1},
        {"window": 0},
        {"tolerance": 0.0},
        {"separation_db": float("inf")},
        {"contrast": 0.5},
        {"unseen_share": 1.0},
    ],
)
def test_bad_settings_are_named(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"{name}="):
        FixedPointSearch(**bad)


def test_an_extraction_counts_its_starts():
    empty = torch.zeros(0)
    found = Extraction(empty, empty, empty.long(), torch.tensor([-1, -1]), 2, 10, False, False)
    assert (found.num_starts, found.num_settled) == (2, 0)
