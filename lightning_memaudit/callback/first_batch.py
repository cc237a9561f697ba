"""Compares what training really gives the model with what the audit gives it, on the first batch of the training.

The audit sees what the batch holds; what ``training_step`` does with it, such as a normalization of its own, it cannot
see. But the layers can: the same images must reach them with the same values.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_memaudit.callback.batch_content import are_members, check_content, check_range
from lightning_memaudit.callback.calls import FirstCalls
from lightning_memaudit.callback.changes import Change, change_between, is_noisy
from lightning_memaudit.callback.curves import WORDS, Curve, curve_between
from lightning_memaudit.callback.given_again import Altered, altered, holds
from lightning_memaudit.callback.input_watch import Arrival, Call, InputWatch, Reached, like_images
from lightning_memaudit.callback.inspection import Inspection
from lightning_memaudit.callback.reading.affine import Affine, as_many, fit_exact, fit_nearly, input_behind, likely_line
from lightning_memaudit.callback.reading.items import tensors_in
from lightning_memaudit.callback.several_loaders import follow_members, other_images, really_given
from lightning_memaudit.callback.telling import MEND, MEND_CALL, MEND_CURVE, MEND_SIZE, Telling

LEAST_DRAWN, MOST_DRAWN = 0.51, 1.49
"""Factors that augmentation draws for brightness and contrast lie between these, as a rule."""

SAME_AGAIN = 1e-3
"""Two batches whose maps differ by no more were changed in the same way; of random ones that is rare."""

MOST_LOOKED_AT = 16
"""Images of the batch at which is looked for what was done to them."""

FAR = 0.5
"""How far beyond the values that the audit gives the model noise may bring those of the training, of their range."""


class FirstBatch:
    """Watches the first training batch; :meth:`begin` before ``training_step``, :meth:`end` after it.

    Args:
        module: The model.
        found: The members, and what is known to be trained on.
        in_audit: See :func:`reached_layers`, when the audit calls the model.
        model_input: The map from images in [0, 1] to what the audit gives the model.
        telling: Says what is found.

    >>> from lightning_memaudit.callback.reading.group_reading import read_group
    >>> from lightning_memaudit.callback.reading.reader import Source
    >>> from lightning_memaudit.callback.seen import Normalization
    >>> from lightning_memaudit.measurement.identity import image_hashes
    >>> model, images = nn.Linear(4, 4), torch.rand(8, 1, 2, 2)
    >>> read = read_group(Source("members", images, list(range(8))), None, Normalization(), lambda batch: batch)
    >>> found = Inspection([read], {"members": image_hashes(read.group)})
    >>> first = FirstBatch(model, found, {"": Reached((4,), Affine())}, Affine(), Telling(found))
    >>> first.begin(images)
    >>> _ = model(2 * images.flatten(1) - 1)  # training_step normalizes by itself
    >>> first.end()
    Traceback (most recent call last):
    ValueError: training_step gives the model (image - 0.5) / 0.5 and the audit would give it image: pass \
reconstruct=<a function (module, images) that prepares a batch's images as training_step does, and undoes it on the \
result>
    """

    def __init__(
        self,
        module: nn.Module,
        found: Inspection,
        in_audit: Mapping[str, Reached],
        model_input: Affine,
        telling: Telling,
    ) -> None:
        self.module, self.found, self.telling = module, found, telling
        self.format = found.reads[0].format
        self.in_audit, self.model_input = in_audit, model_input
        self.calls: FirstCalls | None = None
        self.beside: str | None = None
        self.altered: Altered | None = None
        self.reconstructs: str | None = None
        self._to_come: tuple[str, int] | None = None  # a layer, and how many images it should get in the step
        self._watch = InputWatch(module, self.format.shape, in_audit)
        self._tensors: list[Tensor] = []
        self._others: dict[Any, Tensor] = {}
        self._beside: list[Tensor] = []
        self._images: Tensor | None = None
        self._channels: Tensor | None = None
        self._drawn: Affine | None = None
        self._curve: Curve | None = None
        self._once_more = False

    def watch(self) -> None:
        """Watch a step whose batch will be known only after it; :meth:`begin` is then called between step and end."""
        self._watch.__enter__()

    def begin(self, batch: Any, is_over: bool = False) -> None:
        """Look at the batch that ``training_step`` is about to get, or has got if the step is over.

        Raises:
            ValueError: Its images are not in the range of those that are audited.
        """
        follow_members(batch, self.found)
        images = self.found.reads[0].images_in(batch)
        if images is None:
            self._tell_no_images()
        elif self._are_looked_at(images, batch):
            self._images = images.clone()  # training_step may work in place
            self._keep_beside(images, batch)
            if not is_over:
                self.watch()

    def _keep_beside(self, images: Tensor, batch: Any) -> None:
        self._tensors = [tensor for _, tensor in tensors_in(batch)]
        self._beside = [one.clone() for one in self._tensors if not holds([one], images)]
        self._others = other_images(batch, self.found.reads[0])

    def _tell_no_images(self) -> None:
        if self.found.reads[0].source.given:
            self._tell_nothing("its first batch holds no images like those that were passed as members")
        elif self.format.path is None:
            self.found.called = True
            self.doubt(
                "the training's batches do not hold the images of its data set, which are audited: collate_fn or a "
                "hook makes others of them",
                "pass members=<a data set> of images as they are trained on",
            )

    def _are_looked_at(self, images: Tensor, batch: Any) -> bool:
        """Whether images of a batch are those that the audit has read; a warning where they have another shape.

        Raises:
            ValueError: They are not in the range of those.
        """
        check_range(images, self.found)
        if tuple(images.shape[1:]) != self.format.shape:
            rank_zero_warn(
                f"members: images of shape {self.format.shape} are audited, and the training's first batch has images "
                f"of shape {tuple(images.shape[1:])}; pass members=<a data set> of images as they are trained on"
            )
            return False
        check_content(images, batch, self.found)
        return True

    def end(self, stepped: bool = True) -> bool:
        """Compare what reached the layers; False where the next batch has to tell.

        Args:
            stepped: Whether a loss came of the batch.

        Raises:
            ValueError: It is another affine map of the images, or another layout, than in the audit.
        """
        images, self._images = self._images, None
        common = [name for name in self.in_audit if self._watch.arrivals.get(name)]
        # Where a row is an image, that is.
        by_image = images is not None and bool(common) and self._watch.arrivals[common[0]][0].values is not None
        self._to_come = (common[0], len(images)) if by_image and images is not None else None
        if not stepped or not self._is_part():
            self.close()  # else more parts of the batch may follow within the step
        if images is None:
            return not self._once_more
        if not (self._watch.arrivals or self._watch.is_batched or stepped):
            return False
        self.found.called = True
        if not common:
            self._tell_nothing("no layer gets the images in both")
            return True
        self.calls = self.calls or FirstCalls(images, self._tensors, self._calls_of(common))
        self._compare_beside(common[0])
        in_audit, in_training = self.in_audit[common[0]].shape, self._watch.arrivals[common[0]][0].shape
        if in_audit != in_training and torch.Size(in_audit).numel() != torch.Size(in_training).numel():
            self.doubt(
                f"the training gives the model images of shape {in_training}, and the audit gives it those of shape "
                f"{in_audit} that its batches hold",
                MEND_SIZE,
            )
            return True
        if in_audit != in_training and len(in_audit) == len(in_training):
            self._refuse(
                f"training_step moves the channels of its images before the model, which gets {in_training}, and the "
                f"audit would give it {in_audit}"
            )
        for name in common:
            expected, calls = self.in_audit[name].affine, list(enumerate(self._watch.arrivals[name]))
            # What is learned from counts: a call without gradients may be for a number that is logged.
            calls = [(place, call) for place, call in calls if call.learns] or calls
            values = [(place, call.values) for place, call in calls if call.values is not None]
            images = really_given(images, self._others, self.found, [one for _, one in values], self._refuse)
            laid_out = [(place, like_images(images, one)) for place, one in values]
            by_place = {place: one for place, one in laid_out if one is not None}
            seen = list(by_place.values())
            if self.in_audit[name].prepares_alike(images, seen):
                return True
            if expected is not None and seen:
                is_first = not self._is_pending
                count = len(seen[0])  # of micro-batches the first
                same = [one for one in seen if len(one) == count]
                images = images[:count].to(seen[0].device)
                where = name, min(by_place)
                self.altered = self.altered or altered(self.found, *where, images, same, expected, self._beside)
                self._compare(images, same, expected)
                self._once_more = is_first and self._is_pending
                return not self._once_more
        self._tell_nothing("no layer gets the images in both")
        return True

    @property
    def _is_pending(self) -> bool:
        """Whether something was found that the next batch has to confirm."""
        return any(one is not None for one in (self._channels, self._drawn, self._curve))

    def _is_part(self) -> bool:
        """Whether the model has learned of fewer images than the batch holds."""
        return self._to_come is not None and 0 < self._watch.rows[self._to_come[0]] < self._to_come[1]

    def end_step(self) -> None:
        """The whole step is over: all images of the batch should have come."""
        self.close()
        if self._to_come is not None:
            self.reconstructs = self._watch.reconstructing(self.in_audit, self._to_come[1])
        if self._is_part() and self._to_come is not None and not self.found.reads[0].source.given:
            name, count = self._to_come
            self.doubt(
                f"the training gives the model {self._watch.rows[name]} of the {count} images of {self.telling.which}",
                "pass members=<a data set of those that it is given>",
            )
        self._to_come = None

    def _calls_of(self, names: Sequence[str]) -> dict[str, Call]:
        """Of each of these layers the first call that was kept; one that learns comes first."""
        found = {}
        for name in names:
            kept = [one for one in self._watch.arrivals[name] if one.call is not None]
            first = next((one for one in kept if one.learns), kept[0] if kept else None)
            if first is not None and first.call is not None:
                found[name] = first.call
        return found

    def _compare_beside(self, name: str) -> None:
        """An optional label that the training gives the outermost layer is no part of the audit's calls.

        Whether it makes a difference, only a second call can tell.
        """
        modules, in_audit = dict(self.module.named_modules()), self.in_audit[name].beside
        beside: frozenset[tuple[str, bool]] = frozenset().union(*(one.beside for one in self._watch.arrivals[name]))
        more = sorted({one for one, differs in beside if not in_audit & {(one, True), (one, differs)}})
        unseen = [
            one
            for one, arrivals in self._watch.arrivals.items()
            if arrivals and one not in self.in_audit and self._is_of_labels(modules[one], arrivals)
        ]
        if more:
            kind, other = type(modules[name]).__name__, "does not give them, or the same for all images"
            self.beside = f"the training gives {kind} {' and '.join(more)} beside the images, and the audit {other}"
        elif unseen:
            kind = "embedding" if isinstance(modules[unseen[0]], nn.Embedding) else "layer"
            self.doubt(f"the training calls the {kind} {unseen[0]}, and the audit does not", MEND_CALL)

    def _is_of_labels(self, layer: nn.Module, arrivals: Sequence[Arrival]) -> bool:
        """Whether a layer is for labels or the like.

        An embedding is; and one that learns, called by what the audit calls too, on what comes neither from images nor
        from weights. Discriminators and probes are called by ``training_step``.
        """
        learns = any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
        called = any(one.given and any(name in self.in_audit for name in one.within) for one in arrivals)
        return isinstance(layer, nn.Embedding) or (learns and called)

    def _tell_nothing(self, reason: str) -> None:
        self.telling.nothing_compared(reason)

    def _refuse(self, text: str, mend: str = MEND) -> None:
        self.telling.refuse(text, mend)

    def doubt(self, text: str, mend: str = MEND) -> None:
        """Warn, and let the verdicts know."""
        self.telling.doubt(text, mend)

    def _compare(self, images: Tensor, calls: Sequence[Tensor], expected: Affine) -> None:
        """Look at the call that got the very images, else at the first: a layer may be called on noise or views too."""
        wanted = expected.apply(images)
        exact = [(one, seen) for seen in calls if (one := fit_exact(images, seen)) is not None]
        exact.sort(key=lambda pair: not pair[0].close_to(expected))
        if not exact and self._is_curve(images, calls, expected):
            return
        found, seen = exact[0] if exact else (fit_nearly(images, calls[0], expected), calls[0])
        if not exact:
            self._check_order(images, seen, expected)
        if found is not None and self._may_be_drawn(found, expected):
            return
        likely = None if found is not None else likely_line(images, seen, expected)
        if likely is not None and is_noisy(likely.apply(images), seen):
            found = likely
        if found is not None and not found.close_to(expected):
            self._tell_map(found, expected)
        if found is None:
            if likely is not None and change_between(wanted, seen) is None:
                given = input_behind(likely, expected, self.model_input)
                self.doubt(f"the training gives the model about {given.words('image')}, which the audit does not")
                return
            if is_noisy(wanted, seen):
                return
            low, high = (float(one) for one in seen.aminmax())
            least, most = (float(one) for one in wanted.aminmax())
            if max(least - low, high - most) > FAR * (most - least) or high - low < (most - least) / 3:
                self.doubt(
                    f"the training gives the model values in [{low:.3g}, {high:.3g}], and the audit gives it those in "
                    f"[{least:.3g}, {most:.3g}]"
                )
                return
        if not exact:
            few = slice(0, MOST_LOOKED_AT)
            self._tell_change([change_between(wanted[few], call[few]) for call in calls])

    def _tell_map(self, found: Affine, expected: Affine) -> None:
        given = input_behind(found, expected, self.model_input)
        of = "" if self.format.normalization.is_identity else ", where image is in [0, 1]"
        self._refuse(
            f"training_step gives the model {given.words('image')} and the audit would give it "
            f"{self.model_input.words('image')}{of}"
        )

    def _is_curve(self, images: Tensor, calls: Sequence[Tensor], expected: Affine) -> bool:
        """Whether the values went through a curve; one that may be drawn for a whole batch, the next confirms."""
        few = slice(0, MOST_LOOKED_AT)
        wanted = expected.apply(images[few])
        found = [(call, one) for call in calls if (one := curve_between(wanted, call[few])) is not None]
        if not found or self._drawn is not None or self._channels is not None:
            return bool(found)
        given = self.found.reads[0].source.given
        if given and are_members(expected.undo(found[0][0][few].to(images)), self.found):
            return True
        which = "first batch" if self._curve is None else "first two batches"
        text = (
            f"the training changes its images before the model gets them: those of the {which} are {WORDS}, which the "
            "audit does not do"
        )
        if self._curve is None:
            self._curve = found[0][1]
            unless = ", and if those that were passed are not prepared so" if given else ""
            self.telling.warn("curve", text, MEND_CURVE, unless)
        elif any(self._curve.goes_on(one) for _, one in found) and (not given or are_members(images, self.found)):
            self.doubt(text, MEND_CURVE)
        return True

    def _tell_change(self, changes: Sequence[Change | None]) -> None:
        """Say what was done to the images in all calls; one that may be drawn for a whole batch, the next confirms."""
        change = changes[0] if all(changes) else None
        if change is None:
            return
        text = (
            "the training changes its images before the model gets them: those of the first batch are "
            f"{change.words}, which the audit does not do"
        )
        before, now = self._channels, change.channels
        self._channels = now
        confirmed = before is not None and now is not None and torch.allclose(before, now, rtol=0, atol=SAME_AGAIN)
        if change.is_fixed and (confirmed or (before is None and now is None)):
            self.doubt(text)
        elif before is None:
            self.telling.warn("change", text)

    def _may_be_drawn(self, found: Affine, expected: Affine) -> bool:
        """Whether the map is like a brightness or a contrast drawn for the whole batch, until the next has the same."""
        if self._drawn is not None:
            if found.close_to(self._drawn, SAME_AGAIN):
                given = input_behind(found, expected, self.model_input)
                self.doubt(f"the training gives the model {given.words('image')}, which the audit does not")
            return True
        ratios = [one / other for one, other in zip(*as_many(found.slope, expected.slope), strict=True)]
        if found.close_to(expected) or not all(LEAST_DRAWN < ratio < MOST_DRAWN for ratio in ratios):
            return False
        self._drawn = found
        given = input_behind(found, expected, self.model_input)
        self.telling.warn(
            "map",
            f"training_step gives the model {given.words('image')} of the first batch, and the audit gives it "
            f"{self.model_input.words('image')}",
        )
        return True

    def _check_order(self, images: Tensor, seen: Tensor, expected: Affine) -> None:
        """Flips are augmentation; channels the other way round, or rows for columns, in all images are not."""
        axes = ("depth", "rows", "columns")[-(images.ndim - 2) :]
        transposed = [
            (f"{axes[one]} and {axes[other]}", images.transpose(2 + one, 2 + other))
            for one, other in combinations(range(len(axes)), 2)
        ]
        for words, moved in (("the channels", images.flip(1)), *transposed):
            same_shape = moved.shape == seen.shape and not torch.equal(moved, images)
            if same_shape and bool(torch.allclose(expected.apply(moved).to(seen), seen, atol=1e-3)):
                self._refuse(
                    f"training_step gives the model {words} of its images in another order than the audit would"
                )

    def close(self) -> None:
        """Stop watching."""
        self._watch.__exit__()
