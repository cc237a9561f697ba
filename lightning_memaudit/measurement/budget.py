"""What an audit will cost, said before it begins; and, where that is too much, a smaller audit instead.

All of it is decided from sizes, from the time of a few calls, and from how well the autoencoder reproduces a few intact
images: nothing has been recovered yet, so that no conclusion is turned by what is left out.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from lightning_memaudit.measurement.choice import few_of
from lightning_memaudit.measurement.estimate import CellKey, Estimate, Experience
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.measured_work import (
    ALL_COPIES_FROM_DB,
    BASELINE,
    COPIES_FROM_DB,
    EXTRACTION,
    EXTRACTION_OVERHEAD,
    FIRST_ROUND,
    LONGEST_BEYOND_MEAN,
    SHARE_OF_COPIES,
)
from lightning_memaudit.measurement.pace import Pace, measure_pace
from lightning_memaudit.measurement.plan import LARGE_METHODS, LARGE_SIDE, Plan, self_tuned
from lightning_memaudit.measurement.probe import plain_iterations, probe
from lightning_memaudit.measurement.reference import ReferenceModels
from lightning_memaudit.measurement.together import rows_are_independent
from lightning_memaudit.measurement.workload import (
    MOST_EVALUATIONS,
    Work,
    between,
    kind_of,
    most_evaluations,
    share_searched,
    work_of,
)
from lightning_memaudit.recovery import Autoencoder, AutoencoderIterations, BlindRecovery
from lightning_memaudit.recovery.batches import ELEMENTS_PER_CHUNK
from lightning_memaudit.recovery.certification import MAX_FALSE_RATE, controls_needed
from lightning_memaudit.recovery.extraction import WAVE
from lightning_memaudit.recovery.methods.registry import Method, uses_autoencoder
from lightning_memaudit.recovery.spatial import spatial
from lightning_memaudit.results.cost import Bounds, Cut

FEWEST_IMAGES = 20
"""Of each group: with fewer controls no verdict is reached, see :mod:`lightning_memaudit.results.reasons`."""

FEWEST_EVALUATIONS = 60
"""Of one image: the first round of a search, which is all that most images take that come back."""

LARGE_SECONDS = 600.0
"""An audit of large images that would take longer runs the methods :data:`~.plan.LARGE_METHODS` instead of the default
ones."""

WORST_PSNR = 18.0
"""In dB: autoencoders that reproduce images about so well take the longest to recover them."""

WORTH_PROBING, PROBING_SHARE, LEAST_PROBING_SHARE = 10.0, 0.05, 0.1
"""Seconds of an audit before which a few images are recovered to tell its cost, and the share of it that this may take:
the first for several images of each group, the second for one."""

MOST_PROBED = 4
"""Images of each group that are recovered for that."""

VARIABLES = 64
"""Tensors of the size of a chunk's attempts that a search holds at its peak."""


@dataclass(frozen=True)
class Costs:
    """What is known of an audit's cost before it begins.

    Attributes:
        pace: What was timed.
        num_shares: Processes that share the images.
        num_conditions: By group, into how many parts its images fall that cannot be recovered together.
        device: Where the images are, ``cpu`` or ``cuda``.
        num_references: Reference models that are still to be measured.
        costliest: Estimate for whatever the autoencoder may yet become, instead of what it is now.
        iterations: By group, what plain iterations take, as far as it is known.
        probed: By group, pattern and method: how many times as much a few images took as is told of it.

    >>> from lightning_memaudit.measurement.pace import Line
    >>> pace = Pace(Line(0.001, 0.0001), None, Line(0.0, 0.0), {}, {"members": 60.0}, image_bytes=3072)
    >>> estimate = Costs(pace).estimate(Plan.of(["random-0.5"], ["known_mask"]), {"members": 10})
    >>> 0 < estimate.seconds < 1, round(estimate.num_evaluations)
    (True, 290)
    """

    pace: Pace
    num_shares: int = 1
    num_conditions: Mapping[str, int] = field(default_factory=dict)
    device: str = "cpu"
    num_references: int = 0
    costliest: bool = False
    iterations: Mapping[str, Work] = field(default_factory=dict)
    probed: Mapping[CellKey, float] = field(default_factory=dict)

    def num_probed(self, plan: Plan, sizes: Mapping[str, int]) -> int:
        """Images of each group that may be recovered before an audit, so that its cost can be told from what they take.

        0 where they would take too much of it: where calls of the autoencoder cost more than the images in them, those
        for a few images cost as much as those for all.
        """
        unaware = replace(self, probed={})
        whole = unaware.estimate(plan, sizes).seconds
        if whole < WORTH_PROBING:
            return 0
        for number in range(min(MOST_PROBED, *sizes.values()), 0, -1):
            if unaware._apart(plan, sizes, number) <= whole * (PROBING_SHARE if number > 1 else LEAST_PROBING_SHARE):
                return number
        return 0

    def with_probe(self, plan: Plan, evaluations: Mapping[CellKey, float]) -> "Costs":
        """The costs as a few images have shown them.

        Args:
            plan: Of the audit.
            evaluations: By group, pattern and method, per image, see :func:`~.probe.probe`.
        """
        unaware = replace(self, probed={})
        probed: dict[CellKey, float] = {}
        for group in self.pace.own_psnr:
            for pattern in plan.patterns:
                for name, method in plan.methods_for(pattern).items():
                    key = (group, pattern.name, name)
                    told = unaware._work(method, pattern, *key[::2]).evaluations
                    if key in evaluations and told > 0:
                        probed[key] = evaluations[key] / told
        return replace(self, probed=probed)

    def estimate(self, plan: Plan, sizes: Mapping[str, int], experience: Experience | None = None) -> Estimate:
        """What an audit of so many images will cost.

        Args:
            plan: What it does.
            sizes: Images of each group.
            experience: What earlier audits of the same run took.
        """
        known = experience or Experience()
        cells: dict[CellKey, float] = {}
        evaluations: dict[CellKey, float] = {}
        rest = 0.0
        for group, size in sizes.items():
            share = math.ceil(size / self.num_shares)
            blocks = max(math.ceil(share / plan.block_size), min(share, self.num_conditions.get(group, 1)))
            for pattern in plan.patterns:
                earlier: list[Method] = []
                for name, method in plan.methods_for(pattern).items():
                    key = (group, pattern.name, name)
                    if not uses_autoencoder(method):
                        cells[key] = 0.0 if known.inpainted else share * self.pace.inpainting.get(key[1:], 0.0)
                        continue
                    work = self._work(method, pattern, group, name)
                    calls = blocks / self._num_together(method, plan, sizes)
                    seconds = share_searched(method, earlier, pattern) * self._seconds(method, work, share, calls)
                    cells[key] = seconds * known.seconds.get(key, 1.0)
                    earlier.append(method)
                    each = min(work.evaluations * known.evaluations.get(key, 1.0), most_evaluations(method))
                    evaluations[key] = size * each
                    copies = self._copies(method, pattern, group, name, sizes)
                    cells[key] += self._seconds(method, copies, 1, blocks)
                    if name == plan.primary:
                        reference = self._seconds(method, self._work(method, pattern, "controls", name), share, blocks)
                        rest += self.num_references * reference
                if not known.inpainted:
                    # The audited method with nothing in the autoencoder's place.
                    rest += self.pace.search(BASELINE[1] * blocks, BASELINE[0] * share)
            rest += self.pace.forward(4 * blocks, 4 * share)
        extraction = self._extraction(plan)
        rest = rest * known.rest + self.pace.forward(extraction.calls, extraction.forwards)
        rest += EXTRACTION_OVERHEAD * self.pace.search(0.0, extraction.forwards)
        return Estimate(
            sum(cells.values()) + rest,
            sum(evaluations.values()) + extraction.forwards,
            sum(sizes.values()),
            self._bytes(plan, sizes),
            cells,
            evaluations,
        )

    def _num_together(self, method: Method, plan: Plan, sizes: Mapping[str, int]) -> int:
        """How many patterns and groups are one batch."""
        return 1 if self.num_conditions or not rows_are_independent(method) else len(sizes) * len(plan.patterns)

    def _own_psnr(self, group: str) -> float:
        own = self.pace.own_psnr
        known = own.get(group, own.get("members", WORST_PSNR))
        return min(known, WORST_PSNR) if self.costliest and known > WORST_PSNR else known

    def _apart(self, plan: Plan, sizes: Mapping[str, int], number: int) -> float:
        """Seconds of so many images of each group, every pattern by itself."""
        seconds = 0.0
        for group, pattern in itertools.product(sizes, plan.patterns):
            earlier: list[Method] = []
            for name, method in plan.methods_for(pattern).items():
                if not isinstance(method, AutoencoderIterations):
                    work = self._work(method, pattern, group, name)
                    seconds += share_searched(method, earlier, pattern) * self._seconds(method, work, number, 1)
                    earlier.append(method)
        return seconds

    def _work(self, method: Method, pattern: Any, group: str, name: str) -> Work:
        if isinstance(method, AutoencoderIterations) and group in self.iterations and not self.costliest:
            return self.iterations[group]
        gradients = self.pace.gradient is not None
        own = [self._own_psnr(group)]
        if self.costliest:
            own = [5.0, WORST_PSNR, 25.0, 31.0]
        told = max((work_of(method, pattern, one, gradients) for one in own), key=lambda work: work.evaluations)
        if self.costliest:
            return told
        most = most_evaluations(method)
        return told.times(self.probed.get((group, pattern.name, name), 1.0)).at_most(None if math.isinf(most) else most)

    def _seconds(self, method: Method, work: Work, images: float, blocks: float) -> float:
        """Of so many images in so many blocks."""
        seconds = self.pace.forward(work.calls * blocks, work.forwards * images)
        if kind_of(method, gradients=False) != "autoencoder_iterations":
            seconds += self.pace.search(work.calls * blocks, work.forwards * images)
        if self.pace.gradient is not None:
            seconds += self.pace.gradient(work.gradient_calls * blocks, work.gradients * images)
        return seconds

    def _copies(self, method: Method, pattern: Any, group: str, name: str, sizes: Mapping[str, int]) -> Work:
        """Of the turned copies on which a blind method calibrates itself, where the controls are too few for that."""
        controls, needed = sizes.get("controls", 0), controls_needed(MAX_FALSE_RATE)
        turns = isinstance(method, BlindRecovery) and method.calibrates_on_copies
        if not turns or controls >= (needed if group == "members" else 1) or self._own_psnr(group) < COPIES_FROM_DB:
            return Work(0.0, 0.0)
        needed -= controls // self.num_shares
        if self._own_psnr(group) < ALL_COPIES_FROM_DB:
            needed = math.ceil(SHARE_OF_COPIES * needed)
        mean = self._work(method, pattern, group, name).evaluations
        own = self._own_psnr("controls") if "controls" in sizes else WORST_PSNR
        longest = max(FIRST_ROUND, FIRST_ROUND + LONGEST_BEYOND_MEAN * (mean - FIRST_ROUND))
        copy = work_of(method, pattern, min(own, WORST_PSNR), self.pace.gradient is not None)
        copy = copy.times(self.probed.get(("controls", pattern.name, name), 1.0)).at_most(round(longest))
        return copy._replace(forwards=needed * copy.forwards, gradients=needed * copy.gradients)

    def _extraction(self, plan: Plan) -> Work:
        """Every process makes the whole of it."""
        forwards, calls = between(EXTRACTION, self._own_psnr("members"))
        return Work(plan.extraction * forwards, math.ceil(plan.extraction / WAVE) * calls)

    def _bytes(self, plan: Plan, sizes: Mapping[str, int]) -> float:
        """Of the largest block, while it is searched, and of what is kept of all images until the end."""
        image = max(1, self.pace.image_bytes)
        most = max(sizes.values(), default=0)
        share = math.ceil(most / self.num_shares)
        elements = ELEMENTS_PER_CHUNK.get(self.device, ELEMENTS_PER_CHUNK["cpu"])
        chunk = min(share, plan.block_size, max(1, elements * 4 // image // 4))
        attempts = VARIABLES * 2 * chunk * image
        graph = min(chunk * self.pace.kept_bytes, 4 * elements * 4) if self.pace.gradient is not None else 0
        kept = sum(sizes.values()) / self.num_shares * image * (1 + len(plan.patterns) * (1 + len(plan.methods)) / 2)
        return attempts + graph + kept


def bounds_for(
    plan: Plan, sizes: Mapping[str, int], estimate: Callable[[Plan, Mapping[str, int]], Estimate], side: float
) -> Bounds:
    """What to leave out of the audit that is asked for, where it would take longer than ``plan.max_seconds``.

    Without methods of the user's own choice, large images get the cheap ones. Then fewer images, as many of each group,
    down to :data:`FEWEST_IMAGES`; then fewer evaluations of each, down to :data:`FEWEST_EVALUATIONS`; then fewer starts
    of an extraction. What is left then runs, however long that takes.

    Args:
        plan: What is asked for.
        sizes: Images of each group.
        estimate: The cost of any such audit.
        side: See :func:`comparable_side`.

    >>> plan = Plan.of(["half"], ["blind", "biharmonic"], max_seconds=100)
    >>> def a_second_each(plan, sizes):
    ...     return Estimate(1.0 * sum(sizes.values()), 0, 0, 0, {}, {})
    >>> [cut.words for cut in bounds_for(plan, {"members": 80, "controls": 60}, a_second_each, side=32).cuts]
    ['num_members is 50 instead of 80', 'num_controls is 50 instead of 60']
    """
    needed = estimate(plan, sizes).seconds
    limit = plan.max_seconds
    cuts: list[Cut] = []
    if plan.default_methods and side >= LARGE_SIDE and needed > LARGE_SECONDS:
        with suppress(ValueError):  # there is a pattern that none of these is for
            cheap = plan.with_methods(LARGE_METHODS)
            cuts.append(Cut("methods", tuple(plan.methods), LARGE_METHODS))
            plan = cheap
    if limit is None:
        expected = estimate(plan, sizes).seconds if cuts else needed
        return Bounds(tuple(cuts), None, needed, expected)
    most = max(sizes.values())

    def fewer(number: int) -> dict[str, int]:
        return {group: min(number, size) for group, size in sizes.items()}

    def fits(plan: Plan, sizes: Mapping[str, int]) -> bool:
        return estimate(plan, sizes).seconds <= limit

    smaller = fewer(_largest(min(FEWEST_IMAGES, most), most, lambda number: fits(plan, fewer(number))))
    cuts += [Cut(f"num_{name}", sizes[name], size) for name, size in smaller.items() if size < sizes[name]]
    if not fits(plan, smaller):
        searches = [self_tuned(method) for method in plan.methods.values()]
        asked = [method.max_evaluations for method in searches if method is not None]
        most_spent = max((number or MOST_EVALUATIONS for number in asked), default=0)
        number = _largest(FEWEST_EVALUATIONS, most_spent, lambda number: fits(plan.at_most(number), smaller))
        if number < most_spent:
            cuts.append(Cut("max_evaluations", asked[0] if len(set(asked)) == 1 else None, number))
            plan = plan.at_most(number)
    if plan.extraction > WAVE and not fits(plan, smaller):
        starts = _largest(WAVE, plan.extraction, lambda number: fits(replace(plan, extraction=number), smaller))
        cuts.append(Cut("extraction", plan.extraction, starts))
        plan = replace(plan, extraction=starts)
    return Bounds(tuple(cuts), limit, needed, estimate(plan, smaller).seconds)


def bounded_plan(plan: Plan, bounds: Bounds) -> Plan:
    """The plan with what was cut from it; the images are not its part.

    >>> plan = Plan.of(["half"], ["blind"], extraction=1000)
    >>> smaller = bounded_plan(plan, Bounds((Cut("extraction", 1000, 128), Cut("max_evaluations", None, 60))))
    >>> smaller.extraction, smaller.methods["blind"].max_evaluations
    (128, 60)
    """
    for cut in bounds.cuts:
        if cut.argument == "methods" and plan.default_methods:
            plan = plan.with_methods(cut.used)
        elif cut.argument == "max_evaluations":
            plan = plan.at_most(cut.used)
        elif cut.argument == "extraction":
            plan = replace(plan, extraction=min(plan.extraction, cut.used))
    return plan


def bounded_groups(groups: Sequence[Group], bounds: Bounds, seed: int) -> list[Group]:
    """Whole groups of as few images as were left, by a seeded random choice, as where so few are asked for."""
    numbers = {cut.argument.removeprefix("num_"): cut.used for cut in bounds.cuts}
    return [few_of(group, numbers[group.name], seed) if group.name in numbers else group for group in groups]


def estimated(
    autoencoder: Autoencoder, groups: Sequence[Group], plan: Plan, references: ReferenceModels | None
) -> tuple[dict[str, float] | None, Bounds]:
    """What one audit by this process alone will cost, and what is cut from it; None where that cannot be known.

    Args:
        autoencoder: f, images (B, C, *spatial) to the same shape.
        groups: Whole groups.
        plan: What is asked for.
        references: The reference models, if there are any.
    """
    pace = measure_pace(autoencoder, groups, plan)
    if pace is None:
        return None, Bounds((), plan.max_seconds)
    image = groups[0].images[slice(0, 1)]
    num_references = 0 if references is None else len(references.autoencoders)
    iterations = plain_iterations(autoencoder, groups, plan)
    costs = Costs(pace, 1, num_conditions(groups), image.device.type, num_references, iterations=iterations)
    number = costs.num_probed(plan, sizes_of(groups))
    if number:
        costs = costs.with_probe(plan, probe(autoencoder, groups, plan, number))
    bounds = bounds_for(plan, sizes_of(groups), costs.estimate, comparable_side(image))
    fewer = {cut.argument.removeprefix("num_"): cut.used for cut in bounds.cuts if cut.argument.startswith("num_")}
    return costs.estimate(bounded_plan(plan, bounds), sizes_of(groups) | fewer).to_dict(), bounds


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest number from low to high that fits, as does every smaller one; low where none does."""
    if high <= low or fits(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def comparable_side(images: Tensor) -> float:
    """Side of the square with as many pixels as a cube, or a line, has of the shortest side of images (B, C, *spatial).

    >>> import torch
    >>> [comparable_side(torch.zeros(1, 1, *sides)) for sides in ((32, 48), (16, 16, 16), (64,))]
    [32.0, 64.0, 8.0]
    """
    sides = spatial(images)
    return float(min(sides) ** (len(sides) / 2))


def sizes_of(groups: Sequence[Group]) -> dict[str, int]:
    """Images of each group."""
    return {group.name: len(group.images) for group in groups}


def num_conditions(groups: Sequence[Group]) -> dict[str, int]:
    """Into how many parts the images of each group fall that cannot be recovered together."""
    return {group.name: 1 if group.conditions is None else len(set(group.conditions)) for group in groups}
