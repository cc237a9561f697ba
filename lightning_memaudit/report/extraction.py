"""What came out of the weights by itself, for report.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_memaudit.results.extraction import in_words
from lightning_memaudit.results.rows import Row


def read_extraction(rows: Sequence[Row], names: Mapping[tuple[str, int], str]) -> dict[str, Any] | None:
    """The extraction of one audit with a sentence for people, and with the names of its images, where recorded.

    Args:
        rows: Of the audit.
        names: Of images, by group and position.
    """
    found = rows[0].get("extraction") if rows else None
    if not found:
        return None
    images = [
        {**image, **({"name": names[place]} if (place := (image["group"], image["position"])) in names else {})}
        for image in found["images"]
    ]
    return {**found, "images": images, "sentence": in_words(found)}
