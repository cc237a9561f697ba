"""Compares what training really gives the model with what the audit gives it, on the first batch of the training.

The audit sees what the batch holds; what ``training_step`` does with it, such as a normalization of its own, it cannot
see. But the layers can: the same images must reach them with the same values.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_memaudit.callback.inspection import Inspection
from lightning_memaudit.callback.reading.affine import Affine, fit_exact, fit_nearly
from lightning_memaudit.callback.reading.batch_images import BatchFormat
from lightning_memaudit.callback.reading.items import tensors_in
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.identity import image_hashes

MOST_COMPARED, MOST_TRIED = 256, 8
"""Members that images of the first batch are compared with, for a change of range; and how many of those images."""

FAR_OUTSIDE = 0.5
"""How far beyond [0, 1] noise and augmentation may bring images of a training batch."""


@dataclass(frozen=True)
class Arrival:
    """What reached a layer when it was first called.

    Attributes:
        shape: Of its input, without the batch.
        values: The input, where it has as many values as images; None otherwise.

    >>> Arrival((4,), torch.ones(2, 4)).shape
    (4,)
    """

    shape: tuple[int, ...]
    values: Tensor | None = None


class InputWatch:
    """Notes the first input of each module of a model while it is entered.

    Args:
        module: The model.
        shape: (C, H, W) of an image; only inputs that may hold one are kept.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    >>> with InputWatch(model, (1, 2, 2)) as watch:
    ...     _ = model(torch.ones(2, 1, 2, 2))
    >>> {name: seen.shape for name, seen in watch.arrivals.items()}
    {'': (1, 2, 2), '0': (1, 2, 2), '1': (4,)}
    """

    def __init__(self, module: nn.Module, shape: Sequence[int]) -> None:
        self.module, self.shape, self.size = module, tuple(shape), torch.Size(shape).numel()
        self.arrivals: dict[str, Arrival] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> "InputWatch":
        for name, submodule in self.module.named_modules():
            hook = _Note(self, name)
            self._handles.append(submodule.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def size_beside(self, shape: tuple[int, ...]) -> int:
        """Values of an image within an input (channels, H, W) that has more channels; 0 for other inputs."""
        beside = len(shape) == 3 and shape[1:] == self.shape[1:] and shape[0] > self.shape[0]
        return self.size if beside else 0

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


class _Note:
    def __init__(self, watch: InputWatch, name: str) -> None:
        self.watch, self.name = watch, name

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        if self.name in self.watch.arrivals:
            return
        for argument in (*arguments, *named.values()):
            if isinstance(argument, Tensor) and argument.ndim:
                shape = tuple(argument.shape[1:])
                # As many values as an image, or the image beside channels of another kind; a copy: the model may work
                # in place.
                whole = self.watch.size in (torch.Size(shape).numel(), self.watch.size_beside(shape))
                self.watch.arrivals[self.name] = Arrival(shape, argument.detach().clone() if whole else None)
                return


def like_images(images: Tensor, seen: Tensor) -> Tensor | None:
    """What a layer got, in the layout of images (B, C, H, W); None where it is another one.

    Where it got them beside other channels: those that are an affine map of the images, else the first ones.
    """
    if len(seen) < len(images) or not seen.is_floating_point():
        return None
    seen = seen[: len(images)]  # those of other dataloaders may follow
    if seen.ndim == 4 and seen.shape[2:] == images.shape[2:] and seen.shape[1] > images.shape[1]:
        count = images.shape[1]
        parts = [seen[:, begin : begin + count] for begin in range(seen.shape[1] - count + 1)]
        return next((part for part in parts if fit_exact(images.to(seen.device), part) is not None), parts[0])
    if seen.numel() != images.numel():
        return None
    if seen.ndim == 4 and seen.shape != images.shape:
        moved = seen.movedim(-1, 1)
        return moved if moved.shape == images.shape else None
    return seen.reshape(images.shape)


def maps_to_layers(watch: InputWatch, images: Tensor) -> dict[str, tuple[tuple[int, ...], Affine | None]]:
    """The shape that each layer got, and the exact affine map from the images to it, if there is one; in call order."""
    found: dict[str, tuple[tuple[int, ...], Affine | None]] = {}
    for name, arrival in watch.arrivals.items():
        seen = None if arrival.values is None else like_images(images, arrival.values)
        found[name] = arrival.shape, None if seen is None else fit_exact(images.to(seen.device), seen)
    return found


class FirstBatch:
    """Watches the first training batch; :meth:`begin` before ``training_step``, :meth:`end` after it.

    Args:
        module: The model.
        found: The members, and what is known to be trained on.
        in_audit: See :func:`maps_to_layers`, when the audit calls the model.
        model_input: The map from images in [0, 1] to what the audit gives the model.

    >>> from lightning_memaudit.callback.reading.group_reading import read_group
    >>> from lightning_memaudit.callback.reading.reader import Source
    >>> from lightning_memaudit.callback.seen import Normalization
    >>> model, images = nn.Linear(4, 4), torch.rand(8, 1, 2, 2)
    >>> read = read_group(Source("members", images, list(range(8))), None, Normalization(), lambda batch: batch)
    >>> found = Inspection([read], {"members": image_hashes(read.group)})
    >>> first = FirstBatch(model, found, {"": ((4,), Affine())}, Affine())
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
        in_audit: Mapping[str, tuple[tuple[int, ...], Affine | None]],
        model_input: Affine,
    ) -> None:
        self.module, self.found = module, found
        self.format, self.path = found.reads[0].format, found.reads[0].source.path
        self.in_audit, self.model_input = in_audit, model_input
        self._watch = InputWatch(module, self.format.shape)
        self._images: Tensor | None = None

    def begin(self, batch: Any) -> None:
        """Look at the batch that ``training_step`` is about to get.

        Raises:
            ValueError: Its images are not in the range of those that are audited.
        """
        images = self._find(batch)
        if images is None:
            return
        low, high = float(images.min()), float(images.max())
        if low < -FAR_OUTSIDE or high > 1 + FAR_OUTSIDE:
            raise ValueError(
                f"members: where the audited images are in [0, 1], those of the training's first batch are in "
                f"[{low:.4g}, {high:.4g}]: pass members=<a data set> that is read as the training reads its own, or "
                "mean and std to undo its normalization"
            )
        if tuple(images.shape[1:]) != self.format.shape:
            rank_zero_warn(
                f"members: images of shape {self.format.shape} are audited, and the training's first batch has images "
                f"of shape {tuple(images.shape[1:])}; pass members=<a data set> of images as they are trained on"
            )
            return
        self._check_content(images)
        self._images = images.clone()  # training_step may work in place
        self._watch.__enter__()

    def _check_content(self, images: Tensor) -> None:
        """The batch must hold images that are known to be trained on, or look like them."""
        members = self.found.reads[0].group.images[slice(0, MOST_COMPARED)]
        digests = image_hashes(Group.whole("members", images.clamp(0, 1)))
        read, compared = self.found.reads[0], self.found.compared
        known = set(self.found.hashes["members"]) if read.source.given else self.found.trained
        if known.intersection(digests):
            return
        other = same_but_for_range(images, members)
        if other is None:
            spread = float(images.std() / members.std().clamp(min=1e-6))
            shift = float((images.mean() - members.mean()).abs())
            if not (0.5 < spread < 2 and shift < 0.25):
                other = Affine((spread,), (float(images.mean()) - spread * float(members.mean()),))
        if other is not None and not other.is_identity:
            raise ValueError(
                f"members: the training's first batch holds {other.words('image')} of the images that the audit reads "
                f"(mean {float(images.mean()):.3g} and standard deviation {float(images.std()):.3g} against "
                f"{float(members.mean()):.3g} and {float(members.std()):.3g}): pass mean and std for what the run does "
                "to them, or members=<a data set> that is read as the training reads its own"
            )
        complete = compared is not None and compared.note is None
        if read.source.given:
            complete = read.num_available == len(known)
        if complete and other is None and not read.random:
            rank_zero_warn(
                "members: none of the images of the training's first batch is one that the audit has read from its "
                "dataloader: something changes them on the way, as augmentation in a hook does; the audit measures "
                "the images without it"
            )

    def _find(self, batch: Any) -> Tensor | None:
        if self.format.path is None:
            return None
        for path in dict.fromkeys([self.path, ()]):
            with suppress(ValueError, KeyError, IndexError, TypeError, AttributeError):
                part = batch
                for key in path:
                    part = part[key]
                return self._undone(self.format.find(part))
        shaped = [tensor for _, tensor in tensors_in(batch) if tuple(tensor.shape[1:]) == self.format.shape]
        return self._undone(shaped[0]) if len(shaped) == 1 else None

    def _undone(self, found: Tensor) -> Tensor:
        with suppress(ValueError):
            return self.format.undo(found.detach())
        other = BatchFormat(
            self.format.path,
            tuple(found.movedim(-1, 1).shape[1:]) if self.format.channels_last else tuple(found.shape[1:]),
            self.format.channels_last,
            normalization=self.format.normalization,
        )
        return other.undo(found.detach())

    def end(self) -> None:
        """Compare what reached the layers.

        Raises:
            ValueError: It is another affine map of the images, or another layout, than in the audit.
        """
        self.close()
        images, self._images = self._images, None
        if images is None:
            return
        common = [name for name in self.in_audit if name in self._watch.arrivals]
        if not common:
            self._say_nothing_was_compared()
            return
        in_audit, in_training = self.in_audit[common[0]][0], self._watch.arrivals[common[0]].shape
        if in_audit != in_training and torch.Size(in_audit).numel() != torch.Size(in_training).numel():
            rank_zero_warn(
                f"members: training_step gives the model images of shape {in_training}, and the audit gives it those "
                f"of shape {in_audit} that its batches hold: {_MEND}"
            )
            return
        if in_audit != in_training and len(in_audit) == len(in_training):
            raise ValueError(
                f"training_step moves the channels of its images before the model, which gets {in_training}, and the "
                f"audit would give it {in_audit}: {_MEND}"
            )
        for name in common:
            expected, arrival = self.in_audit[name][1], self._watch.arrivals[name]
            seen = None if arrival.values is None else like_images(images, arrival.values)
            if expected is not None and seen is not None:
                self._compare(images.to(seen.device), seen, expected)
                return
        self._say_nothing_was_compared()

    def _say_nothing_was_compared(self) -> None:
        rank_zero_warn(
            "members: what training_step gives the model could not be compared with what the audit gives it, for no "
            f"layer gets the images in both: where training_step prepares them, {_MEND}"
        )

    def _compare(self, images: Tensor, seen: Tensor, expected: Affine) -> None:
        found = fit_exact(images, seen) or fit_nearly(images, seen, expected)
        if found is not None and not found.close_to(expected):
            given = _before(found, expected, self.model_input)
            raise ValueError(
                f"training_step gives the model {given.words('image')} and the audit would give it "
                f"{self.model_input.words('image')}: {_MEND}"
            )
        if found is None:
            low, high = (float(one) for one in seen.aminmax())
            least, most = (float(one) for one in expected.apply(images).aminmax())
            if max(least - low, high - most) > FAR_OUTSIDE * (most - least) or high - low < (most - least) / 3:
                rank_zero_warn(
                    f"members: training_step gives the model values in [{low:.3g}, {high:.3g}], and the audit gives it "
                    f"those in [{least:.3g}, {most:.3g}]: {_MEND}"
                )

    def close(self) -> None:
        """Stop watching."""
        self._watch.__exit__()


_MEND = (
    "pass reconstruct=<a function (module, images) that prepares a batch's images as training_step does, and undoes it "
    "on the result>"
)


def _before(found: Affine, expected: Affine, model_input: Affine) -> Affine:
    """What the model got in training, from what its layer got in training and in the audit.

    The layer gets ``a x + b`` of the model's input x. The audit's input ``s u + t`` of an image u reaches it as
    ``expected``, which gives a and b; the training's reaches it as ``found``.
    """
    count = max(map(len, (found.slope, expected.slope, model_input.slope)))
    slopes, offsets = [], []
    for channel in range(count):
        s, t = _at(model_input, channel)
        expected_slope, expected_offset = _at(expected, channel)
        found_slope, found_offset = _at(found, channel)
        a = expected_slope / s
        b = expected_offset - a * t
        slopes.append(found_slope / a)
        offsets.append((found_offset - b) / a)
    return Affine(tuple(slopes), tuple(offsets))


def _at(one: Affine, channel: int) -> tuple[float, float]:
    place = channel if len(one.slope) > 1 else 0
    return one.slope[place], one.offset[place]


def same_but_for_range(images: Tensor, members: Tensor) -> Affine | None:
    """The affine map from some member to some of the images, wherever their pixels have gone; None if there is none.

    >>> members = torch.rand(5, 1, 8, 8)
    >>> same_but_for_range(0.9 * members[2:3].flip(-1) + 0.05, members).words("image")
    '(image - -0.055556) / 1.1111'
    """
    if images.shape[1:] != members.shape[1:]:
        return None
    ordered = [one.flatten(2).sort().values for one in (members, images[:MOST_TRIED].to(members.device))]
    found = []
    for image in ordered[1]:
        maps = (fit_exact(member[None], image[None]) for member in ordered[0])
        found += [next((one for one in maps if one is not None and all(slope > 0 for slope in one.slope)), None)]
    there = [one for one in found if one is not None]
    # The brightness that augmentation draws for every image is no range.
    alike = len(there) >= min(2, len(images)) and all(one.close_to(there[0]) for one in there)
    return there[0] if alike else None


def can_be_watched(module: nn.Module) -> bool:
    """Whether hooks on layers cost nothing and change nothing: not where they are compiled."""
    compiled = any(
        type(one).__name__ == "OptimizedModule" or one.__dict__.get("_compiled_call_impl") is not None
        for one in module.modules()
    )
    return not compiled and getattr(module, "_compiler_ctx", None) is None


Call = Callable[[Tensor], Any]


def watch_audit(
    module: nn.Module, autoencoder: Call, images: Tensor
) -> dict[str, tuple[tuple[int, ...], Affine | None]]:
    """See :func:`maps_to_layers`, when the audit calls the model."""
    with InputWatch(module, images.shape[1:]) as watch, torch.no_grad():
        autoencoder(images)
    return maps_to_layers(watch, images)
