"""What an audit proves, counted image by image: pure functions on the rows of the results files, no torch.

An image counts as *memorized* in a pattern where the audited method recovers it and a generic inpainter, which knows
the true mask but not the autoencoder, does not. Everything is counted per image, not per image and pattern: the
patterns of one image are not independent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.intervals import Estimate, clopper_pearson, paired_difference
from lightning_memaudit.results.membership import (
    Membership,
    combine_scores,
    infer_membership,
    infer_memberships,
    membership_scores,
    reference_caution,
)
from lightning_memaudit.results.names import INPAINTER, primary_method
from lightning_memaudit.results.own_output import Doubt

Row = Mapping[str, Any]
GROUPS = ("members", "controls")


@dataclass(frozen=True)
class Proportion:
    """A count, its share and the share's 95% Clopper-Pearson interval.

    Attributes:
        count: Number of successes.
        num: Number of trials.
        rate: ``count / num``, in [0, 1]; None without any trial, and so are the next two.
        low: Lower end of the interval.
        high: Upper end.

    >>> share = Proportion.of(np.array([True, True, True, False]))
    >>> share.count, share.num, share.rate, round(share.low, 2), round(share.high, 2)
    (3, 4, 0.75, 0.19, 0.99)
    """

    count: int
    num: int
    rate: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, successes: NDArray[np.bool_]) -> "Proportion":
        """Of a vector of successes."""
        count, num = int(successes.sum()), len(successes)
        return cls(count, num, count / num if num else None, *clopper_pearson(count, num))


@dataclass(frozen=True)
class Difference:
    """Share of members minus share of controls, paired by mask, with Newcombe's 95% interval.

    Attributes:
        value: The difference, in [-1, 1].
        low: Lower end of the interval.
        high: Upper end.
        num_pairs: Number of pairs that it was counted over.

    >>> members, controls = np.array([True, True, True, False]), np.array([False, False, False, True, True])
    >>> difference = Difference.of(members, controls)
    >>> difference.value, difference.num_pairs
    (0.5, 4)
    """

    value: float
    low: float
    high: float
    num_pairs: int

    @classmethod
    def of(cls, members: NDArray[np.bool_], controls: NDArray[np.bool_]) -> "Difference | None":
        """Of the i-th member against the i-th control, as far as both groups go; None without a pair."""
        num = min(len(members), len(controls))
        if not num:
            return None
        first, second = members[:num], controls[:num]
        table = (first & second, first & ~second, ~first & second, ~first & ~second)
        return cls(*paired_difference(*(int(cell.sum()) for cell in table)), num)


@dataclass(frozen=True)
class GroupFinding:
    """One group in one pattern, or in any pattern.

    Attributes:
        recovered: By the audited method.
        inpainted: Recovered by the inpainter; None where it did not run.
        memorized: Recovered where the inpainter fails; None where it did not run.

    >>> row = {"group": "members", "pattern": "half"}
    >>> rows = [row | {"method": "blind", "position": i, "recovered": True} for i in range(3)]
    >>> rows += [row | {"method": "biharmonic", "position": i, "recovered": i == 0} for i in range(3)]
    >>> images = ImageColumns(rows)
    >>> members = judge([{"audit": 0, "threshold_db": 30.0}], images).overall.members
    >>> members.recovered.count, members.inpainted.count, members.memorized.count
    (3, 1, 2)
    """

    recovered: Proportion
    inpainted: Proportion | None
    memorized: Proportion | None


@dataclass(frozen=True)
class Finding:
    """Members against controls.

    Attributes:
        pattern: Name of the degradation; ``any`` counts an image once if one pattern or more succeeds.
        members: What was found of the members.
        controls: What was found of the controls; None without any.
        difference: Of the memorized shares (of the recovered ones where no inpainter ran); None without controls.

    >>> row = {"pattern": "half", "method": "blind", "position": 0}
    >>> images = ImageColumns([row | {"group": "members", "recovered": True}, row | {"group": "controls"}])
    >>> finding = judge([{"audit": 0, "threshold_db": 30.0}], images).overall
    >>> finding.pattern, finding.members.recovered.count, finding.controls.recovered.count, finding.difference.value
    ('any', 1, 0, 1.0)
    """

    pattern: str
    members: GroupFinding
    controls: GroupFinding | None
    difference: Difference | None


@dataclass(frozen=True)
class Reconstruction:
    """What the autoencoder makes of intact images: the ceiling of any recovery.

    Attributes:
        median_psnr: In dB, over the images that have one; None where none has.
        reaching: Images whose own reconstruction reaches the threshold, of all.

    >>> row = {"group": "members", "pattern": "half", "method": "blind"}
    >>> images = ImageColumns(row | {"position": i, "reconstruction_psnr": db} for i, db in enumerate([40.0, 20, 36]))
    >>> intact = judge([{"audit": 0, "threshold_db": 30.0}], images).reconstruction["members"]
    >>> intact.median_psnr, intact.reaching.count
    (36.0, 2)
    """

    median_psnr: float | None
    reaching: Proportion


@dataclass(frozen=True)
class Judgement:
    """Everything that the verdict rests on.

    Attributes:
        audit: Running number of the audit.
        trigger: Why it ran.
        epoch: Epochs of training done; None where unknown.
        step: Optimizer steps done; None where unknown.
        time: When, ISO 8601; None where unknown.
        train_loss: Mean squared error over the audited members.
        weights_sha256: Of the audited weights; None where not recorded.
        threshold_db: PSNR in dB at which an image counts as recovered.
        method: The audited, blind method.
        inpainter: The generic one; None where it did not run.
        overall: Over all patterns, every image counted once.
        patterns: The same for each pattern.
        testable: Members that the inpainter fails on in at least one pattern: on the others nothing could be shown.
        reconstruction: By group.
        membership: From the blind score.
        memberships: From each number that was measured, by the names of
            :data:`~lightning_memaudit.results.membership.MEASURES`.
        doubts: Why what the autoencoder makes of the intact members is no reconstruction.

    >>> row = {"group": "members", "pattern": "half", "method": "blind", "position": 0, "recovered": True}
    >>> images = ImageColumns([row, row | {"method": "biharmonic", "recovered": False}])
    >>> judgement = judge([{"audit": 0, "threshold_db": 30.0}], images)
    >>> judgement.method, judgement.inpainter, judgement.num_memorized
    ('blind', 'biharmonic', 1)
    """

    audit: int
    trigger: str
    epoch: int | None
    step: int | None
    time: str | None
    train_loss: float | None
    weights_sha256: str | None
    threshold_db: float
    method: str
    inpainter: str | None
    overall: Finding
    patterns: tuple[Finding, ...]
    testable: Proportion | None
    reconstruction: dict[str, Reconstruction]
    membership: Membership
    doubts: tuple[Doubt, ...] = ()
    memberships: dict[str, Membership] = field(default_factory=dict)

    @property
    def num_memorized(self) -> int | None:
        """Members memorized in any pattern; None where no inpainter ran."""
        return None if self.overall.members.memorized is None else self.overall.members.memorized.count

    def to_dict(self) -> dict[str, Any]:
        """Plain Python, for JSON."""
        plain = asdict(self)
        del plain["doubts"]
        told = [(plain["membership"], self.membership)]
        told += [(plain["memberships"][name], one) for name, one in self.memberships.items()]
        for entry, one in told:
            entry["auroc"] = None if one.auroc is None else one.auroc._asdict()
        # Only where there are any: a report without them is what it was before they were known of.
        plain |= {"doubts": [doubt._asdict() for doubt in self.doubts]} if self.doubts else {}
        return plain


def judge(rows: Sequence[Row], images: ImageColumns, primary: str | None = None) -> Judgement:
    """Judge one audit.

    Args:
        rows: Its rows of ``audits.jsonl``.
        images: Its rows of ``images.jsonl``.
        primary: The audited method; default ``blind`` if it ran, else the first that is not the inpainter.

    Raises:
        ValueError: There are no rows, or none of members, or the audited method did not run.
    """
    if not rows:
        raise ValueError("rows=[]: pass the rows of one audit")
    first = rows[0]
    method = primary or primary_method(images.methods())
    patterns = [pattern for pattern in images.patterns() if ("members", pattern, method) in images]
    if not patterns:
        raise ValueError(f"audit {first['audit']} has no images of members recovered by {method!r}")
    # A pattern on which the inpainter does not run, as a blur, says nothing beside those on which it does.
    patterns = [pattern for pattern in patterns if ("members", pattern, INPAINTER) in images] or patterns
    groups = [group for group in GROUPS if (group, patterns[0], method) in images]
    inpainter = INPAINTER if method != INPAINTER and _answered(images, INPAINTER, patterns) else None
    recovered = {group: _flags(images, group, patterns, method) for group in groups}
    inpainted = {group: _flags(images, group, patterns, inpainter) for group in groups} if inpainter else None
    evidence = {group: _inpainter_fails(images, group, patterns) for group in groups} if inpainter else {}

    def finding(name: str, chosen: slice) -> Finding:
        parts = {group: recovered[group][chosen] for group in groups}
        memorized = {group: parts[group] & evidence[group][chosen] for group in groups} if inpainted else None
        found = {
            group: GroupFinding(
                Proportion.of(_in_any(parts[group])),
                Proportion.of(_in_any(inpainted[group][chosen])) if inpainted else None,
                Proportion.of(_in_any(memorized[group])) if memorized else None,
            )
            for group in groups
        }
        counted = memorized or parts
        both = "controls" in groups
        difference = Difference.of(_in_any(counted["members"]), _in_any(counted["controls"])) if both else None
        return Finding(name, found["members"], found.get("controls"), difference)

    return Judgement(
        audit=first["audit"],
        trigger=str(first.get("trigger")),
        epoch=first.get("epoch"),
        step=first.get("step"),
        time=first.get("time"),
        train_loss=first.get("train_loss"),
        weights_sha256=first.get("weights_sha256"),
        threshold_db=float(first["threshold_db"]),
        method=method,
        inpainter=inpainter,
        overall=finding("any", slice(None)),
        patterns=tuple(finding(pattern, slice(i, i + 1)) for i, pattern in enumerate(patterns)),
        testable=Proportion.of(_in_any(evidence["members"])) if evidence else None,
        reconstruction={
            group: _reconstruction(images[group, patterns[0], method], float(first["threshold_db"])) for group in groups
        },
        membership=infer_membership(*(_scores(images, group, patterns, method) for group in GROUPS)),
        doubts=tuple(Doubt(doubt["code"], doubt["text"]) for doubt in first.get("doubts") or ()),
        memberships=_memberships(images, patterns, method),
    )


def image_table(images: ImageColumns, judgement: Judgement) -> list[dict[str, Any]]:
    """One entry per image: what is known of it over all patterns; members first, each group by position."""
    patterns = [finding.pattern for finding in judgement.patterns]
    entries = []
    for group in judgement.reconstruction:
        columns = [images[group, pattern, judgement.method] for pattern in patterns]
        recovered = _flags(images, group, patterns, judgement.method)
        inpainter = judgement.inpainter
        inpainted = _flags(images, group, patterns, inpainter) if inpainter else np.zeros_like(recovered)
        evidence = _inpainter_fails(images, group, patterns) if inpainter else ~inpainted
        scores = _scores(images, group, patterns, judgement.method)
        for row in range(recovered.shape[1]):
            quality = {pattern: _number(one["psnr"][row], 2) for pattern, one in zip(patterns, columns, strict=True)}
            entries.append(
                {
                    "group": group,
                    "image": int(columns[0]["image"][row]),
                    "position": int(columns[0]["position"][row]),
                    "memorized": bool((recovered & evidence)[:, row].any()) if inpainter else None,
                    "recovered_in": [pattern for p, pattern in enumerate(patterns) if recovered[p, row]],
                    "inpainted_in": [pattern for p, pattern in enumerate(patterns) if inpainted[p, row]],
                    "psnr": quality,
                    "score": _number(scores[row], None),
                    "reconstruction_psnr": _number(columns[0]["reconstruction_psnr"][row], 2),
                }
            )
    return entries


def _flags(images: ImageColumns, group: str, patterns: Sequence[str], method: str) -> NDArray[np.bool_]:
    """Recovered, (patterns, images)."""
    return np.stack([images[group, pattern, method]["recovered"] for pattern in patterns])


def _in_any(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(patterns, images) to (images,)."""
    return np.asarray(flags.any(0))


def _answered(images: ImageColumns, method: str, patterns: Sequence[str]) -> bool:
    """Whether a method ran on members at all, and not only to fail on each of them."""
    keys = [("members", pattern, method) for pattern in patterns]
    return all(key in images for key in keys) and not all(images[key]["failed"].all() for key in keys)


def _inpainter_fails(images: ImageColumns, group: str, patterns: Sequence[str]) -> NDArray[np.bool_]:
    """Where the inpainter does not bring back the image, (patterns, images).

    Where it crashed nobody knows: a member does not count then, and a control, which speaks against a finding, does.
    """
    columns = [images[group, pattern, INPAINTER] for pattern in patterns]
    return np.stack([~one["recovered"] & ~(one["failed"] & (group == "members")) for one in columns])


def _memberships(images: ImageColumns, patterns: Sequence[str], method: str) -> dict[str, Membership]:
    """From every number that was measured."""
    members, controls = (membership_scores(images, group, patterns, method) for group in GROUPS)
    keys = [(group, patterns[0], method) for group in GROUPS]
    one, other = (images[key]["reference_psnr"] if key in images else np.zeros(0) for key in keys)
    return infer_memberships(members, controls, reference_caution(one, other))


def _scores(images: ImageColumns, group: str, patterns: Sequence[str], method: str) -> NDArray[np.float64]:
    if (group, patterns[0], method) not in images:
        return np.zeros(0)
    return combine_scores([images[group, pattern, method]["score"] for pattern in patterns])


def _reconstruction(columns: Mapping[str, NDArray[Any]], threshold_db: float) -> Reconstruction:
    quality = columns["reconstruction_psnr"]
    present = quality[~np.isnan(quality)]
    median = float(np.median(present)) if len(present) else None
    return Reconstruction(median, Proportion.of(quality >= threshold_db))


def _number(value: Any, digits: int | None) -> float | None:
    if not np.isfinite(value):
        return None
    return float(value) if digits is None else round(float(value), digits)


__all__ = ["Difference", "Estimate", "Finding", "ImageColumns", "Judgement", "Proportion", "image_table", "judge"]
