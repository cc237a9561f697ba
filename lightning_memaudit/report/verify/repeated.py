"""Images that are left out as they show what another shows: nobody may drop what came back by calling it that."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_memaudit.report.verify.check import Check
from lightning_memaudit.report.verify.versions import RULES, THRESHOLD, is_before
from lightning_memaudit.results.judgement import GROUPS, ImageColumns, Judgement, judge
from lightning_memaudit.results.proportions import Proportion
from lightning_memaudit.results.run_folder import RunFolder, SavedRecoveries
from lightning_memaudit.results.verdict import Verdict, conclude

Flags = dict[str, NDArray[np.bool_]]
"""By group, one for each image."""
Images = Mapping[str, NDArray[Any]]
"""By group, (n, C, *spatial)."""
HANGS = "The report hangs on images left out as repeats of others that were not saved: save more, and audit again."
_SAYS_MORE = ("not_memorized", "inconclusive", "traces", "memorized")
"""Outcomes, by how much each says of memory."""
_SLACK = 1.01
"""Of an error that earlier versions measured in another order of sums."""


class _Found(NamedTuple):
    """What the saved images say of those that are called repeats.

    Attributes:
        unshown: They are none, by what was saved; of several alike one.
        unknown: All of those.
        wrong: They count, and show what another shows that counts.
    """

    unshown: Flags
    unknown: Flags
    wrong: Flags


def same_repeats(name: str, folder: RunFolder, saved: SavedRecoveries | None) -> Check:
    """Every saved image that is left out shows a saved one that counts, and no two that count show the same.

    What it shows may not have been saved. Then it is named as not checked, unless the report hangs on it: more would
    have come back, or been memorized, if those counted that cannot be shown to be repeats.
    """
    last = folder.audits()[-1]
    newest, threshold = last["audit"], None if is_before(folder.run(), THRESHOLD) else float(last["threshold_db"])
    run, called = folder.run(), _called(folder, newest)
    if called is None and is_before(run, RULES):
        return Check(name, None, "the run did not record which they are")
    arrays = saved.arrays if saved is not None and saved.audit == newest else {}
    truths = {group: arrays[f"{group}/truth"] for group in GROUPS if f"{group}/truth" in arrays}
    every = called or {group: np.zeros(len(truth), dtype=bool) for group, truth in truths.items()}
    some = {group: every[group][: len(truth)] for group, truth in truths.items()}
    found = _by_earlier_rules(truths, some) if is_before(run, RULES) else _by_these(truths, some, threshold)
    whole = {group: len(truths.get(group, ())) == len(flags) for group, flags in every.items()}
    problem = next(_problems(found, whole), None)
    if problem is not None:
        return Check(name, False, problem)
    number = sum(int(flags.sum()) for flags in every.values())
    beyond = number - sum(int(flags.sum()) for flags in some.values())
    unknown = beyond + sum(int(flags.sum()) for flags in found.unknown.values())
    if not unknown:
        return Check(name, True, f"{number} left out, and {sum(map(len, truths.values()))} images compared again")
    hangs, effect = _with(folder, newest, found.unshown)
    detail = f"what they show was not saved; {effect}"
    if hangs:
        return Check(name, False, f"{unknown} of {number} cannot be checked: {detail}", HANGS)
    return Check(f"whether {unknown} of {number} images left out as repeats are ones", None, detail)


def _problems(found: _Found, whole: Mapping[str, bool]) -> Iterator[str]:
    """What cannot be, the saved images being all that there are, or only some."""
    for group, flags in found.wrong.items():
        if flags.any():
            yield f"{group}: position {np.flatnonzero(flags)[0]} counts, and shows what another shows that counts"
    for group, flags in found.unshown.items():
        if flags.any() and whole["members"] and whole[group]:
            yield f"{group}: position {np.flatnonzero(flags)[0]} is called a repeat, and shows no image that counts"


def _called(folder: RunFolder, audit: int) -> Flags | None:
    """Which images the rows of an audit call repeats; None where they do not say."""
    found: dict[str, dict[int, bool]] = {}
    recorded = False
    for row in folder.iterate_images(audit):
        recorded |= "repeated" in row
        places = found.setdefault(row["group"], {})
        places[row["position"]] = places.get(row["position"], False) or bool(row.get("repeated"))
    if not recorded:
        return None
    return {group: np.array([places[one] for one in sorted(places)]) for group, places in found.items()}


def _by_these(truths: Images, called: Flags, threshold_db: float | None) -> _Found:
    """As :func:`~lightning_memaudit.measurement.near_duplicates.repeats` has it.

    What is a repeat of an image that was not saved may come before others that it shows, and keeps none of them from
    counting: the rule is asked again without it, until nothing changes.
    """
    import torch

    from lightning_memaudit.measurement.near_duplicates import REPEAT_PSNR, repeat_psnr, repeats

    psnr_db = REPEAT_PSNR if threshold_db is None else repeat_psnr(threshold_db)
    groups = [group for group in GROUPS if group in truths]
    images = [torch.from_numpy(truths[group]) for group in groups]
    unknown: Flags = {group: np.zeros_like(called[group]) for group in groups}
    first: Flags | None = None
    while images:
        left_out = {group: torch.from_numpy(flags) for group, flags in unknown.items()}
        again = {group: np.zeros_like(called[group]) for group in groups}
        for group, positions in repeats(*images, psnr_db=psnr_db, left_out=left_out).items():
            again[group][positions] = True
        unshown = {group: called[group] & ~again[group] & ~unknown[group] for group in groups}
        first = first or unshown
        if not any(flags.any() for flags in unshown.values()):
            return _Found(first, unknown, {group: again[group] & ~called[group] for group in groups})
        unknown = {group: unknown[group] | unshown[group] for group in groups}
    return _Found({}, {}, {})


def _by_earlier_rules(truths: Images, called: Flags) -> _Found:
    """As every earlier version has it: what is a repeat is alike to another image, whatever its contrast."""
    from lightning_memaudit.measurement.near_duplicates import REPEAT_PSNR

    unshown = {}
    for group, flags in called.items():
        unshown[group] = np.zeros_like(flags)
        for position in np.flatnonzero(flags):
            others = [np.delete(truths[group], position, 0), *([truths["members"]] if group == "controls" else [])]
            errors = np.square(np.concatenate(others) - truths[group][position]).mean(tuple(range(1, others[0].ndim)))
            unshown[group][position] = not (errors <= _SLACK * 10 ** (-REPEAT_PSNR / 10)).any()
    return _Found(unshown, unshown, {group: np.zeros_like(flags) for group, flags in called.items()})


def _with(folder: RunFolder, audit: int, unshown: Flags) -> tuple[bool, str]:
    """Whether the report would say more of memory if these counted, and what."""
    was, would = (_judged(folder, audit, flags) for flags in ({}, unshown))
    one, other = (_memorized(judgement) for judgement, _ in (was, would))
    effect = f"with those of them that were saved, {other.count} of {other.num} members came back: {would[1].outcome}"
    outside = None not in (one.rate, other.rate) and other.rate > one.high  # type: ignore[operator]
    worse = _SAYS_MORE.index(would[1].outcome) > _SAYS_MORE.index(was[1].outcome)
    return worse or bool(other.count) > bool(one.count) or outside, effect


def _judged(folder: RunFolder, audit: int, counting: Flags) -> tuple[Judgement, Verdict]:
    """Judgement and verdict of an audit in which these images are called no repeats."""
    run = folder.run()
    primary = (run.get("settings") or {}).get("primary_method")
    rows = folder.audits()
    judgements = []
    for number in dict.fromkeys((rows[0]["audit"], audit)):
        images = (_counting(row, counting) if number == audit else row for row in folder.iterate_images(number))
        columns = ImageColumns(images)
        known = primary if number == audit or primary in columns.methods() else None  # as the report has it
        judgements.append(judge([row for row in rows if row["audit"] == number], columns, known))
    untrained = judgements[0] if judgements[0].epoch == 0 and len(judgements) > 1 else None
    return judgements[-1], conclude(judgements[-1], untrained, run.get("near_duplicates"))


def of_saved(folder: RunFolder, saved: SavedRecoveries) -> str | None:
    """What the report would conclude of the saved images alone, of which more than their counts was checked.

    None where the newest audit saved no members, or all of its images.
    """
    rows = [row for row in folder.audits() if row["audit"] == saved.audit]
    if saved.audit != folder.audits()[-1]["audit"] or "members/indices" not in saved.arrays:
        return None
    numbers = {group: len(saved.arrays.get(f"{group}/indices", ())) for group in GROUPS}
    if all(row["num_images"] <= numbers[row["group"]] for row in rows):
        return None
    images = (row for row in folder.iterate_images(saved.audit) if row["position"] < numbers[row["group"]])
    primary = (folder.run().get("settings") or {}).get("primary_method")
    return conclude(judge(rows, ImageColumns(images), primary)).headline


def _counting(row: Mapping[str, Any], counting: Flags) -> Mapping[str, Any]:
    flags = counting.get(row["group"], ())
    return {**row, "repeated": False} if row["position"] < len(flags) and flags[row["position"]] else row


def _memorized(judgement: Judgement) -> Proportion:
    return judgement.counted.members.memorized or judgement.counted.members.recovered
