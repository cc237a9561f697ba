"""The recovery methods against brute force, enumeration and closed forms."""

import inspect
import itertools

import pytest
import torch

from lightning_memaudit.recovery import Alternation, AutoencoderIterations, BlindRecovery, KnownMaskRecovery
from lightning_memaudit.recovery.admm import State, alternate, data_step, step
from lightning_memaudit.recovery.chunks import map_chunks
from lightning_memaudit.recovery.masks import LeastSquaresMask


def linear(matrix):
    """An autoencoder that is a matrix on flattened images."""
    return lambda images: (images.flatten(1) @ matrix.T).view_as(images)


def memory(stored):
    """The ideal memorizing autoencoder: the nearest stored image."""

    def autoencoder(images):
        return stored[torch.cdist(images.flatten(1), stored.flatten(1)).argmin(1)]

    return autoencoder


def test_data_step_is_the_minimizer_found_by_brute_force():
    generator = torch.Generator().manual_seed(0)
    observed, prior, dual = (torch.rand(3, 1, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = torch.rand(3, 1, 2, 2, generator=generator, dtype=torch.float64)
    penalty = torch.tensor([0.05, 0.5, 5.0], dtype=torch.float64).view(-1, 1, 1, 1)
    solved = data_step(observed, mask, prior, dual, penalty)

    def objective(image):
        return (mask * image - observed).square() + penalty * (image - (prior - dual)).square()

    grid = torch.linspace(-2, 3, 50_001, dtype=torch.float64)
    values = objective(grid.view(-1, 1, 1, 1, 1))
    brute = grid[values.argmin(0)]
    torch.testing.assert_close(solved, brute, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shared", [True, False])
def test_least_squares_mask_is_the_best_of_all_masks(shared):
    generator = torch.Generator().manual_seed(1)
    image, observed = (torch.rand(1, 2, 2, 2, generator=generator) for _ in range(2))
    observed = observed * (torch.rand(1, 2, 2, 2, generator=generator) > 0.4)
    shape = (1, 1, 2, 2) if shared else (1, 2, 2, 2)
    size = 4 if shared else 8
    candidates = [torch.tensor(bits, dtype=image.dtype).view(shape) for bits in itertools.product((0, 1), repeat=size)]
    errors = [float((mask * image - observed).square().sum()) for mask in candidates]
    best = candidates[errors.index(min(errors))]
    assert torch.equal(LeastSquaresMask(shared)(image, observed), best)


def test_admm_with_a_linear_symmetric_autoencoder_reaches_the_closed_form_minimizer():
    generator = torch.Generator().manual_seed(2)
    size, penalty = 9, 0.3
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    eigenvalues = torch.linspace(0.2, 0.95, size, dtype=torch.float64)
    matrix = basis @ torch.diag(eigenvalues) @ basis.T
    observed = torch.rand(2, 1, 3, 3, generator=generator, dtype=torch.float64)
    mask = (torch.rand(2, 1, 3, 3, generator=generator) > 0.5).double()
    observed = observed * mask
    solution = alternate(
        linear(matrix),
        observed,
        torch.full((2,), penalty, dtype=torch.float64),
        mask,
        observed,
        Alternation(num_iterations=3000, tolerance=0.0),
    )
    # f = prox of s/penalty with s(x) = penalty/2 x'(P^-1 - I)x, so x* = (H + penalty (P^-1 - I))^-1 H y.
    regularizer = penalty * (torch.linalg.inv(matrix) - torch.eye(size, dtype=torch.float64))
    for row in range(2):
        h = torch.diag(mask[row].flatten())
        closed = torch.linalg.solve(h + regularizer, h @ observed[row].flatten())
        torch.testing.assert_close(solution.image[row].flatten(), closed, atol=1e-6, rtol=1e-6)


def test_step_composes_the_three_equations():
    generator = torch.Generator().manual_seed(3)
    x, z, u, y = (torch.rand(2, 3, 4, 4, generator=generator) for _ in range(4))
    h = (torch.rand(2, 1, 4, 4, generator=generator) > 0.5).float()
    penalty = torch.tensor([0.1, 1.0]).view(-1, 1, 1, 1)
    after = step(torch.tanh, y, h, State(x, z, u), penalty)
    for pixel in itertools.product(range(2), range(3), range(4), range(4)):
        b, _, i, j = pixel
        mask, gamma = h[b, 0, i, j], penalty[b, 0, 0, 0]
        image = (mask * y[pixel] + gamma * (z[pixel] - u[pixel])) / (mask * mask + gamma)
        prior = torch.tanh(image + u[pixel])
        torch.testing.assert_close(after.image[pixel], image)
        torch.testing.assert_close(after.prior[pixel], prior)
        torch.testing.assert_close(after.dual[pixel], u[pixel] + image - prior)


@pytest.fixture
def stored():
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(4)) * 0.8 + 0.1


def hide(images, fraction=0.5, seed=5):
    mask = (torch.rand(len(images), 1, *images.shape[2:], generator=torch.Generator().manual_seed(seed)) >= fraction).float()
    return images * mask, mask


@pytest.mark.parametrize(
    "method", [BlindRecovery(), BlindRecovery("least_squares", [0.1]), BlindRecovery("least_squares", [0.1, 1.0])]
)
def test_blind_recovery_gets_stored_images_and_their_masks_back(stored, method):
    observed, mask = hide(stored)
    recovery = method(memory(stored), observed)
    torch.testing.assert_close(recovery.image, stored, atol=2e-3, rtol=0)
    assert torch.equal(recovery.mask.round(), mask)
    assert recovery.score.max() < 1e-4
    assert recovery.num_evaluations.dtype == torch.int64
    assert (recovery.num_evaluations > 0).all()


def test_blind_recovery_gives_an_image_that_was_not_stored_a_worse_score(stored):
    other = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(6)) * 0.8 + 0.1
    method = BlindRecovery()
    member = method(memory(stored), hide(stored)[0])
    control = method(memory(stored), hide(other)[0])
    assert member.score.max() < control.score.min()


def test_known_mask_recovery_gets_stored_images_back(stored):
    observed, mask = hide(stored, 0.8)
    recovery = KnownMaskRecovery()(memory(stored), observed, mask)
    torch.testing.assert_close(recovery.image, stored, atol=2e-3, rtol=0)
    assert torch.equal(recovery.mask, mask)


def test_iterations_reach_the_fixed_point_of_a_contraction():
    target = torch.rand(1, 1, 3, 3)
    recovery = AutoencoderIterations(num_iterations=400, tolerance=1e-7)(
        lambda images: target + 0.5 * (images - target), torch.rand(5, 1, 3, 3)
    )
    torch.testing.assert_close(recovery.image, target.expand(5, -1, -1, -1), atol=1e-5, rtol=0)
    assert (recovery.num_evaluations < 400).all(), "converged images stop early"


@pytest.mark.parametrize("method", [BlindRecovery(), AutoencoderIterations()])
def test_a_diverging_image_is_marked_and_leaves_the_others_alone(stored, method):
    def autoencoder(images):
        explode = images.flatten(1).mean(1).view(-1, 1, 1, 1) > 1.5
        return torch.where(explode, images.abs() * 1e30, memory(stored)(images))

    observed, _ = hide(stored)
    alone = method(autoencoder, observed)
    exploding = 5 + torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    mixed = method(autoencoder, torch.cat([observed[:3], exploding, observed[3:]]))
    keep = [0, 1, 2, 4, 5, 6]
    assert torch.isinf(mixed.score[3])
    assert not mixed.certified[3]
    assert mixed.image.isfinite().all()
    torch.testing.assert_close(mixed.image[keep], alone.image)
    assert torch.isfinite(mixed.score[keep]).all()


@pytest.mark.parametrize("method", [BlindRecovery, AutoencoderIterations])
def test_chunks_change_nothing(stored, method):
    observed, _ = hide(stored)
    whole = method()(memory(stored), observed)
    chunked = method(chunk_size=2)(memory(stored), observed)
    torch.testing.assert_close(whole.image, chunked.image)
    assert torch.equal(whole.num_evaluations, chunked.num_evaluations)


def test_map_chunks_halves_when_memory_runs_out_and_covers_everything_once():
    seen = []

    def work(rows):
        if rows.stop - rows.start > 3:
            raise torch.OutOfMemoryError("too much")
        seen.extend(range(rows.start, rows.stop))

    with pytest.warns(UserWarning, match="out of memory") as warned:
        map_chunks(work, 17, 16)
    assert seen == list(range(17))
    assert len(warned) == 1


def test_map_chunks_gives_up_when_one_row_does_not_fit():
    def work(rows):
        raise torch.OutOfMemoryError("too much")

    with pytest.warns(UserWarning), pytest.raises(torch.OutOfMemoryError):
        map_chunks(work, 4, 4)


def test_recorded_iterations_end_at_the_result_and_cost_nothing_when_off(stored):
    observed, _ = hide(stored)
    plain = BlindRecovery(alternation=Alternation(num_iterations=40, tolerance=0.0), penalties=[0.1])
    recorded = BlindRecovery(
        alternation=Alternation(num_iterations=40, tolerance=0.0), penalties=[0.1], record_at=(0, 5, 40)
    )
    calls = {"plain": 0, "recorded": 0}

    def counting(name):
        def autoencoder(images):
            calls[name] += 1
            return memory(stored)(images)

        return autoencoder

    without, with_trace = plain(counting("plain"), observed), recorded(counting("recorded"), observed)
    assert without.trace is None
    assert with_trace.trace.iterations == (0, 5, 40)
    assert with_trace.trace.image.shape == (3, 6, 3, 8, 8)
    torch.testing.assert_close(with_trace.trace.image[-1], with_trace.image)
    torch.testing.assert_close(with_trace.image, without.image)
    assert calls["recorded"] == calls["plain"] + 3


def test_the_blind_methods_cannot_see_the_truth():
    for method in (BlindRecovery, AutoencoderIterations):
        assert list(inspect.signature(method.__call__).parameters) == ["self", "autoencoder", "observed"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BlindRecovery(penalties=[]), "penalties"),
        (lambda: BlindRecovery(penalties=[-1.0]), "penalties"),
        (lambda: BlindRecovery(mask_estimator="nonsense"), "mask_estimator='nonsense'"),
        (lambda: Alternation(num_iterations=0), "num_iterations=0"),
        (lambda: BlindRecovery()(torch.tanh, torch.rand(3, 8, 8)), "shape"),
        (lambda: BlindRecovery()(torch.tanh, torch.zeros(1, 1, 2, 2, dtype=torch.uint8)), "dtype"),
        (lambda: BlindRecovery()(torch.tanh, torch.full((1, 1, 2, 2), torch.nan)), "NaN"),
        (lambda: KnownMaskRecovery()(torch.tanh, torch.rand(2, 3, 4, 4), torch.ones(2, 2, 4, 4)), "mask has shape"),
        (lambda: KnownMaskRecovery()(torch.tanh, torch.rand(2, 3, 4, 4), torch.full((2, 1, 4, 4), 2.0)), r"\[0, 1\]"),
        (lambda: BlindRecovery(chunk_size=0)(torch.tanh, torch.rand(2, 3, 4, 4)), "chunk_size=0"),
    ],
)
def test_bad_input_raises_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
