"""Images as convolutions on a CPU read them fastest: the channels of a pixel side by side in memory.

The values are the same, and results differ by what is rounded. Of five small convolutional autoencoders a forward pass
takes 0.4 to 1.0 times as long, a descent 0.7 to 1.1 times, with what it takes to arrange the images; of diffusers'
``AutoencoderKL`` a forward pass 1.03 times.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_NOT_POSSIBLE = "view size is not compatible"
"""What torch says where a module asks for a view of an image as it lies in memory otherwise."""


class ChannelsLast:
    """A call of a convolutional module whose images (B, C, H, W) on a CPU are arranged with their channels last.

    All others get what they are given: modules without convolutions, and those that are compiled for one arrangement.
    A module that cannot take it, as it asks for ``images.view(...)``, gets all images as they are from then on.

    Args:
        call: From a tensor to whatever the module returns.
        module: That is called, perhaps among other things; None where it is not known.

    >>> strides = []
    >>> def watched(images):
    ...     strides.append(images.stride())
    ...     return convolution(images)
    >>> convolution, images = nn.Conv2d(3, 3, 3, padding=1), torch.rand(2, 3, 8, 8)
    >>> torch.allclose(ChannelsLast(watched, convolution)(images), convolution(images), atol=1e-5), strides
    (True, [(192, 1, 24, 3)])
    """

    def __init__(self, call: Callable[[Any], Any], module: object) -> None:
        self.call = call
        self._applies = isinstance(module, nn.Module) and _is_convolutional(module)

    def __call__(self, images: Any) -> Any:
        """What the module makes of images, or of whatever else it is given."""
        if not self._applies or not isinstance(images, Tensor) or not _are_images_on_a_cpu(images):
            return self.call(images)
        try:
            return self.call(images.to(memory_format=torch.channels_last))
        except RuntimeError as error:
            if _NOT_POSSIBLE not in str(error):
                raise
        self._applies = False
        return self.call(images)


def _are_images_on_a_cpu(images: Tensor) -> bool:
    """(B, C, H, W), and not (B, H, W, C), as some modules take them."""
    return images.device.type == "cpu" and images.ndim == 4 and images.shape[1] <= min(images.shape[2:])


def _is_convolutional(module: nn.Module) -> bool:
    parts = list(module.modules())
    if any(isinstance(part, torch.jit.ScriptModule) or _is_compiled(part) for part in parts):
        return False
    return any(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in parts)


def _is_compiled(module: nn.Module) -> bool:
    """By ``torch.compile(module)``, ``module.compile()``, or ``torch.compile`` of its forward."""
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
        return True
    return hasattr(module.forward, "_torchdynamo_orig_callable")
