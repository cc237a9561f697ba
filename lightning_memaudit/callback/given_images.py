"""Which of the audited images the training is given: members that it never gets, and controls that it does get.

What a data set gives to the audit is not always what it gives to the training: caches are filled twice, augmentation
depends on the epoch, data sets are exchanged in the middle of a run, workers share a stream otherwise. So the images of
every training batch are compared with those that are audited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import ceil, exp, sqrt
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from lightning_memaudit.callback.inspection import Inspection
from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.results.evidence import exact_test
from lightning_memaudit.results.own_output import Doubt
from lightning_memaudit.results.training_doubts import CONTROLS_GIVEN, MEMBERS_LEFT_OUT, MEMBERS_NOT_GIVEN, NEARLY_ALL

NUM_PROJECTIONS = 8
"""Random sums of an image's values by which it is known."""

MOST_VALUES = 2**20
"""Of an image, evenly spread, that these sums are made of."""

TOLERANCE = 1e-5
"""Of a sum, as a share of the image's norm: other orders of the sum, and a normalization undone on another device.
Where the run rounds its batches to half precision, that much."""

MOST_WATCHED = 4096
"""Images of a group that are looked for; of more, as many that are evenly spread."""

_DIGITS = 16
"""Of an image's SHA-256, in a checkpoint."""

_CHANCE = 1e-3
"""That a difference between two epochs may have."""


@dataclass
class Epoch:
    """How many images an epoch gave to the training, and which of those that are known.

    Attributes:
        times: (n,) above 0 for each of the known images that was given.
        num_images: All images of its batches.

    >>> Epoch(torch.tensor([2, 0]), 7).which.tolist()
    [True, False]
    """

    times: Tensor
    num_images: int = 0

    @property
    def which(self) -> NDArray[np.bool_]:
        """(n,) whether it was given."""
        return np.asarray((self.times > 0).cpu().numpy())


@dataclass
class GivenImages:
    """Looks at every training batch for the audited images; nothing waits for the device.

    Attributes:
        before: Beginnings of the hashes of images that were given before the run was resumed.
        num_before: Images that the training was given until then.

    >>> from lightning_memaudit.callback.reading.group_reading import read_group
    >>> from lightning_memaudit.callback.reading.reader import Source
    >>> from lightning_memaudit.callback.seen import Normalization
    >>> from lightning_memaudit.measurement.identity import image_hashes
    >>> images = torch.rand(40, 1, 4, 4)
    >>> read = read_group(Source("members", images, list(range(40))), None, Normalization(), lambda batch: batch)
    >>> given = GivenImages()
    >>> given.watch(Inspection([read], {"members": image_hashes(read.group)}))
    >>> given.look(images[:10].clone())
    >>> [doubt.text for doubt in given.doubts(Processes())]
    ['30 of 40 audited members are not among the 10 images that the training was given']
    """

    before: Sequence[str] = ()
    num_before: int = 0
    _found: Inspection = field(default_factory=Inspection)
    _known: "_Known | None" = None
    _places: dict[str, NDArray[np.intp]] = field(default_factory=dict)  # of each group's images among the known ones
    _digests: list[str] = field(default_factory=list)  # of the known ones
    _ever: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    _first: Epoch | None = None
    _newest: Epoch = field(default_factory=lambda: Epoch(torch.zeros(0)))
    _told: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "GivenImages":
        """From :meth:`state_dict`."""
        return cls(list(state["which"]), int(state["num_images"]))

    def state_dict(self) -> dict[str, Any]:
        """Plain Python, which any checkpoint may hold."""
        if self._known is None:
            return {"which": list(self.before), "num_images": self.num_before}
        ever = self._ever | self._newest.which
        which = [digest for digest, given in zip(self._digests, ever, strict=True) if given]
        return {"which": which, "num_images": self.num_before + self._newest.num_images}

    def watch(self, found: Inspection, precision: torch.dtype = torch.float32) -> None:
        """Know the images of an inspection from now on, and what is remembered of them.

        Args:
            found: The images.
            precision: To which the run rounds its batches.
        """
        state = self.state_dict()
        watched = {
            name: [digest[:_DIGITS] for digest in hashes[:: max(1, ceil(len(hashes) / MOST_WATCHED))]]
            for name, hashes in found.hashes.items()
        }
        places = {digest: place for place, digest in enumerate(dict.fromkeys(chain(*watched.values())))}
        self._places = {name: np.asarray([places[one] for one in digests]) for name, digests in watched.items()}
        self._found, self._digests = found, list(places)
        self._known = _Known.of(found, self._places, len(places), precision)
        self.before, self.num_before = state["which"], state["num_images"]
        self._ever = np.isin(self._digests, list(self.before))
        self._first, self._newest = None, Epoch(torch.zeros(len(places), dtype=torch.int32))

    def begin_epoch(self) -> None:
        """What comes from now on is of the next epoch."""
        if self._newest.num_images:
            self._first = self._first or self._newest
            self._ever = self._ever | self._newest.which
            self.num_before += self._newest.num_images
            self._newest = Epoch(torch.zeros_like(self._newest.times))

    @torch.no_grad()
    def look(self, batch: Any) -> None:
        """Count the known images among those of a training batch."""
        if self._known is None:
            return
        images = self._found.reads[0].images_in(batch)
        if images is None:
            return
        self._newest.num_images += len(images)
        if tuple(images.shape[1:]) == self._found.reads[0].format.shape:
            self._newest.times = self._newest.times.to(images.device)
            self._known.count(images, self._newest.times)

    def doubts(self, processes: Processes) -> list[Doubt]:
        """What speaks against taking members for what is trained on as it is audited, and controls for what is not.

        The first time that there is much to say, it is a warning too. All processes call this together.
        """
        if self._known is None or processes.most(self.num_before + self._newest.num_images) == 0:
            return []
        called = processes.gather(self._found.doubts)[0][1]
        members, controls = (self._places.get(name, np.zeros(0, np.intp)) for name in ("members", "controls"))
        parts = [part for _, part in processes.gather((self._ever, self._first, self._newest, self.num_before))]
        ever = np.logical_or.reduce([ever | newest.which for ever, _, newest, _ in parts])
        count = sum(newest.num_images + before for _, _, newest, before in parts)
        found = [
            self._about_missing(int(ever[members].sum()), len(members), count),
            self._about_change(members, [(first, newest) for _, first, newest, _ in parts]),
            self._about_controls(int(ever[controls].sum()), len(controls)),
        ]
        return [*called, *(doubt for doubt in found if doubt is not None)]

    def _about_missing(self, given: int, members: int, count: int) -> Doubt | None:
        read = self._found.reads[0]
        # Members that were passed are often the images as they are before augmentation.
        if given >= NEARLY_ALL * members or (read.source.given and not given):
            return None
        text = (
            f"{members - given} of {members} audited members are not among the {count} images that the training was "
            "given"
        )
        # So many as draws with replacement would have brought by now, and chance takes some away.
        share = 1 - exp(-count / (read.num_available or members))
        expected = NEARLY_ALL * share * members - 3 * sqrt(members * share * (1 - share))
        if given < expected and not (read.random or self._found.changed):
            self._say(MEMBERS_NOT_GIVEN, f"members: {text}: {_MEND}")
        return Doubt(MEMBERS_NOT_GIVEN, text)

    def _about_change(self, members: NDArray[np.intp], epochs: Sequence[tuple[Epoch | None, Epoch]]) -> Doubt | None:
        began = [(first, newest) for first, newest in epochs if first is not None]
        if not began:
            return None
        num_first, num_newest = (sum(epoch.num_images for epoch in part) for part in zip(*began, strict=True))
        first, newest = (
            int(np.logical_or.reduce([epoch.which for epoch in part])[members].sum())
            for part in zip(*began, strict=True)
        )
        is_chance = exact_test(first, len(members), newest, len(members)) > _CHANCE
        if num_newest < NEARLY_ALL * num_first or is_chance or newest > 0.75 * first:
            return None
        text = f"the first epoch gave {first} of {len(members)} audited members to the training, the newest {newest}"
        self._say(MEMBERS_LEFT_OUT, f"members: {text}: pass members=<all images that are trained on>")
        return Doubt(MEMBERS_LEFT_OUT, text)

    def _about_controls(self, given: int, controls: int) -> Doubt | None:
        if not given:
            return None
        text = f"{given} of {controls} controls are among the images that the training was given"
        self._say(CONTROLS_GIVEN, f"controls: {text}: pass controls=<images that are never trained on>")
        return Doubt(CONTROLS_GIVEN, text)

    def _say(self, code: str, text: str) -> None:
        if code not in self._told:
            self._told.add(code)
            rank_zero_warn(text)


_MEND = (
    "the audit read other images than the training gets, as with random augmentation that is cached or depends on the "
    "epoch, or with parts of a stream: pass members=<a data set of images that are trained on>"
)


class _Known:
    """The sums by which images are known."""

    def __init__(self, sums: Tensor, distances: Tensor, weights: Tensor, step: int) -> None:
        self.sums, self.distances, self.weights, self.step = sums, distances, weights, step

    @classmethod
    def of(
        cls, found: Inspection, places: Mapping[str, NDArray[np.intp]], number: int, precision: torch.dtype
    ) -> "_Known":
        """Of all images that were read; of several with one place the last counts."""
        size = torch.Size(found.reads[0].format.shape).numel()
        step = ceil(size / MOST_VALUES)
        weights = torch.randn(ceil(size / step), NUM_PROJECTIONS, generator=torch.Generator().manual_seed(0))
        sums, norms = torch.zeros(number, NUM_PROJECTIONS), torch.zeros(number)
        for read in found.reads:
            images, at = read.group.images, torch.from_numpy(places[read.group.name])
            every, size = ceil(len(images) / MOST_WATCHED), read.group.at_once(512)
            for begin in range(0, len(at), size):
                values = images[every * begin : every * (begin + size) : every].cpu().flatten(1)[:, ::step]
                rows = at[begin : begin + size]
                sums[rows], norms[rows] = values @ weights, values.norm(dim=1)
        return cls(sums, max(TOLERANCE, torch.finfo(precision).eps) * (norms + 1), weights, step)

    def count(self, images: Tensor, times: Tensor) -> None:
        """Add to ``times`` (n,) for each known image that is among ``images`` (B, C, *spatial), on their device."""
        if self.weights.device != images.device:
            self.sums, self.distances = self.sums.to(images.device), self.distances.to(images.device)
            self.weights = self.weights.to(images.device)
        values = images.flatten(1)[:, :: self.step]
        # In double precision on a GPU, where single precision may be rounded to ten bits by the run's own settings.
        precise = torch.float64 if images.is_cuda else torch.float32
        with torch.autocast(images.device.type, enabled=False):
            sums = (values.to(precise) @ self.weights.to(precise)).float()
            times += (torch.cdist(sums, self.sums, p=torch.inf) <= self.distances).sum(0)
