"""What the autoencoder makes of intact images, summed up; :mod:`lightning_memaudit.results.own_output` judges it."""

from torch import Tensor

from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.results.own_output import OutputSums, difference_of_calls


def output_sums(output: Tensor, images: Tensor) -> OutputSums:
    """The sums of a batch: f(x) and x, both (B, C, H, W)."""
    return OutputSums.of(output.detach().float().cpu().numpy(), images.detach().float().cpu().numpy())


def repeated(autoencoder: Autoencoder, images: Tensor, output: Tensor | None = None) -> OutputSums:
    """How much two calls on a batch (B, C, H, W) differ, as sums over no images.

    Args:
        autoencoder: f.
        images: The batch.
        output: Of the first call, where that was made.
    """
    first = (autoencoder(images) if output is None else output).clone()  # the next call may overwrite it
    arrays = (one.detach().float().cpu().numpy() for one in (first, autoencoder(images)))
    return OutputSums(difference=difference_of_calls(*arrays))
