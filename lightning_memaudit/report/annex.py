"""The annex of the page, for those who assess what a model means for the people in its training data.

It says in words what was tested, on whose images, with which power, and what that does not show. Everything in it is
taken from ``report.json``; what that does not know is said to be for the reader to add.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lightning_memaudit.report.labels import printable
from lightning_memaudit.report.reading import reading_sentences
from lightning_memaudit.results.intervals import clopper_pearson


class Part(NamedTuple):
    """One question and its answer.

    Attributes:
        question: The heading.
        sentences: The answer.

    >>> Part("What was tested?", ["One attack."]).question
    'What was tested?'
    """

    question: str
    sentences: list[str]


def annex(document: Mapping[str, Any]) -> list[Part]:
    """Questions of a data-protection impact assessment, answered as far as the audit answers them.

    Args:
        document: The content of ``report.json``.
    """
    return [
        Part("What was tested?", _tested(document)),
        Part("On whose images?", _images(document)),
        Part("What was found?", _found(document)),
        Part("With which power?", _power(document)),
        Part("What does it not show?", [*document["limits"], *_not_shown(document)]),
        Part("How can this be checked?", _checked(document)),
    ]


def _tested(document: Mapping[str, Any]) -> list[str]:
    judgement, model = document["judgement"], document["setup"].get("model") or {}
    name, number = model.get("class"), model.get("num_parameters")
    what = "a model that was not described" if not name else f"the model {printable(str(name))}"
    patterns = ", ".join(one["pattern"] for one in judgement["patterns"])
    counted = f"when it matches the original with a PSNR of at least {judgement['threshold_db']:g} dB"
    if judgement["inpainter"]:
        counted += " and is at least 6 dB closer, where pixels were missing, than anything filled in without the model"
    digest = judgement["weights_sha256"]
    weights = f"its weights have the SHA-256 {digest}" if digest else "no SHA-256 of its weights was recorded"
    sentences = [
        f"Whether {what}{'' if number is None else f' ({number:,} parameters)'} gives back images that it was trained "
        f"on, at audit {judgement['audit']} ({judgement['time'] or 'time not recorded'}); {weights}.",
        f"Images were degraded ({patterns}), and whoever holds the weights and a degraded image was imitated, by the "
        f"method {judgement['method'].replace('_', ' ')}: the model alone was used to restore it. An image counts as "
        f"given back {counted}.",
    ]
    if document["extraction"]:
        sentences.append("Whether images come out of the weights by themselves, from noise, was tested as well.")
    return sentences


def _images(document: Mapping[str, Any]) -> list[str]:
    sentences = reading_sentences({**document["setup"], "notes": []})
    duplicates = document["near_duplicates"]
    if duplicates:
        members, controls = (len(duplicates.get(group) or ()) for group in ("members", "controls"))
        sentences.append(
            f"{members} members nearly equal another member, and {controls} controls nearly equal a member (PSNR of at "
            f"least {duplicates['psnr_db']:g} dB): images that occur several times are remembered more easily."
        )
    return [
        *(sentences or ["The results do not record where the images come from."]),
        "Whether they show people, who these are, and on which basis their images are processed, the audit cannot "
        "know: it is to be added here.",
    ]


def _found(document: Mapping[str, Any]) -> list[str]:
    verdict = document["verdict"]
    parts = [verdict["headline"], *verdict["why"], verdict["found"], verdict["certainty"], *verdict["cautions"]]
    if document["extraction"]:
        parts.append(document["extraction"]["sentence"])
    if verdict["outcome"] == "memorized":
        parts.append(
            "Which images came back is in the table of images, by name where names were recorded; what is stored of "
            "the others is not known."
        )
    return [part for part in parts if part]


def _power(document: Mapping[str, Any]) -> list[str]:
    judgement = document["judgement"]
    members, controls = judgement["counted"]["members"]["recovered"], judgement["counted"]["controls"]
    sentences = [
        f"{members['num']} training images were tried. Had none of so many come back, up to "
        f"{_none_of(members['num'])} of all training images could still do so (upper end of the 95% interval)."
    ]
    number = controls["recovered"]["num"] if controls else 0
    sentences.append(
        f"{number} images that were not trained on stood beside them: had none of them come back, up to "
        f"{_none_of(number)} of such images may; false alarms rarer than 1 in {number + 1} cannot be told from none."
        if number
        else "No images that were not trained on stood beside them, so that nothing says what comes back anyway."
    )
    reached = judgement["reconstruction"]["members"]["reaching"]
    sentences.append(
        f"Given intact, {reached['count']} of {reached['num']} training images come out of the model at "
        f"{judgement['threshold_db']:g} dB or more; hardly any other could have counted."
    )
    testable = judgement["testable"]
    if testable:
        sentences.append(
            f"{testable['count']} of {testable['num']} could not be filled in from every pattern without the model, "
            "so that coming back would have said something."
        )
    before = document["negative_control"]
    sentences.append(
        "The weights before training were not audited in this run."
        if before is None or before["passed"] is None
        else f"Of the weights before training the same audit finds {before['num_memorized']} of {before['num_images']}"
        + (", as it must." if before["passed"] else ", which it must not: distrust what was found.")
    )
    return sentences


def _none_of(number: int) -> str:
    high = clopper_pearson(0, number)[1]
    return "all" if high is None else f"{high:.1%}"


def _not_shown(document: Mapping[str, Any]) -> list[str]:
    whose = "what anyone may do" if document["verdict"]["outcome"] == "memorized" else "that the weights are anonymous"
    return [
        f"It does not show {whose} under any law: whether an image or the weights are personal data, which risk is "
        "acceptable and what is to be done is for those to judge who answer for the processing.",
        "Other models that were trained on the same images, and other copies of these weights, were not looked at.",
    ]


def _checked(document: Mapping[str, Any]) -> list[str]:
    tool = document["tool"]
    return [
        f"All numbers are from report.json, written by {tool['name']} {tool['version']}. It carries the SHA-256 "
        f"{document['report_sha256']}, which is that of its content without this entry, not that of the file.",
        "The command python -m lightning_memaudit verify RUN scores the saved recoveries again, and compares the "
        "weights with a checkpoint. It shows that the report follows from what was saved, not who saved it.",
    ]
