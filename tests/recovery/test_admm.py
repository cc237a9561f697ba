"""One iteration and the whole alternation, against brute force and closed forms; what they keep and hold in memory."""

import itertools

import pytest
import torch
from autoencoders import linear
from observations import uniform

from lightning_memaudit.recovery import (
    Alternation,
    BlindRecovery,
    KnownMaskRecovery,
    admm,
)
from lightning_memaudit.recovery.admm import State, Workspace, data_step, step
from lightning_memaudit.recovery.alternation import alternate
from lightning_memaudit.recovery.interpolation import interpolate
from lightning_memaudit.recovery.masks import LeastSquaresMask
from lightning_memaudit.recovery.protection import InputProtected


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


@pytest.mark.parametrize("in_place", [False, True], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize("elements_per_block", [1, 2**18])
@pytest.mark.parametrize("channels", [1, 2])
def test_hidden_pixels_are_shown_the_correction_of_their_observed_neighbours(
    channels, elements_per_block, in_place, monkeypatch
):
    monkeypatch.setattr(admm, "ELEMENTS_PER_BLOCK", elements_per_block)
    monkeypatch.setattr(admm, "replays_on", lambda device: in_place)
    observed, start = uniform((3, 2, 8, 8)), uniform((3, 2, 8, 8), 10)
    mask = (uniform((3, channels, 8, 8), 11) > 0.5).float()
    penalty = torch.tensor([0.1, 0.5, 2.0])
    spread = torch.tensor([0.5, 0.0, 1.0])
    work = Workspace(torch.tanh, observed, start, penalty, spread, one_mask=in_place)
    work.set_mask(mask)
    prior, dual, begun = start, torch.zeros_like(start), start.clone()
    for iteration in range(6):
        if iteration == 3:
            mask = (uniform((3, channels, 8, 8), 12) > 0.5).float()
            work.set_mask(mask)
        work.advance()
        image = data_step(observed, mask, prior, dual, penalty.view(-1, 1, 1, 1))
        point = image + dual
        correction = interpolate((point - prior) * mask, mask)
        prior = torch.tanh(torch.where(mask.expand_as(point) > 0, point, point + spread.view(-1, 1, 1, 1) * correction))
        dual = point - prior
        torch.testing.assert_close(work.image, image)
        torch.testing.assert_close(work.prior, prior)
    assert torch.equal(start, begun)


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


def test_an_empty_batch_is_recovered_to_an_empty_batch():
    nothing = uniform((0, 1, 4, 4))
    solution = alternate(torch.tanh, nothing, uniform((0,)), LeastSquaresMask(), nothing, Alternation(5))
    assert solution.image.shape == nothing.shape


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
