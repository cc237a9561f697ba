"""Why an audit may be unable to conclude: reasons with their code, their words and what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_memaudit.results.evidence import MAX_CONTROL_SHARE, controls_needed, exact_test, is_significant
from lightning_memaudit.results.findings import GroupCounts
from lightning_memaudit.results.gain import MARGIN_DB
from lightning_memaudit.results.judgement import CLEARLY_BETTER_DB, Judgement
from lightning_memaudit.results.own_output import REMEDIES
from lightning_memaudit.results.proportions import Proportion
from lightning_memaudit.results.training_doubts import TRAINING_REMEDIES

MIN_CONTROLS = 20
"""None of 20 recovered bounds the controls' rate below 17% (95% Clopper-Pearson); with fewer nothing is claimed."""

MAX_UNDETECTED = 0.25
"""*No memorization found* is said when at most this share of members could be memorized and missed by chance (95%)."""

NEARLY_ALWAYS = 0.9
"""Lower end of an area under the ROC curve above which a number tells nearly every member from nearly every control."""

UNTRAINED_PSNR = 15.0
"""Below this the autoencoder's own output does not resemble its training images (mean squared error above 0.03)."""

LOWEST_THRESHOLD_DB = 20.0
"""A threshold below this is no advice: such an image resembles the truth as many others do."""


@dataclass(frozen=True)
class Reason:
    """Why nothing can be concluded.

    Attributes:
        code: For programs.
        clause: Completes "no training image came back, but ...".
        explanation: A sentence or two.
        remedy: What to do about it.

    >>> Reason("too_few_members", "too few were audited", "Two are few.", "Audit more members.").code
    'too_few_members'
    """

    code: str
    clause: str
    explanation: str
    remedy: str


def above_controls(judgement: Judgement) -> bool:
    """Whether more members come back than chance explains, and so many more that each recovery says something."""
    return judgement.inpainter is not None and judgement.evidence is not None and judgement.evidence.tells


def not_above_controls(judgement: Judgement) -> Reason:
    """That as much may have come back by chance."""
    members, controls = judgement.counted.members, judgement.counted.controls
    assert controls is not None  # too few controls is a doubt of its own
    came_back, others = members.memorized or members.recovered, controls.memorized or controls.recovered
    look = "Look at the images that came back: each may still be a leak."
    if others.count:
        return Reason(
            "not_above_controls",
            f"so did {of(others)} that it was not trained on",
            "Controls come back too, so that coming back proves little.",
            f"{look} Audit more members and controls.",
        )
    tried = 1 if judgement.evidence is None else judgement.evidence.num_patterns
    needed = controls_needed(max(1, came_back.count), came_back.num, tried)
    return Reason(
        "not_above_controls",
        f"with {others.num} controls that is too few to tell from chance",
        f"If none was memorized, so many of those that came back are members in {_chance(judgement)} of cases: with "
        f"{others.num} controls that is not rare enough.",
        f"{look} Audit at least {needed} controls: if none of them comes back, these {came_back.count} are evidence."
        if came_back.count
        else f"{look} Audit more members and controls.",
    )


def about_finding(judgement: Judgement, untrained: Judgement | None) -> list[Reason]:
    """Why a recovered image would prove nothing."""
    doubts = []
    back = judgement.counted.members.memorized or judgement.counted.members.recovered
    # Blind recovery starts from an interpolation, which may beat the inpainter by a hair; gains allow for that.
    if back.count and judgement.gain is None and passes_images_through(judgement):
        doubts.append(identity_like(judgement))
    if judgement.inpainter is None:
        doubts.append(
            Reason(
                "no_inpainter",
                "no generic inpainter ran",
                "What comes back may be what anyone can fill in without the autoencoder.",
                "Add biharmonic to methods, and patterns that hide pixels, and audit again.",
            )
        )
    return [*doubts, *about_comparison(judgement, untrained)]


def about_comparison(judgement: Judgement, untrained: Judgement | None) -> list[Reason]:
    """Why members and controls cannot be compared: then nothing that tells them apart speaks of memory."""
    doubts = []
    controls = judgement.counted.controls
    num_controls = 0 if controls is None else controls.recovered.num
    if num_controls < MIN_CONTROLS:
        doubts.append(
            Reason(
                "too_few_controls",
                f"there {'was' if num_controls == 1 else 'were'} too few controls ({num_controls})"
                if num_controls
                else "there were no controls",
                f"It takes at least {MIN_CONTROLS} images that were not trained on, and differ, to say what comes back "
                "anyway.",
                f"Give the audit at least {MIN_CONTROLS} controls; 100 resolve a false positive rate of 1%.",
            )
        )
    if judgement.group_differences:
        first = judgement.group_differences[0]
        names = listed([one.name for one in judgement.group_differences], "and")
        doubts.append(
            Reason(
                "groups_differ",
                "the controls are other images than the members",
                f"They differ clearly in {names}, which owes nothing to the autoencoder (median {first.members:.3g} "
                f"for members, {first.controls:.3g} for controls): what such controls do says nothing of images like "
                "the members.",
                "Take the controls from the source of the members, prepared alike, and audit again.",
            )
        )
    if untrained is not None and untrained.num_memorized:
        doubts.append(
            Reason(
                "negative_control_failed",
                "the negative control failed",
                f"The audit finds {untrained.num_memorized} images in the weights that the run started from.",
                "If those were trained on the same images before, audit truly untrained weights instead; if not, "
                "distrust this setting: raise threshold_db or the missing fraction until nothing is found at epoch 0.",
            )
        )
    # Groups of other sizes make other batches.
    return doubts + [one for one in about_output(judgement) if one.code == "depends_on_batch"]


def leaves_traces(judgement: Judgement) -> bool:
    """Whether members come back closer than controls, all together or some of them."""
    return judgement.gain is not None and (judgement.gain.tells or judgement.gain.exceptional is not None)


def about_traces(untrained: Judgement | None) -> list[Reason]:
    """Why members that come back closer than others prove nothing: they did so before the training."""
    if untrained is None or not leaves_traces(untrained):
        return []
    return [
        Reason(
            "negative_control_failed",
            "they did so before the training",
            "In the weights that the run started from, members come back closer than controls as well.",
            "If those were trained on the same images before, audit truly untrained weights instead; if not, members "
            "and controls are of different kinds, or chance is at work: audit more of both.",
        )
    ]


def about_output(judgement: Judgement) -> list[Reason]:
    """Why what the autoencoder returns is no reconstruction, so that no rate says anything."""
    return _doubts_among(judgement, REMEDIES)


def about_training(judgement: Judgement) -> list[Reason]:
    """Why members may not be what was trained on, and controls not what was not."""
    return _doubts_among(judgement, TRAINING_REMEDIES)


def _doubts_among(judgement: Judgement, remedies: Mapping[str, tuple[str, str, str]]) -> list[Reason]:
    doubts = []
    for code, text in judgement.doubts:
        if code in remedies:  # a later version may know of others
            clause, consequence, remedy = remedies[code]
            doubts.append(Reason(code, clause, f"{text[0].upper()}{text[1:]}: {consequence}", remedy))
    return doubts


def about_absence(judgement: Judgement) -> list[Reason]:
    """Why not recovering anything would prove nothing."""
    members = judgement.reconstruction["members"]
    level = f"{judgement.threshold_db:g} dB"
    if members.median_psnr is None or members.median_psnr < UNTRAINED_PSNR:
        return [
            Reason(
                "train_loss_too_high",
                f"the members' mean squared error is too high ({loss(judgement)})",
                "Even given a training image intact, the autoencoder returns something else (median PSNR "
                f"{decibels(members.median_psnr)}). So these weights return no image like those; what they hold in "
                "another form, or what training will make of them, is not tested.",
                "Train, and audit again; as the negative control of a run this is the expected result.",
            )
        ]
    doubts = []
    if 2 * members.reaching.count < members.reaching.num:
        doubts.append(
            Reason(
                "reconstruction_below_threshold",
                f"the autoencoder itself does not reach {level}",
                f"Even given a training image intact, it reaches {level} on only {members.reaching.count} of "
                f"{members.reaching.num} (median {decibels(members.median_psnr)}, members' MSE {loss(judgement)}), "
                "so that hardly anything could count as recovered.",
                _lower_threshold(judgement, members.median_psnr),
            )
        )
    elif passes_images_through(judgement):
        doubts.append(identity_like(judgement))
    testable = judgement.testable
    if testable is not None and 2 * testable.count < testable.num:
        doubts.append(
            Reason(
                "patterns_too_easy",
                "the patterns were too easy",
                f"{str(judgement.inpainter).capitalize()} inpainting alone brings back {testable.num - testable.count} "
                f"of {testable.num} from every pattern, so that the autoencoder could not show what it knows.",
                "Audit with more missing pixels or larger blocks.",
            )
        )
    back = judgement.counted.members.memorized or judgement.counted.members.recovered
    high = back.high
    if high is not None and high > MAX_UNDETECTED:
        doubts.append(
            Reason(
                "too_few_members",
                "too few were audited",
                f"With {judgement.counted.members.recovered.num} training images audited, up to {high:.0%} could be "
                "memorized and missed by chance.",
                "Audit more members (raise num_members).",
            )
        )
    return doubts + contradictions(judgement)


def _lower_threshold(judgement: Judgement, median_psnr: float) -> str:
    """What helps where the autoencoder does not reach the threshold."""
    if median_psnr < LOWEST_THRESHOLD_DB:
        more = f": add {listed(names)}" if (names := _untried(judgement, "random-0.9")) else ""
        return f"Train further; until then the recovery gain says more, which needs no threshold{more}."
    return f"Train further, or set threshold_db below {median_psnr:.0f} and audit again."


def _untried(judgement: Judgement, *patterns: str) -> list[str]:
    """Those of the patterns that were not audited: what was tried is no advice."""
    tried = {one.pattern for one in judgement.patterns}
    return [pattern for pattern in patterns if pattern not in tried]


def contradictions(judgement: Judgement) -> list[Reason]:
    """What else the audit saw that speaks for memory, though blind recovery brought nothing back, or too little."""
    doubts = []
    back = judgement.counted.members.memorized or judgement.counted.members.recovered
    found = [one for one in judgement.others if _mostly_members(one) and one.members.count > back.count]
    if found:
        most = max(found, key=lambda one: one.members.count)
        untried = _untried(judgement, "random-0.9", "block-0.5")
        such = f", such as {listed(untried, 'and')}" if untried else ""
        others = "" if most.controls is None else f" and {of(most.controls)} others"
        doubts.append(
            Reason(
                "patterns_too_hard",
                f"the patterns were too hard for {words(judgement.method)} recovery",
                f"From the same observations {words(most.name)} brings back {of(most.members)} training images"
                f"{others}, beyond what could be filled in: these the autoencoder has stored.",
                f"Add patterns from which the mask can be told{such}, with the default fill, and audit again.",
            )
        )
    extracted = judgement.extracted
    if extracted is not None and _mostly_members(extracted):
        doubts.append(
            Reason(
                "extracted",
                "some come out of the weights by themselves",
                f"From starts that know no image, {of(extracted.members)} training images come out: these the "
                "autoencoder has stored.",
                "Handle these weights like the images themselves, and add patterns that hide more or less.",
            )
        )
    certified = judgement.certified
    if certified is not None and certified.controls is not None and certified.controls.num:
        members, controls = certified.members, certified.controls
        if is_significant(exact_test(members.count, members.num, controls.count, controls.num)):
            doubts.append(
                Reason(
                    "certified_unrecovered",
                    "some are certified as recovered",
                    f"{of(members)} training images are certified without the truth, and {of(controls)} others; none "
                    f"reaches {judgement.threshold_db:g} dB beyond what could be filled in.",
                    "Look at the certified images, and audit again with a lower threshold_db.",
                )
            )
    some = max(() if judgement.gain is None else judgement.gain.patterns, key=lambda one: one.num_beyond, default=None)
    if some is not None and some.num_beyond:
        doubts.append(
            Reason(
                "some_much_closer",
                f"{some.num_beyond} came back much closer than any other",
                f"From {some.pattern}, {some.num_beyond} of {some.num_members} training images come back more than "
                f"{MARGIN_DB:g} dB closer than any of {some.num_controls} controls, and than the best filling without "
                f"the autoencoder, though none reaches {judgement.threshold_db:g} dB. So few may do so by chance.",
                "Look at them, audit more controls, and with a lower threshold_db.",
            )
        )
    told = own_error_tells(judgement)
    if told is not None:
        doubts.append(
            Reason(
                "own_error_gap",
                "its own output tells them from other images",
                f"{told} Who was trained on shows in its error, though no image came back.",
                "Audit with patterns that hide less, and with other methods: something keeps what is stored from "
                "coming back.",
            )
        )
    return doubts


def _mostly_members(counts: GroupCounts) -> bool:
    """Whether a method brings members back, and controls at most at a fifth of their rate."""
    controls = 0.0 if counts.controls is None else counts.controls.rate or 0.0
    return counts.members.count > 0 and controls <= MAX_CONTROL_SHARE * (counts.members.rate or 0.0)


def own_error_tells(judgement: Judgement) -> str | None:
    """In a sentence, how the autoencoder's own error tells members from controls, where it does so clearly; else None.

    Every network reproduces what it was trained on a little better. Clear is a median gap of more than 6 dB, or more
    members that far beyond every control than chance explains, or an error that nearly always is lower.
    """
    own = {group: one.median_psnr for group, one in judgement.reconstruction.items()}
    members, controls = own.get("members"), own.get("controls")
    area, beyond = judgement.membership_estimates.get("plain_loss"), judgement.reproduced_beyond
    if members is None or controls is None or (area is not None and area.low <= 0.5):
        return None
    if members - controls > CLEARLY_BETTER_DB:
        return f"The autoencoder reproduces training images {members - controls:.0f} dB better than unseen ones."
    num_controls = judgement.reconstruction["controls"].reaching.num
    if beyond is not None and is_significant(exact_test(beyond.count, beyond.num, 0, num_controls)):
        return (
            f"The autoencoder reproduces {of(beyond)} training images more than {CLEARLY_BETTER_DB:g} dB better than "
            "any unseen one."
        )
    if area is not None and area.low > NEARLY_ALWAYS:
        return f"Its own error is lower for a training image than for an unseen one in {area.value:.0%} of cases."
    return None


def passes_images_through(judgement: Judgement) -> bool:
    """Whether most images that it has never seen come out of the autoencoder at the threshold."""
    controls = judgement.reconstruction.get("controls")
    return controls is not None and 2 * controls.reaching.count >= controls.reaching.num > 0


def identity_like(judgement: Judgement) -> Reason:
    """That images pass through."""
    members, controls = judgement.reconstruction["members"], judgement.reconstruction["controls"]
    return Reason(
        "identity_like",
        "the autoencoder also reproduces images it has never seen",
        f"Unseen images come out at a median of {decibels(controls.median_psnr)}, training images at "
        f"{decibels(members.median_psnr)}: the autoencoder passes images through, as networks with skip "
        "connections do, and this attack has nothing to hold on to. That it stores nothing is not shown.",
        "Audit without the skip connections if they are yours to remove, or use another attack.",
    )


def _chance(judgement: Judgement) -> str:
    return "many" if judgement.evidence is None else f"{judgement.evidence.p_value:.0%}"


def of(share: Proportion) -> str:
    """``3 of 10``."""
    return f"{share.count} of {share.num}"


def loss(judgement: Judgement) -> str:
    """The train loss in short."""
    return "unknown" if judgement.train_loss is None else f"{judgement.train_loss:.1e}"


def decibels(value: float | None) -> str:
    """With its unit."""
    return "unknown" if value is None else f"{value:.1f} dB"


def listed(names: Sequence[str], word: str = "or") -> str:
    """``a, b or c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def words(name: str) -> str:
    """A method's name for people."""
    return name.replace("_", " ")
