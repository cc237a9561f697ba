"""Autoencoders that may do what they like with the tensor that they are given."""

from torch import Tensor

from lightning_memaudit.recovery.types import Autoencoder


class InputProtected:
    """f whose input stays as it was, and whose result shares no memory with it and has its precision.

    An f that writes into its input, as one that begins with ``ReLU(inplace=True)``, gets a copy. Whether it does shows
    at the first call, so that the others go without, but for inference mode, where torch does not count writes and
    every call gets one. Writes that torch never counts, through ``.data`` or numpy, are not seen.

    Args:
        autoencoder: f.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        self._autoencoder = autoencoder
        self._writes: bool | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """f(images), (B, C, H, W).

        Raises:
            RuntimeError: f wrote into its input, but had not at first.
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
