"""What else an audit saw that speaks for memory, besides what the audited method brought back."""

from lightning_memaudit.results.evidence import MAX_CONTROL_SHARE, exact_test, is_significant
from lightning_memaudit.results.findings import GroupCounts
from lightning_memaudit.results.gain import MARGIN_DB, most_beyond
from lightning_memaudit.results.judgement import CLEARLY_BETTER_DB, Judgement
from lightning_memaudit.results.names import TOLD_THE_MASK
from lightning_memaudit.results.reason_words import Reason, listed, of, untried, words

NEARLY_ALWAYS = 0.9
"""Lower end of an area under the ROC curve above which a number tells nearly every member from nearly every control."""


def contradictions(judgement: Judgement) -> list[Reason]:
    """What else the audit saw that speaks for memory, though blind recovery brought nothing back, or too little."""
    doubts = []
    back = judgement.counted.members.memorized or judgement.counted.members.recovered
    most = _most_by_others(judgement, back.count)
    if most is not None:
        names = untried(judgement, "random-0.9", "block-0.5")
        such = f", such as {listed(names, 'and')}" if names else ""
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
    some = most_beyond(judgement.gain)
    if some is not None:
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
        few = "no image" if not back.count else f"no more than {of(back)}"
        doubts.append(
            Reason(
                "own_error_gap",
                "its own output tells them from other images",
                f"{told} Who was trained on shows in its error, though {few} came back.",
                "Audit with patterns that hide less, and with other methods: something keeps what is stored from "
                "coming back.",
            )
        )
    return doubts


def stored_more(judgement: Judgement) -> str | None:
    """In a sentence, that another method brings back clearly more from the same observations; None where none does.

    Clearly is more than chance explains; any more, where the audited method brings back none.
    """
    back = judgement.counted.members.memorized or judgement.counted.members.recovered
    most = _most_by_others(judgement, back.count)
    if most is None:
        return None
    if back.count and not is_significant(exact_test(most.members.count, most.members.num, back.count, back.num)):
        return None
    against = "" if most.controls is None else f" and {of(most.controls)} others"
    return (
        f"{_by(most.name)} brings back {of(most.members)} training images{against} from the same observations, beyond "
        f"what could be filled in: more is stored than the {back.count} that {words(judgement.method)} recovery brings "
        "back."
    )


def _by(name: str) -> str:
    method = f"{words(name)} recovery"
    return f"{method[0].upper()}{method[1:]}{', told the mask,' if name in TOLD_THE_MASK else ''}"


def _most_by_others(judgement: Judgement, count: int) -> GroupCounts | None:
    """What the method brings back that brings back most, if it is more than ``count``, and mostly members."""
    found = [one for one in judgement.others if _mostly_members(one) and one.members.count > count]
    return min(found, key=lambda one: (-one.members.count, one.name), default=None)


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


def exchanged(judgement: Judgement) -> str | None:
    """In a sentence, that the controls look like what was trained on, and the members do not; else None."""
    own = {group: one.median_psnr for group, one in judgement.reconstruction.items()}
    members, controls = own.get("members"), own.get("controls")
    area = judgement.membership_estimates.get("plain_loss")
    if members is None or controls is None or area is None or area.high >= 0.5:
        return None
    if controls - members <= CLEARLY_BETTER_DB:
        return None
    return (
        f"The autoencoder reproduces the controls {controls - members:.0f} dB better than the members: see that the "
        "two were not exchanged."
    )
