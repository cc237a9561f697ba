"""Gradients through the autoencoder: right, counted, only where they exist, and nothing is left behind by them."""

from dataclasses import replace

import pytest
import torch
from autoencoders import associative, linear, memory
from observations import hide, smooth_images, uniform
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_memaudit.recovery import BlindRecovery, KnownMaskRecovery, Round, SelfTuning, gradients
from lightning_memaudit.recovery.alternation import Alternation
from lightning_memaudit.recovery.certification import EFFECTIVE_PARAMETERS, optimism
from lightning_memaudit.recovery.descent import Minimum
from lightning_memaudit.recovery.gradients import DifferentiableAutoencoder
from lightning_memaudit.recovery.interpolation import interpolate
from lightning_memaudit.recovery.methods.registry import METHODS

PROBES = 4
"""Images that tell what f returns for anything, evaluated once for all."""


class Counting:
    """Counts the rows that f evaluates, and those that it passes gradients back through."""

    def __init__(self, autoencoder):
        self.autoencoder, self.forward, self.backward = autoencoder, 0, 0

    def __call__(self, images):
        self.forward += len(images)
        output = self.autoencoder(images)
        if output.requires_grad:
            output.register_hook(self.count)
        return output

    def count(self, gradient):
        self.backward += len(gradient)


def trained(images, steps=400):
    """A small network that has memorized these images."""
    torch.manual_seed(0)
    size = images[0].numel()
    network = nn.Sequential(nn.Flatten(), nn.Linear(size, 96), nn.ELU(), nn.Linear(96, 96), nn.ELU())
    network.extend([nn.Linear(96, size), nn.Unflatten(1, images.shape[1:])])
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(steps):
        loss = (network(images) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return network.eval()


def differentiable(autoencoder, image):
    found = DifferentiableAutoencoder(autoencoder)
    found.look_for_gradients(image)
    return found


def test_a_descent_through_a_linear_autoencoder_ends_where_the_closed_form_says():
    weights = torch.randn(5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 4
    tied = weights.T @ weights
    observed = uniform((1, 1, 4, 4)).double()
    mask = (uniform((1, 1, 4, 4), 3) > 0.4).double()
    h, y = mask.flatten(), observed.flatten()
    shown, hidden = h == 1, h == 0
    # mean over h of (W'W x - y)^2 + mean over 1 - h of (W'W x - x)^2 is least squares in the hidden values of x.
    scale = torch.where(shown, 1 / shown.sum(), 1 / hidden.sum()).sqrt()[:, None]
    rows = scale * (tied - torch.diag(1 - h))
    target = scale[:, 0] * h * y - rows[:, shown] @ y[shown]
    expected = torch.linalg.lstsq(rows[:, hidden], target[:, None]).solution[:, 0]
    found = differentiable(linear(tied), observed).fit(observed, mask, 0 * observed, torch.tensor([200]))
    torch.testing.assert_close(found.point.flatten()[shown], y[shown])
    torch.testing.assert_close(found.point.flatten()[hidden], expected, atol=0.02, rtol=0)
    x = torch.where(shown, y, 0).index_put((hidden.nonzero()[:, 0],), expected)
    least = ((tied @ x - y)[shown]).square().mean() + ((tied @ x - x)[hidden]).square().mean()
    torch.testing.assert_close(found.value[0], least, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("applications", [1, 2])
def test_what_a_descent_minimizes_and_its_gradient_are_those_of_the_formula(monkeypatch, channels, applications):
    torch.manual_seed(0)
    f = nn.Sequential(nn.Flatten(), nn.Linear(48, 48), nn.Tanh(), nn.Unflatten(1, (3, 4, 4))).double()
    observed, hidden = uniform((3, 3, 4, 4)).double(), uniform((3, 3, 4, 4), 1).double()
    mask = (uniform((3, channels, 4, 4), 2) > 0.4).double()
    mask[2] = 0  # nothing is observed

    def formula(v):
        x = mask * observed + (1 - mask) * v
        for _ in range(applications - 1):
            x = mask * observed + (1 - mask) * f(x)
        h = mask.expand_as(x)
        data = (h * (f(x) - observed) ** 2).flatten(1).sum(1) / h.flatten(1).sum(1).clamp_min(1)
        fixed_point = ((1 - h) * (f(x) - x) ** 2).flatten(1).sum(1) / (1 - h).flatten(1).sum(1)
        return data + fixed_point

    def only_look(evaluate, start, max_gradients):
        found.extend(evaluate(start, torch.arange(3)))
        return Minimum(start, found[0], max_gradients)

    found = []
    monkeypatch.setattr(gradients, "minimize", only_look)
    differentiable(f, observed[:1]).fit(observed, mask, hidden, torch.ones(3), applications)
    value, gradient = found
    torch.testing.assert_close(value, formula(hidden))
    (expected,) = torch.autograd.grad(formula(hidden.requires_grad_()).sum(), hidden)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("trainable", [False, True])
def test_an_autoencoder_that_is_constant_for_some_images_only_is_no_error(trainable):
    stored = nn.Parameter(uniform((1, 3, 8, 8)), requires_grad=trainable)

    def f(x):  # smooth near the middle grey that it is shown first, and nowhere else
        return stored + 0.1 * (x - stored) if bool((x - x[:1]).abs().max() == 0) else stored.expand_as(x)

    observed, mask = hide(uniform((4, 3, 8, 8), 5))
    assert KnownMaskRecovery()(f, observed, mask).gradients_used


def test_an_autoencoder_that_begins_to_write_into_its_input_is_told_so():
    calls = []

    def f(x):
        calls.append(x)
        return (x.mul_(0.5) if len(calls) > 3 and x.requires_grad else x * 0.5) + 0.1

    observed, mask = hide(uniform((2, 3, 8, 8)))
    with pytest.raises(RuntimeError, match="had not at first: let it work on a copy"):
        KnownMaskRecovery()(f, observed, mask)


def test_gradients_find_what_evaluations_alone_do_not_and_never_less_than_the_papers_method():
    images = smooth_images(12, channels=1)
    network = trained(images)
    observed, _ = hide(images, 0.93)
    found = {name: METHODS[name]()(network, observed) for name in ("blind", "blind_black_box", "paper_blind")}
    error = {name: (one.image - images).square().flatten(1).mean(1) for name, one in found.items()}
    recovered = {name: one < 1e-3 for name, one in error.items()}
    assert recovered["blind"].sum() > recovered["blind_black_box"].sum()
    for other in ("blind_black_box", "paper_blind"):
        assert not (recovered[other] & ~recovered["blind"]).any()
    assert found["blind"].gradients_used
    assert found["blind_black_box"].gradients_used is False
    controls, _ = hide(smooth_images(12, channels=1, seed=30), 0.93)
    strangers = METHODS["blind"]()(network, controls)
    assert not ((strangers.image - smooth_images(12, channels=1, seed=30)).square().flatten(1).mean(1) < 1e-3).any()


@pytest.mark.parametrize("refinements", [1, 6])
def test_a_descents_own_point_is_not_taken_but_what_the_autoencoder_makes_of_it(refinements):
    images = smooth_images(6, channels=1)
    network, outputs = trained(images, 60), []

    def recording(given):
        output = network(given)
        outputs.append(output.detach())
        return output

    observed, mask = hide(images, 0.9)
    start = interpolate(observed, mask)
    tuning = SelfTuning(refinements=refinements)
    for one, its_mask, its_start in zip(observed.split(1), mask.split(1), start.split(1), strict=True):
        outputs.clear()
        found = KnownMaskRecovery(tuning=tuning)(recording, one, its_mask)
        assert (found.image - its_start).abs().max() > 0.05
        made = torch.cat(outputs)
        made = made + interpolate(one - made, its_mask.expand_as(made))
        distance = ((1 - its_mask) * (made - found.image)).abs().flatten(1).amax(1)
        assert distance.min() < 1e-5


def test_what_the_papers_method_finds_is_found_where_all_else_fails():
    images = smooth_images(8, channels=1)
    network = trained(images)
    observed, _ = hide(torch.cat([images, smooth_images(4, channels=1, seed=20)]), 0.7)
    papers = METHODS["paper_blind"]()(network, observed)
    hopeless = SelfTuning((Round((1e6,), "interpolated", 1),), starts=(), max_gradients=1, refinements=1)
    errors = {"paper": (papers.image[:8] - images).square().flatten(1).mean(1)}
    for iterations in (1, 200):
        tuning = replace(hopeless, good_error=1e-9, fair_error=1e-9, papers_iteration=Alternation(iterations))
        counting = Counting(network)
        found = BlindRecovery(tuning=tuning, certification=None)(counting, observed)
        assert found.num_evaluations.sum() == counting.forward - 3 - PROBES + 2 * (counting.backward - 1)
        errors[iterations] = (found.image[:8] - images).square().flatten(1).mean(1)
    assert (errors["paper"] < 1e-6).all()
    assert (errors[200] < 1e-6).all()
    assert (errors[1] > 1e-5).all()


@pytest.mark.parametrize("grad", [True, False])
def test_nothing_is_left_on_the_weights(grad):
    images = smooth_images(4, channels=1)
    network = trained(images, 20)
    network[1].weight.requires_grad_(False)
    network[3].bias.grad = torch.ones_like(network[3].bias)
    before = {name: (one.requires_grad, one.grad, one.clone()) for name, one in network.named_parameters()}
    with torch.set_grad_enabled(grad):
        recovery = BlindRecovery(certification=None)(network, hide(images, 0.8)[0])
    assert recovery.gradients_used
    assert torch.is_grad_enabled()
    for name, one in network.named_parameters():
        requires_grad, gradient, value = before[name]
        assert one.requires_grad == requires_grad
        assert one.grad is gradient
        assert gradient is None or bool((gradient == 1).all())
        assert torch.equal(one, value)
    for field in recovery:
        assert not (isinstance(field, torch.Tensor) and field.requires_grad)


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(context, images):
        return images * 0.5


class NotANumber(torch.autograd.Function):
    @staticmethod
    def forward(context, images):
        return images * 0.5

    @staticmethod
    def backward(context, gradient):
        return gradient * torch.nan


@torch.inference_mode()
def in_inference_mode(images):
    return images * 0.5


def through_numpy(images):
    return torch.from_numpy(images.detach().numpy() * 0.5)


def through_numpy_without_detaching(images):
    return torch.from_numpy(images.numpy() * 0.5)


def reentrant(images):
    return checkpoint(lambda x: x * 0.5, images, use_reentrant=True)


@pytest.mark.parametrize(
    "autoencoder",
    [
        torch.no_grad()(lambda images: images * 0.5),
        in_inference_mode,
        through_numpy,
        through_numpy_without_detaching,
        NoBackward.apply,
        NotANumber.apply,
        reentrant,
        lambda images: (images * 0.5).detach(),
    ],
)
@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_what_cannot_be_differentiated_is_searched_as_without_gradients(autoencoder):
    observed, mask = hide(smooth_images(3, channels=1), 0.8)
    for method, more in ((BlindRecovery, ()), (KnownMaskRecovery, (mask,))):
        found = method()(autoencoder, observed, *more)
        expected = method(gradients="never")(autoencoder, observed, *more)
        assert found.gradients_used is False
        for name in ("image", "score", "num_evaluations"):
            assert torch.equal(getattr(found, name), getattr(expected, name))


def test_checkpointed_modules_that_can_be_differentiated_are():
    def autoencoder(images):
        return checkpoint(torch.tanh, images, use_reentrant=False)

    assert differentiable(autoencoder, uniform((1, 1, 8, 8))).has_gradients


@pytest.mark.parametrize("budget", [5, 60, 150, None])
def test_a_backward_pass_counts_as_two_evaluations(budget):
    counting = Counting(associative(smooth_images(4)))
    observed, mask = hide(torch.cat([smooth_images(2), smooth_images(5, seed=20)]), 0.8)
    recovery = KnownMaskRecovery(max_evaluations=budget)(counting, observed, mask)
    # Beside these, one image is differentiated to see whether that can be done, and two are evaluated.
    beside = 3 if budget == 5 else 3 + PROBES
    assert recovery.num_evaluations.sum() == counting.forward - beside + 2 * (counting.backward - 1)
    assert (recovery.num_evaluations <= (budget or 700)).all()
    assert counting.backward > 1 or budget in (5, 60)


def test_no_image_depends_on_its_batch_or_on_how_many_are_differentiated_at_once(monkeypatch):
    network = trained(smooth_images(6, channels=1))
    observed, _ = hide(torch.cat([smooth_images(6, channels=1), smooth_images(3, 1, seed=20)]), 0.9)
    method = BlindRecovery(certification=None)
    together = method(network, observed)
    assert together.num_evaluations.max() > 60
    alone = [method(network, one[None]) for one in observed]
    torch.testing.assert_close(together.image, torch.cat([one.image for one in alone]), atol=1e-3, rtol=0)
    monkeypatch.setattr("lightning_memaudit.recovery.gradients.ACTIVATIONS_PER_CHUNK", 0)
    one_by_one = method(network, observed)
    torch.testing.assert_close(together.image, one_by_one.image, atol=1e-3, rtol=0)


def test_out_of_memory_halves_what_is_differentiated_at_once():
    sizes = []

    def little_memory(images):
        if images.requires_grad:
            sizes.append(len(images))
            if len(images) > 2:
                raise torch.OutOfMemoryError("no more")
        return torch.tanh(images)

    observed, mask = hide(smooth_images(5), 0.5)
    autoencoder = differentiable(little_memory, observed[:1])
    start = torch.ones_like(observed)
    with pytest.warns(UserWarning, match="out of memory"):
        found = autoencoder.fit(observed, mask, start, torch.full((5,), 3))
    assert sizes[:7] == [1, 2, 5, 2, 2, 1, 2]
    expected = differentiable(torch.tanh, observed[:1]).fit(observed, mask, start, torch.full((5,), 3))
    torch.testing.assert_close(found.point, expected.point)


def test_half_precision_does_not_lose_the_gradients():
    images = smooth_images(6, channels=1)
    network = trained(images)
    observed, mask = hide(images, 0.9)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):

        def autoencoder(given, dtype=dtype):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                return network(given)

        found = differentiable(autoencoder, observed[:1]).fit(observed, mask, observed, torch.full((6,), 40))
        start = differentiable(autoencoder, observed[:1]).fit(observed, mask, observed, torch.ones(6).long())
        assert found.point.dtype == torch.float32
        assert (found.value < 0.3 * start.value).all()


def test_an_autoencoder_that_writes_into_its_input_is_differentiated_like_one_that_does_not():
    observed, mask = hide(smooth_images(3), 0.6)
    in_place, plain = (
        differentiable(f, observed[:1]).fit(observed, mask, observed, torch.full((3,), 9))
        for f in (lambda images: images.mul_(0.5).add_(0.2), lambda images: images * 0.5 + 0.2)
    )
    torch.testing.assert_close(in_place.point, plain.point)


def test_what_depends_on_the_weights_but_not_smoothly_on_the_image_has_no_gradients():
    stored = smooth_images(3).requires_grad_()
    assert memory(stored)(smooth_images(3)).requires_grad
    assert not differentiable(memory(stored), smooth_images(1)).has_gradients


def test_what_was_fitted_to_few_values_is_expected_to_be_worse_elsewhere():
    """As generalized cross-validation says of a linear fit of k parameters to n values, simulated."""
    number, parameters, draws = 40, EFFECTIVE_PARAMETERS, 2000
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(draws, number, parameters, generator=generator, dtype=torch.float64)
    values = torch.randn(draws, number, 1, generator=generator, dtype=torch.float64)
    fitted = torch.linalg.lstsq(design, values).solution
    inside = (design @ fitted - values).square().mean()
    outside = (1 + fitted.square().sum((1, 2))).mean()  # of a new value, whose row is standard normal too
    images = torch.rand(1, 1, 8, 8)
    mask = (torch.arange(64) < number).float().view(1, 1, 8, 8)
    assert optimism(images, mask).item() == pytest.approx(float(outside / inside), rel=0.1)
    assert optimism(images, torch.ones(1, 1, 8, 8)).item() == pytest.approx((1 - parameters / 64) ** -2)
    assert optimism(images, torch.zeros(1, 1, 8, 8)).isinf().all()
    assert optimism(images.repeat(1, 3, 1, 1), mask).item() == pytest.approx((1 - parameters / (3 * number)) ** -2)
