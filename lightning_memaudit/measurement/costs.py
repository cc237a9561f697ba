"""What an audit will cost, told before it begins from sizes, from the time of a few calls and from own errors."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_memaudit.measurement.estimate import CellKey, Estimate, Experience
from lightning_memaudit.measurement.measured_work import (
    ALL_COPIES_FROM_DB,
    BASELINE,
    COPIES_FROM_DB,
    EXTRACTION,
    EXTRACTION_OVERHEAD,
    FIRST_ROUND,
    LONGEST,
    LONGEST_BEYOND_MEAN,
    SHARE_OF_COPIES,
    SHARE_WHERE_NONE_SHOWN,
)
from lightning_memaudit.measurement.pace import Pace
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.probe import Probe
from lightning_memaudit.measurement.together import rows_are_independent
from lightning_memaudit.measurement.workload import (
    NOTHING,
    Work,
    between,
    kind_of,
    most_evaluations,
    share_searched,
    work_of,
)
from lightning_memaudit.recovery import AutoencoderIterations
from lightning_memaudit.recovery.batches import ELEMENTS_PER_CHUNK
from lightning_memaudit.recovery.certification import MAX_FALSE_RATE, controls_needed
from lightning_memaudit.recovery.extraction import WAVE
from lightning_memaudit.recovery.methods.registry import Method, calibrates_on_copies, uses_autoencoder

WORST_PSNR = 18.0
"""In dB: autoencoders that reproduce images about so well take the longest to recover them."""

WORTH_PROBING, PROBING_SHARE, LEAST_PROBING_SHARE = 10.0, 0.05, 0.12
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
        probed: By group, pattern and method: how many times as much as is told a few images make expect.
        certifiable: By pattern and method: whether members may be certified, as far as a few images have shown it.

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
    certifiable: Mapping[tuple[str, str], bool] = field(default_factory=dict)

    def num_probed(self, plan: Plan, sizes: Mapping[str, int]) -> int:
        """Images of each group that may be recovered before an audit, so that its cost can be told from what they take.

        0 where they would take too much of it: where calls of the autoencoder cost more than the images in them, those
        for a few images cost as much as those for all.
        """
        unaware = replace(self, probed={}, certifiable={})
        whole = unaware.estimate(plan, sizes).seconds
        if whole < WORTH_PROBING:
            return 0
        for number in range(min(MOST_PROBED, *sizes.values()), 0, -1):
            if unaware._apart(plan, sizes, number) <= whole * (PROBING_SHARE if number > 1 else LEAST_PROBING_SHARE):
                return number
        return 0

    def with_probe(self, plan: Plan, found: Probe) -> "Costs":
        """The costs as a few images have shown them.

        One image says little of a pattern and method, and networks differ in all of them alike: so with n images the
        ratio of taken to told that they show there counts n / (n + 2), and of the rest what they show of all patterns
        and methods together n / (n + 1).

        Args:
            plan: Of the audit.
            found: By how many images what was found, see :func:`~.probe.probe`.
        """
        unaware = replace(self, probed={}, certifiable={})
        shown: dict[CellKey, float] = {}
        for group in self.pace.own_psnr:
            for pattern in plan.patterns:
                for name, method in plan.methods_for(pattern).items():
                    key = (group, pattern.name, name)
                    told = unaware._work(method, pattern, *key[::2]).evaluations
                    if found.evaluations.get(key) and told > 0:
                        shown[key] = math.log(found.evaluations[key] / told)
        if not shown:
            return unaware
        own, all_ = found.number / (found.number + 2), found.number / (found.number + 1)
        together = all_ * sum(shown.values()) / len(shown)
        probed = {key: math.exp(own * ratio + (1 - own) * together) for key, ratio in shown.items()}
        return replace(self, probed=probed, certifiable=found.certifiable)

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
        answers = self.costliest or self.pace.answers
        works = (work_of(method, pattern, one, gradients, answers) for one in own)
        told = max(works, key=lambda work: work.evaluations)
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
        if not calibrates_on_copies(method) or controls >= (needed if group == "members" else 1):
            return NOTHING
        key = (pattern.name, name)
        needed = math.ceil(self._share_of_copies(group, *key) * (needed - controls // self.num_shares))
        mean = self._work(method, pattern, group, name).evaluations
        longest = max(LONGEST, FIRST_ROUND + LONGEST_BEYOND_MEAN * (mean - FIRST_ROUND))
        own = self._own_psnr("controls") if "controls" in sizes else WORST_PSNR
        gradients = self.pace.gradient is not None
        copy = work_of(method, pattern, min(own, WORST_PSNR), gradients, self.pace.answers)
        copy = copy.times(self.probed.get(("controls", *key), 1.0)).at_most(round(longest))
        return copy._replace(forwards=needed * copy.forwards, gradients=needed * copy.gradients)

    def _share_of_copies(self, group: str, pattern: str, name: str) -> float:
        """Copies are searched until they rule out that anything is certified: as many as are to be expected."""
        shown = None if self.costliest else self.certifiable.get((pattern, name))
        own = self._own_psnr(group)
        if shown or (shown is None and own >= ALL_COPIES_FROM_DB):
            return 1.0
        if own < COPIES_FROM_DB:
            return 0.0
        return SHARE_OF_COPIES if shown is None else SHARE_WHERE_NONE_SHOWN

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
