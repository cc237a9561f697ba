"""What kinds of values there are in results files; of a folder from elsewhere, one of another kind is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_memaudit.results.quantities import NUMBERS
from lightning_memaudit.results.shown_channels import given_channels

_LARGEST = 2**63
_NUMBER = (int, float, type(None))
_OBJECT = (dict, type(None))
_COUNTS = ("position", "image", "num_images", "num_recovered", "num_rows")
_ROW = {
    **dict.fromkeys((*NUMBERS, "train_loss", "seconds"), _NUMBER),
    **dict.fromkeys(("epoch", "step"), (int, type(None))),
    **dict.fromkeys(("certification", "recovered_by_threshold", "cost"), _OBJECT),
    **dict.fromkeys(("trigger", "time", "weights_sha256"), (str, type(None))),
    "threshold_db": (int, float),
    "doubts": (list, type(None)),
    "chain": _OBJECT,
}
_RUN = {
    **dict.fromkeys(("settings", "model", "machine", "versions", "members", "controls", "near_duplicates"), _OBJECT),
    **dict.fromkeys(("notes", "image_shape"), (list, type(None))),
}
_SETTINGS = {
    **dict.fromkeys(("patterns", "methods"), (list, type(None))),
    **dict.fromkeys(("seed", "save_recoveries"), (int, type(None))),
    "method_settings": _OBJECT,
    "threshold_db": _NUMBER,
    "primary_method": (str, type(None)),
}
_GROUP = {
    **dict.fromkeys(("num_images", "num_available"), (int, type(None))),
    **dict.fromkeys(("sha256", "saved_sha256"), (str, type(None))),
    "identity_check": _OBJECT,
}
_CHECKED = dict.fromkeys(("checked", "of"), (int, type(None)))


def check_row(row: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError unless what a row of ``audits.jsonl`` or ``images.jsonl`` holds is of the kind that it must be.

    >>> check_row({"audit": 0, "psnr": 31.5, "position": 3}, Path("images.jsonl"))
    >>> check_row({"audit": 0, "psnr": "31.5"}, Path("images.jsonl"))
    Traceback (most recent call last):
    ValueError: images.jsonl holds psnr='31.5', which is not what an audit writes: restore the file from a copy
    """
    wrong = _wrong(row, _ROW) or next((key for key in _COUNTS if key in row and not _is_count(row[key])), None)
    if wrong is None and not all(_is_doubt(one) for one in row.get("doubts") or ()):
        wrong = "doubts"
    if wrong is not None:
        raise ValueError(_message(path, wrong, row[wrong]))


def check_run(run: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError unless the parts of ``run.json`` that are read are of the kinds that they must be."""
    settings = run.get("settings")
    parts: list[tuple[Any, Mapping[str, tuple[type, ...]]]] = [(run, _RUN), (settings, _SETTINGS)]
    for group in ("members", "controls"):
        described = run.get(group)
        parts.append((described, _GROUP))
        parts.append((described.get("identity_check") if isinstance(described, Mapping) else None, _CHECKED))
    for part, kinds in parts:
        wrong = _wrong(part, kinds) if isinstance(part, Mapping) else None
        if wrong is not None:
            raise ValueError(_message(path, wrong, part[wrong]))
    for key, words in (
        ("notes", run.get("notes")),
        ("patterns", (settings or {}).get("patterns")),
        ("methods", (settings or {}).get("methods")),
    ):
        if not all(isinstance(word, str) for word in words or ()):
            raise ValueError(_message(path, key, words))
    try:
        given_channels((settings or {}).get("show_channels"))
    except ValueError:
        raise ValueError(_message(path, "show_channels", (settings or {}).get("show_channels"))) from None


def check_arrays(arrays: Mapping[str, Any]) -> None:
    """Raise ValueError where an array holds no image at all."""
    for name, array in arrays.items():
        if array.ndim == 0 or not array.size:
            raise ValueError(f"{name} has the shape {array.shape}")


def _wrong(values: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> str | None:
    """The first key whose value is of another kind; a truth value is no number."""
    for key, value in values.items():
        kind = kinds.get(key)
        if kind is not None and (not isinstance(value, kind) or value is True or value is False):
            return key
    return None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _is_doubt(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in ("code", "text"))


def _message(path: Path, key: str, value: Any) -> str:
    text = repr(value)
    short = text if len(text) < 60 else f"{text[:57]}..."
    return f"{path} holds {key}={short}, which is not what an audit writes: restore the file from a copy"
