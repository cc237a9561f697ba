"""Which of the audited images the training is given: members that it never gets, and controls that it does get.

What a data set gives to the audit is not always what it gives to the training: caches are filled twice, augmentation
depends on the epoch, data sets are exchanged in the middle of a run, workers share a stream otherwise. So the images of
every training batch are compared with those that are audited.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from math import ceil
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_memaudit.callback.given_record import DIGITS, Epoch, GivenRecord, Members
from lightning_memaudit.callback.inspection import Inspection
from lightning_memaudit.callback.learned_rows import LearnedRows
from lightning_memaudit.callback.reading.group_reading import ReadGroup
from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.results.own_output import Doubt
from lightning_memaudit.results.training_doubts import (
    CONTROLS_GIVEN,
    MEMBERS_LEFT_OUT,
    MEMBERS_NOT_GIVEN,
    MEMBERS_WITHOUT_LOSS,
    NEARLY_ALL,
)

NUM_PROJECTIONS = 8
"""Random sums of an image's values by which it is known."""

MOST_VALUES = 2**17
"""Of an image, evenly spread, that these sums are made of."""

TOLERANCE, HALF_TOLERANCE = 1e-5, 1e-3
"""Of a sum, as a share of the image's norm: other orders of the sum, and a normalization undone on another device; and
what that makes of values between two numbers in half precision."""

MOST_OF_THE_FIRST = 32
"""Images of the first batch that are looked for again, to see whether the training changes its images."""

MOST_WATCHED = 4096
"""Images of a group that are looked for; of more, as many that are evenly spread."""


@dataclass
class GivenImages:
    """Looks at every training batch for the audited images; on a GPU, nothing waits for it.

    Attributes:
        record: What is known of them, which grows at the ends of epochs.

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
    ["30 of 40 audited members are not among the 10 images that were seen in the training's batches"]
    """

    record: GivenRecord = field(default_factory=GivenRecord)
    _found: Inspection = field(default_factory=Inspection)
    _digests: dict[str, list[str]] = field(default_factory=dict)  # of each group's watched images
    _watched: list[str] = field(default_factory=list)
    _known: "_Known | None" = None
    _num_images: int = 0  # of the epoch so far
    _shapes: set[tuple[int, ...]] = field(default_factory=set)  # of these
    _failure: str | None = None
    _told: set[str] = field(default_factory=set)
    _learned: LearnedRows | None = None

    def watch(self, found: Inspection, precision: torch.dtype = torch.float32) -> None:
        """Look for the images of an inspection from now on.

        Args:
            found: The images.
            precision: To which the run rounds its batches.
        """
        self._found, self._num_images, self._shapes = found, 0, set()
        # Controls of another size are none of the batches' images.
        reads = [read for read in found.reads if read.format.shape == found.reads[0].format.shape]
        self._digests = {
            read.group.name: [digest[:DIGITS] for digest in found.hashes[read.group.name][:: _step_over(read)]]
            for read in reads
        }
        digests = list(dict.fromkeys(chain(*self._digests.values())))
        places = {digest: place for place, digest in enumerate(digests)}
        rows = {name: torch.tensor([places[one] for one in some]) for name, some in self._digests.items()}
        self._watched, self._known = digests, _Known(reads, len(digests), rows, precision)
        self.record.watch(digests)

    @torch.no_grad()
    def look(self, batch: Any) -> None:
        """Count the known images among those of a training batch; what goes wrong with that stops it, no training."""
        if self._known is None:
            return
        try:
            read = self._found.reads[0]
            images = read.arranged_in(batch)
            if images is not None:
                self._num_images += len(images)
                self._shapes.add(tuple(images.shape[1:]))
                self._known.count(images)
                if self._learned is not None:
                    self._learned.begin(len(images))
            for path in read.source.others:  # of other train dataloaders
                images = read.arranged_at(batch, path)
                if images is not None:
                    self._num_images += len(images) if read.source.given else 0
                    self._known.count(images)
        except Exception as error:
            self._known, self._failure = None, f"{type(error).__name__}: {' '.join(str(error).split())}"

    @torch.no_grad()
    def end_step(self, layer: nn.Module | None, stepped: bool = False) -> None:
        """Note which of the known images the step has learned from.

        Args:
            layer: From which what becomes of the images comes; None where that is not known.
            stepped: Whether only a loss has come of it so far.
        """
        learned = self._learned
        if stepped:
            if learned is not None:
                learned.see_loss()
            return
        if learned is not None:
            learned.end()
            if self._known is not None:
                self._known.learn(learned.rows())
        if learned is None or learned.layer is not layer:
            self._learned = None if layer is None else LearnedRows(layer)

    def close(self) -> None:
        """Stop watching."""
        if self._learned is not None:
            self._learned.end()

    def end_epoch(self, processes: Processes) -> None:
        """Let the record know what the epoch so far has given, in all processes; these call it together."""
        which, repeats = (None, None) if self._known is None else self._known.take()
        mine_learned = None if self._known is None else self._known.take_learned()
        mine = (
            *(self._num_images, which, repeats, self._found.doubts, self._failure, self._found.prepared, mine_learned),
            self._shapes,
        )
        self._num_images, self._shapes = 0, set()
        parts = [part for _, part in processes.gather(mine)]
        self._found.prepared = any(part[5] for part in parts)
        given = [part[1] for part in parts if part[1] is not None]
        if failure := next((part[4] for part in parts if part[4] is not None), None):
            self.record.excuse()
            self._say_once(
                "failure", f"members: whether they are in the training's batches could not be seen: {failure}"
            )
        if given:
            both = zip(self._watched, np.logical_or.reduce(given), strict=True)
            digests = frozenset(digest for digest, one in both if one)
            again = [part[2] for part in parts if part[2] is not None]
            self.record.add(Epoch(sum(part[0] for part in parts), digests, all(again) if again else None))
            learned = [np.logical_or.reduce(some) for some in zip(*(part[6] for part in parts if part[6]), strict=True)]
            self.record.see_shapes(set().union(*(part[7] for part in parts)), self._found.reads[0].format.shape)
            self.record.learn(*({self._watched[place] for place in np.flatnonzero(some)} for some in learned))
        if self._found.called:
            self.record.called = list(dict.fromkeys(chain(*(part[3] for part in parts))))

    def doubts(self, processes: Processes) -> list[Doubt]:
        """What speaks against taking members for what is trained on as it is audited, and controls for what is not.

        The first time that there is much to say, it is a warning too. All processes call this together.
        """
        self.end_epoch(processes)
        if not self._digests:
            return list(self.record.called)
        read = self._found.reads[0]
        members = Members(self._digests["members"], _num_available(read), read.source.certain, passed=read.source.given)
        found = self.record.doubts(members, self._digests.get("controls", []))
        if self._found.prepared:  # as training_step makes them of images that no batch holds so
            found = [doubt for doubt in found if doubt.code != MEMBERS_NOT_GIVEN]
        for doubt in found:
            is_told = read.random or self._found.changed  # by what was read twice, or by the first batch
            if doubt.code in _MENDS and not (doubt.code == MEMBERS_NOT_GIVEN and is_told):
                group, mend = _MENDS[doubt.code]
                self._say_once(doubt.code, f"{group}: {doubt.text}: {mend}")
        return found

    def _say_once(self, about: str, text: str) -> None:
        if about not in self._told:
            self._told.add(about)
            rank_zero_warn(text)


_MENDS = {
    MEMBERS_NOT_GIVEN: (
        "members",
        "the audit seems to have read other images than the training gets, as with random augmentation that is cached "
        "or depends on the epoch, or with parts of a stream: pass members=<a data set of images that are trained on>",
    ),
    MEMBERS_WITHOUT_LOSS: ("members", "pass members=<a data set of the images that the loss is made of>"),
    MEMBERS_LEFT_OUT: ("members", "pass members=<all images that are trained on, as they are at last>"),
    CONTROLS_GIVEN: ("controls", "pass controls=<images that are never trained on>"),
}


def _num_available(read: ReadGroup) -> int | None:
    """Images that the training chooses from."""
    if not read.source.given:
        return read.num_available
    try:
        return len(read.source.loader.dataset)
    except (AttributeError, TypeError, NotImplementedError):
        return None


def _step_over(read: ReadGroup) -> int:
    """Every how many images of a group one is looked for."""
    return max(1, ceil(len(read.group.images) / MOST_WATCHED))


class _Known:
    """The sums by which images are known, and how often each was found.

    Args:
        reads: The groups.
        number: Of different images.
        rows: Of each group's watched images, their places.
        precision: To which the run rounds its batches.
    """

    def __init__(self, reads: list[ReadGroup], number: int, rows: Mapping[str, Tensor], precision: torch.dtype) -> None:
        form = reads[0].format
        self.shape, size = form.shape, torch.Size(form.shape).numel()
        self.every = ceil(size / MOST_VALUES)
        like: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever the run's own defaults are
        generator = torch.Generator("cpu").manual_seed(0)
        self.weights = torch.randn(ceil(size / self.every), NUM_PROJECTIONS, generator=generator, **like)
        self.mean, self.std = (
            torch.tensor(list(one or default), **like).expand(self.shape[0]).view(-1, *(1,) * (len(self.shape) - 1))
            for one, default in ((form.normalization.mean, [0.0]), (form.normalization.std, [1.0]))
        )
        self.is_plain = form.normalization.is_identity
        # A normalization that was found, not given, is the work of a hook, which may calculate in half precision.
        is_half = torch.finfo(precision).bits < 32 and form.dtype.is_floating_point
        tolerance = TOLERANCE if not is_half else torch.finfo(precision).eps if form.inferred else HALF_TOLERANCE
        self.sums, self.distances = torch.zeros(number, NUM_PROJECTIONS, **like), torch.zeros(number, **like)
        self.times = torch.zeros(number, dtype=torch.int64, device="cpu")
        self.learned, self.not_learned = self.times.bool(), self.times.bool()  # of the times that it is known
        self.newest: Tensor | None = None  # (B, number) which these are in the newest batch
        for read in reads:
            step, at_once = _step_over(read), read.group.at_once(512)
            for begin in range(0, len(rows[read.group.name]), at_once):
                images = read.group.images[step * begin : step * (begin + at_once) : step].to(**like)
                stored = (images - self.mean) / self.std
                some = rows[read.group.name][begin : begin + at_once]
                self.sums[some] = self._sums(stored.to(precision) if is_half else stored)
                # What is stored is rounded relative to its distance from the mean.
                norms = [one.flatten(1)[:, :: self.every].norm(dim=1) for one in (images, images - self.mean)]
                self.distances[some] = tolerance * (norms[0] + norms[1] + 1)
        self.first: Tensor | None = None  # sums of the first batch, and how near is the same
        self.first_distances, self.first_times = self.distances[:0], self.times[:0]
        self.is_first_epoch = True

    def count(self, images: Tensor) -> None:
        """Note the known images among images (B, C, *spatial) as they stand in a batch."""
        self.newest = None
        if tuple(images.shape[1:]) != self.shape:
            return
        if self.weights.device != images.device:
            self._move(images.device)
        with torch.autocast(images.device.type, enabled=False):
            sums = self._sums(images)
            self.newest = self._near(sums, self.sums, self.distances)
            self.times += self.newest.sum(0)
            if self.first is None:
                self.first = sums[:MOST_OF_THE_FIRST]
                self.first_distances = TOLERANCE * (self.first.abs().amax(1) + 1)
                self.first_times = torch.zeros(len(self.first), dtype=torch.int64, device=images.device)
            self.first_times += self._near(sums, self.first, self.first_distances).sum(0)

    def learn(self, rows: Tensor | None) -> None:
        """Note of which images (B,) of the newest batch there were gradients; None where nobody knows."""
        newest, self.newest = self.newest, None
        if newest is not None and rows is not None and len(rows) == len(newest):
            rows = rows.to(newest.device)[:, None]
            self.learned |= (newest & rows).any(0)
            self.not_learned |= (newest & ~rows).any(0)

    def _sums(self, stored: Tensor) -> Tensor:
        """(B, sums) of images as they stand in a batch."""
        images = stored.float() if self.is_plain else stored.float() * self.std + self.mean
        values = images.flatten(1)[:, :: self.every]
        return (values.to(self.weights.dtype) @ self.weights).float()

    @staticmethod
    def _near(sums: Tensor, known: Tensor, distances: Tensor) -> Tensor:
        return torch.cdist(sums, known, p=torch.inf) <= distances

    def _move(self, device: torch.device) -> None:
        """In double precision on a GPU, where single precision may be rounded to ten bits by the run's settings."""
        for name in ("sums", "distances", "times", "learned", "not_learned", "weights", "mean", "std"):
            setattr(self, name, getattr(self, name).to(device))
        self.weights = self.weights.to(torch.float64) if device.type == "cuda" else self.weights

    def take(self) -> tuple[NDArray[np.bool_], bool | None]:
        """(n,) which were found since this was asked for before; and whether the first images came again."""
        which, repeats = (self.times > 0).cpu().numpy(), None
        if not self.is_first_epoch and len(self.first_times):
            repeats = bool((self.first_times > 0).float().mean() >= NEARLY_ALL)
        if self.first is not None:
            self.is_first_epoch = False
        self.times.zero_()
        self.first_times.zero_()
        return which, repeats

    def take_learned(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(n,) which were learned from since this was asked for before; and which were in a batch but left out."""
        found = self.learned.cpu().numpy().copy(), self.not_learned.cpu().numpy().copy()
        self.learned.zero_()
        self.not_learned.zero_()
        return found
