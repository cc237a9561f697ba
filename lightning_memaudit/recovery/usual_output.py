"""Autoencoders that return nearly the same whatever they are shown, as most do before they are trained.

Nothing comes back from them but that: an image that it does not resemble need not be searched.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.recovery.attempts import uniform_noise
from lightning_memaudit.recovery.batches import per_image_mean
from lightning_memaudit.recovery.candidates import masked_mean
from lightning_memaudit.recovery.fills import find_repeated_values
from lightning_memaudit.recovery.spatial import patch_means, resized, spatial
from lightning_memaudit.recovery.two_scales import LEAST_SPEAKING, fit_two_scales
from lightning_memaudit.recovery.types import Autoencoder, Problem

LEAST_ANSWER = 0.2
"""Outputs answer an observation if they differ from each other by more than this share of what they lack of it. On
networks that were not trained the share was 0.004 to 0.18, on those trained to a mean squared error of 1e-2 or less it
was 0.33 to 240."""

PROBE_PATCHES = 4
"""Random values along every axis of a smooth probe."""

OWN_EVALUATIONS = 3
"""Evaluations of f for an image, where the usual output does not resemble it."""


class UsualOutput(NamedTuple):
    """What f returns for black, white, noise and smooth noise.

    Attributes:
        output: (1, C, *spatial), the mean of these outputs.
        spread: () largest root mean squared difference of an output from their mean.

    >>> usual = UsualOutput.of(lambda x: 0.5 + 0.01 * x, like=torch.zeros(1, 1, 8, 8))
    >>> round(usual.output.mean().item(), 3), usual.spread.item() < 0.01
    (0.505, True)
    """

    output: Tensor
    spread: Tensor

    @classmethod
    def of(cls, autoencoder: Autoencoder, like: Tensor) -> "UsualOutput":
        """Four evaluations of f on images of the shape, type and device of ``like``, (B, C, *spatial).

        The same images each time: what is found for one must not depend on the others in its batch.
        """
        noise = uniform_noise(like.shape[1:], like, seed=0)[None]
        smooth = resized(patch_means(noise, min(PROBE_PATCHES, *spatial(like))), spatial(like))
        # Means of noise are grey: their contrast is that of the noise again.
        smooth = 0.5 + (smooth - smooth.mean()) * noise.std() / smooth.std().clamp_min(1e-6)
        # One by one: so many at once may not fit the memory.
        outputs = torch.cat([autoencoder(probe) for probe in (noise * 0, noise * 0 + 1, noise, smooth)])
        usual = outputs.mean(0, keepdim=True)
        return cls(usual, _distance(outputs, usual).amax())

    def is_all(self, autoencoder: Autoencoder, problem: Problem, start: Tensor) -> tuple[Tensor, Tensor]:
        """Whether f returns nothing else for observations that this does not resemble, (B,), and evaluations, (B,).

        Only observations that the usual output resembles less than f seems to vary cost evaluations: of ``start``, of
        its negative, and of the negative's output with the data put in. An output that agrees with a part of the
        observation, whatever the mask says, does resemble it.

        Args:
            autoencoder: f, images (B, C, *spatial) to the same shape.
            problem: y and h of B images.
            start: Where a search begins, (B, C, *spatial).

        >>> stored, other = torch.rand(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> mask = torch.tensor([1.0, 0]).repeat(2, 1, 8, 4)
        >>> problem = Problem.whole(mask * torch.cat([stored, other]), mask, noise=torch.zeros(2))
        >>> constant = lambda x: stored.expand_as(x)
        >>> nothing_else, spent = UsualOutput.of(constant, problem.observed).is_all(constant, problem, problem.observed)
        >>> nothing_else.tolist(), spent.tolist()
        ([False, True], [0, 3])
        """
        observed, mask = problem.observed, problem.mask
        nothing_else = torch.zeros_like(problem.noise, dtype=torch.bool)
        spent = torch.zeros_like(problem.noise, dtype=torch.int64)
        lacking = masked_mean((observed - self.output).square(), mask).sqrt()
        rows = (self.spread < LEAST_ANSWER * lacking).nonzero().squeeze(1)
        if not len(rows):
            return nothing_else, spent
        observed, mask, start = observed[rows], mask[rows], start[rows]
        of_start, of_negative = autoencoder(start), autoencoder(1 - start)
        with_data = autoencoder(torch.lerp(of_negative, observed, mask.expand_as(observed)))
        varies = torch.stack([_distance(of_start, output) for output in (of_negative, with_data, self.output)]).amax(0)
        lacking = masked_mean((observed - of_start).square(), mask).sqrt()
        # What repeats may be a fill, and black is what many an untrained network returns.
        possible = find_repeated_values(observed).mask.amin(1, keepdim=True)
        alike = fit_two_scales(observed - of_start, possible, shared=True).evidence > LEAST_SPEAKING
        nothing_else[rows] = (varies < LEAST_ANSWER * lacking) & ~alike
        spent[rows] = OWN_EVALUATIONS
        return nothing_else, spent


class AnswersImages:
    """An autoencoder of which it was not seen that it returns nearly the same for intact images: it is never given up.

    Black, white and noise are no images. An autoencoder may return the same for all that is none, for a check that its
    makers put before it, and what it has stored for images alone.

    Args:
        autoencoder: f, (B, C, *spatial) to the same shape.

    >>> AnswersImages(torch.tanh)(torch.zeros(1, 1, 2, 2)).shape
    torch.Size([1, 1, 2, 2])
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        self._autoencoder = autoencoder

    def __call__(self, images: Tensor) -> Tensor:
        """f(images)."""
        return self._autoencoder(images)


def may_answer(outputs: Tensor, images: Tensor) -> bool:
    """Whether f(x) differs from the mean output for any intact image x; also where that cannot be told.

    By :data:`LEAST_ANSWER` of what images differ from their mean. One image, or the same several times, tells nothing,
    nor do outputs that are not finite.

    Args:
        outputs: f(x), (B, C, *spatial).
        images: x, (B, C, *spatial).

    >>> images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> [may_answer(outputs, images) for outputs in (0.5 + 0.1 * images, images)]
    [False, True]
    >>> may_answer(0.5 + 0.1 * images[:1], images[:1])
    True
    """
    answers, differ = (_distance(one, one.mean(0, keepdim=True)) for one in (outputs, images))
    return not bool((answers < LEAST_ANSWER * differ.square().mean().sqrt()).all())


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """Root mean squared difference of images (B, C, *spatial), (B,)."""
    return per_image_mean((first - second).square()).sqrt()
