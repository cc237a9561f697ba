"""A wrapper around autoencoders that write into their input or return it: the caller's tensors stay as they were.

A network that begins with ``ReLU(inplace=True)`` overwrites the tensor that it is given, and an identity returns that
very tensor. The recovery methods go on using what they pass to f, so that either would make their results wrong.
"""

from torch import Tensor

from lightning_memaudit.recovery.types import Autoencoder


class InputProtected:
    """Calls an autoencoder f so that its input stays unchanged, whatever the layers of f do to it.

    The result is a tensor of its own, which shares no memory with the input, and has the input's dtype, also where f
    computes in a lower precision.

    Copying the input at every call would be safe, but costs time and memory, so an f that does not write gets no copy.
    torch counts the in-place writes to a tensor. The first call passes a copy and looks at its count. If f wrote, every
    later call passes a copy too. If not, later calls pass the input itself, and raise should f write all the same. In
    inference mode torch does not count, so every call passes a copy. Writes that torch never counts, through ``.data``
    or numpy, are not noticed.

    Args:
        autoencoder: f, (B, C, *spatial) to the same shape.

    >>> import torch
    >>> images = torch.full((1, 1, 2, 2), -1.0)
    >>> output = InputProtected(torch.nn.ReLU(inplace=True))(images)
    >>> images.unique().item(), output.unique().item()
    (-1.0, 0.0)
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        self._autoencoder = autoencoder
        self._writes: bool | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """f(images), (B, C, *spatial), of the dtype of ``images``.

        Raises:
            RuntimeError: f wrote into its input, but had not written into that of the first call.
        """
        if self._writes is False and not images.is_inference():
            version = images._version
            output = self._autoencoder(images)
            if images._version != version:
                raise RuntimeError("the autoencoder wrote into its input, but had not at first: let it work on a copy")
        else:
            given = images.clone()
            counted = not given.is_inference()  # inference tensors do not tell whether they were written to
            version = given._version if counted else 0
            output = self._autoencoder(given)
            self._writes = given._version != version if counted else True
        output = output.to(images.dtype)
        shares = output.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()
        return output.clone() if shares else output
