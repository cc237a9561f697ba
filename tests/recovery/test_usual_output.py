"""Autoencoders that return nearly the same whatever they are shown: searched no longer than it takes to see that."""

import pytest
import torch
from torch import Tensor

from lightning_memaudit.recovery import BlindRecovery, KnownMaskRecovery
from lightning_memaudit.recovery.types import Problem
from lightning_memaudit.recovery.usual_output import OWN_EVALUATIONS, UsualOutput
from lightning_memaudit.training.networks import FullyConnectedAutoencoder

SHAPE = (3, 16, 16)
LEFT = (torch.arange(16) < 8).float().expand(1, 1, 16, 16)


def random_images(number: int, seed: int) -> Tensor:
    return torch.rand(number, *SHAPE, generator=torch.Generator().manual_seed(seed))


def problem_of(images: Tensor, mask: Tensor, fill: Tensor | float = 0.0) -> Problem:
    mask = mask.expand(len(images), -1, -1, -1)
    return Problem.whole(mask * images + (1 - mask) * fill, mask, torch.zeros(len(images)))


def found_by(autoencoder, problem: Problem) -> tuple[list[bool], list[int]]:
    nothing_else, spent = UsualOutput.of(autoencoder, problem.observed).is_all(autoencoder, problem, problem.observed)
    return nothing_else.tolist(), spent.tolist()


@pytest.fixture(scope="module")
def untrained() -> FullyConnectedAutoencoder:
    torch.manual_seed(0)
    return FullyConnectedAutoencoder(SHAPE, num_layers=6, width=64).eval()


def test_an_untrained_network_is_searched_no_longer(untrained):
    images = random_images(4, seed=1)
    recovery = BlindRecovery()(untrained, LEFT * images)
    # The start, what f returns, the probes of each image, and two for the gain.
    assert recovery.num_evaluations.tolist() == [2 + OWN_EVALUATIONS + 2] * 4
    assert not recovery.certified.any()


def test_what_is_returned_is_the_output_and_not_what_interpolation_makes_of_the_observation(untrained):
    smooth = torch.linspace(0.2, 0.8, 16).expand(1, *SHAPE)  # interpolation finds it, the network does not know it
    mask = (torch.arange(16) % 4 > 0).float().expand(1, 1, 16, 16)
    recovery = KnownMaskRecovery()(untrained, mask * smooth, mask)
    with torch.no_grad():
        output = untrained(mask * smooth)
    hidden = mask.expand_as(smooth) == 0
    torch.testing.assert_close(recovery.image[hidden], output[hidden], atol=0.02, rtol=0)
    assert (recovery.image - smooth)[hidden].square().mean() > 0.1


def test_the_one_image_of_a_constant_memory_is_found_and_others_are_given_up():
    stored, other = random_images(2, seed=2).split(1)

    def constant(x: Tensor) -> Tensor:
        return stored + 0.001 * x

    assert found_by(constant, problem_of(torch.cat([stored, other]), LEFT)) == ([False, True], [0, OWN_EVALUATIONS])


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_a_constant_memory_whose_image_is_partly_covered_by_another_one_is_searched(share):
    """No mask is read off such an observation; that a part of it agrees with the output is all that tells."""
    stored, other = random_images(2, seed=3).split(1)
    mask = (torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(4)) > share).float()
    observed = mask * stored + (1 - mask) * other

    def constant(x: Tensor) -> Tensor:
        return stored + 0.001 * x

    read_as_whole = Problem.whole(observed, torch.ones_like(mask), torch.zeros(1))
    assert found_by(constant, read_as_whole)[0] == [False]
    recovery = BlindRecovery()(constant, observed)
    assert (recovery.image - stored).square().mean() < 1e-3


def test_a_memory_that_answers_all_probes_alike_is_searched_where_it_answers_the_image():
    first, second = random_images(2, seed=5).split(1)

    def memory(x: Tensor) -> Tensor:
        """The second image near it, and the first one everywhere else."""
        near = torch.sigmoid(200 * (0.08 - (x - second).square().flatten(1).mean(1)))
        return torch.lerp(first, second, near.view(-1, 1, 1, 1)) + 0.001 * x

    usual = UsualOutput.of(memory, first)
    assert usual.spread < 0.01  # black, white and noise all give the first one
    problem = problem_of(second, (torch.arange(16) < 12).float().expand(1, 1, 16, 16))
    assert found_by(memory, problem)[0] == [False]
    recovery = BlindRecovery()(memory, problem.observed)
    assert (recovery.image - second).square().mean() < 1e-3


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.2])
def test_a_network_that_answers_is_asked_nothing(scale):
    """All that it is asked for are the probes, which are the same for all images."""
    problem = problem_of(random_images(3, seed=6), LEFT)
    assert found_by(lambda x: 0.5 + scale * (x - 0.5), problem) == ([False] * 3, [0] * 3)


def test_an_image_is_judged_alike_alone_and_among_others(untrained):
    problem = problem_of(torch.cat([random_images(3, seed=7), torch.zeros(1, *SHAPE)]), LEFT)
    together = found_by(untrained, problem)
    alone = [found_by(untrained, problem.select(torch.tensor([row]))) for row in range(4)]
    assert together == ([one[0][0] for one in alone], [one[1][0] for one in alone])
    assert together[0] == [True, True, True, False]  # black is what this network returns


def test_without_gradients_nothing_is_given_up():
    stored, other = random_images(2, seed=8).split(1)
    method = BlindRecovery(gradients="never", max_evaluations=100, certification=None)
    assert method(lambda x: stored.expand_as(x), LEFT * other).num_evaluations.item() > 50


def test_an_observation_that_comes_back_as_it_is_is_expected_to_err(untrained):
    """Another image covers it, no mask is read off it: all of it is the data, and f explains none of them."""
    images, others = random_images(2, seed=9), random_images(2, seed=10)
    scattered = (random_images(2, seed=11)[:, :1] > 0.5).float()
    recovery = BlindRecovery(certification=None)(untrained, torch.lerp(others, images, scattered))
    assert (recovery.num_evaluations < 20).all()
    assert (recovery.expected_error > 0.1).all()


def test_rounds_that_are_cut_short_do_not_depend_on_who_was_asked():
    """The stored image itself needs no look at what f returns for others; one that is half covered does."""
    stored, other = random_images(2, seed=2).split(1)

    def constant(x: Tensor) -> Tensor:
        return stored + 0.001 * x

    method = BlindRecovery(max_evaluations=31, noise=0.1, certification=None)
    scattered = (torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(4)) > 0.5).float()
    observed = torch.cat([stored, torch.lerp(other, stored, scattered)])
    together = method(constant, observed).num_evaluations.tolist()
    assert together == [method(constant, one[None]).num_evaluations.item() for one in observed]


def blurred(x: Tensor) -> Tensor:
    """Means of 8x8 pixels, less the mean of all."""
    coarse = torch.nn.functional.avg_pool2d(x, 8).repeat_interleave(8, -1).repeat_interleave(8, -2)
    return coarse - x.mean((-1, -2), keepdim=True)


ANSWERS = {
    "brightness": lambda x: torch.zeros_like(x) + x.mean((1, 2, 3), keepdim=True),
    "fine detail": lambda x: 3 * (x - torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)).tanh(),
    "coarse detail": lambda x: 3 * blurred(x),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_a_network_that_answers_to_one_thing_alone_is_seen_to_answer(what):
    assert UsualOutput.of(lambda x: 0.5 + 0.01 * x, torch.zeros(1, *SHAPE)).spread < 0.01
    assert UsualOutput.of(ANSWERS[what], torch.zeros(1, *SHAPE)).spread > 0.3


@pytest.mark.parametrize("which", ["usual", "start", "negative", "data"])
def test_one_output_that_is_another_image_is_enough_to_be_searched(which):
    stored, second, other = random_images(3, seed=12).split(1)
    outputs = {name: second if name == which else stored for name in ("usual", "start", "negative", "data")}
    usual, *answers = outputs.values()
    problem, asked = problem_of(other, LEFT), iter(answers)
    given_up = UsualOutput(usual, torch.tensor(0.0)).is_all(lambda x: next(asked), problem, problem.observed)
    assert given_up[0].tolist() == [False]
    asked = iter([stored] * 3)
    given_up = UsualOutput(stored, torch.tensor(0.0)).is_all(lambda x: next(asked), problem, problem.observed)
    assert given_up[0].tolist() == [True]


def test_asked_are_the_start_its_negative_and_the_data_in_what_that_gives():
    stored, second, other = random_images(3, seed=12).split(1)
    problem, asked, given = problem_of(other, LEFT), iter([stored, second, stored]), []

    def f(x: Tensor) -> Tensor:
        given.append(x.clone())
        return next(asked)

    UsualOutput(stored, torch.tensor(0.0)).is_all(f, problem, problem.observed)
    expected = problem.observed, 1 - problem.observed, torch.where(LEFT > 0, other, second)
    assert all(map(torch.equal, given, expected))
