"""How a run was read, as sentences: where its images come from, how they were read, what was compared."""

from collections.abc import Mapping
from typing import Any


def reading_sentences(setup: Mapping[str, Any]) -> list[str]:
    """One sentence for each group of images, then the notes of the run; what it did not record is left out.

    Args:
        setup: Of ``report.json``, or the content of ``run.json``.

    >>> members = {"num_images": 100, "source": "train dataloader", "reading": "the first 100 of a fresh iteration"}
    >>> for sentence in reading_sentences({"members": members, "controls": None, "notes": ["The loader changed."]}):
    ...     print(sentence)
    Members: 100 images. Source: train dataloader. Read: the first 100 of a fresh iteration.
    Controls: none.
    The loader changed.
    """
    groups = [_group(group, setup.get(group)) for group in ("members", "controls")] if setup.get("members") else []
    notes = setup.get("notes") or []
    return groups + [str(note) for note in ([notes] if isinstance(notes, str) else notes)]


def identity_gap(run: Mapping[str, Any]) -> str | None:
    """A limit where the controls were not compared with every image that training can reach; None where they were.

    >>> identity_gap({"controls": {"identity_check": {"checked": 5000, "of": 60000}}})
    'Controls were compared with 5,000 of 60,000 images that training can reach; others may equal a control.'
    """
    for group in ("controls", "members"):
        checked, reachable = _identity_check(run.get(group))
        if checked is not None and (reachable is None or checked < reachable):
            among = f"{checked:,}" if reachable is None else f"{checked:,} of {reachable:,}"
            return f"Controls were compared with {among} images that training can reach; others may equal a control."
    return None


def _group(name: str, described: Any) -> str:
    if not isinstance(described, Mapping):
        return f"{name.capitalize()}: none."
    number, available = described.get("num_images"), described.get("num_available")
    count = "" if number is None else f"{number} of {available} images" if _more(available, number) else _images(number)
    parts = [count, *(f"{word}: {described[key]}" for word, key in _PARTS if described.get(key))]
    checked, reachable = _identity_check(described)
    if checked is not None:
        among = "" if reachable is None else " all" if checked >= reachable else f" {checked:,} of the"
        total = checked if reachable is None else reachable
        parts.append(f"Identity check: controls compared with{among} {total:,} images that training can reach")
    text = ". ".join(part.rstrip(". ") for part in parts if part)
    return f"{name.capitalize()}: {text}."


_PARTS = (("Source", "source"), ("Read", "reading"))


def _images(number: Any) -> str:
    return f"{number} image{'' if number == 1 else 's'}"


def _more(available: Any, number: Any) -> bool:
    return isinstance(available, int) and isinstance(number, int) and available > number


def _identity_check(described: Any) -> tuple[int | None, int | None]:
    check = described.get("identity_check") if isinstance(described, Mapping) else None
    if not isinstance(check, Mapping):
        return None, None
    checked, reachable = check.get("checked"), check.get("of")
    return (int(checked) if checked is not None else None), (int(reachable) if reachable is not None else None)
