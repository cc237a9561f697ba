"""The verdict in plain words. The terminal, the HTML report and report.json all take their words from here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lightning_memaudit.results.judgement import Judgement, Proportion
from lightning_memaudit.results.membership import membership_sentences, telling
from lightning_memaudit.results.own_output import REMEDIES

Outcome = Literal["memorized", "not_memorized", "inconclusive"]

MIN_CONTROLS = 20
"""None of 20 recovered bounds the controls' rate below 17% (95% Clopper-Pearson); with fewer nothing is claimed."""

MAX_UNDETECTED = 0.25
"""*No memorization found* is said when at most this share of members could be memorized and missed by chance (95%)."""

MAX_CONTROL_SHARE = 0.2
"""Controls may come back at up to this share of the members' rate; beyond it, too much would have come back anyway."""

MAX_RECONSTRUCTION_GAP_DB = 6.0
"""Members reproduced better than controls by more than this (a quarter of the squared error) are worth a word."""

UNTRAINED_PSNR = 15.0
"""Below this the autoencoder's own output does not resemble its training images (mean squared error above 0.03)."""


@dataclass(frozen=True)
class Verdict:
    """What to conclude from an audit.

    Attributes:
        outcome: ``memorized``, ``not_memorized`` or ``inconclusive``.
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

    *Memorized* takes a difference between members and controls whose 95% interval lies above zero, counted over
    images that the inpainter does not fill in. *No memorization found* takes an audit that could have found
    something. All else is inconclusive, with its reasons.

    Args:
        judgement: Of the audit.
        untrained: Of an audit of the untrained weights in the same run: the negative control.
        near_duplicates: Positions of members, and of controls, that nearly equal another member.
    """
    output, doubts = _doubts_about_output(judgement), _doubts_about_finding(judgement, untrained)
    back = judgement.overall.members.memorized or judgement.overall.members.recovered
    found, certainty = _found(judgement), _certainty(judgement)
    cautions = _cautions(judgement, untrained, near_duplicates)
    if back.count:
        if not doubts and _above_controls(judgement):
            return Verdict(
                "memorized",
                f"Memorized: {_of(back)} training images came back.",
                found,
                certainty,
                (
                    "Handle these weights like the images themselves: do not release them where the images may not go.",
                    "See in the table of images which ones came back; those that did not are not thereby safe.",
                    "To lower it, train less far, on more images or with regularization, and audit again.",
                ),
                cautions=(
                    *(f"{doubt.explanation} More may be memorized than came back." for doubt in output),
                    *cautions,
                ),
            )
        doubts = [*output, *(doubts or [_not_above_controls(judgement)])]
        return _inconclusive(f"{_of(back)} training images came back", doubts, judgement, found, certainty, cautions)
    # What the output is taken for comes first: all that speaks against absence would only repeat it in other words.
    doubts = [*output, *doubts, *([] if output else _doubts_about_absence(judgement))]
    if doubts:
        return _inconclusive("no training image came back", doubts, judgement, found, certainty, cautions)
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


@dataclass(frozen=True)
class _Doubt:
    code: str
    clause: str  # completes "no training image came back, but ..."
    explanation: str
    remedy: str


def _above_controls(judgement: Judgement) -> bool:
    """Whether members come back more often than controls, and so much more often that each recovery says something."""
    members, controls = judgement.overall.members.memorized, judgement.overall.controls
    difference = judgement.overall.difference
    if members is None or controls is None or controls.memorized is None or difference is None:
        return False
    enough = (controls.memorized.rate or 0.0) <= MAX_CONTROL_SHARE * (members.rate or 0.0)
    return difference.low > 0 and enough


def _not_above_controls(judgement: Judgement) -> _Doubt:
    controls = judgement.overall.controls
    assert controls is not None  # too few controls is a doubt of its own
    count = (controls.memorized or controls.recovered).count
    return _Doubt(
        "not_above_controls",
        f"so did {count} of {controls.recovered.num} that it was not trained on"
        if count
        else "that is too few to tell from chance",
        "Controls come back too, so that coming back proves little."
        if count
        else f"With {controls.recovered.num} controls the interval of the difference includes zero.",
        "Audit more members and controls, and look at the images that came back: each may still be a leak.",
    )


def _doubts_about_finding(judgement: Judgement, untrained: Judgement | None) -> list[_Doubt]:
    """Why a recovered image would prove nothing."""
    doubts = []
    controls = judgement.overall.controls
    if judgement.inpainter is None:
        doubts.append(
            _Doubt(
                "no_inpainter",
                "no generic inpainter ran",
                "What comes back may be what anyone can fill in without the autoencoder.",
                "Add biharmonic to methods, and patterns that hide pixels, and audit again.",
            )
        )
    num_controls = 0 if controls is None else controls.recovered.num
    if num_controls < MIN_CONTROLS:
        doubts.append(
            _Doubt(
                "too_few_controls",
                f"there {'was' if num_controls == 1 else 'were'} too few controls ({num_controls})"
                if num_controls
                else "there were no controls",
                f"It takes at least {MIN_CONTROLS} images that were not trained on to say what comes back anyway.",
                f"Give the audit at least {MIN_CONTROLS} controls; 100 resolve a false positive rate of 1%.",
            )
        )
    if untrained is not None and untrained.num_memorized:
        doubts.append(
            _Doubt(
                "negative_control_failed",
                "the negative control failed",
                f"The audit finds {untrained.num_memorized} images in the weights that the run started from.",
                "If those were trained on the same images before, audit truly untrained weights instead; if not, "
                "distrust this setting: raise threshold_db or the missing fraction until nothing is found at epoch 0.",
            )
        )
    return doubts


def _doubts_about_output(judgement: Judgement) -> list[_Doubt]:
    """Why what the autoencoder returns is no reconstruction, so that no rate says anything."""
    doubts = []
    for code, text in judgement.doubts:
        if code in REMEDIES:  # a later version may know of others
            clause, consequence, remedy = REMEDIES[code]
            doubts.append(_Doubt(code, clause, f"{text[0].upper()}{text[1:]}: {consequence}", remedy))
    return doubts


def _doubts_about_absence(judgement: Judgement) -> list[_Doubt]:
    """Why not recovering anything would prove nothing."""
    members = judgement.reconstruction["members"]
    controls = judgement.reconstruction.get("controls")
    level = f"{judgement.threshold_db:g} dB"
    if members.median_psnr is None or members.median_psnr < UNTRAINED_PSNR:
        return [
            _Doubt(
                "train_loss_too_high",
                f"the members' mean squared error is too high ({_loss(judgement)})",
                "Even given a training image intact, the autoencoder returns something else (median PSNR "
                f"{_decibels(members.median_psnr)}). These weights give nothing back; what training will make of them "
                "is not tested.",
                "Train, and audit again; as the negative control of a run this is the expected result.",
            )
        ]
    doubts = []
    if 2 * members.reaching.count < members.reaching.num:
        doubts.append(
            _Doubt(
                "reconstruction_below_threshold",
                f"the autoencoder itself does not reach {level}",
                f"Even given a training image intact, it reaches {level} on only {members.reaching.count} of "
                f"{members.reaching.num} (median {_decibels(members.median_psnr)}, members' MSE {_loss(judgement)}), "
                "so that hardly anything could count as recovered.",
                f"Train further, or set threshold_db below {members.median_psnr:.0f} and audit again.",
            )
        )
    elif controls is not None and 2 * controls.reaching.count >= controls.reaching.num > 0:
        doubts.append(
            _Doubt(
                "identity_like",
                "the autoencoder also reproduces images it has never seen",
                f"Unseen images come out at a median of {_decibels(controls.median_psnr)}, training images at "
                f"{_decibels(members.median_psnr)}: the autoencoder passes images through, as networks with skip "
                "connections do, and this attack has nothing to hold on to. That it stores nothing is not shown.",
                "Audit without the skip connections if they are yours to remove, or use another attack.",
            )
        )
    testable = judgement.testable
    if testable is not None and 2 * testable.count < testable.num:
        doubts.append(
            _Doubt(
                "patterns_too_easy",
                "the patterns were too easy",
                f"{str(judgement.inpainter).capitalize()} inpainting alone brings back {testable.num - testable.count} "
                f"of {testable.num} from every pattern, so that the autoencoder could not show what it knows.",
                "Audit with more missing pixels or larger blocks.",
            )
        )
    back = judgement.overall.members.memorized or judgement.overall.members.recovered
    high = back.high
    if high is not None and high > MAX_UNDETECTED:
        doubts.append(
            _Doubt(
                "too_few_members",
                "too few were audited",
                f"With {judgement.overall.members.recovered.num} training images audited, up to {high:.0%} could be "
                "memorized and missed by chance.",
                "Audit more members (raise num_members).",
            )
        )
    return doubts


def _inconclusive(
    what: str, doubts: Sequence[_Doubt], judgement: Judgement, found: str, certainty: str, cautions: tuple[str, ...]
) -> Verdict:
    return Verdict(
        "inconclusive",
        f"Inconclusive: {what}, but {' and '.join(doubt.clause for doubt in doubts)}.",
        found,
        certainty,
        tuple(doubt.remedy for doubt in doubts),
        tuple(doubt.code for doubt in doubts),
        tuple(doubt.explanation for doubt in doubts),
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
    where = _listed(patterns) if len(patterns) < 4 else f"{len(patterns)} patterns"
    counted = f"Counted are images that reach {judgement.threshold_db:g} dB"
    if judgement.inpainter is not None:
        counted += f" where {judgement.inpainter} inpainting, which does not know the autoencoder, fails"
    counted += f", from {where}" if len(patterns) == 1 else f", once each, from any of {where}"
    method = _method(judgement)
    back = f"{method[0].upper()}{method[1:]} recovery brought back {_share(members, 'training images')}{against}"
    return f"{back}. {counted}."


def _certainty(judgement: Judgement) -> str:
    sentences = []
    difference = judgement.overall.difference
    if difference is not None:
        sentences.append(
            f"Members minus controls, paired by mask ({difference.num_pairs} pairs): {100 * difference.value:.0f} "
            f"percentage points (95% interval {100 * difference.low:.0f} to {100 * difference.high:.0f})."
        )
    elif judgement.overall.members.recovered.high is not None:
        sentences.append("Without controls nothing bounds what would come back anyway.")
    sentences += membership_sentences(judgement.memberships)
    return " ".join(sentences)


def _cautions(
    judgement: Judgement, untrained: Judgement | None, near_duplicates: Mapping[str, Sequence[int]] | None
) -> tuple[str, ...]:
    cautions = []
    none_back = not (judgement.overall.members.memorized or judgement.overall.members.recovered).count
    if none_back and (tells := telling(judgement.memberships)):
        cautions.append(f"No image came back, but members can be told from other images by {tells}: that leaks too.")
    own = {group: one.median_psnr for group, one in judgement.reconstruction.items()}
    members, controls = own.get("members"), own.get("controls")
    if none_back and members and controls and members - controls > MAX_RECONSTRUCTION_GAP_DB:
        cautions.append(
            f"The autoencoder reproduces training images {members - controls:.0f} dB better than unseen ones: who was "
            "trained on shows in its error, though no image came back."
        )
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


def _of(share: Proportion) -> str:
    return f"{share.count} of {share.num}"


def _share(share: Proportion, of_what: str) -> str:
    if share.rate is None or share.low is None or share.high is None:
        return f"none of 0 {of_what}"
    return f"{_of(share)} {of_what} ({share.rate:.0%}, 95% interval {share.low:.0%} to {share.high:.0%})"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _method(judgement: Judgement) -> str:
    return judgement.method.replace("_", " ")


def _loss(judgement: Judgement) -> str:
    return "unknown" if judgement.train_loss is None else f"{judgement.train_loss:.1e}"


def _decibels(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} dB"
