"""Certificates in words: which calibration is in force, its rate, and what it does not say."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_memaudit.report.labels import printable


def certificate_sentence(certification: Mapping[str, Any]) -> str:
    """What a certificate claims, or why none was given, as a clause that begins in lower case.

    Args:
        certification: Of a row of ``audits.jsonl``, perhaps one of an old version, which named no source.

    >>> certificate_sentence({"source": "none", "reason": "members and controls differ in contrast"})
    'nothing is certified: members and controls differ in contrast'
    """
    source = certification.get("source") or ("none" if certification["threshold"] is None else "controls")
    reason = printable(str(certification.get("reason") or "")).removesuffix(", so nothing is certified")
    if source == "none":
        return f"nothing is certified: {reason}" if reason else "nothing is certified"
    if source == "the method itself":
        return f"the method certifies by its own rule, how often falsely is not known here: {reason}"
    rate = certification["false_rate"]
    if source == "turned copies":
        controls = "the controls and " if certification.get("num_control_scores") else ""
        return (
            f"judged by {controls}turned copies of the degraded images, about {rate:.1%} of images not trained on are "
            "certified falsely, as far as the copies resemble those, which nothing guarantees "
            f"({reason.partition(', so ')[0]})"
        )
    number = certification["num_control_scores"]
    whose = "a given calibration's" if source == "given" else "the controls'"
    return (
        f"of images from {whose} source that were not trained on, degraded alike, at most {rate:.1%} are certified "
        f"falsely in each pattern (none of {number} controls, 95% interval up to "
        f"{certification['false_rate_high']:.1%})"
    )


def certificate_rows(rates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For every pattern and method that certifies: how many are certified, of these right, and what that claims.

    Args:
        rates: Rows of one audit of ``audits.jsonl``.

    >>> row = {"pattern": "half", "method": "blind", "num_images": 50, "num_certified": 49, "num_certified_true": 48}
    >>> claim = {"source": "none", "reason": "", "threshold": None}
    >>> row |= {"group": "members", "num_certified_recovered": 38, "certification": claim}
    >>> [(one["members"]["num_certified"], one["controls"], one["words"]) for one in certificate_rows([row])]
    [(49, None, 'nothing is certified')]
    """
    controls = {(row["pattern"], row["method"]): row for row in rates if row["group"] == "controls"}
    return [
        {
            "pattern": row["pattern"],
            "method": row["method"],
            "members": {"num_certified_true": None, "num_certified_recovered": None, **row},
            "controls": controls.get((row["pattern"], row["method"])),
            "words": certificate_sentence(row["certification"]),
        }
        for row in rates
        if row["group"] == "members" and row.get("certification") and row.get("num_certified") is not None
    ]
