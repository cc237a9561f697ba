"""What the search that tunes itself tries, in which order, and when it is done with an image."""

import itertools
import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_memaudit.recovery.alternation import Alternation
from lightning_memaudit.recovery.checks import check_counts, check_penalties
from lightning_memaudit.recovery.spatial import row_values, within_reach

NEARBY = 2
"""Steps along every axis between a hidden pixel and an observed one that tells something of it."""

Start = Literal["interpolated", "autoencoder", "random"]

DescentStart = Literal["interpolated", "observed", "noise", "negative", "smooth"]
"""What a descent puts into the hidden pixels at first: the smooth interpolation, whatever the observation holds there,
noise, the negative of the interpolation, or smooth noise. Where a few of these fail, another one often succeeds."""


@dataclass(frozen=True)
class Round:
    """Attempts with several penalties, all from the same start.

    Attributes:
        penalties: ADMM penalties, positive.
        start: ``interpolated`` fills the missing pixels smoothly, ``autoencoder`` is f(y), ``random`` is f of the
            observation with random values where it is missing.
        num_iterations: ADMM iterations of every attempt.

    Raises:
        ValueError: An attribute is out of its range; the message names it and its value.

    >>> import torch
    >>> from lightning_memaudit.recovery.methods.known_mask import KnownMaskRecovery
    >>> image, one = torch.full((1, 1, 8, 8), 0.5), Round(penalties=(0.1, 0.3), start="interpolated", num_iterations=20)
    >>> method = KnownMaskRecovery(tuning=SelfTuning(rounds=(one,), first_penalty_alone=False))
    >>> recovery = method(lambda x: x / 2 + image / 2 + 0.001, observed=image, mask=torch.ones(1, 1, 8, 8))
    >>> recovery.num_evaluations.item()  # 1 scores the start, 2 measure the gain, and 2 * (20 + 6) are the round's
    55
    """

    penalties: tuple[float, ...]
    start: Start
    num_iterations: int

    def __post_init__(self) -> None:
        check_penalties(self.penalties)
        if self.start not in get_args(Start):
            raise ValueError(f"start={self.start!r}: pass one of {', '.join(get_args(Start))}")
        check_counts(num_iterations=self.num_iterations)


@dataclass(frozen=True)
class SelfTuning:
    """What the search tries in which order, and when it is done with an image.

    The last round is repeated until the evaluations are spent. "Error" below is the expected mean squared error of an
    image's best candidate so far.

    Where f can be differentiated and the mask is known or read off the observation, a descent by gradients, see
    :meth:`~lightning_memaudit.recovery.gradients.DifferentiableAutoencoder.fit`, follows every round, from its best
    candidate. Rounds take turns with descents from ``starts``; before the last round the paper's method runs as it is,
    whose image is a candidate too.

    Attributes:
        rounds: What to try, cheap and likely first.
        spread: Share of the correction of observed pixels that is added to hidden ones nearby, in [0, 1], see
            :class:`~lightning_memaudit.recovery.admm.Workspace`; 0 is the paper's iteration.
        shares: Shares of observed pixels to try, in (0, 1), where the mask must be told from the image's content.
        mask_steps: ADMM iterations between two estimates of a mask that is not known.
        refinements: Evaluations of f that improve and score what an attempt ended with, see
            :func:`~lightning_memaudit.recovery.candidates.refine`.
        good_error: An image with an error below this is done.
        fair_error: An image with an error below this is done once a round has hardly improved it.
        improvement: A round has hardly improved an image if the error after it is above this share of that before.
        patience: An image is given up after so many rounds in a row that have hardly improved it.
        papers_iteration: Iterations and tolerances of the paper's method in that place.
        starts: Of the descents that take turns with the rounds.
        applications: Of f, in those descents. With two they find more where f is a U-Net, or its error high; from a
            round's candidate one is enough.
        max_gradients: Gradients of a descent at most.
        patience_per_hidden_share: With gradients, an image's patience is so many times the share of its pixels that is
            hidden, and ``patience`` at least: where more is hidden there are more wrong images to end in. Hidden pixels
            count half where one nearby is observed, at most :data:`NEARBY` steps away along every axis.
        doubtful_error: With gradients, an image with an error above this is given up sooner.
        hopeless_error: With gradients, one with an error above this is given up soonest: it hardly ever comes back.
        patience_per_far_share: That soonest is so many times the share of its pixels that are hidden and have no
            observed one nearby, and 1 at least: only there do descents from other starts end elsewhere.
        first_penalty_alone: Whether the first penalty of the first round is tried before its others, which are then for
            the images that are not good yet: nearly all that an autoencoder has memorized well needs no other. With
            gradients they are not for hopeless images either, which go on with a descent. False tries all at once.
        excellent_error: With gradients, an image with an error between this and ``doubtful_error`` in the end gets one
            more descent from there, with ``applications`` of f, if f copies there; infinite never does so.
        copying_gain: F copies where its :func:`~lightning_memaudit.recovery.certification.noise_gain` is above this:
            U-Nets pass on 0.02 to 0.3 of noise around images that they have memorized, fully connected networks 0.01
            at most.

    Raises:
        ValueError: ``spread``, ``shares``, ``rounds``, ``starts``, an error or a count is out of its range; the message
            names it.

    >>> import torch
    >>> from lightning_memaudit.recovery.methods.known_mask import KnownMaskRecovery
    >>> image, mask = torch.linspace(0.4, 0.6, 8).expand(1, 1, 8, 8), torch.tensor([1.0, 0]).repeat(1, 1, 8, 4)
    >>> def evaluations(f, patience):
    ...     method = KnownMaskRecovery(tuning=SelfTuning(patience=patience))
    ...     return method(f, mask * image, mask).num_evaluations.item()
    >>> recovers, does_not = lambda x: x / 2 + image / 2 + 0.001, lambda x: -x.detach()
    >>> [evaluations(f, n) for f in (recovers, does_not) for n in (1, 2)]  # done, given up
    [29, 29, 55, 127]
    """

    rounds: tuple[Round, ...] = (
        Round((0.1, 0.3), "interpolated", 20),
        Round((0.03, 1.0), "interpolated", 30),
        Round((0.1, 0.3), "autoencoder", 50),
        Round((0.1, 0.3), "random", 40),
    )
    spread: float = 0.35
    shares: tuple[float, ...] = (0.5, 0.1)
    mask_steps: int = 2
    refinements: int = 6
    good_error: float = 10**-3.5
    fair_error: float = 10**-3.0
    improvement: float = 0.9
    patience: int = 2
    papers_iteration: Alternation = field(default_factory=Alternation)
    starts: tuple[DescentStart, ...] = ("interpolated", "observed", "noise", "negative", "smooth")
    applications: int = 2
    max_gradients: int = 40
    patience_per_hidden_share: float = 8.0
    doubtful_error: float = 0.005
    hopeless_error: float = 0.03
    patience_per_far_share: float = 7.0
    first_penalty_alone: bool = True
    excellent_error: float = 1e-4
    copying_gain: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.spread <= 1:
            raise ValueError(f"spread={self.spread}: must be between 0 and 1, such as 0.35")
        if not self.shares or not all(0 < share < 1 for share in self.shares):
            raise ValueError(f"shares={list(self.shares)}: give shares between 0 and 1, such as [0.5, 0.1]")
        if not self.rounds:
            raise ValueError("rounds is empty: give at least one round")
        for start in self.starts:
            if start not in get_args(DescentStart):
                raise ValueError(f"starts={list(self.starts)}: pass names among {', '.join(get_args(DescentStart))}")
        if not 0 < self.doubtful_error < self.hopeless_error:
            raise ValueError(
                f"doubtful_error={self.doubtful_error}: must be above 0 and below hopeless_error={self.hopeless_error}"
            )
        check_counts(
            mask_steps=self.mask_steps,
            refinements=self.refinements,
            patience=self.patience,
            applications=self.applications,
            max_gradients=self.max_gradients,
        )

    def order(self, gradients: bool) -> tuple[Round | Alternation | DescentStart, ...]:
        """Rounds, and with gradients the starts of descents and the paper's iteration, in the order of their turn."""
        if not gradients:
            return self.rounds
        first = self.rounds[:-1] or self.rounds
        pairs = itertools.zip_longest(first, self.starts)
        alternating = [try_ for pair in pairs for try_ in pair if try_ is not None]
        return (*alternating, self.papers_iteration, self.rounds[-1])

    def patience_with(self, mask: Tensor, gradients: bool) -> "Patience":
        """Of images with these masks, (B, 1 or C, *spatial)."""
        if not gradients:
            same = row_values(mask, self.patience)
            return Patience(same, same, self.doubtful_error, self.hopeless_error)
        hidden = (1 - mask).flatten(1).mean(1)
        far = (within_reach(mask, NEARBY) == 0).flatten(1).float().mean(1)
        most = (self.patience_per_hidden_share * (hidden + far) / 2).round().clamp_min(self.patience)
        least = torch.minimum(most, (self.patience_per_far_share * far).round().clamp_min(1))
        return Patience(most, least, self.doubtful_error, self.hopeless_error)


class Patience(NamedTuple):
    """After how many rounds in a row without improvement the search gives an image up: fewer, the worse it stands.

    Attributes:
        most: (B,) rounds for images whose error is at most ``doubtful_error``.
        least: (B,) rounds for those at ``hopeless_error`` and above; in between it falls with the logarithm.
        doubtful_error: Expected mean squared error.
        hopeless_error: The same, larger.

    >>> import torch
    >>> patience = SelfTuning().patience_with(torch.eye(16).expand(3, 1, 16, 16), gradients=True)
    >>> patience.at(torch.tensor([0.001, 0.01, 0.1]), torch.arange(3)).tolist()
    [6, 5, 4]
    """

    most: Tensor
    least: Tensor
    doubtful_error: float
    hopeless_error: float

    def at(self, error: Tensor, rows: Tensor) -> Tensor:
        """Of the images ``rows``, (R,), with these errors, (R,): (R,) int64."""
        steps = (error.double().clamp_min(self.doubtful_error) / self.doubtful_error).log()
        lost = (steps / math.log(self.hopeless_error / self.doubtful_error)).clamp(0, 1)
        return torch.lerp(self.most[rows].double(), self.least[rows].double(), lost).round().long()
