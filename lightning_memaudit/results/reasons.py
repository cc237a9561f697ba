"""Why an audit may be unable to conclude: reasons with their code, their words and what to do."""

import math
from collections.abc import Mapping

from lightning_memaudit.results.comparability import COMPARISON_REMEDIES
from lightning_memaudit.results.evidence import controls_needed
from lightning_memaudit.results.judgement import Judgement
from lightning_memaudit.results.names import INPAINTER
from lightning_memaudit.results.own_output import REMEDIES, UNTRAINED_PSNR
from lightning_memaudit.results.pass_through import identity_like, passes_images_through
from lightning_memaudit.results.proportions import Proportion
from lightning_memaudit.results.reason_words import Reason, decibels, listed, loss, of, untried
from lightning_memaudit.results.training_doubts import TRAINING_REMEDIES

MIN_CONTROLS = 20
"""None of 20 recovered bounds the controls' rate below 17% (95% Clopper-Pearson); with fewer nothing is claimed."""

MAX_UNDETECTED = 0.25
"""*No memorization found* is said when at most this share of members could be memorized and missed by chance (95%)."""

LEAST_RANGE = 0.3
"""Images that use less of the range that they are given in are closer to any other by more than 10 dB."""

LOWEST_THRESHOLD_DB = 20.0
"""A threshold below this is no advice: such an image resembles the truth as many others do."""


def above_controls(judgement: Judgement) -> bool:
    """Whether more members come back than chance explains, and so many more that each recovery says something."""
    return judgement.evidence is not None and judgement.evidence.tells


def not_above_controls(judgement: Judgement) -> Reason:
    """That as many may have come back by chance, of those that did; too few controls is a reason of its own."""
    members, controls, evidence = judgement.counted.members, judgement.counted.controls, judgement.evidence
    assert controls is not None
    assert evidence is not None
    came_back, others = members.memorized or members.recovered, controls.memorized or controls.recovered
    look = "Look at the images that came back: each may still be a leak."
    if others.count:
        return Reason(
            "not_above_controls",
            f"so did {of(others)} that it was not trained on",
            "Controls come back too, so that coming back proves little.",
            f"{look} Audit more members and controls.",
        )
    needed = controls_needed(came_back.count, came_back.num, evidence.num_patterns)
    return Reason(
        "not_above_controls",
        f"with {others.num} controls that is too few to tell from chance",
        f"If none was memorized, so many of those that came back are members in {evidence.p_value:.0%} of cases: with "
        f"{others.num} controls that is not rare enough.",
        f"{look} Audit at least {needed} controls: if none of them comes back, "
        f"{'this one is' if came_back.count == 1 else f'these {came_back.count} are'} evidence.",
    )


def about_finding(judgement: Judgement, untrained: Judgement | None) -> list[Reason]:
    """Why a recovered image would prove nothing."""
    doubts = []
    back = judgement.counted.members.memorized or judgement.counted.members.recovered
    # Blind recovery starts from an interpolation, which may beat the inpainter by a hair; gains allow for that.
    if back.count and judgement.gain is None and passes_images_through(judgement):
        doubts.append(identity_like(judgement))
    if judgement.inpainter is None:
        alone = judgement.method == INPAINTER
        doubts.append(
            Reason(
                "no_inpainter",
                "nothing but the inpainter ran" if alone else "no generic inpainter ran",
                "Inpainting knows nothing of the autoencoder, and says nothing of what that has stored."
                if alone
                else "What comes back may be what anyone can fill in without the autoencoder.",
                f"Add {'blind' if alone else INPAINTER} to methods, and patterns that hide pixels, and audit again.",
            )
        )
    return [*doubts, *about_range(judgement), *about_comparison(judgement, untrained)]


def about_comparison(judgement: Judgement, untrained: Judgement | None) -> list[Reason]:
    """Why members and controls cannot be compared: then nothing that tells them apart speaks of memory."""
    doubts = []
    controls = judgement.counted.controls
    num_controls = 0 if controls is None else controls.recovered.num
    if num_controls < MIN_CONTROLS:
        doubts.append(
            Reason(
                "too_few_controls",
                _too_few(num_controls, judgement.num_repeated.get("controls", 0), judgement.failed_controls),
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
                f"The audit finds {untrained.num_memorized} image{'s' if untrained.num_memorized > 1 else ''} in the "
                "weights that the run started from.",
                "If those were trained on the same images before, audit truly untrained weights instead; if not, "
                "distrust this setting: raise threshold_db or the missing fraction until nothing is found at epoch 0.",
            )
        )
    doubts += _doubts_among(judgement, COMPARISON_REMEDIES)
    # Groups of other sizes make other batches.
    return doubts + [one for one in about_output(judgement) if one.code == "depends_on_batch"]


def _too_few(num_controls: int, num_repeated: int, num_failed: int) -> str:
    """That there are too few controls, with those that were left out."""
    if num_failed:
        left_out = f", and {num_repeated} more were left out as repeats" if num_repeated else ""
        return f"recovery failed on {num_failed} of {num_controls + num_failed} controls{left_out}"
    were = "was" if num_repeated == 1 else "were"
    if not num_controls:
        if not num_repeated:
            return "there were no controls"
        controls = "the only control" if num_repeated == 1 else f"all {num_repeated} controls"
        return f"{controls} {were} left out as {'a repeat' if num_repeated == 1 else 'repeats'}"
    left_out = f"; {num_repeated} more {were} left out as {'a repeat' if num_repeated == 1 else 'repeats'}"
    return f"there were too few controls ({num_controls}{left_out if num_repeated else ''})"


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


def about_range(judgement: Judgement) -> list[Reason]:
    """Why reaching the threshold says little: in a tenth of the range all images are alike by 20 dB more."""
    used = judgement.range_used
    if used is None or used >= LEAST_RANGE:
        return []
    as_easy = judgement.threshold_db + 20 * math.log10(used)
    return [
        Reason(
            "narrow_range",
            f"the images use {used:.0%} of their range",
            f"The values of 19 in 20 training images span no more than {used:.0%} of the range that they are given in, "
            f"so that {judgement.threshold_db:g} dB are no harder to reach than {as_easy:.0f} dB of what they use.",
            "Set data_range to the range that the images use (in Python: scale them to [0, 1]), and audit again.",
        )
    ]


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


def returns_other_images(judgement: Judgement) -> bool:
    """Whether even a training image that is given intact does not come back."""
    own = judgement.reconstruction["members"].median_psnr
    return own is None or own < UNTRAINED_PSNR


def about_untested(judgement: Judgement) -> list[Reason]:
    """That many recoveries came to nothing that could be measured."""
    untested = judgement.untested
    if untested is None or untested.count <= MAX_UNDETECTED * untested.num:
        return []
    return [
        Reason(
            "recoveries_diverged",
            f"{of(untested)} recoveries came to nothing",
            f"From every pattern{_showing(judgement)} the recoveries of {of(untested)} training images diverged to NaN "
            "or infinite values, or failed: whether those are stored is not tested.",
            "Audit a function that returns finite values for whatever lies in [0, 1], by clamping what a logarithm or "
            "a division gets.",
        )
    ]


def _showing(judgement: Judgement) -> str:
    """Which patterns, where the inpainter restores what others hide."""
    return "," if judgement.inpainter is None else f" where {judgement.inpainter} inpainting fails,"


def about_lost(judgement: Judgement) -> list[str]:
    """Of recoveries that came to nothing, what is no reason by itself: sentences."""
    said, untested = [], judgement.untested
    if untested is not None and not about_untested(judgement):
        said.append(
            f"From every pattern{_showing(judgement)} the recoveries of {of(untested)} training images came to "
            "nothing: whether those are stored is not tested."
        )
    num = judgement.overall.members.recovered.num
    for pattern, count in judgement.lost.items():
        if len(judgement.patterns) > 1 and count > MAX_UNDETECTED * num:
            said.append(f"From {pattern}, the recoveries of {count} of {num} training images came to nothing.")
    return said


def about_absence(judgement: Judgement) -> list[Reason]:
    """Why images may be memorized all the same that did not come back."""
    members = judgement.reconstruction["members"]
    level = f"{judgement.threshold_db:g} dB"
    if members.median_psnr is None or returns_other_images(judgement):
        return [
            Reason(
                "train_loss_too_high",
                f"the members' mean squared error is too high ({loss(judgement)})",
                "Even given a training image intact, the autoencoder returns something else (median PSNR "
                f"{decibels(members.median_psnr)}). So these weights return no image like those; what they hold in "
                "another form, or what training will make of them, is not tested.",
                "Train, and audit again; as the negative control of a run this is the expected result. A model that "
                "learns to return something else than its input, such as noise, edges or the next frame, is no "
                "autoencoder: pass reconstruct=<a function (module, images)> that makes images of what it returns.",
            )
        ]
    doubts = about_untested(judgement)
    if 2 * members.reaching.count < members.reaching.num:
        doubts.append(
            Reason(
                "reconstruction_below_threshold",
                f"the autoencoder itself does not reach {level}",
                f"Even given a training image intact, the autoencoder reaches {level} on {_few(members.reaching)} "
                f"(median {decibels(members.median_psnr)}, members' MSE {loss(judgement)}), "
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
                f"Of {back.num} training images audited {back.count} came back whole; of all of them up to {high:.0%} "
                "could (95% interval)."
                if back.count
                else f"With {back.num} training images audited, up to {high:.0%} could be memorized and missed by "
                "chance.",
                "Audit more members (raise num_members).",
            )
        )
    return doubts


def _few(share: Proportion) -> str:
    return f"only {of(share)}" if share.count else f"none of {share.num}"


def _lower_threshold(judgement: Judgement, median_psnr: float) -> str:
    """What helps where the autoencoder does not reach the threshold."""
    if median_psnr < LOWEST_THRESHOLD_DB:
        more = f": add {listed(names)}" if (names := untried(judgement, "random-0.9")) else ""
        return f"Train further; until then the recovery gain says more, which needs no threshold{more}."
    return f"Train further, or set threshold_db below {median_psnr:.0f} and audit again."
