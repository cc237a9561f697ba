"""The verdict in plain words. The terminal, the HTML report and report.json all take their words from here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lightning_memaudit.results.contradictions import contradictions, exchanged, own_error_tells, stored_more
from lightning_memaudit.results.gain import MARGIN_DB, MEAN, PatternGain
from lightning_memaudit.results.judgement import Judgement
from lightning_memaudit.results.membership import membership_sentences, telling
from lightning_memaudit.results.names import TOLD_NOTHING, TOLD_THE_MASK
from lightning_memaudit.results.negative_control import told_apart
from lightning_memaudit.results.pass_through import identity_like, passes_images_through
from lightning_memaudit.results.proportions import Proportion
from lightning_memaudit.results.reason_words import Reason, decibels, of, positive, words
from lightning_memaudit.results.reasons import (
    MIN_CONTROLS,
    about_absence,
    about_comparison,
    about_finding,
    about_lost,
    about_output,
    about_range,
    about_traces,
    about_training,
    about_untested,
    above_controls,
    leaves_traces,
    not_above_controls,
    returns_other_images,
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
        absence_not_shown: Of traces, why images that did not come back may be memorized whole all the same, as codes.

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
    absence_not_shown: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain Python, for JSON."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        if not self.absence_not_shown:  # a report of anything but traces is what it was before they were known of
            del plain["absence_not_shown"]
        return plain


def conclude(
    judgement: Judgement,
    untrained: Judgement | None = None,
    near_duplicates: Mapping[str, Sequence[int]] | None = None,
) -> Verdict:
    """The verdict on one audit.

    *Memorized* takes images that came back: at the threshold, with 6 dB over the best baseline, the inpainter among
    them; so many more of the members than of the controls that chance explains it in at most 2.5% of cases, by an
    exact test over all images, of what came back from any pattern or from some. *Traces* takes gains of the members
    above those of the controls, with an interval that allows for all patterns, or some gains far above all of them.
    Both take controls that are images like the members. *No memorization found* takes an audit that could have found
    something, and nothing else in it that speaks for memory. All else is inconclusive, with its reasons.

    Args:
        judgement: Of the audit.
        untrained: Of an audit of the untrained weights in the same run: the negative control.
        near_duplicates: Positions of members, and of controls, that nearly equal another member.
    """
    output, training = about_output(judgement), about_training(judgement)
    told = [one.explanation for one in training]  # it weakens absence, but not what came back
    doubts = about_finding(judgement, untrained)
    back = judgement.counted.members.memorized or judgement.counted.members.recovered
    found, certainty = _found(judgement), _certainty(judgement)
    cautions = _cautions(judgement, untrained, near_duplicates)
    more = [one for one in (stored_more(judgement),) if one is not None]  # the inconclusive have it as a reason
    if back.count and not doubts and above_controls(judgement):
        return Verdict(
            "memorized",
            f"Memorized: {of(back)} training images came back{_from(judgement)}{_by(judgement)}.",
            found,
            f"{_how_many(judgement)} {certainty}",
            (
                "Handle these weights like the images themselves: do not release them where the images may not go.",
                "See in the table of images which ones came back; those that did not are not thereby safe.",
                "To lower it, train less far, on more images or with regularization, and audit again.",
            ),
            cautions=(
                *(f"{one.explanation} More may be memorized than came back." for one in output),
                *told,
                *more,
                *cautions,
            ),
        )
    filled_in = judgement.counted.members.recovered.count - back.count
    beyond = " beyond what anyone could fill in" if filled_in else ""
    by = _by(judgement)
    what = f"{of(back)} training images came back{by}" if back.count else f"no training image came back{by}{beyond}"
    if not output and not about_comparison(judgement, untrained) and leaves_traces(judgement):
        before = about_traces(untrained)
        if before:
            return _inconclusive("training images come back closer than others", before, found, certainty, cautions)
        missed = about_range(judgement) or about_absence(judgement)
        if returns_other_images(judgement):
            own = decibels(judgement.reconstruction["members"].median_psnr)
            told.append(
                f"Even given a training image intact, the autoencoder returns something else (median PSNR {own}): it "
                "is hardly trained, or the training calls it in another way than the audit does."
            )
        else:
            told += [one.explanation for one in missed]
        codes = tuple(one.code for one in [*training, *missed])
        chance = next(iter(doubts), None) or not_above_controls(judgement) if back.count else None
        return replace(_traces(judgement, chance, found, certainty, (*told, *more, *cautions)), absence_not_shown=codes)
    if back.count:
        if not doubts:
            doubts = [not_above_controls(judgement), *about_untested(judgement)]
            if passes_images_through(judgement):
                doubts.append(identity_like(judgement))
            # Too few: what other methods bring back says why, as where nothing came back, and so does f's own error.
            doubts += [one for one in contradictions(judgement) if one.code in ("patterns_too_hard", "own_error_gap")]
        return _inconclusive(what, [*output, *training, *doubts], found, certainty, cautions)
    # What the output is taken for comes first: all that speaks against absence would only repeat it in other words.
    doubts = [*output, *training, *doubts]
    if not output and not about_range(judgement):
        doubts += about_absence(judgement)
    if not output and not returns_other_images(judgement):
        doubts += contradictions(judgement)
    if doubts:
        return _inconclusive(what, doubts, found, certainty, cautions)
    return Verdict(
        "not_memorized",
        f"No memorization found: none of {back.num} training images came back{by}{beyond}.",
        found,
        certainty,
        (
            "Before a release, audit with more members, more patterns and the highest missing fractions that matter to "
            "you; absence is shown for this attack only.",
            "Check that the same settings find an autoencoder that does memorize (the quickstart is one).",
        ),
        cautions=cautions,
    )


def _from(judgement: Judgement) -> str:
    """Where some of several patterns count, which."""
    return "" if judgement.counted is judgement.overall else f" from {_counted_patterns(judgement)}"


def _counted_patterns(judgement: Judgement) -> str:
    """Those that count, as a sentence has them."""
    first, _, last = judgement.counted.pattern.rpartition(", ")
    return f"{first} or {last}" if first else last


def _by(judgement: Judgement) -> str:
    """By which method, where it is not the one that the package audits with."""
    if judgement.method == TOLD_NOTHING[0]:
        return ""
    told = ", told the mask" if judgement.method in TOLD_THE_MASK else ""
    return f" by {words(judgement.method)} recovery{told}"


def _traces(
    judgement: Judgement, chance: Reason | None, found: str, certainty: str, cautions: tuple[str, ...]
) -> Verdict:
    """Traces; ``chance`` is why images that came back whole prove nothing, where some did."""
    assert judgement.gain is not None
    one, few = judgement.gain.strongest, judgement.gain.exceptional
    members = judgement.counted.members
    back, by = members.memorized or members.recovered, _by(judgement)
    if chance is not None:
        what = f"{of(back)} came back{by}, but {chance.clause}; taken together,"
    elif members.recovered.count:
        what = f"{of(members.recovered)} came back{by} as anyone could have filled them in, but"
    else:
        what = f"no image came back whole{by}, but"
    if judgement.gain.tells and one is not None and one.shift is not None:
        traces = (
            f"training images come back {positive(one.shift.value)} dB closer than others "
            f"({positive(one.shift.low)} to {positive(one.shift.high)}, {_short_place(one)})"
        )
    else:
        assert few is not None
        traces = (
            f"{few.num_beyond} of {few.num_members} training images come back more than {MARGIN_DB:g} dB closer than "
            f"any other ({_short_place(few)})"
        )
    told = own_error_tells(judgement)
    if told is not None:
        cautions = (told, *cautions)
    return Verdict(
        "traces",
        f"Traces: {what} {traces}.",
        found,
        f"{certainty} Controls of another kind than the members, which their looks do not tell, would show the same.",
        (
            "Assume that these weights tell who was trained on; images may come back whole by a stronger attack, or "
            "after more training.",
            chance.remedy
            if chance is not None
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
    overall = judgement.counted
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
    if judgement.gain is not None:
        counted += (
            f", their missing pixels at least {MARGIN_DB:g} dB closer than the best filling without the autoencoder"
        )
    elif judgement.inpainter is not None:
        counted += f" where {judgement.inpainter} inpainting, which does not know the autoencoder, fails"
    if judgement.counted is not judgement.overall:
        counted += f", from {_counted_patterns(judgement)} alone: from all of {where} together, controls come back too"
    else:
        counted += f", from {where}" if len(patterns) == 1 else f", once each, from any of {where}"
    method = words(judgement.method)
    attack = {True: ", with gradients of the autoencoder,", False: ", without gradients of the autoencoder,", None: ""}
    recovery = f"{method[0].upper()}{method[1:]} recovery{attack[judgement.gradients_used]}"
    back = f"{recovery} brought back {_share(members, 'training images')}{against}"
    return f"{back}. {counted}."


def _certainty(judgement: Judgement) -> str:
    sentences = []
    difference, evidence = judgement.counted.difference, judgement.evidence
    if difference is not None and evidence is not None:
        allowing = ", allowing for the patterns tried" if evidence.num_patterns > 1 else ""
        chance = f"; by chance in {_chance(evidence.p_value)} of cases{allowing}" if difference.value > 0 else ""
        sentences.append(
            f"Members minus controls, over all images: {100 * difference.value:.0f} percentage points (95% interval "
            f"{100 * difference.low:.0f} to {100 * difference.high:.0f}{chance})."
        )
    elif judgement.counted.members.recovered.high is not None:
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
    none_back = not (judgement.counted.members.memorized or judgement.counted.members.recovered).count
    if none_back and (tells := telling(judgement.memberships)):
        cautions.append(f"No image came back, but members can be told from other images by {tells}: that leaks too.")
    if passes_images_through(judgement) and not none_back and not about_range(judgement):
        cautions.append(
            "The autoencoder also reproduces images it has never seen, as networks with skip connections do."
        )
    if none_back:
        cautions += about_lost(judgement)
    failed, controls = judgement.failed_controls, judgement.counted.controls
    if failed and controls is not None and controls.recovered.num >= MIN_CONTROLS:  # else it is a reason
        which = "1 control: it is" if failed == 1 else f"{failed} controls: they are"
        cautions.append(f"Recovery failed on {which} left out, as nobody knows what would have come back.")
    cautions += [one for one in (exchanged(judgement),) if one is not None]
    cautions += judgement.cuts
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
        cautions.append("No negative control: audit the untrained weights too; in a training run, at_epochs=[0] does.")
    elif untrained is not None and (apart := told_apart(judgement, untrained)):
        cautions.append(f"No negative control: the untrained weights were audited otherwise, {', '.join(apart)}.")
    return tuple(cautions)


def _repeats(judgement: Judgement) -> list[str]:
    """What was left out, since another that counts shows it."""
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
