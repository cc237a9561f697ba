"""The verdict in plain words. The terminal, the HTML report and report.json all take their words from here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lightning_memaudit.results.gain import MARGIN_DB, MEAN, PatternGain
from lightning_memaudit.results.judgement import Judgement
from lightning_memaudit.results.membership import membership_sentences, telling
from lightning_memaudit.results.proportions import Proportion
from lightning_memaudit.results.reasons import (
    MIN_CONTROLS,
    Reason,
    about_absence,
    about_comparison,
    about_finding,
    about_output,
    above_controls,
    contradictions,
    identity_like,
    not_above_controls,
    of,
    own_error_tells,
    passes_images_through,
    words,
)

Outcome = Literal["memorized", "traces", "not_memorized", "inconclusive"]


@dataclass(frozen=True)
class Verdict:
    """What to conclude from an audit.

    Attributes:
        outcome: ``memorized``; ``traces``, where no image came back whole but training images come back closer than
            others; ``not_memorized`` or ``inconclusive``.
        reasons: Why inconclusive, as codes; empty otherwise.
        headline: One short sentence.
        why: Why inconclusive, a sentence for each reason; empty otherwise.
        found: What came back, of members and of controls.
        certainty: How sure that is.
        next_steps: What to do about it.
        cautions: What may weaken it.

    >>> from lightning_memaudit.results.judgement import ImageColumns, judge
    >>> rows = [
    ...     {"group": group, "pattern": "half", "method": "blind", "position": i, "recovered": group == "members"}
    ...     for group in ("members", "controls") for i in range(20)
    ... ]
    >>> images = ImageColumns([*rows, *(row | {"method": "biharmonic", "recovered": False} for row in rows)])
    >>> conclude(judge([{"audit": 0, "threshold_db": 30.0}], images)).headline
    'Memorized: 20 of 20 training images came back.'
    """

    outcome: Outcome
    headline: str
    found: str
    certainty: str
    next_steps: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain Python, for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def conclude(
    judgement: Judgement,
    untrained: Judgement | None = None,
    near_duplicates: Mapping[str, Sequence[int]] | None = None,
) -> Verdict:
    """The verdict on one audit.

    *Memorized* takes images that came back: at the threshold, where the inpainter fails, with 6 dB over the best
    baseline; so many more of the members than of the controls that chance explains it in at most 2.5% of cases, by an
    exact test over all images. *Traces* takes gains of the members above those of the controls, with an interval that
    allows for all patterns. Both take controls that are images like the members. *No memorization found* takes an
    audit that could have found something, and nothing else in it that speaks for memory. All else is inconclusive,
    with its reasons.

    Args:
        judgement: Of the audit.
        untrained: Of an audit of the untrained weights in the same run: the negative control.
        near_duplicates: Positions of members, and of controls, that nearly equal another member.
    """
    output, doubts = about_output(judgement), about_finding(judgement, untrained)
    back = judgement.overall.members.memorized or judgement.overall.members.recovered
    found, certainty = _found(judgement), _certainty(judgement)
    cautions = _cautions(judgement, untrained, near_duplicates)
    if back.count and not doubts and above_controls(judgement):
        return Verdict(
            "memorized",
            f"Memorized: {of(back)} training images came back.",
            found,
            f"{_how_many(judgement)} {certainty}",
            (
                "Handle these weights like the images themselves: do not release them where the images may not go.",
                "See in the table of images which ones came back; those that did not are not thereby safe.",
                "To lower it, train less far, on more images or with regularization, and audit again.",
            ),
            cautions=(*(f"{doubt.explanation} More may be memorized than came back." for doubt in output), *cautions),
        )
    what = f"{of(back)} training images came back" if back.count else "no training image came back"
    if not output and not about_comparison(judgement, untrained) and _leaves_traces(judgement, untrained):
        return _traces(judgement, found, certainty, cautions)
    if back.count:
        if not doubts:
            doubts = [not_above_controls(judgement)]
            if passes_images_through(judgement):
                doubts.append(identity_like(judgement))
            # Too few: what other methods bring back says why, as it does where nothing came back.
            doubts += [one for one in contradictions(judgement) if one.code == "patterns_too_hard"]
        return _inconclusive(what, [*output, *doubts], found, certainty, cautions)
    # What the output is taken for comes first: all that speaks against absence would only repeat it in other words.
    doubts = [*output, *doubts, *([] if output else about_absence(judgement))]
    if doubts:
        return _inconclusive(what, doubts, found, certainty, cautions)
    return Verdict(
        "not_memorized",
        f"No memorization found: none of {judgement.overall.members.recovered.num} training images came back.",
        found,
        certainty,
        (
            "Before a release, audit with more members, more patterns and the highest missing fractions that matter to "
            "you; absence is shown for this attack only.",
            "Check that the same settings find an autoencoder that does memorize (the quickstart is one).",
        ),
        cautions=cautions,
    )


def _leaves_traces(judgement: Judgement, untrained: Judgement | None) -> bool:
    """Whether members come back closer than controls, and did not do so before the training."""
    before = untrained is not None and untrained.gain is not None and untrained.gain.tells
    return judgement.gain is not None and judgement.gain.tells and not before


def _traces(judgement: Judgement, found: str, certainty: str, cautions: tuple[str, ...]) -> Verdict:
    assert judgement.gain is not None
    one = judgement.gain.strongest
    assert one is not None
    assert one.shift is not None
    back = judgement.overall.members.memorized or judgement.overall.members.recovered
    few = not_above_controls(judgement) if back.count else None
    what = (
        "no image came back whole, but" if few is None else f"{of(back)} came back, but {few.clause}; taken together,"
    )
    told = own_error_tells(judgement)
    if told is not None:
        cautions = (told, *cautions)
    return Verdict(
        "traces",
        f"Traces: {what} training images come back {one.shift.value:.1f} dB closer than others "
        f"({one.shift.low:.1f} to {one.shift.high:.1f}, {_short_place(one)}).",
        found,
        certainty,
        (
            "Assume that these weights tell who was trained on; images may come back whole by a stronger attack, or "
            "after more training.",
            few.remedy
            if few is not None
            else "See in the table of images which ones come back much closer than the baseline.",
        ),
        cautions=cautions,
    )


def _inconclusive(
    what: str, reasons: Sequence[Reason], found: str, certainty: str, cautions: tuple[str, ...]
) -> Verdict:
    reasons = list({reason.code: reason for reason in reasons}.values())
    return Verdict(
        "inconclusive",
        f"Inconclusive: {what}, but {' and '.join(reason.clause for reason in reasons)}.",
        found,
        certainty,
        tuple(reason.remedy for reason in reasons),
        tuple(reason.code for reason in reasons),
        tuple(reason.explanation for reason in reasons),
        cautions,
    )


def _found(judgement: Judgement) -> str:
    """What came back, and how it was counted."""
    overall = judgement.overall
    members = overall.members.memorized or overall.members.recovered
    controls = None if overall.controls is None else overall.controls.memorized or overall.controls.recovered
    against = (
        "; there were no images to compare with that it was not trained on"
        if controls is None
        else f" and {_share(controls, 'images that it was not trained on')}"
    )
    patterns = [finding.pattern for finding in judgement.patterns]
    tried = f"{len(patterns)} patterns tried"
    where = patterns[0] if len(patterns) == 1 else f"{tried} ({', '.join(patterns)})" if len(patterns) < 5 else tried
    counted = f"Counted are images that reach {judgement.threshold_db:g} dB"
    if judgement.inpainter is not None:
        counted += f" where {judgement.inpainter} inpainting, which does not know the autoencoder, fails"
    if judgement.gain is not None:
        counted += (
            f", their missing pixels at least {MARGIN_DB:g} dB closer than the best filling without the autoencoder"
        )
    counted += f", from {where}" if len(patterns) == 1 else f", once each, from any of {where}"
    method = words(judgement.method)
    back = f"{method[0].upper()}{method[1:]} recovery brought back {_share(members, 'training images')}{against}"
    return f"{back}. {counted}."


def _certainty(judgement: Judgement) -> str:
    sentences = []
    difference = judgement.overall.difference
    if difference is not None:
        chance = f"; by chance in {_chance(difference.p_value)} of cases" if difference.value > 0 else ""
        sentences.append(
            f"Members minus controls, over all images: {100 * difference.value:.0f} percentage points (95% interval "
            f"{100 * difference.low:.0f} to {100 * difference.high:.0f}{chance})."
        )
    elif judgement.overall.members.recovered.high is not None:
        sentences.append("Without controls nothing bounds what would come back anyway.")
    strongest = None if judgement.gain is None else judgement.gain.strongest
    if judgement.gain is not None and strongest is not None and strongest.auroc is not None:
        area, tried = strongest.auroc, len(judgement.gain.patterns)
        allowing = f", allowing for the choice among {tried}" if tried > 1 else ""
        sentences.append(
            f"By the recovery gain from {_place(strongest)}, dB beyond the best filling without the autoencoder, a "
            f"member is told from a control with an AUROC of {area.value:.2f} ({area.low:.2f} to "
            f"{area.high:.2f}{allowing}): median {strongest.members:+.1f} against {strongest.controls:+.1f} dB."
        )
    sentences += membership_sentences(judgement.memberships)
    return " ".join(sentences)


def _how_many(judgement: Judgement) -> str:
    """What holds where the groups can be compared."""
    evidence = judgement.evidence
    assert evidence is not None
    least = evidence.at_least
    return (
        f"At least {least} of the images {'was' if least == 1 else 'were'} memorized (97.5% confidence); image by "
        f"image, rank among the controls tells {evidence.num_discoveries} at a false discovery rate of "
        f"{evidence.false_discovery_rate:.0%}."
    )


def _chance(p_value: float) -> str:
    return f"{p_value:.1%}" if p_value >= 0.001 else "less than 0.1%"


def _place(one: PatternGain) -> str:
    return "the mean over all patterns" if one.pattern == MEAN else one.pattern


def _short_place(one: PatternGain) -> str:
    return "all patterns" if one.pattern == MEAN else one.pattern


def _cautions(
    judgement: Judgement, untrained: Judgement | None, near_duplicates: Mapping[str, Sequence[int]] | None
) -> tuple[str, ...]:
    cautions = []
    none_back = not (judgement.overall.members.memorized or judgement.overall.members.recovered).count
    if none_back and (tells := telling(judgement.memberships)):
        cautions.append(f"No image came back, but members can be told from other images by {tells}: that leaks too.")
    if passes_images_through(judgement) and not none_back:
        cautions.append(
            "The autoencoder also reproduces images it has never seen, as networks with skip connections do."
        )
    cautions += _repeats(judgement)
    twins = near_duplicates or {}
    if twins.get("members"):
        count = len(twins["members"])
        cautions.append(
            f"{count} audited member{'s have' if count > 1 else ' has'} a near-duplicate among the members: repeated "
            "images are memorized first, and one recovery may count twice."
        )
    if twins.get("controls"):
        count = len(twins["controls"])
        cautions.append(
            f"{count} control{'s are' if count > 1 else ' is'} nearly equal to a member: recovering those is no false "
            "alarm, and the difference is understated."
        )
    if untrained is None and judgement.epoch != 0:
        cautions.append("No negative control: audit the untrained weights too, with at_epochs: [0].")
    return tuple(cautions)


def _repeats(judgement: Judgement) -> list[str]:
    """What was left out, since it was counted before."""
    members, controls = (judgement.num_repeated.get(group, 0) for group in ("members", "controls"))
    sentences = []
    if members:
        are = "members show" if members > 1 else "member shows"
        sentences.append(f"{members} audited {are} another one again: each picture counts once.")
    if controls:
        are = "controls show a member or another control" if controls > 1 else "control shows a member or another one"
        sentences.append(f"{controls} {are} again: left out, as they say nothing of images that were not trained on.")
    return sentences


def _share(share: Proportion, of_what: str) -> str:
    if share.rate is None or share.low is None or share.high is None:
        return f"none of 0 {of_what}"
    return f"{of(share)} {of_what} ({share.rate:.0%}, 95% interval {share.low:.0%} to {share.high:.0%})"


__all__ = ["MIN_CONTROLS", "Outcome", "Verdict", "conclude"]
