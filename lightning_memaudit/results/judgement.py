"""What an audit proves, counted image by image: pure functions on the rows of the results files, no torch.

An image counts as *memorized* in a pattern where the audited method recovers it, and its missing pixels come back 6 dB
closer than the best baseline's, among them a generic inpainter's, which knows the true mask but not the autoencoder.
Everything is counted per image, not per image and pattern: the patterns of one image are not independent. All images
of both groups count, in any order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_memaudit.results.came_back import CameBack, any_gain, came_back, flags, in_any, inpainter_fails
from lightning_memaudit.results.comparability import GroupDifference, differences
from lightning_memaudit.results.cost import cost_sentences
from lightning_memaudit.results.evidence import ANY, Evidence, Flags, sets_of_patterns, weigh
from lightning_memaudit.results.findings import Finding, GroupCounts, GroupFinding, Reconstruction
from lightning_memaudit.results.gain import Gain, best_gains
from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.intervals import Estimate
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
from lightning_memaudit.results.proportions import Difference, Proportion

Row = Mapping[str, Any]
GROUPS = ("members", "controls")
CLEARLY_BETTER_DB = 6.0
"""Images reproduced better than others by more than this, a quarter of the squared error, are worth a word."""
_LOOKS = ("brightness", "contrast")
NAMED = ("plain_loss", "blind_score", "reference")
"""Of :data:`~lightning_memaudit.results.membership.MEASURES`, those that a report names beside the recovery gain."""


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
        counted: What the verdict counts: ``overall``, or the same for those patterns that the evidence is from.
        patterns: The same for each pattern.
        testable: Members that the inpainter fails on in at least one pattern: on the others nothing could be shown.
        range_used: Share of the range from 0 to 1 that 19 of 20 members use no more of; None where that was not known.
        untested: Members whose recoveries diverged or failed, from every pattern that could show something; None where
            none did.
        lost: By pattern how many members' recoveries diverged or failed, as far as any did.
        failed_controls: Controls that do not count, as the method failed on them.
        reconstruction: By group.
        membership: From the blind score.
        evidence: What speaks against chance; None without controls.
        gain: How much closer than any baseline images come back, members against controls; None where not measured.
        group_differences: In which respects, that owe nothing to the autoencoder, the controls are other images.
        others: What the other methods bring back beyond the baselines.
        certified: What the audited method certifies.
        memberships: From each number that was measured, by the names of
            :data:`~lightning_memaudit.results.membership.MEASURES`.
        gradients_used: Whether the method differentiated the autoencoder; None where it never does.
        extracted: What came out of the weights by itself; None where that was not looked for.
        reproduced_beyond: Members that the autoencoder itself reproduces better than any control, by more than
            :data:`CLEARLY_BETTER_DB`; None without controls.
        num_repeated: Images by group that show what another shows that counts: they are left out of all else.
        doubts: Why what the autoencoder makes of the intact members is no reconstruction, or not what was trained on.
        cuts: What was left out, before anything was known, to keep the audit within bounds: sentences.
        looks: Brightness and contrast of all images by group, (n, 2): by these another audit is one of the same images.

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
    counted: Finding
    patterns: tuple[Finding, ...]
    testable: Proportion | None
    reconstruction: dict[str, Reconstruction]
    membership: Membership
    range_used: float | None = None
    untested: Proportion | None = None
    lost: dict[str, int] = field(default_factory=dict)
    failed_controls: int = 0
    evidence: Evidence | None = None
    gain: Gain | None = None
    group_differences: tuple[GroupDifference, ...] = ()
    others: tuple[GroupCounts, ...] = ()
    certified: GroupCounts | None = None
    gradients_used: bool | None = None
    extracted: GroupCounts | None = None
    reproduced_beyond: Proportion | None = None
    num_repeated: dict[str, int] = field(default_factory=dict)
    doubts: tuple[Doubt, ...] = ()
    memberships: dict[str, Membership] = field(default_factory=dict)
    cuts: tuple[str, ...] = ()
    looks: dict[str, NDArray[np.float64]] = field(default_factory=dict, compare=False)

    @property
    def num_memorized(self) -> int | None:
        """Members memorized in any pattern, or in those that are counted; None where no inpainter ran."""
        return None if self.counted.members.memorized is None else self.counted.members.memorized.count

    @property
    def membership_estimates(self) -> dict[str, Estimate]:
        """How well members are told from controls: areas under ROC curves by the name of the score, as far as measured.

        ``recovery_gain``: closer than any baseline; ``plain_loss``: the autoencoder's own error of intact images;
        ``blind_score``: fit of the recovered image, which needs no truth; ``reference``: the own error, less that of
        the reference models.
        """
        gain = self.gain
        found = {
            "recovery_gain": gain.overall.auroc if gain is not None and gain.overall.enough else None,
            **{name: self.memberships[name].auroc for name in NAMED if name in self.memberships},
        }
        return {name: estimate for name, estimate in found.items() if estimate is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain Python, for JSON."""
        plain: dict[str, Any] = _plain(asdict(self))
        for name in ("doubts", "cuts", "untested", "range_used", "looks"):
            del plain[name]
        plain["gain"] = None if self.gain is None else self.gain.to_dict()
        # Only where there are any: a report without them is what it was before they were known of.
        plain |= {"doubts": [doubt._asdict() for doubt in self.doubts]} if self.doubts else {}
        plain |= {"untested": _plain(asdict(self.untested))} if self.untested else {}
        for name in ("lost", "failed_controls"):
            if not plain[name]:
                del plain[name]
        return plain


def judge(rows: Sequence[Row], images: ImageColumns, primary: str | None = None) -> Judgement:
    """Judge one audit.

    Args:
        rows: Its rows of ``audits.jsonl``.
        images: Its rows of ``images.jsonl``.
        primary: The audited method; default as
            :func:`~lightning_memaudit.results.names.primary_method` has it.

    Raises:
        ValueError: There are no rows, or none of members, or the audited method did not run.
    """
    if not rows:
        raise ValueError("rows=[]: pass the rows of one audit")
    first, every = rows[0], images
    images = images.distinct()
    method = primary or primary_method(images.methods())
    patterns = [pattern for pattern in images.patterns() if ("members", pattern, method) in images]
    if not patterns:
        raise ValueError(f"audit {first['audit']} has no images of members recovered by {method!r}")
    # A pattern on which the inpainter does not run, as a blur, says nothing beside those on which it does.
    patterns = [pattern for pattern in patterns if ("members", pattern, INPAINTER) in images] or patterns
    groups = [group for group in GROUPS if (group, patterns[0], method) in images]
    inpainter = INPAINTER if method != INPAINTER and _answered(images, INPAINTER, patterns) else None
    places = [images[group, patterns[0], method]["position"] for group in groups]
    aligned = all(np.array_equal(places[0], one) for one in places)
    back = {group: came_back(images, group, patterns, method, inpainter) for group in groups}

    def finding(name: str, chosen: list[int]) -> Finding:
        names = [patterns[i] for i in chosen]
        known = {group: one.tested(chosen) | (group == "members") for group, one in back.items()}
        counted = {
            group: in_any((one.beyond if inpainter else one.recovered)[chosen])[known[group]]
            for group, one in back.items()
        }
        found = {
            group: GroupFinding(
                Proportion.of(in_any(one.recovered[chosen])[known[group]]),
                Proportion.of(in_any(flags(images, group, names, inpainter))[known[group]]) if inpainter else None,
                Proportion.of(counted[group]) if inpainter else None,
            )
            for group, one in back.items()
        }
        difference = Difference.of(counted["members"], counted["controls"], aligned) if "controls" in groups else None
        return Finding(name, found["members"], found.get("controls"), difference)

    overall = counted = finding(ANY, list(range(len(patterns))))
    evidence = gain = None
    if "controls" in groups:
        evidence, told_by = _weigh(patterns, *(back[group] for group in GROUPS))
        if len(told_by) < len(patterns):
            counted = finding(evidence.pattern, told_by)
    if any(any_gain(images, pattern, method) for pattern in patterns):
        none = np.full((len(patterns), 0), np.nan)
        gain = Gain.of(patterns, back["members"].gains, back["controls"].gains if "controls" in groups else none)
    memberships = _memberships(images, patterns, method)
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
        overall=overall,
        counted=counted,
        patterns=tuple(finding(pattern, [i]) for i, pattern in enumerate(patterns)),
        testable=Proportion.of(in_any(inpainter_fails(images, "members", patterns))) if inpainter else None,
        reconstruction={
            group: _reconstruction(images[group, patterns[0], method], float(first["threshold_db"])) for group in groups
        },
        membership=memberships.get("blind_score") or infer_membership((), ()),
        range_used=_range_used(images["members", patterns[0], method]["value_range"]),
        untested=_untested(images, patterns, method, inpainter, back["members"]),
        lost={
            name: int(one.sum())
            for name, one in zip(patterns, _lost(images, patterns, method), strict=True)
            if one.any()
        },
        failed_controls=len(places[-1]) - counted.controls.recovered.num if counted.controls else 0,
        evidence=evidence,
        gain=gain,
        group_differences=differences(images, patterns, method),
        others=tuple(_counts(images, groups, patterns, other, inpainter) for other in _others(images, method)),
        certified=_certified(images, groups, patterns, method),
        gradients_used=next((row.get("gradients_used") for row in rows if row.get("method") == method), None),
        extracted=_extracted(first.get("extraction")),
        reproduced_beyond=_reproduced_beyond(*(images[group, patterns[0], method] for group in groups)),
        num_repeated={group: int(every[group, patterns[0], method]["repeated"].sum()) for group in groups},
        doubts=tuple(Doubt(doubt["code"], doubt["text"]) for doubt in first.get("doubts") or ()),
        memberships=memberships,
        cuts=tuple(cost_sentences(rows)),
        looks={group: np.stack([every[group, patterns[0], method][name] for name in _LOOKS], 1) for group in groups},
    )


def _weigh(patterns: Sequence[str], members: CameBack, controls: CameBack) -> tuple[Evidence, list[int]]:
    """The evidence, and the positions of the patterns that it is from."""
    sets = sets_of_patterns((members.beyond.sum(1) + controls.beyond.sum(1)).tolist())
    names = [ANY if len(one) == len(patterns) > 1 else ", ".join(patterns[i] for i in one) for one in sets]
    evidence = weigh(
        {name: _flags(members, controls, one) for name, one in zip(names, sets, strict=True)}, len(patterns)
    )
    return evidence, sets[names.index(evidence.pattern)]


def _flags(members: CameBack, controls: CameBack, chosen: list[int]) -> Flags:
    """What came back from some patterns, with the best gain of each image among those that it came back from.

    Controls of which nothing is known are none.
    """
    both = [
        (in_any(one.beyond[chosen]), best_gains(np.where(one.beyond[chosen], one.gains[chosen], -np.inf)))
        for one in (members, controls)
    ]
    known = controls.tested(chosen)
    return Flags(both[0][0], both[1][0][known], both[0][1], both[1][1][known])


def _range_used(value_range: NDArray[np.float64]) -> float | None:
    """Images of one value, of which nothing can be told, do not count."""
    some = value_range[value_range > 1e-6]
    return float(np.quantile(some, 0.95)) if len(some) else None


def _untested(
    images: ImageColumns, patterns: Sequence[str], method: str, inpainter: str | None, back: CameBack
) -> Proportion | None:
    """Members of which no pattern says anything: not where the inpainter restores them, nor where they are lost."""
    lost = _lost(images, patterns, method)
    shows = inpainter_fails(images, "members", patterns) | back.beyond if inpainter else np.ones_like(lost)
    shows = shows | ~in_any(shows)  # where all are too easy that is said by itself
    found = Proportion.of(np.asarray((lost | ~shows).all(0)))
    return found if found.count else None


def _lost(images: ImageColumns, patterns: Sequence[str], method: str) -> NDArray[np.bool_]:
    """Members whose recoveries came to nothing that could be measured, (patterns, images)."""
    diverged, failed = (flags(images, "members", patterns, method, name) for name in ("diverged", "failed"))
    return np.asarray(diverged | failed)


def _answered(images: ImageColumns, method: str, patterns: Sequence[str]) -> bool:
    """Whether a method ran on members at all, and not only to fail on each of them."""
    keys = [("members", pattern, method) for pattern in patterns]
    return all(key in images for key in keys) and not all(images[key]["failed"].all() for key in keys)


def _others(images: ImageColumns, primary: str) -> list[str]:
    return [method for method in images.methods() if method not in (primary, INPAINTER)]


def _counts(
    images: ImageColumns, groups: Sequence[str], patterns: Sequence[str], method: str, inpainter: str | None
) -> GroupCounts:
    """What another method brings back, in the patterns that it is for."""
    ran = [pattern for pattern in patterns if all((group, pattern, method) in images for group in groups)]
    found = {
        group: Proportion.of(in_any(came_back(images, group, ran, method, inpainter).beyond)) if ran else None
        for group in groups
    }
    return GroupCounts(method, found["members"] or Proportion.of(np.zeros(0, dtype=bool)), found.get("controls"))


def _certified(images: ImageColumns, groups: Sequence[str], patterns: Sequence[str], method: str) -> GroupCounts:
    found = {group: Proportion.of(in_any(flags(images, group, patterns, method, "certified"))) for group in groups}
    return GroupCounts("certified", found["members"], found.get("controls"))


def _memberships(images: ImageColumns, patterns: Sequence[str], method: str) -> dict[str, Membership]:
    """From every number that was measured."""
    members, controls = (membership_scores(images, group, patterns, method) for group in GROUPS)
    keys = [(group, patterns[0], method) for group in GROUPS]
    one, other = (images[key]["reference_psnr"] if key in images else np.zeros(0) for key in keys)
    return infer_memberships(members, controls, reference_caution(one, other))


def scores_of(images: ImageColumns, group: str, patterns: Sequence[str], method: str) -> NDArray[np.float64]:
    """Blind scores of a group over all patterns, (n,); empty without the group."""
    if (group, patterns[0], method) not in images:
        return np.zeros(0)
    return combine_scores([images[group, pattern, method]["score"] for pattern in patterns])


def _extracted(summary: Mapping[str, Any] | None) -> GroupCounts | None:
    if summary is None:
        return None
    members, controls = (
        None if summary[num] is None else Proportion.of(np.arange(int(summary[num])) < int(summary[count]))
        for num, count in (("num_members", "num_extracted"), ("num_controls", "num_controls_extracted"))
    )
    assert members is not None
    return GroupCounts("extracted", members, controls)


def _reproduced_beyond(
    members: Mapping[str, NDArray[Any]], controls: Mapping[str, NDArray[Any]] | None = None
) -> Proportion | None:
    if controls is None or not np.isfinite(controls["reconstruction_psnr"]).any():
        return None
    best = np.nanmax(controls["reconstruction_psnr"])
    return Proportion.of(members["reconstruction_psnr"] > best + CLEARLY_BETTER_DB)


def _reconstruction(columns: Mapping[str, NDArray[Any]], threshold_db: float) -> Reconstruction:
    quality = columns["reconstruction_psnr"]
    present = quality[~np.isnan(quality)]
    median = float(np.median(present)) if len(present) else None
    return Reconstruction(median, Proportion.of(quality >= threshold_db))


def _plain(value: Any) -> Any:
    """Estimates, which are named tuples, as mappings, wherever they are."""
    if isinstance(value, Estimate):
        return value._asdict()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


__all__ = ["Difference", "Estimate", "Finding", "ImageColumns", "Judgement", "Proportion", "judge", "scores_of"]
