"""What the words of the page mean, as far as the report uses them."""

import re
from collections.abc import Mapping
from typing import Any

from lightning_memaudit.report.labels import TRAIN_LOSS_EXPLAINED

_METHODS = {
    "blind": "The audited attack, without knowledge of the image or of which pixels are missing.",
    "blind_black_box": "Blind recovery that only evaluates the autoencoder and takes no gradients through it.",
    "paper_blind": "Blind recovery exactly as in the paper, without what was added since.",
    "known_mask": "The same recovery, told which pixels are missing: what the attack loses by having to guess.",
    "white_box": "Recovery by gradients through the autoencoder.",
    "autoencoder_iterations": "The autoencoder applied to its own output again and again, an older and simpler attack.",
    "biharmonic": "Smooth inpainting, which knows the mask and nothing of the autoencoder: the yardstick.",
    "ddnm": "Inpainting by a diffusion model that knows images of the kind, and not this autoencoder.",
    "blind_deblurring": "Blind recovery from a blur, which hides no pixels; shown, and never counted as memorized.",
}

_PATTERNS = {
    "random": "random-0.9: nine tenths of the pixels are missing, chosen at random.",
    "block": "block-0.25: one rectangle of a quarter of the image is missing.",
    "blocks": "blocks-0.3: small rectangles, together three tenths of the image, are missing.",
    "slabs": "slabs-0.3: three tenths of the image are missing, in evenly spaced stripes.",
    "stripes": "stripes-0.3: three tenths of the image are missing, in evenly spaced stripes.",
    "rows": "rows-0.3: three tenths of the rows are missing, chosen at random.",
    "columns": "columns-0.3: three tenths of the columns are missing, chosen at random.",
    "half": "half: one half of the image is missing.",
    "strokes": "strokes-0.3: three tenths of the image are missing, under strokes of a pen.",
    "text": "text: lines of letters hide a part of the image.",
    "blur": "blur-1: no pixel is missing; a Gaussian blur with a standard deviation of one pixel.",
}

_MEMBERS_MSE = "Called " + TRAIN_LOSS_EXPLAINED.removeprefix("Members' MSE, ").replace(", is the", ": the", 1)

_ADDED = {
    "+noise": "+noise-0.05: with noise of that standard deviation on top.",
    "+fill": "+fill: what stands in the place of missing pixels, where that is not 0.",
    "+channels": "+channels: another mask for every channel.",
}


def glossary(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Terms and what they mean: those of every report, then its own patterns and methods.

    Args:
        document: The content of ``report.json``.

    >>> judgement = {"threshold_db": 30.0, "gain": None, "inpainter": None}
    >>> rates = [{"pattern": "half", "method": "blind", "certification": None}]
    >>> [term for term, _ in glossary({"judgement": judgement, "rates": rates})][-1]
    'blind'
    """
    judgement, rates = document["judgement"], document["rates"]
    level = f"{judgement['threshold_db']:g} dB"
    terms = [
        ("Member", "An image that the autoencoder was trained on."),
        ("Control", "An image that it was not trained on, treated exactly as the members are."),
        ("PSNR", "Peak signal-to-noise ratio, in decibels: how near two images are. Each 6 dB more halve the error."),
        ("Recovered", f"The image that an attack returns has a PSNR of at least {level} against the truth."),
    ]
    if judgement["inpainter"]:
        terms.append(
            (
                "Memorized",
                "Recovered, and the missing pixels at least 6 dB closer than the best filling without the autoencoder: "
                "what came back must have been in the weights.",
            )
        )
    terms += [
        ("Pattern", "How images were degraded before the attack. " + _patterns(rates)),
        ("Observed", "The degraded image: all that the attack is given."),
        ("Mask", "Which pixels are observed (white) and which are missing (black); the blind attack estimates it."),
        ("Members' MSE", _MEMBERS_MSE),
        ("95% interval", "Made so that it holds the true value in 95 of 100 audits like this one."),
        (
            "AUROC",
            "How often a number is higher for a member than for a control, drawn at random: 0.5 is chance, 1 always.",
        ),
        ("Blind score", "How well a recovery fits the autoencoder and the observation; it needs no truth."),
        ("Negative control", "The same audit of the weights before training, which must find nothing."),
    ]
    if judgement["gain"]:
        terms.append(
            (
                "Recovery gain",
                "By how many dB the missing pixels come back closer than the best filling without the autoencoder.",
            )
        )
    if any(row.get("certification") for row in rates):
        terms.append(("Certificate", "The claim, made without the truth, that a recovery reaches 25 dB."))
    methods = dict.fromkeys(row["method"] for row in rates)
    return terms + [(name.replace("_", " "), _METHODS[name]) for name in methods if name in _METHODS]


def _patterns(rates: Any) -> str:
    names = dict.fromkeys(row["pattern"] for row in rates)
    kinds = dict.fromkeys(re.split("[-+]", name)[0] for name in names)
    added = [words for part, words in _ADDED.items() if any(part in name for name in names)]
    return " ".join([*(_PATTERNS[kind] for kind in kinds if kind in _PATTERNS), *added])
