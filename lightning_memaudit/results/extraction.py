"""What came out of an autoencoder when nothing went in: which images, from how many starts, and how many are missed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lightning_memaudit.results.cells import Array, Columns
from lightning_memaudit.results.unseen import chao

MARGIN_DB = 6.0
"""By so much a fixed point must be nearer to an image than a trivial copy of the image is."""

MAX_LISTED = 1000
"""Images that the results files list."""


class Nearest(NamedTuple):
    """To each of K fixed points the nearest image of some group, or of a process's part of it.

    Attributes:
        group: ``members`` or ``controls``.
        psnr: (K,) of the fixed point and the image, in dB; minus infinity where there are no images.
        trivial_psnr: (K,) of the image and its nearest trivial copy, in dB.
        position: (K,) of the image within its group; -1 where there are no images.
        image: (K,) index in its data set.
        name: (K,) what a person calls it there.
        truth: The image itself, by K; only where the fixed point comes near enough to count.
        num_images: Images that were compared.

    >>> none = np.zeros(0)
    >>> Nearest("controls", none, none, none, none, [], truth={}, num_images=5).num_images  # no fixed points
    5
    """

    group: str
    psnr: Array
    trivial_psnr: Array
    position: Array
    image: Array
    name: Sequence[str]
    truth: dict[int, Array]
    num_images: int


@dataclass(frozen=True)
class ExtractionReport:
    """Images that came out by themselves.

    Attributes:
        summary: Numbers of the search and of what it found; also in every row of the audit, as ``extraction``.
        images: One row per image that came out, ``group``, ``image``, ``name``, ``position``, ``psnr`` in dB,
            ``basin`` (starts that ended at it) and ``share`` of the starts; members first, the largest basin first.
        pictures: ``extraction/truth`` and ``extraction/image``, (n, C, *spatial) both, of the first of those images.

    >>> nearest = Nearest("members", np.array([40.0]), np.array([9.0]), np.zeros(1), np.array([7]), ["7"], {}, 3)
    >>> summary = {"threshold_db": 30.0, "num_starts": 4}
    >>> report = ExtractionReport.of(summary, [nearest], basin=[4], points=np.zeros((1, 1, 8, 8)), num_pictures=0)
    >>> report.num_extracted, report.summary["num_members"], report.images[0]["share"]
    (1, 3, 1.0)
    """

    summary: dict[str, Any]
    images: list[dict[str, Any]] = field(default_factory=list)
    pictures: Columns = field(default_factory=dict)

    @property
    def num_extracted(self) -> int:
        """Members that came out."""
        return int(self.summary["num_extracted"])

    def to_dict(self) -> dict[str, Any]:
        """What the rows of the audit hold: the summary, and the first :data:`MAX_LISTED` of the images."""
        listed = [{key: row[key] for key in ("group", "image", "position", "psnr", "basin")} for row in self.images]
        return {**self.summary, "images": listed[:MAX_LISTED]}

    @staticmethod
    def of(
        summary: dict[str, Any],
        nearest: Sequence[Nearest],
        basin: Sequence[int],
        points: Array,
        num_pictures: int,
    ) -> "ExtractionReport":
        """Join what the processes found in their parts of the groups.

        A fixed point counts for the one image that it is nearest to, of all members and controls, if it comes as near
        as the threshold asks, and by :data:`MARGIN_DB` nearer than a trivial copy of that image does.

        Args:
            summary: Numbers of the search, with ``threshold_db`` and ``num_starts``.
            nearest: One per group and process.
            basin: (K,) starts that ended at each fixed point.
            points: (K, C, *spatial) the fixed points.
            num_pictures: Images to keep pictures of.
        """
        threshold, num_starts = summary["threshold_db"], max(1, summary["num_starts"])
        groups = list(dict.fromkeys(one.group for one in nearest))
        found: dict[tuple[str, int], dict[str, Any]] = {}
        truths: dict[tuple[str, int], Array] = {}
        smooth: set[tuple[str, int]] = set()
        for point in range(len(basin)):
            best = max(nearest, key=lambda one: (one.psnr[point], one.group == "members", -one.position[point]))
            psnr, place = float(best.psnr[point]), (best.group, int(best.position[point]))
            if not psnr >= threshold:
                continue
            if psnr < best.trivial_psnr[point] + MARGIN_DB:
                smooth.add(place)
                continue
            row = found.setdefault(
                place,
                {
                    "group": best.group,
                    "image": int(best.image[point]),
                    "name": best.name[point],
                    "position": place[1],
                    "psnr": -np.inf,
                    "basin": 0,
                    "point": point,
                },
            )
            row["basin"] += int(basin[point])
            if psnr > row["psnr"]:
                row["psnr"], row["point"] = psnr, point
            if point in best.truth:
                truths[place] = best.truth[point]
        order = sorted(found, key=lambda place: (place[0] != "members", -found[place]["basin"], place[1]))
        rows = [found[place] | {"share": found[place]["basin"] / num_starts} for place in order]
        shown = [place for place in order if place in truths][:num_pictures]
        pictures: Columns = {}
        if shown:
            pictures["extraction/truth"] = np.stack([truths[place] for place in shown])
            pictures["extraction/image"] = np.stack([points[found[place]["point"]] for place in shown])
        counts = {group: sum(one.num_images for one in nearest if one.group == group) for group in groups}
        extracted = {group: [row for row in rows if row["group"] == group] for group in groups}
        num_members = counts.get("members", 0)
        basins = [row["basin"] for row in extracted.get("members", [])]
        unseen = chao(basins, at_most=num_members - len(basins))
        return ExtractionReport(
            {
                **summary,
                "num_members": num_members,
                "num_extracted": len(basins),
                "num_controls": counts.get("controls"),
                "num_controls_extracted": len(extracted["controls"]) if "controls" in groups else None,
                "num_too_smooth": len(smooth - found.keys()),
                "num_hits": sum(basins),
                "unseen": unseen.value,
                "unseen_low": unseen.low,
                "unseen_high": unseen.high,
            },
            [{key: value for key, value in row.items() if key != "point"} for row in rows],
            pictures,
        )


def in_words(summary: dict[str, Any]) -> str:
    """One sentence for people: how many came out, of how many starts, of controls, and how many more there may be."""
    members, extracted = summary["num_members"], summary["num_extracted"]
    if summary["identity_like"]:
        return (
            f"Nothing can be said of what comes out of these weights by themselves: they return whatever goes in "
            f"nearly as it is ({summary['num_starts']} starts)."
        )
    come = "comes" if extracted == 1 else "come"
    text = f"{extracted} of {members} training images {come} out of these weights by themselves, from "
    text += f"{summary['num_starts']} starts that know no image"
    if summary["num_controls"] is not None:
        text += f"; controls {summary['num_controls_extracted']} of {summary['num_controls']}"
    if summary["num_settled"] < summary["num_starts"] / 2:
        text += f"; only {summary['num_settled']} of the starts came to rest"
    if extracted and extracted < members:
        text += (
            f"; about {summary['unseen']:.0f} more unseen that such starts would bring (95% CI "
            f"{summary['unseen_low']:.0f} to {summary['unseen_high']:.0f})"
            if round(summary["unseen_high"])
            else "; nothing points to more that such starts would bring, but rare ones leave no trace"
        )
    if summary["num_too_smooth"]:
        text += f"; {summary['num_too_smooth']} left out, too smooth to tell"
    return text + "."
