"""Compares what training gives the model with what the audit gives it, on some batches in the course of training.

What the first batch has shown need not go on: running statistics, a curriculum, or whatever depends on the epoch,
change what the model gets. On a later batch something may also be there by chance that the first has not shown, such
as a flip of the whole batch: it is told only where all the batches in a row have it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, allclose

from lightning_memaudit.callback.batch_content import are_prepared
from lightning_memaudit.callback.changes import Change
from lightning_memaudit.callback.curves import WORDS, Curve, curve_between
from lightning_memaudit.callback.first_batch import LEAST_DRAWN, MOST_DRAWN, MOST_LOOKED_AT, SAME_AGAIN, FirstBatch
from lightning_memaudit.callback.reading.affine import Affine, as_many, input_behind
from lightning_memaudit.callback.telling import MEND, MEND_CURVE, MEND_SIZE

WINDOW = 3
"""Batches in a row that are looked at."""

NEAR, NOT_FAR = 0.05, 0.1
"""Two maps that differ by no more do nearly the same; and may be of running statistics, from one batch to the next."""

LATER = "later map"
"""The kind of what was told of maps that may be drawn, and that the first batch has not shown."""

LEAST_CHANGED = 12
"""Images that are all flipped or cut by chance, if that is drawn for each, in one of thousands of runs."""


class Shown(NamedTuple):
    """What one batch has shown.

    Attributes:
        kind: "same", "map", "curve", "change", "doubt" or "nothing".
        size: Number of its images.
        text: Of a doubt, or why nothing was compared.
        mend: Of a doubt.
        affine: The map from the images to what the model got.
        curve: Likewise.
        change: Likewise.
        is_exact: Whether the model got what the audit gives it, in each of its values.

    >>> Shown().kind
    'same'
    """

    kind: str = "same"
    size: int = 0
    text: str = ""
    mend: str = MEND
    affine: Affine | None = None
    curve: Curve | None = None
    change: Change | None = None
    is_exact: bool = False


class LaterBatches(FirstBatch):
    """Watches batches in a row: :meth:`begin` and :meth:`end` of each as of the first; then :meth:`conclude`.

    No step of it raises but :class:`Refused`, after the doubt was told.

    >>> from torch import nn, rand
    >>> from lightning_memaudit.callback.inspection import Inspection
    >>> from lightning_memaudit.callback.input_watch import Reached
    >>> from lightning_memaudit.callback.reading.group_reading import read_group
    >>> from lightning_memaudit.callback.reading.reader import Source
    >>> from lightning_memaudit.callback.seen import Normalization
    >>> from lightning_memaudit.callback.telling import Telling
    >>> model, images = nn.Linear(4, 4), rand(8, 1, 2, 2)
    >>> read = read_group(Source("members", images, list(range(8))), None, Normalization(), lambda batch: batch)
    >>> found = Inspection([read])
    >>> later = LaterBatches(model, found, {"": Reached((4,), Affine())}, Affine(), Telling(found).later("in epoch 3"))
    >>> later.begin(images)
    >>> _ = model(2 * images.flatten(1) - 1)  # training_step has come to normalize by itself
    >>> later.end(), later.conclude(), found.doubts[0].text
    (True, None, 'in epoch 3, unlike in the first batch, training_step gives the model (image - 0.5) / 0.5 and the \
audit would give it image')
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.shown: list[Shown] = []
        self._expected: Affine | None = None
        self._now: Shown | None = None

    # What is done otherwise than on the first batch

    def _tell_no_images(self) -> None:
        pass  # the first batch has told it, and of members that are given no more :class:`GivenImages` tells

    def _are_looked_at(self, images: Tensor, batch: Any) -> bool:
        """Not the smaller batch at the end of an epoch, which shows less."""
        if tuple(images.shape[1:]) != self.format.shape:
            return False
        return not self.shown or 2 * len(images) >= self.shown[0].size

    def end(self, stepped: bool = True) -> bool:
        """Compare what reached the layers; False where there was nothing to see yet.

        Args:
            stepped: Whether a loss came of the batch.

        Raises:
            Refused: A doubt was told.
        """
        images, before = self._images, len(self.shown)
        if images is None:  # not looked at, or compared already
            return True
        seen = super().end(stepped)
        if seen and len(self.shown) == before:
            self.shown.append(Shown(size=len(images), is_exact=True))
        return seen

    def _compare(self, images: Tensor, calls: Sequence[Tensor], expected: Affine) -> None:
        self._now, self._expected = Shown(size=len(images), is_exact=self.altered is None), expected
        try:
            super()._compare(images, calls, expected)
        except _Enough:
            pass
        finally:
            self.shown.append(self._now)
            self._now = None

    def _note(self, kind: str, **more: Any) -> None:
        assert self._now is not None
        self._now = self._now._replace(kind=kind, **more)

    def _tell_nothing(self, reason: str) -> None:
        self.shown.append(Shown("nothing", text=reason))

    def _refuse(self, text: str, mend: str = MEND) -> None:
        if self._now is None:
            super()._refuse(text, mend)
        self._note("doubt", text=text, mend=mend)
        raise _Enough

    def doubt(self, text: str, mend: str = MEND) -> None:
        """Let the verdicts know; of what is done to the images, only what all the batches in a row show."""
        if self._now is not None:
            self._note("doubt", text=text, mend=mend)
            return
        self.shown.append(Shown("doubt", text=text, mend=mend))
        if mend not in (MEND, MEND_SIZE):
            super().doubt(text, mend)

    def _may_be_drawn(self, found: Affine, expected: Affine) -> bool:
        if found.close_to(expected, NEAR):
            return False
        self._note("map", affine=found)
        return True

    def _tell_map(self, found: Affine, expected: Affine) -> None:
        if not found.close_to(expected, NEAR):
            self._note("map", affine=found)
            raise _Enough

    def _is_curve(self, images: Tensor, calls: Sequence[Tensor], expected: Affine) -> bool:
        few = slice(0, MOST_LOOKED_AT)
        wanted = expected.apply(images[few])
        found = [(call, one) for call in calls if (one := curve_between(wanted, call[few])) is not None]
        if found and not are_prepared(images, expected.undo(found[0][0][few].to(images)), self.found):
            self._note("curve", curve=found[0][1])
        return bool(found)

    def _tell_change(self, changes: Sequence[Change | None]) -> None:
        if changes and all(changes):
            self._note("change", change=changes[0])

    # What all of them show

    def conclude(self) -> None:
        """Tell what the batches have shown together."""
        shown, self.shown = self.shown, []
        if len(shown) == WINDOW and all(one.kind == "same" and one.is_exact for one in shown):
            self.telling.withdraw()
        if not shown or self.found.doubts:
            return
        last_same = max((place for place, one in enumerate(shown) if one.kind == "same"), default=-1)
        self.telling.gone |= {one.kind for one in shown[: last_same + 1]} - {"same"}
        if last_same >= 0:
            self.telling.in_a_row.clear()
            return
        kinds = {one.kind for one in shown}
        self.telling.in_a_row.update(kinds)
        if any(kind in self.telling.gone and self.telling.in_a_row[kind] < 2 for kind in kinds):
            return  # drawn for each batch, it may by chance have been there for each of these
        tell = {"map": self._tell_maps, "curve": self._tell_curves, "doubt": self._tell_doubts}
        if kinds == {"nothing"}:
            if len(shown) == WINDOW:
                self.telling.nothing_compared(shown[-1].text)
        elif "nothing" not in kinds:
            tell.get(kinds.pop() if len(kinds) == 1 else "", self._tell_changes)(shown)

    def _tell_doubts(self, shown: Sequence[Shown]) -> None:
        self.telling.doubt(shown[-1].text, shown[-1].mend)

    def _tell_maps(self, shown: Sequence[Shown]) -> None:
        maps, expected = [one.affine for one in shown if one.affine is not None], self._expected
        assert expected is not None
        last = maps[-1]
        given = input_behind(last, expected, self.model_input).words("image")
        text = f"training_step gives the model {given} and the audit would give it {self.model_input.words('image')}"
        again = any(last.close_to(one, SAME_AGAIN) for one in maps[:-1])
        is_steady = len(maps) == WINDOW and all(last.close_to(one, NOT_FAR) for one in maps)
        was_steady = is_steady and LATER in self.telling.told and self.telling.in_a_row["map"] > 1
        if again or was_steady or not any(_is_like_drawn(one, expected) for one in maps):
            self.telling.doubt(text)
        elif len(maps) == WINDOW and "map" not in self.telling.gone | self.telling.told:
            self.telling.warn(LATER, f"{self.telling.when} {text}")

    def _tell_curves(self, shown: Sequence[Shown]) -> None:
        curves = [one.curve for one in shown if one.curve is not None]
        if any(curves[-1].goes_on(one) for one in curves[:-1]):
            self.telling.doubt(self._changed(WORDS), MEND_CURVE)

    def _tell_changes(self, shown: Sequence[Shown]) -> None:
        changes = [one.change for one in shown if one.change is not None]
        last = changes[-1] if changes else None
        if last is not None and last.is_fixed and all(_is_same(one, last) for one in changes[:-1]):
            if len(changes) > 1:
                self.telling.doubt(self._changed(last.words))
        elif last is not None and "change" not in self.telling.gone and sum(one.size for one in shown) >= LEAST_CHANGED:
            self.telling.warn("change", f"{self.telling.when} {self._changed(last.words)}")

    @staticmethod
    def _changed(words: str) -> str:
        return (
            f"the training changes its images before the model gets them: those of its newest batches are {words}, "
            "which the audit does not do"
        )


class _Enough(Exception):
    """This batch has shown what is to be told of it."""


def _is_like_drawn(found: Affine, expected: Affine) -> bool:
    """Whether a map is like a brightness or a contrast that augmentation draws."""
    ratios = [one / other for one, other in zip(*as_many(found.slope, expected.slope), strict=True)]
    return all(LEAST_DRAWN < ratio < MOST_DRAWN for ratio in ratios)


def _is_same(one: Change, other: Change) -> bool:
    if one.channels is None or other.channels is None:
        return one.is_fixed and one.channels is other.channels
    return allclose(one.channels, other.channels, rtol=0, atol=SAME_AGAIN)
