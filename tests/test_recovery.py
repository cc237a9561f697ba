"""The recovery methods against brute force, enumeration and closed forms."""

import inspect
import itertools
import math

import pytest
import torch

from lightning_memaudit.recovery import (
    Alternation,
    AutoencoderIterations,
    BlindDeblurring,
    BlindRecovery,
    KnownMaskRecovery,
    PosteriorMask,
    Round,
    SelfTuning,
    WhiteBoxRecovery,
    calibrate,
    certify,
    turned_copies,
)
from lightning_memaudit.recovery.admm import State, Workspace, alternate, data_step, step
from lightning_memaudit.recovery.batches import map_chunks
from lightning_memaudit.recovery.candidates import refine
from lightning_memaudit.recovery.certification import is_certified, noise_gain
from lightning_memaudit.recovery.fills import find_constant_fill, local_agreement
from lightning_memaudit.recovery.interpolation import interpolate
from lightning_memaudit.recovery.mask_rules import MaskFromContent
from lightning_memaudit.recovery.masks import LeastSquaresMask, coupling, mask_of_smallest_errors
from lightning_memaudit.recovery.methods.deblurring import blur, estimate_kernel, fourier_data_step, project_to_simplex
from lightning_memaudit.recovery.protection import InputProtected


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
    mask = (
        torch.rand(len(images), 1, *images.shape[2:], generator=torch.Generator().manual_seed(seed)) >= fraction
    ).float()
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


def test_no_image_depends_on_the_others_in_its_batch():
    strangers, mask = hide(smooth_images(6, seed=20), 0.7)
    strangers[3:] += ((1 - mask) * uniform(strangers.shape))[3:]
    autoencoder = associative(smooth_images(4))
    method = BlindRecovery(certification=None, tuning=SelfTuning(patience=9))
    together = method(autoencoder, strangers)
    alone = [method(autoencoder, strangers[row : row + 1]) for row in range(6)]
    torch.testing.assert_close(together.image, torch.cat([recovery.image for recovery in alone]), atol=1e-4, rtol=0)
    assert together.num_evaluations.tolist() == [int(recovery.num_evaluations) for recovery in alone]


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

    with pytest.warns(UserWarning, match="out of memory"), pytest.raises(torch.OutOfMemoryError):
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
    for method in (BlindRecovery, AutoencoderIterations, BlindDeblurring, WhiteBoxRecovery):
        assert list(inspect.signature(method.__call__).parameters) == ["self", "autoencoder", "observed"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BlindRecovery(penalties=[]), "penalties"),
        (lambda: BlindRecovery(penalties=[-1.0]), "penalties"),
        (lambda: BlindRecovery(mask_estimator="nonsense"), "mask_estimator='nonsense'"),
        (lambda: BlindRecovery(max_evaluations=2), "max_evaluations=2"),
        (lambda: BlindRecovery(noise=-0.1), "noise=-0.1"),
        (lambda: BlindRecovery(record_at=[0]), "record_at"),
        (lambda: BlindRecovery(certification="trust me"), "certification='trust me'"),
        (lambda: KnownMaskRecovery(record_at=[0]), "record_at"),
        (lambda: PosteriorMask(fill="grey"), "fill='grey'"),
        (lambda: PosteriorMask(share=0.0), "share=0.0"),
        (lambda: BlindDeblurring(kernel_size=4), "kernel_size=4"),
        (lambda: BlindDeblurring(kernel_size=9)(torch.tanh, torch.rand(1, 1, 8, 8)), "kernel_size=9"),
        (lambda: WhiteBoxRecovery(num_steps=0), "num_steps=0"),
        (lambda: WhiteBoxRecovery()(lambda x: x.detach(), torch.rand(1, 1, 8, 8)), "no gradient"),
        (lambda: calibrate([0.1, float("nan")]), "NaN"),
        (lambda: calibrate([0.1], max_false_rate=0.0), "max_false_rate=0.0"),
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


def associative(stored, sharpness=20.0):
    """A smooth memory: stored images weighted by their nearness (modern Hopfield network)."""

    def autoencoder(images):
        distance = torch.cdist(images.flatten(1), stored.flatten(1)).square()
        return (torch.softmax(-sharpness * distance, 1) @ stored.flatten(1)).view_as(images)

    return autoencoder


def smooth_images(number, channels=3, size=16, seed=8):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, channels, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)
    return images * 0.8 + 0.1


def uniform(shape, seed=9):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "autoencoder",
    [torch.tanh, lambda images: images, lambda images: images.mul_(0.5), lambda images: images[..., :, :] * 0.3 + 0.1],
    ids=["function", "returns its input", "writes into its input", "view"],
)
def test_the_workspace_does_what_the_three_equations_say(autoencoder):
    observed, start = uniform((3, 2, 4, 4)), uniform((3, 2, 4, 4), 10)
    mask = (uniform((3, 1, 4, 4), 11) > 0.5).float()
    penalty = torch.tensor([0.1, 0.5, 2.0])
    work = Workspace(InputProtected(autoencoder), observed, start, penalty)
    work.set_mask(mask)
    state = State(start, start, torch.zeros_like(start))
    for iteration in range(6):
        if iteration == 3:
            mask = 1 - mask
            work.set_mask(mask)
        work.advance()
        state = step(lambda images: autoencoder(images.clone()), observed, mask, state, penalty.view(-1, 1, 1, 1))
        torch.testing.assert_close(work.image, state.image)
        torch.testing.assert_close(work.prior, state.prior)
    rows = torch.tensor([True, False, True])
    work.keep(rows)
    work.advance()
    state = step(
        lambda images: autoencoder(images.clone()),
        observed[rows],
        mask[rows],
        State(*(variable[rows] for variable in state)),
        penalty[rows].view(-1, 1, 1, 1),
    )
    torch.testing.assert_close(work.image, state.image)


@pytest.mark.parametrize(
    "method",
    [
        BlindRecovery(),
        BlindRecovery("least_squares", (0.1, 0.3)),
        AutoencoderIterations(num_iterations=5),
        BlindDeblurring(num_iterations=5),
        WhiteBoxRecovery(num_steps=5),
    ],
    ids=lambda method: type(method).__name__,
)
def test_an_autoencoder_that_writes_into_its_input_is_recovered_from_like_one_that_does_not(method):
    observed = smooth_images(4) * (uniform((4, 1, 16, 16)) > 0.5)
    given = observed.clone()
    found = method(lambda images: images.mul_(0.5).add_(0.2), observed)
    assert torch.equal(observed, given)
    expected = method(lambda images: images * 0.5 + 0.2, observed)
    for field in ("image", "mask", "score", "num_evaluations"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field))


def test_an_autoencoder_that_begins_to_write_into_its_input_is_refused():
    calls = []

    def autoencoder(images):
        calls.append(images)
        return images * 0.5 if len(calls) < 3 else images.mul_(0.5)

    with pytest.raises(RuntimeError, match="wrote into its input"):
        AutoencoderIterations(num_iterations=9)(autoencoder, uniform((2, 1, 8, 8)))


@pytest.mark.parametrize("channels", [1, 2])
def test_hidden_pixels_are_shown_the_correction_of_their_observed_neighbours(channels):
    observed, start = uniform((3, 2, 8, 8)), uniform((3, 2, 8, 8), 10)
    mask = (uniform((3, channels, 8, 8), 11) > 0.5).float()
    penalty = torch.tensor([0.1, 0.5, 2.0])
    spread = torch.tensor([0.5, 0.0, 1.0])
    work = Workspace(torch.tanh, observed, start, penalty, spread)
    work.set_mask(mask)
    prior, dual = start, torch.zeros_like(start)
    for _ in range(4):
        work.advance()
        image = data_step(observed, mask, prior, dual, penalty.view(-1, 1, 1, 1))
        point = image + dual
        correction = interpolate((point - prior) * mask, mask)
        prior = torch.tanh(torch.where(mask.expand_as(point) > 0, point, point + spread.view(-1, 1, 1, 1) * correction))
        dual = point - prior
        torch.testing.assert_close(work.image, image)
        torch.testing.assert_close(work.prior, prior)


@pytest.mark.parametrize("agrees", [True, False])
def test_where_the_autoencoder_agrees_with_the_data_there_is_nothing_to_spread(agrees):
    image = uniform((2, 1, 8, 8))
    mask = (uniform((2, 1, 8, 8), 11) > 0.5).float()
    shown = []

    def autoencoder(images):
        shown.append(images)
        return image.clone() if agrees else image + 0.1

    work = Workspace(autoencoder, image * mask, image, torch.tensor([0.1, 1.0]), torch.ones(2))
    work.set_mask(mask)
    for _ in range(3):
        work.advance()
    hidden = torch.stack([one - image for one in shown])[:, mask == 0]
    if agrees:
        torch.testing.assert_close(hidden, torch.zeros_like(hidden))
    else:  # f is too bright everywhere, and is shown something darker than its last image
        assert (hidden[1:] < 0.1 - 0.01).all()


def test_masks_between_0_and_1_spread_what_counts_as_observed_only():
    observed, start = uniform((1, 1, 8, 8)), uniform((1, 1, 8, 8), 10)
    mask = torch.full((1, 1, 8, 8), 0.05)
    mask[..., :4] = 1
    shown = []

    def autoencoder(images):
        shown.append(images)
        return images

    for spread in (None, torch.ones(1)):
        work = Workspace(InputProtected(autoencoder), observed, start, torch.tensor([0.1]), spread)
        work.set_mask(mask)
        work.advance(image=False)
    without, point = shown
    correction = interpolate((without - start) * (mask > 0.5), (mask > 0.5).float())
    torch.testing.assert_close(point, torch.where(mask > 0.5, without, without + 0.95 * correction))


@pytest.mark.parametrize("size", [(1, 16), (16, 1), (1, 1), (1, 2)])
def test_images_that_are_one_pixel_high_or_wide_are_recovered(size):
    images = uniform((2, 1, *size))
    recovery = KnownMaskRecovery(max_evaluations=60)(lambda images: images * 0.5 + 0.2, images, torch.ones_like(images))
    torch.testing.assert_close(recovery.image, images)


@pytest.mark.parametrize("penalties", [None, (0.1,)])
def test_a_known_mask_may_be_boolean(penalties):
    observed, mask = smooth_images(2), uniform((2, 1, 16, 16)) > 0.5
    method = KnownMaskRecovery(penalties=penalties, max_evaluations=60)
    found, expected = (method(lambda images: images * 0.5, observed * mask, kind) for kind in (mask, mask.float()))
    assert torch.equal(found.image, expected.image)
    assert found.mask.dtype == observed.dtype


@pytest.mark.parametrize("method", [BlindRecovery(), AutoencoderIterations(), WhiteBoxRecovery(), BlindDeblurring()])
def test_no_images_are_refused(method):
    with pytest.raises(ValueError, match="at least one image"):
        method(lambda images: images, torch.zeros(0, 1, 8, 8))


def test_a_caller_in_mixed_precision_gets_the_same_start():
    images = uniform((2, 3, 8, 8))
    mask = (uniform((2, 1, 8, 8), 10) > 0.5).float()
    expected = interpolate(images * mask, mask)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(interpolate(images * mask, mask), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_interpolation_of_nothing_is_nothing_in_every_precision(dtype):
    images = torch.zeros(1, 1, 8, 8, dtype=dtype)
    assert torch.equal(interpolate(images, images), images)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelfTuning(spread=1.5), "spread=1.5"),
        (lambda: SelfTuning(rounds=()), "rounds"),
        (lambda: SelfTuning(shares=(0.5, 1.0)), "shares"),
        (lambda: SelfTuning(refinements=0), "refinements=0"),
        (lambda: Round((), "random", 3), "penalties"),
        (lambda: Round((0.1,), "interp", 3), "start='interp'"),
        (lambda: Round((0.1,), "random", 0), "num_iterations=0"),
    ],
)
def test_a_tuning_that_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("check_every", [1, 2, 20])
def test_the_alternation_leaves_its_arguments_as_they_are(check_every):
    observed, start = uniform((3, 2, 4, 4)), uniform((3, 2, 4, 4), 10)
    mask = (uniform((3, 1, 4, 4), 11) > 0.5).float()
    before = [tensor.clone() for tensor in (observed, start, mask)]
    settings = Alternation(num_iterations=7, check_every=check_every, tolerance=1e-3)
    for given in (mask, LeastSquaresMask()):
        alternate(torch.tanh, observed, torch.full((3,), 0.1), given, start, settings)
    for tensor, copy in zip((observed, start, mask), before, strict=True):
        assert torch.equal(tensor, copy)


def test_rows_with_a_mask_per_channel_and_rows_without_leave_one_after_the_other():
    observed = uniform((4, 3, 4, 4))
    observed[0] = 0  # stays where it starts

    def estimate(image, observed):
        return torch.ones_like(observed if len(observed) == 4 else observed[:, :1])

    settings = Alternation(num_iterations=20, check_every=1, admm_steps=1, tolerance=1e-6)
    start = torch.zeros_like(observed)
    solution = alternate(lambda images: images / 2, observed, torch.full((4,), 0.1), estimate, start, settings)
    assert solution.num_evaluations[0] < solution.num_evaluations[1]
    assert torch.equal(solution.mask, torch.ones_like(observed))


def half_precision(images):
    return (images * 0.5).bfloat16()


@pytest.mark.parametrize(
    "recover",
    [
        BlindRecovery(mask_estimator="least_squares", penalties=[0.1], certification=None),
        BlindRecovery(max_evaluations=60, certification=None),
    ],
)
def test_the_state_keeps_its_precision_whatever_the_autoencoder_returns(recover):
    observed = uniform((2, 1, 6, 6)) * (uniform((2, 1, 6, 6), 5) > 0.5)
    assert recover(half_precision, observed).image.dtype == torch.float32
    assert recover(lambda images: images.float() * 0.5, observed.double()).image.dtype == torch.float64
    with torch.inference_mode():
        inside = recover(lambda images: images * 0.5, observed.clone())
    torch.testing.assert_close(inside.image, recover(lambda images: images * 0.5, observed).image)
    before = observed.clone()
    recover(lambda images: images.mul_(0.5), observed)
    assert torch.equal(observed, before)


def test_a_mask_in_another_precision_serves():
    observed, mask = uniform((2, 1, 6, 6)), (uniform((2, 1, 6, 6), 5) > 0.5).double()
    given = [KnownMaskRecovery(penalties=[0.1])(torch.tanh, observed, one) for one in (mask, mask.float())]
    assert torch.equal(given[0].image, given[1].image)


def test_an_empty_batch_is_recovered_to_an_empty_batch():
    nothing = uniform((0, 1, 4, 4))
    solution = alternate(torch.tanh, nothing, uniform((0,)), LeastSquaresMask(), nothing, Alternation(5))
    assert solution.image.shape == nothing.shape


@pytest.mark.parametrize("max_evaluations", [5, 10, 17, 40])
def test_few_evaluations_are_not_divided_between_two_fills(max_evaluations):
    stored = smooth_images(3)
    stored[..., :8] = 1.0
    mask = (uniform((3, 1, 16, 16)) > 0.3).float()
    recovery = BlindRecovery(max_evaluations=max_evaluations)(lambda images: images, mask * stored)
    assert (recovery.num_evaluations <= max_evaluations).all()
    alone = BlindRecovery(max_evaluations=max_evaluations, certification=None)(lambda images: images, stored)
    assert (recovery.num_evaluations >= alone.num_evaluations.min()).all()


def test_records_with_and_without_a_mask_per_channel_are_joined():
    images = smooth_images(2)
    mask = torch.ones_like(images)
    mask[0, :, ::2] = 0  # shared by the channels
    mask[1] = (uniform((3, 16, 16)) > 0.5).float()
    method = BlindRecovery(penalties=[0.1], record_at=(0, 5), chunk_size=1)
    trace = method(associative(images), mask * images).trace
    assert trace.mask.shape == (2, 2, 3, 16, 16)


@pytest.mark.parametrize("blind", [False, True])
def test_the_solver_holds_at_most_six_tensors_beside_the_autoencoders_own(blind):
    observed, mask = uniform((16, 3, 32, 32)), (uniform((16, 1, 32, 32), 11) > 0.5).float()
    settings = Alternation(num_iterations=60, tolerance=1e-6)

    def recover():
        if blind:
            BlindRecovery(mask_estimator="least_squares", penalties=[0.1], alternation=settings)(half, observed)
        else:
            KnownMaskRecovery(penalties=[0.1], alternation=settings)(half, observed, mask)

    def half(images):  # its own memory: the one tensor that it returns
        return images * 0.5

    recover()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        recover()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    peak = max(itertools.accumulate(event.nbytes() for event in events))
    one = observed.numel() * observed.element_size()
    assert 3 * one < peak <= (6 + 1) * one * 1.01  # the scores and penalties beside the images


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("fill", [0.0, 0.3, "noise"])
def test_the_posterior_is_that_of_all_masks_enumerated(shared, fill):
    image, observed = uniform((1, 2, 2, 2)), uniform((1, 2, 2, 2), 10)
    observed[..., 0] = image[..., 0] + 0.02
    noise, prior, share = 0.2, 0.6, 0.5
    estimator = PosteriorMask(fill, noise=noise, prior=prior, share=share, shared=shared)
    posterior = estimator.posterior(image, observed, steps=1)
    groups = observed.double().permute(0, 2, 3, 1).reshape(4, 2) if shared else observed.double().reshape(8, 1)
    recovered = image.double().permute(0, 2, 3, 1).reshape(4, 2) if shared else image.double().reshape(8, 1)
    errors = (groups - recovered).square().sum(1)
    kept = errors.sort().values[: len(errors) // 2]
    variance = max(float(kept.mean()) / groups.shape[1] - noise**2, 1e-6)
    assert float(posterior.variance) == pytest.approx(variance, rel=1e-4)

    def density(values, mean, deviation):
        return torch.distributions.Normal(mean, deviation).log_prob(values).sum(1).exp()

    present = density(groups, recovered, (variance + noise**2) ** 0.5)
    missing = torch.ones_like(present) if fill == "noise" else density(groups, torch.tensor(fill).double(), noise)
    total, marginal = 0.0, torch.zeros_like(present)
    for bits in itertools.product((0, 1), repeat=len(present)):
        mask = torch.tensor(bits).double()
        weight = (torch.where(mask > 0, prior * present, (1 - prior) * missing)).prod()
        total, marginal = total + weight, marginal + weight * mask
    order = (1, 1, 2, 2) if shared else (1, 2, 2, 2)
    torch.testing.assert_close(posterior.mask.double(), (marginal / total).view(order), atol=1e-4, rtol=1e-3)
    evidence = torch.log(total) - torch.log(missing.prod())
    assert float(posterior.evidence) == pytest.approx(float(evidence), abs=1e-3)


def test_mask_of_smallest_errors_keeps_the_least_errors_of_each_image():
    error = torch.tensor([[4.0, 1.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0]]).view(2, 1, 2, 2)
    kept = mask_of_smallest_errors(error, torch.tensor([0.5, 0.25]))
    assert kept.flatten(1).tolist() == [[0, 1, 0, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize("size", [(16, 16), (25, 13)])
def test_interpolation_keeps_the_data_and_fills_with_averages_of_them(size):
    images = uniform((2, 3, *size))
    mask = (uniform((2, 1, *size), 10) > 0.9).float()
    filled = interpolate(images * mask, mask)
    torch.testing.assert_close(filled * mask, images * mask)
    observed = (images * mask)[mask.expand_as(images) > 0]
    assert observed.min() <= filled.min() + 1e-6
    assert filled.max() <= observed.max() + 1e-6
    constant = torch.full_like(images, 0.3)
    torch.testing.assert_close(interpolate(constant * mask, mask), constant)
    assert not interpolate(images * 0, mask * 0).any()


def pooled_and_resampled(values, weights):
    """The pyramid of the interpolation, by torch's own pooling and resampling."""
    if min(values.shape[-2:]) == 1:
        filled = values.mean((-2, -1), keepdim=True) / weights.mean((-2, -1), keepdim=True).clamp_min(1e-6)
        return (values + 0.02 * filled) / (weights + 0.02)
    padding = (0, values.shape[-1] % 2, 0, values.shape[-2] % 2)
    halves = (torch.nn.functional.avg_pool2d(torch.nn.functional.pad(part, padding), 2) for part in (values, weights))
    coarse = pooled_and_resampled(*halves)
    coarse = torch.nn.functional.interpolate(coarse, size=values.shape[-2:], mode="bilinear", align_corners=False)
    return (values + 0.02 * coarse) / (weights + 0.02)


@pytest.mark.parametrize("size", [(16, 16), (25, 13), (3, 20), (64, 48), (1, 16), (16, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_interpolation_is_the_pyramid_that_torch_pools_and_resamples(size, channels):
    images = uniform((2, 3, *size))
    mask = (uniform((2, channels, *size), 10) > 0.9).float()
    expected = torch.where(mask.expand_as(images) > 0, images, pooled_and_resampled(images * mask, mask))
    torch.testing.assert_close(interpolate(images * mask, mask), expected)


def test_records_of_chunks_that_end_at_different_iterations_are_joined():
    def autoencoder(images):  # images above 1 are halved forever, the others stay
        return torch.where(images.flatten(1).amax(1).view(-1, 1, 1, 1) > 1, images / 2 + 1, images)

    observed = torch.cat([torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 9.0)])
    together, apart = (
        AutoencoderIterations(20, check_every=5, chunk_size=size, record_at=(0, 5, 10, 15))(autoencoder, observed)
        for size in (2, 1)
    )
    assert together.trace.iterations == apart.trace.iterations == (0, 5, 10, 15)
    for one, other in zip(together.trace[1:], apart.trace[1:], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
def test_a_constant_fill_is_found_whatever_its_value(value):
    images = smooth_images(4)
    mask = (uniform((4, 1, 16, 16)) > 0.2).float()
    fill = find_constant_fill(mask * images + (1 - mask) * value)
    assert fill.present.all()
    assert torch.equal(fill.mask, mask)
    assert not fill.noise.any()


@pytest.mark.parametrize("color", [[1.0, 1.0, 1.0], [0.0, 0.5, 1.0]])
def test_a_fill_is_told_from_a_larger_area_of_one_color(color):
    """Half of every image is of one color, a quarter is missing: the color is more frequent, but it is no fill."""
    stored = smooth_images(6, size=16)
    stored[..., :8] = torch.tensor(color).view(3, 1, 1)
    mask = torch.ones(6, 1, 16, 16)
    mask[..., 4:8, :] = 0
    recovery = BlindRecovery(certification=None, max_evaluations=200)(associative(stored), mask * stored)
    assert torch.equal(recovery.mask, mask)
    assert (recovery.image - stored).square().mean() < 1e-4
    assert (recovery.num_evaluations <= 200).all()


def test_masks_of_single_channels_are_found():
    images = smooth_images(4)
    mask = (uniform((4, 3, 16, 16)) > 0.5).float()
    fill = find_constant_fill(mask * images)
    assert fill.per_channel.all()
    assert torch.equal(fill.mask, mask)


def test_a_fill_with_zeros_is_found_under_noise_and_the_noise_is_measured():
    images = smooth_images(4, size=32)
    mask = (uniform((4, 1, 32, 32)) > 0.5).float()
    noise = 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    fill = find_constant_fill(mask * images + noise)
    assert fill.present.all()
    torch.testing.assert_close(fill.noise, torch.full((4,), 0.05), atol=0.005, rtol=0)
    assert ((fill.mask > 0.5) == (mask > 0.5)).float().mean() > 0.95
    known = find_constant_fill(mask * images + (1 - mask) * 0.4 + noise, 0.05)
    torch.testing.assert_close(known.value.flatten(), torch.full((12,), 0.4), atol=0.02, rtol=0)


def test_no_constant_fill_is_found_where_there_is_none():
    images = smooth_images(4)
    noise = uniform(images.shape)
    mask = (uniform((4, 1, 16, 16)) > 0.5).float()
    assert not find_constant_fill(images).present.any()
    assert not find_constant_fill(mask * images + (1 - mask) * noise).present.any()


def test_the_coupling_is_the_log_ratio_of_counted_neighbours():
    mask = (uniform((1, 1, 5, 6), 4) > 0.4).float()
    grid = mask[0, 0].long().tolist()
    expected = torch.zeros(5, 6)
    for down, right in ((1, 0), (0, 1)):
        pairs = [
            ((row, column), (row + down, column + right)) for row in range(5 - down) for column in range(6 - right)
        ]
        counts = {(0, 0): 1.0, (1, 1): 1.0, (0, 1): 1.0, (1, 0): 1.0}  # one of each kind beforehand
        for (row, column), (below, beside) in pairs:
            kind = grid[row][column], grid[below][beside]
            for ordered in (kind, kind[::-1]):  # the model knows no direction
                counts[ordered] += 0.5
        marginal = {value: counts[value, 0] + counts[value, 1] for value in (0, 1)}
        for one, other in pairs:
            for at, neighbour in ((one, other), (other, one)):
                value = grid[neighbour[0]][neighbour[1]]
                ratio = (counts[1, value] / marginal[1]) / (counts[0, value] / marginal[0])
                expected[at] += math.log(ratio)
    torch.testing.assert_close(coupling(mask)[0, 0], expected)


def test_coupled_neighbours_make_out_a_block_and_leave_a_random_mask_alone():
    images = smooth_images(8, channels=1, size=32)
    noisy = images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    block = torch.ones_like(images)
    block[..., 8:24, 4:28] = 0
    random = (uniform(images.shape, 14) > 0.4).float()
    wrong = {}
    for name, mask in (("block", block), ("random", random)):
        observed = mask * noisy + (1 - mask) * uniform(images.shape, 15)
        for coupled in (False, True):
            estimator = PosteriorMask("noise", prior=None, coupled=coupled)
            estimate = estimator.posterior(images, observed, steps=10).mask
            wrong[name, coupled] = ((estimate > 0.5) != (mask > 0.5)).float().mean()
    assert wrong["block", True] < 0.3 * wrong["block", False]
    assert wrong["random", True] <= 1.05 * wrong["random", False]


def test_a_mask_of_few_pixels_that_agree_by_chance_explains_little():
    images = smooth_images(6)
    mask = (uniform((6, 1, 16, 16)) > 0.5).float()
    observed = mask * images + (1 - mask) * uniform(images.shape, 12)
    content = MaskFromContent((0.5,))
    right = content.explained(images, observed, mask)
    other = images.roll(1, 0)
    agreeing = ((other - observed).abs().amax(1, keepdim=True) < 0.1).float()
    by_chance = content.explained(other, observed, agreeing)
    assert (by_chance < 0.1 * right).all()
    assert ((right > 0) & (right <= 1)).all()
    plain, weighed = (
        refine(lambda images: images, observed, mask, images, torch.zeros(6), 1, share)
        for share in (None, content.explained)
    )
    torch.testing.assert_close(weighed.score, plain.score / content.explained(plain.image, observed, mask))


def test_image_content_agrees_with_its_neighbours_and_noise_does_not():
    images = smooth_images(4)
    mask = (uniform((4, 1, 16, 16)) > 0.5).float()
    agreement = local_agreement(mask * images + (1 - mask) * uniform(images.shape, 12))
    assert agreement[mask > 0].mean() > 3 * agreement[mask == 0].mean()


@pytest.mark.parametrize("fill", ["zeros", "grey", "noise", "zeros and noise"])
def test_blind_recovery_finds_stored_images_whatever_fills_the_holes(fill):
    stored = smooth_images(8)
    mask = (uniform((8, 1, 16, 16)) > 0.5).float()
    filling = {"grey": 0.5, "noise": uniform(stored.shape, 13)}.get(fill, 0.0)
    observed = mask * stored + (1 - mask) * filling
    if fill == "zeros and noise":
        observed += 0.05 * torch.randn(stored.shape, generator=torch.Generator().manual_seed(1))
    recovery = BlindRecovery(certification=None)(associative(stored), observed)
    assert (recovery.image - stored).square().mean() < 1e-3
    assert ((recovery.mask > 0.5) == (mask > 0.5)).float().mean() > 0.95


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_degenerate_masks_lose_on_their_own_score(wrong):
    stored = smooth_images(8)
    mask = (uniform((8, 1, 16, 16)) > 0.5).float()
    none = torch.zeros(8)
    right = refine(associative(stored), mask * stored, mask, stored, none)
    # A fixed point of f for the empty mask, the data themselves for the full one: the best that each can do.
    image = stored.roll(1, 0) if wrong == 0 else mask * stored
    other = refine(associative(stored), mask * stored, torch.full_like(mask, wrong), image, none)
    assert (right.score < other.score / 100).all()


@pytest.mark.parametrize("budget", [5, 40, 150, 400])
@pytest.mark.parametrize("fill", [0.0, "noise"])
def test_evaluations_are_bounded_and_counted(budget, fill):
    stored, rows = smooth_images(4), []

    def autoencoder(images):
        rows.append(len(images))
        return associative(stored)(images)

    strangers, mask = hide(smooth_images(5, seed=20))
    if fill == "noise":
        strangers = strangers + (1 - mask) * uniform(strangers.shape)
    recovery = BlindRecovery(max_evaluations=budget, certification=None)(autoencoder, strangers)
    assert recovery.num_evaluations.sum() == sum(rows)
    assert (recovery.num_evaluations <= budget).all()
    assert recovery.image.isfinite().all()


def test_images_that_are_recovered_leave_and_the_budget_goes_to_the_others():
    stored = smooth_images(4)
    observed, _ = hide(torch.cat([stored, smooth_images(4, seed=20)]))
    recovery = BlindRecovery(certification=None)(associative(stored), observed)
    assert recovery.num_evaluations[:4].max() < recovery.num_evaluations[4:].min()


def test_more_rounds_never_worsen_the_score():
    stored = smooth_images(6)
    observed, mask = hide(stored, 0.9)
    rounds = (Round((0.3,), "interpolated", 3), Round((0.1, 1.0), "random", 10))
    scores = [
        KnownMaskRecovery(tuning=SelfTuning(rounds=rounds, patience=9), max_evaluations=budget)(
            associative(stored), observed, mask
        ).score
        for budget in (12, 60, 200)
    ]
    assert (scores[0] >= scores[1]).all()
    assert (scores[1] >= scores[2]).all()


def test_a_calibration_is_refused_where_too_few_controls_could_claim_the_rate():
    scores = torch.linspace(0.01, 0.1, 98)
    refused = calibrate(scores)
    assert refused.threshold is None
    assert "99" in refused.reason
    granted = calibrate([*scores.tolist(), float("inf")])
    assert granted.threshold == pytest.approx(0.01)
    assert granted.false_rate <= 0.01
    low, high = granted.interval
    # Clopper and Pearson: the largest rate at which none of 99 has at least a chance of 2.5%.
    assert (low, (1 - high) ** 99) == pytest.approx((0.0, 0.025))
    assert calibrate([]).threshold is None


def test_the_threshold_holds_its_rate_on_exchangeable_scores():
    generator = torch.Generator().manual_seed(2)
    scores = torch.rand(20_000, 100, generator=generator) ** 3
    false = scores[:, 99] < scores[:, :99].min(1).values
    assert float(false.double().mean()) == pytest.approx(calibrate(scores[0, :99]).false_rate, abs=0.003)


def test_certificates_are_for_stored_images_only():
    stored, strangers = smooth_images(20), smooth_images(20, seed=20)
    observed, _ = hide(torch.cat([stored, strangers]))
    recovery = BlindRecovery()(associative(stored), observed)
    assert recovery.calibration.num_controls == 99
    assert recovery.certified.tolist() == [True] * 20 + [False] * 20
    controls = BlindRecovery(certification=None)(associative(stored), hide(smooth_images(120, seed=21))[0])
    assert certify(recovery, calibrate(controls.score)).certified.tolist() == [True] * 20 + [False] * 20
    assert not certify(recovery, calibrate(controls.score[:50])).certified.any()


def test_a_certificate_takes_more_where_the_autoencoder_may_be_copying():
    score = torch.tensor([0.02, 0.02, 0.0005, 0.02, 0.2])
    error = torch.tensor([0.001, 0.001, 0.001, 0.01, 0.001])
    gain = torch.tensor([0.1, 0.9, 0.9, 0.1, 0.1])
    calibration = calibrate([0.1] * 99)
    assert is_certified(score, error, gain, calibration).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("factor", [1.0, 0.98])
def test_an_autoencoder_that_copies_certifies_nothing(factor):
    observed, _ = hide(smooth_images(20), 0.3)
    recovery = BlindRecovery()(lambda images: factor * images, observed)
    assert not recovery.certified.any()


def test_the_noise_gain_of_a_linear_map_is_its_mean_squared_singular_value():
    matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(3)) / 8
    gain = noise_gain(linear(matrix), torch.zeros(1, 1, 8, 8))
    assert float(gain) == pytest.approx(float(torch.linalg.svdvals(matrix).square().mean()), rel=0.4)


@pytest.mark.parametrize("size", [(8, 8), (6, 8)])
def test_turned_copies_hold_the_same_pixels_in_other_places(size):
    observed = uniform((3, 2, *size))
    copies = turned_copies(observed, 40)
    assert copies.shape == (40, 2, *size)
    for index, copy in enumerate(copies):
        original = observed[index % 3]
        assert not torch.equal(copy, original)
        torch.testing.assert_close(copy.flatten(1).sort(1).values, original.flatten(1).sort(1).values)


def test_the_fourier_data_step_is_the_least_squares_solution():
    kernel = project_to_simplex(uniform((1, 9))).view(1, 1, 3, 3).double()
    observed, target = (uniform((1, 1, 5, 6), seed).double() for seed in (1, 2))
    basis = torch.eye(30, dtype=torch.float64).view(30, 1, 5, 6)
    matrix = blur(basis, kernel.expand(30, -1, -1, -1)).flatten(1).T
    penalty = 0.2
    direct = torch.linalg.solve(
        matrix.T @ matrix + penalty * torch.eye(30), matrix.T @ observed.flatten() + penalty * target.flatten()
    )
    transfer = torch.fft.rfft2(blur(basis[:1], kernel))
    solved = fourier_data_step(torch.fft.rfft2(observed), transfer, target, torch.tensor(penalty).view(1, 1, 1, 1))
    torch.testing.assert_close(solved.flatten(), direct)


def test_blur_is_the_circular_convolution():
    image, kernel = uniform((1, 1, 4, 5)), uniform((1, 1, 3, 3), 2)
    blurred = torch.zeros_like(image)
    for i, j, a, b in itertools.product(range(4), range(5), range(3), range(3)):
        blurred[0, 0, i, j] += kernel[0, 0, a, b] * image[0, 0, (i - a + 1) % 4, (j - b + 1) % 5]
    torch.testing.assert_close(blur(image, kernel), blurred)


def test_the_kernel_is_found_from_the_image_and_its_blurred_copy():
    kernel = project_to_simplex(uniform((2, 25))).view(2, 1, 5, 5)
    image = uniform((2, 3, 16, 16))
    torch.testing.assert_close(estimate_kernel(image, blur(image, kernel), 5), kernel, atol=2e-3, rtol=0)


def test_the_projection_to_the_simplex_is_the_nearest_point_of_it():
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    steps = torch.linspace(0, 1, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(steps, steps)
    grid = torch.cat([grid, 1 - grid.sum(1, keepdim=True)], 1)
    grid = grid[grid[:, 2] >= 0]
    nearest = grid[torch.cdist(points, grid).argmin(1)]
    torch.testing.assert_close(project_to_simplex(points), nearest, atol=5e-3, rtol=0)


def test_stored_images_come_back_from_unknown_blur_with_the_kernel():
    stored = uniform((6, 3, 16, 16))
    kernel = project_to_simplex(uniform((6, 9), 3)).view(6, 1, 3, 3)
    recovery = BlindDeblurring(kernel_size=3, num_iterations=40)(associative(stored, 2.0), blur(stored, kernel))
    torch.testing.assert_close(recovery.image, stored, atol=2e-2, rtol=0)
    torch.testing.assert_close(recovery.kernel, kernel, atol=2e-2, rtol=0)
    assert recovery.num_evaluations.tolist() == [1 + 4 * 41] * 6


def test_white_box_recovery_finds_stored_images_and_leaves_the_weights_alone():
    stored = smooth_images(6)
    scale = torch.nn.Parameter(torch.ones(()))
    observed, mask = hide(stored, 0.7)
    with torch.no_grad():
        recovery = WhiteBoxRecovery(num_steps=150)(lambda images: scale * associative(stored)(images), observed)
    assert scale.grad is None
    assert (recovery.image - stored).square().mean() < 1e-3
    assert torch.equal(recovery.mask.round(), mask)
    assert (recovery.num_evaluations == 451).all()
