"""How fast an audit will go here: a few calls of the autoencoder and of the recoveries' own work, timed before it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_memaudit.measurement.groups import ConditionalAutoencoder, Group
from lightning_memaudit.measurement.metrics import psnr
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.processes import AuditStopped
from lightning_memaudit.recovery import Autoencoder, KnownMaskRecovery
from lightning_memaudit.recovery.gradients import DifferentiableAutoencoder
from lightning_memaudit.recovery.methods.registry import recover, uses_autoencoder
from lightning_memaudit.recovery.spatial import repeat
from lightning_memaudit.recovery.tuning import Round, SelfTuning
from lightning_memaudit.recovery.usual_output import may_answer

MOST_TIMED, LEAST_TIMED = 32, 2
"""Images in the larger and in the smaller of the batches that are timed."""

PATIENCE = 0.06
"""Seconds that one timed call should take at most: a slow autoencoder is timed with fewer images."""

LEAST_REPEATS, MOST_REPEATS, LEAST_SECONDS = 2, 20, 0.05
"""Of every piece of work, and of short ones so many more."""

MOST_LOAD = 3.0
"""Times as long as the fastest repeat that one is believed to take while something else keeps the machine busy: in so
few short repeats one pause of the machine looks like more."""

MOST_REPRODUCED = 16
"""Images of each group whose own PSNR is measured."""

GRADIENTS = 2
"""Of the descent that is timed."""

ITERATIONS, REFINEMENTS = 6, 2
"""Of the search that is timed without an autoencoder."""


class Line(NamedTuple):
    """Seconds of one call with B images: a part for the call, as reading the weights, and one for every image.

    Attributes:
        per_call: Of every call.
        per_image: Of every image in it.

    >>> Line.through({2: 0.3, 10: 0.7})(calls=1, images=20)
    1.2
    """

    per_call: float
    per_image: float

    @classmethod
    def through(cls, seconds: Mapping[int, float]) -> "Line":
        """The line through the seconds of calls with two numbers of images; no part of it is negative."""
        (small, first), (large, last) = min(seconds.items()), max(seconds.items())
        slope = max(0.0, (last - first) / (large - small)) if large > small else first / max(1, small)
        return cls(max(0.0, last - large * slope), slope)

    def __call__(self, calls: float, images: float) -> float:
        """Seconds of so many calls with so many images, all together."""
        return calls * self.per_call + images * self.per_image

    def times(self, factor: float) -> "Line":
        """The line of what takes so many times as long."""
        return Line(factor * self.per_call, factor * self.per_image)

    def slower(self, other: "Line") -> "Line":
        """Part by part the slower of two."""
        return Line(max(self.per_call, other.per_call), max(self.per_image, other.per_image))


@dataclass(frozen=True)
class Pace:
    """What was measured before an audit.

    Attributes:
        forward: Seconds of the autoencoder.
        gradient: Seconds of a step by gradients, with all that belongs to it; None where there are none.
        search: Seconds that a search takes beside each evaluation of the autoencoder.
        inpainting: Seconds of one image, by pattern and method; of methods that do not call the autoencoder.
        own_psnr: By group, how well the autoencoder reproduces intact images: the median PSNR of a few, in dB.
        answers: Whether it may return anything else for one of these than for the others.
        image_bytes: Of one image.
        kept_bytes: That the autoencoder keeps of one image for a backward pass.

    >>> group = Group.whole("members", torch.rand(8, 1, 8, 8))
    >>> pace = measure_pace(torch.nn.Conv2d(1, 1, 3, padding=1), [group], Plan.of(["half"], ["blind", "biharmonic"]))
    >>> pace.forward(calls=1, images=8) > 0, pace.gradient is not None, list(pace.inpainting), pace.image_bytes
    (True, True, [('half', 'biharmonic')], 256)
    """

    forward: Line
    gradient: Line | None
    search: Line
    inpainting: Mapping[tuple[str, str], float] = field(default_factory=dict)
    own_psnr: Mapping[str, float] = field(default_factory=dict)
    answers: bool = True
    image_bytes: int = 0
    kept_bytes: int = 0

    @classmethod
    def slowest(cls, paces: Sequence["Pace"]) -> "Pace":
        """Of several processes that work side by side: an audit ends when the slowest has done its part."""
        found = paces[0]
        for other in paces[1:]:
            gradient = found.gradient
            if gradient is not None:
                gradient = None if other.gradient is None else gradient.slower(other.gradient)
            found = replace(
                found,
                forward=found.forward.slower(other.forward),
                gradient=gradient,
                search=found.search.slower(other.search),
                inpainting={key: max(value, other.inpainting[key]) for key, value in found.inpainting.items()},
                answers=found.answers or other.answers,
            )
        return found


@torch.no_grad()
def measure_pace(autoencoder: Autoencoder | ConditionalAutoencoder, groups: Sequence[Group], plan: Plan) -> Pace | None:
    """Time a few calls with the first images; None where one of them fails, which the audit will say.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape; for groups with conditions, what gives one for each.
        groups: Members first.
        plan: Its methods say what is timed.

    Raises:
        AuditStopped: The processes must end.
    """
    try:
        return _measure(autoencoder, groups, plan)
    except AuditStopped:
        raise
    except Exception:
        return None


def _measure(autoencoder: Autoencoder | ConditionalAutoencoder, groups: Sequence[Group], plan: Plan) -> Pace:
    if not plan.extraction and len(plan.without_autoencoder) == len(plan.methods):
        image = groups[0].images[slice(0, 1)]
        nothing = Line(0.0, 0.0)
        inpainting = _time_inpainting(image, plan)
        return Pace(nothing, None, nothing, inpainting, image_bytes=image.numel() * image.element_size())
    intact = Intact.of(autoencoder, groups)
    block = next(groups[0].first(min(MOST_TIMED, plan.block_size)).blocks(autoencoder, MOST_TIMED))
    f, images = block.autoencoder, _repeated(block.images, MOST_TIMED)
    first = _seconds(lambda: f(images[:LEAST_TIMED]))
    # Small and fast ones are timed with more images; of a slow one a few say enough.
    large = max(LEAST_TIMED + 1, min(MOST_TIMED, int(LEAST_TIMED * PATIENCE / max(first, 1e-9))))
    sizes = (LEAST_TIMED, large)
    watch = _Stopwatch()
    forward = watch.line(lambda size: f(images[:size]), sizes)
    mask = torch.zeros_like(images[:, :1])
    mask[..., ::2] = 1
    differentiable = DifferentiableAutoencoder(f)
    if uses_gradients(plan):
        differentiable.look_for_gradients(images[:1])
    gradient = None
    if differentiable.has_gradients:
        gradient = watch.line(lambda size: _descend(differentiable, images[:size], mask[:size]), sizes)
        gradient = gradient.times(1 / GRADIENTS)
    search = _time_search(watch, images, mask, sizes)
    return Pace(
        forward.times(watch.load),
        None if gradient is None else gradient.times(watch.load),
        search.times(watch.load),
        _time_inpainting(block.images[:1], plan),
        intact.own_psnr,
        intact.answers,
        images[0].numel() * images.element_size(),
        differentiable.kept_bytes,
    )


class Intact(NamedTuple):
    """What the autoencoder returns for intact images.

    Attributes:
        own_psnr: By group, the median PSNR of its output for the first ones, in dB.
        answers: Whether it may return anything else for one of them than for the others.

    >>> Intact.of(torch.clone, [Group.whole("members", torch.rand(4, 1, 8, 8))]).answers
    True
    """

    own_psnr: Mapping[str, float]
    answers: bool

    @classmethod
    @torch.no_grad()
    def of(cls, autoencoder: Autoencoder | ConditionalAutoencoder, groups: Sequence[Group]) -> "Intact":
        """Show it the first images of each group.

        Nothing of a group for which the call fails: the audit will say it.

        Raises:
            AuditStopped: The processes must end.
        """
        found, answers = dict[str, float](), False
        for group in groups:
            if not len(group.images):
                continue
            try:
                block = next(group.first(MOST_REPRODUCED).blocks(autoencoder, MOST_REPRODUCED))
                output = block.autoencoder(block.images)
                found[group.name] = float(psnr(output, block.images).nan_to_num(-60.0).median())
                answers |= may_answer(output, block.images)
            except AuditStopped:
                raise
            except Exception:
                continue
        return cls(found, answers)


def uses_gradients(plan: Plan) -> bool:
    """Whether any method differentiates the autoencoder where it can."""
    return any(getattr(method, "gradients", "never") == "auto" for method in plan.methods.values())


class _Stopwatch:
    """Times pieces of work that take turns.

    The fastest repeat tells what the work takes; all of them together, how much longer it takes while something else
    keeps the machine busy: short repeats differ too much for either to be told by their median.
    """

    def __init__(self) -> None:
        self._all, self._fastest = 0.0, 0.0

    def line(self, work: Callable[[int], Any], sizes: tuple[int, int]) -> Line:
        """The line through the fastest of repeated calls with two numbers of images."""
        seconds: dict[int, list[float]] = {size: [] for size in sizes}
        work(sizes[0])
        repeats = 0
        while repeats < LEAST_REPEATS or (repeats < MOST_REPEATS and sum(map(sum, seconds.values())) < LEAST_SECONDS):
            repeats += 1
            for size, taken in seconds.items():
                taken.append(_seconds(lambda size=size: work(size)))  # type: ignore[misc]
        self._all += sum(map(sum, seconds.values()))
        self._fastest += sum(repeats * min(taken) for taken in seconds.values())
        return Line.through({size: min(taken) for size, taken in seconds.items()})

    @property
    def load(self) -> float:
        """How many times the fastest repeat a repeat takes on average."""
        return min(MOST_LOAD, self._all / self._fastest) if self._fastest else 1.0


def _time_search(watch: _Stopwatch, images: Tensor, mask: Tensor, sizes: tuple[int, int]) -> Line:
    """Of one evaluation, when the autoencoder itself costs nothing."""
    tuning = SelfTuning(rounds=(Round((0.1, 0.3), "interpolated", ITERATIONS),), refinements=REFINEMENTS)
    evaluations = 3 + 2 * (ITERATIONS + REFINEMENTS)
    method = KnownMaskRecovery(tuning=tuning, gradients="never", max_evaluations=evaluations)
    line = watch.line(lambda size: method(torch.clone, images[:size] * mask[:size], mask[:size]), sizes)
    return Line(line.per_call / (3 + ITERATIONS + REFINEMENTS), line.per_image / evaluations)


def _time_inpainting(image: Tensor, plan: Plan) -> dict[tuple[str, str], float]:
    found = {}
    for pattern in plan.patterns:
        degraded = pattern(image, [0], plan.seed)
        for name, method in plan.methods_for(pattern).items():
            if not uses_autoencoder(method):

                def work(method: Any = method, degraded: Any = degraded) -> Tensor:
                    return recover(method, torch.clone, degraded.observed, degraded.mask).image

                found[pattern.name, name] = _seconds(work)
    return found


def _descend(f: DifferentiableAutoencoder, images: Tensor, mask: Tensor) -> Tensor:
    number = torch.full((len(images),), GRADIENTS, device=images.device)
    return f.fit(images * mask, mask, images.flip(0).clone(), number).point


def _repeated(images: Tensor, number: int) -> Tensor:
    """So many images, the same ones again where there are fewer."""
    return repeat(images, -(-number // len(images)))[:number]


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    result = work()
    float((result if isinstance(result, Tensor) else result.image).sum())  # waits for the device
    return time.perf_counter() - began
