"""What ``audit()`` is given, as what the engine works on: nothing of the caller's is changed, or may change later."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_memaudit.measurement.channels_last import ChannelsLast
from lightning_memaudit.measurement.groups import ImageSource
from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.recovery.checks import lacks_an_axis
from lightning_memaudit.recovery.spatial import MOST_AXES

_WANTED = "a tensor (n, C, H, W), or (n, C, D, H, W) of volumes, of floating-point values in [0, 1]"


class GivenAutoencoder:
    """The caller's function: it may work in place on what it gets, and overwrite what it has returned.

    A module gets images of the type of its weights, and its results come back as float32.

    Args:
        call: From images (B, C, *spatial) to a tensor of the same shape.

    >>> def in_place(images):
    ...     return images.mul_(0.5)
    >>> images = torch.ones(1, 1, 2, 2)
    >>> GivenAutoencoder(in_place)(images).mean().item(), images.mean().item()
    (0.5, 1.0)
    """

    def __init__(self, call: Autoencoder) -> None:
        module = module_of(call)
        self.call = ChannelsLast(call, module)
        weights = [] if module is None else [one for one in module.parameters() if one.is_floating_point()]
        types = {weight.dtype for weight in weights}
        self.dtype = types.pop() if len(types) == 1 else None

    def __call__(self, images: Tensor) -> Tensor:
        """Reconstruct a batch; the result shares no memory with anything of the caller's."""
        result: Tensor = self.call(images.to(self.dtype or images.dtype, copy=True))
        # What is no tensor of real numbers is refused by the check before the first audit, in words.
        is_real = isinstance(result, Tensor) and not result.is_complex()
        if not is_real:
            return result
        return result.to(images, copy=True, memory_format=torch.contiguous_format)


def module_of(autoencoder: object) -> nn.Module | None:
    """The module that is called, or whose method is; None where it cannot be seen."""
    owner = getattr(autoencoder, "__self__", autoencoder)
    return owner if isinstance(owner, nn.Module) else None


def check_module(autoencoder: object, name: str, images: ImageSource, argument: str = "autoencoder") -> None:
    """Warn of a module that is in train mode; raise where it is on another device than the images.

    Args:
        autoencoder: Anything.
        name: Of the images, for the message.
        images: (n, C, *spatial), or what slices into such.
        argument: The argument that the module came from.

    Raises:
        ValueError: It is.
    """
    module = module_of(autoencoder)
    if module is None:
        return
    training = [part or type(module).__name__ for part, one in module.named_modules() if one.training]
    if training:
        warnings.warn(
            f"{argument}: {len(training)} of its modules are in train mode ({training[0]} first), where dropout and "
            "batch statistics change its output: call module.eval() first",
            stacklevel=3,
        )
    devices = {weight.device for weight in module.parameters()}
    device = images[slice(0, 1)].device
    if devices and device not in devices:
        other = min(map(str, devices))
        raise ValueError(f"{name} is on {device}, but the {argument} on {other}: pass {name}.to({other!r})")


def given_images(name: str, value: Any) -> ImageSource:
    """Images as float32, from a tensor or array of floats, or from what gives tensors when it is sliced.

    Args:
        name: ``members`` or ``controls``, for messages.
        value: What was given.

    Raises:
        ValueError: It is something else; the message says what to do with it.
    """
    if isinstance(value, np.ndarray):
        value = _of_array(name, value)
    if isinstance(value, Tensor):
        _check_batch(name, value)
        return value.detach().float()
    probe = _sliced(value)
    if probe is None:
        raise ValueError(f"{name} is {_described(value)}: pass {_instead(name, value)}")
    _check_batch(name, probe)
    return _Sliced(value)


class _Sliced:
    """Images that are read when they are sliced, as float32."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: slice) -> Tensor:
        return self.source[rows].detach().float()


def _of_array(name: str, array: "np.ndarray[Any, Any]") -> Tensor:
    if array.dtype.kind != "f":
        scaled = f", such as {name} / 255" if array.dtype.kind in "iu" else ""
        raise ValueError(f"{name} is an array of {array.dtype}: pass {_WANTED}{scaled}")
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def _check_batch(name: str, images: Tensor) -> None:
    """Refuse what is no batch of images, or one with its axes in another order, which would be taken for another."""
    shape = tuple(images.shape)
    if not 1 <= len(shape) - 2 <= MOST_AXES:
        way = f"{name}.view(-1, C, H, W)" if len(shape) == 2 else "n images in one batch"
        raise ValueError(f"{name} has shape {shape}: pass {_WANTED}; {way}")
    if not images.is_floating_point():
        scaled = f"{name}.float()" if images.dtype == torch.bool else f"{name} / 255"
        raise ValueError(f"{name} has dtype {images.dtype}: pass {_WANTED}, such as {scaled}")
    channels, size = shape[1], shape[2:]
    if channels > 4 and shape[-1] in (1, 3, 4) and shape[-2] != shape[-1]:
        raise ValueError(f"{name} has shape {shape}, with the channels last: pass them first, {name}.movedim(-1, 1)")
    if lacks_an_axis(shape):
        raise ValueError(
            f"{name} has shape {shape}: pass {_WANTED}; {name}[:, None] if they are gray, {name}[None] if it is one, "
            f"{name}.movedim(-1, 1) if they are signals with the channels last"
        )
    if (channels > 16 and 2 * channels >= min(size)) or (channels > 4 and len(size) == 3 and size[0] in (3, 4)):
        others = f", {name}.flatten(0, 1) if they are videos" if len(size) == 3 else ""
        warnings.warn(
            f"{name} has shape {shape}, which is taken for {shape[0]} images of {channels} channels and "
            f"{' x '.join(map(str, size))} pixels: pass {name}[:, None] if they have one channel{others}",
            stacklevel=4,
        )


def _sliced(value: Any) -> Tensor | None:
    """What a lazy source gives when it is sliced; None from anything else."""
    if isinstance(value, str | bytes | Mapping | list | tuple):
        return None
    try:
        part = value[0:1]
        fits = isinstance(part, Tensor) and len(part) == min(1, len(value))
    except Exception:  # whatever it is, it is none
        return None
    return part if fits else None


def _described(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, list | tuple) and value:
        return f"a {kind} of {len(value)} items ({type(value[0]).__name__} first)"
    return f"of type {kind}"


def _instead(name: str, value: Any) -> str:
    """What to pass instead of a list or a data set, by what its first item is."""
    if isinstance(value, str | bytes | Mapping):
        return _WANTED
    try:
        item = value[0]
    except Exception:  # an empty list, a loader, a number
        return _WANTED
    if isinstance(value, list | tuple) and isinstance(item, Tensor):
        return f"torch.stack({name})"
    place = _place_of_image(item)
    if place is None:
        return f"{_WANTED}, each item brought there by torchvision's ToTensor"
    one = f"{name}[i]{place}"
    one = one if isinstance(item, Tensor | Mapping | tuple) else f"torch.as_tensor({one})"
    return f"{_WANTED}, such as torch.stack([{one} for i in range(len({name}))])"


def _place_of_image(item: Any) -> str | None:
    """Where in an item the image is, as it is written; None where none is seen."""
    if isinstance(item, Tensor | np.ndarray):
        return ""
    parts = item.items() if isinstance(item, Mapping) else enumerate(item) if isinstance(item, list | tuple) else ()
    return next((f"[{key!r}]" for key, part in parts if isinstance(part, Tensor) and part.ndim >= 2), None)
