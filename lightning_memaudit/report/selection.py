"""Which images to show, and everything there is to show of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_memaudit.report.labels import image_name, saved_names
from lightning_memaudit.report.views import hidden_center, picture_of, picture_of_mask
from lightning_memaudit.results.names import primary_method
from lightning_memaudit.results.rows import Row
from lightning_memaudit.results.run_folder import RunFolder

Array = "np.ndarray[Any, Any]"
CAPTION_DIVERGED = "diverged ✗"


@dataclass(frozen=True)
class Outcome:
    """What one method made of one image.

    Attributes:
        image: (C, H, W), see :func:`.picture_of`.
        psnr: In dB; None when it could not be computed.
        recovered: Whether it counts as recovered.
        diverged: Whether the iterations diverged.

    >>> Outcome(np.zeros((1, 25, 25)), psnr=31.24, recovered=True, diverged=False).caption
    '31.2 dB ✓'
    >>> Outcome(np.zeros((1, 25, 25)), psnr=None, recovered=False, diverged=True).caption
    'diverged ✗'
    """

    image: "np.ndarray[Any, Any]"
    psnr: float | None
    recovered: bool
    diverged: bool

    @property
    def caption(self) -> str:
        """PSNR and verdict; the sign repeats what the colour says."""
        if self.diverged:
            return CAPTION_DIVERGED
        quality = "" if self.psnr is None else f"{self.psnr:.1f} dB "
        return f"{quality}{'✓' if self.recovered else '✗'}"


@dataclass(frozen=True)
class Example:
    """One image to show.

    Attributes:
        why: Why it was chosen: ``best``, ``median``.
        group: ``members`` or ``controls``.
        image: Index within its data set.
        name: What a person calls it there, as it was recorded: anything may be in it.
        truth: (C, H, W): of a volume slices through the largest hidden part, like all that follow.
        observed: (C, H, W).
        mask: (1 or C, H, W), as the first method that estimates one has it; None when no method does.
        mask_accuracy: Share of the mask's entries that are right.
        outcomes: By method; a method that failed is left out.

    >>> faces = np.zeros((2, 1, 25, 25))
    >>> arrays = {"members/indices": np.array([7, 9])}
    >>> arrays |= {f"members/{name}": faces for name in ("truth", "half/observed", "half/blind/image")}
    >>> row = {"group": "members", "pattern": "half", "method": "blind", "diverged": False, "mask_accuracy": None}
    >>> rows = [row | {"image": i, "psnr": db, "recovered": db > 30} for i, db in ((7, 12.5), (9, 40.0))]
    >>> [(one.image, one.outcomes["blind"].caption) for one in choose_examples(arrays, rows, "half", ["blind"])]
    [(9, '40.0 dB ✓'), (7, '12.5 dB ✗')]
    """

    why: str
    group: str
    image: int
    name: str
    truth: "np.ndarray[Any, Any]"
    observed: "np.ndarray[Any, Any]"
    mask: "np.ndarray[Any, Any] | None"
    mask_accuracy: float | None
    outcomes: dict[str, Outcome]

    @property
    def kind(self) -> str:
        """``member`` or ``control``."""
        return self.group[:-1]


def saved_images(folder: RunFolder, audit: int, arrays: "Mapping[str, np.ndarray[Any, Any]]") -> list[Row]:
    """The per-image rows of those images of an audit whose recoveries were saved."""
    saved = {
        (group, int(index))
        for group in ("members", "controls")
        for index in arrays.get(f"{group}/indices", np.zeros(0))
    }
    return [row for row in folder.iterate_images(audit) if (row["group"], row["image"]) in saved]


def choose_examples(
    arrays: "Mapping[str, np.ndarray[Any, Any]]",
    images: Sequence[Row],
    pattern: str,
    methods: Sequence[str],
    primary: str | None = None,
    channels: Sequence[int] | None = None,
) -> list[Example]:
    """Members from best to worst by the primary method's PSNR, successes and failures, then two controls.

    Args:
        arrays: The saved recoveries of an audit.
        images: The per-image rows of the same audit.
        pattern: Which degradation.
        methods: In the order of the columns.
        primary: Method to rank by; default by the names of the methods.
        channels: Those to show, see :func:`.chosen`.
    """
    primary = primary or primary_method(list(methods))
    table = {(row["group"], row["image"], row["method"]): row for row in images if row["pattern"] == pattern}
    examples = []
    for group in ("members", "controls"):
        if f"{group}/{pattern}/observed" not in arrays:
            continue
        indices = [int(index) for index in arrays[f"{group}/indices"]]
        names = saved_names(arrays, group)
        quality = [_psnr(table.get((group, index, primary))) for index in indices]
        order = sorted(range(len(indices)), key=lambda row: -quality[row])
        for row, why in _spread_members(order) if group == "members" else _best_and_median(order):
            numbers = table.get((group, indices[row], primary), {})
            name = names[row] if numbers.get("name") is None else image_name(numbers)
            at = center_of(arrays, f"{group}/{pattern}/observed", row)

            def shown(key: str, picture: Any = picture_of, row: int = row, at: Any = at) -> "np.ndarray[Any, Any]":
                return picture(arrays[key][row], at, channels)  # type: ignore[no-any-return]

            outcomes, mask, accuracy = _recovered(arrays, table, group, pattern, methods, indices[row], shown)
            truth, observed = shown(f"{group}/truth"), shown(f"{group}/{pattern}/observed")
            examples.append(Example(why, group, indices[row], name, truth, observed, mask, accuracy, outcomes))
    return examples


def center_of(arrays: "Mapping[str, np.ndarray[Any, Any]]", key: str, row: int) -> tuple[int, ...] | None:
    """Where a volume is cut to be shown: in the largest part that its pattern hides of it, of the truth the first one.

    Args:
        arrays: The saved recoveries.
        key: Of the volume's array in them.
        row: Of the volume.
    """
    group, *rest = key.split("/")
    known = [f"{group}/{rest[0]}/mask"] if len(rest) > 1 else [name for name in arrays if _is_mask(name, group)]
    return hidden_center(arrays[known[0]][row]) if known and known[0] in arrays else None


def _is_mask(name: str, group: str) -> bool:
    return name.startswith(f"{group}/") and name.endswith("/mask") and name.count("/") == 2


def _psnr(row: Row | None) -> float:
    return -np.inf if row is None or row["psnr"] is None or row["diverged"] else float(row["psnr"])


def best_median_worst(order: Sequence[int]) -> list[tuple[int, str]]:
    """Of a ranking from the best to the worst: best, median and worst, each once, by what tells most of a few.

    >>> best_median_worst([7, 5, 9]), best_median_worst([7, 5]), best_median_worst([7])
    ([(7, 'best'), (5, 'median'), (9, 'worst')], [(7, 'best'), (5, 'worst')], [(7, 'the only one')])
    """
    last = len(order) - 1
    return _placed(order, ((0, "best"), (last, "worst"), (last // 2, "median")))


def _spread_members(order: Sequence[int]) -> list[tuple[int, str]]:
    """Best, median, worst, and between them; every image once."""
    last = len(order) - 1
    named = [(0, "best"), (last, "worst"), (last // 2, "median")]
    if last >= 4:
        named += [(last // 4, "upper quarter"), (3 * last // 4, "lower quarter")]
    if last >= 7:
        named.append((last - 1, "2nd worst"))
    return _placed(order, named)


def _best_and_median(order: Sequence[int]) -> list[tuple[int, str]]:
    """The median of two would be the worst."""
    last = len(order) - 1
    return _placed(order, ((0, "best"), (last, "worst") if last == 1 else (last // 2, "median")))


def _placed(order: Sequence[int], named: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Images by their places in the ranking; where two names are of one place, the first."""
    if len(order) == 1:
        return [(order[0], "the only one")]
    places: dict[int, str] = {}
    for place, word in named:
        places.setdefault(place, word)
    return [(order[place], places[place]) for place in sorted(places)]


def shown_methods(rows: Sequence[Row], pattern: str, primary: str) -> list[str]:
    """The methods of a pattern, the audited one first; where that did not run on it, in their own order.

    Args:
        rows: Of one audit.
        pattern: Which.
        primary: The audited method.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows if row["pattern"] == pattern))
    return sorted(methods, key=lambda method: method != primary)


def _recovered(
    arrays: "Mapping[str, np.ndarray[Any, Any]]",
    table: Mapping[tuple[str, int, str], Row],
    group: str,
    pattern: str,
    methods: Sequence[str],
    index: int,
    shown: "Callable[..., np.ndarray[Any, Any]]",
) -> "tuple[dict[str, Outcome], np.ndarray[Any, Any] | None, float | None]":
    """What each method made of an image, the first estimate of the mask, and how much of that is right."""
    outcomes = {}
    mask, accuracy = None, None
    for method in methods:
        numbers = table.get((group, index, method))
        key = f"{group}/{pattern}/{method}/image"
        if key not in arrays or numbers is None or numbers.get("failed"):
            continue
        outcomes[method] = Outcome(shown(key), numbers["psnr"], bool(numbers["recovered"]), bool(numbers["diverged"]))
        if mask is None and numbers["mask_accuracy"] is not None:
            mask = shown(f"{group}/{pattern}/{method}/mask", picture_of_mask)
            accuracy = float(numbers["mask_accuracy"])
    return outcomes, mask, accuracy
