"""What the autoencoder makes of intact images, summed up; :mod:`lightning_memaudit.results.own_output` judges it."""

from torch import Tensor

from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.results.own_output import OutputSums, difference_of_calls


def output_sums(output: Tensor, images: Tensor) -> OutputSums:
    """The sums of a batch: f(x) and x, both (B, C, H, W)."""
    return OutputSums.of(output.detach().float().cpu().numpy(), images.detach().float().cpu().numpy())


def repeated(autoencoder: Autoencoder, images: Tensor) -> OutputSums:
    """How much two calls on a batch (B, C, H, W) differ, as sums over no images."""
    first = autoencoder(images).clone()  # a copy: it may be a buffer that the next call overwrites
    second = autoencoder(images)
    arrays = (output.detach().float().cpu().numpy() for output in (first, second))
    return OutputSums(difference=difference_of_calls(*arrays))
