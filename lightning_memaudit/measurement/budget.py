"""A smaller audit where one would cost too much.

All of it is decided from sizes, from the time of a few calls, and from how well the autoencoder reproduces a few intact
images: nothing has been recovered yet, so that no conclusion is turned by what is left out.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from torch import Tensor

from lightning_memaudit.measurement.choice import few_of
from lightning_memaudit.measurement.costs import Costs
from lightning_memaudit.measurement.estimate import Estimate
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.pace import measure_pace
from lightning_memaudit.measurement.plan import LARGE_METHODS, LARGE_SIDE, Plan, self_tuned
from lightning_memaudit.measurement.probe import plain_iterations, probe
from lightning_memaudit.measurement.reference import ReferenceModels
from lightning_memaudit.measurement.workload import MOST_EVALUATIONS
from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.recovery.extraction import WAVE
from lightning_memaudit.recovery.spatial import spatial
from lightning_memaudit.results.cost import Bounds, Cut

FEWEST_IMAGES = 20
"""Of each group: with fewer controls no verdict is reached, see :mod:`lightning_memaudit.results.reasons`."""

FEWEST_EVALUATIONS = 60
"""Of one image: the first round of a search, which is all that most images take that come back."""

LARGE_SECONDS = 600.0
"""An audit of large images that would take longer runs the methods :data:`~.plan.LARGE_METHODS` instead of the default
ones."""


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
