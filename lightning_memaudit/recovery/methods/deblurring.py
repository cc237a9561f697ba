"""Blind recovery of blurred images: the same alternation, with a circulant degradation in place of the diagonal one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_memaudit.recovery.batches import all_finite, map_chunks, per_image_mean, rows_per_chunk
from lightning_memaudit.recovery.checks import check_counts, check_images, check_noise, check_penalties
from lightning_memaudit.recovery.protection import InputProtected
from lightning_memaudit.recovery.spatial import axes, repeat, spatial, with_axes
from lightning_memaudit.recovery.types import Autoencoder, Family, Recovery, concatenate

MATRIX_ELEMENTS = 2**25
"""Of the normal equations of the kernels that are estimated together."""


@dataclass(frozen=True)
class BlindDeblurring:
    """Recovery from an unknown blur: ``y = k * x + noise``, a circular convolution with a kernel k of bounded support.

    H of the paper's formulation is circulant here (arXiv 2310.02897). Start from x = z = f(y), u = 0 and repeat, with F
    the Fourier transform:

        k <- least squares of |k * x - y|^2 over kernels on the support, non-negative, of sum 1     kernel
        x <- F^-1 [ (conj(F k) F y + penalty F (z - u)) / (|F k|^2 + penalty) ]                     data term
        z <- f(x + u)                                                                               prior term
        u <- u + x - z                                                                              dual

    The score is ``mean (k * f(x) - y)^2 + mean (f(x) - x)^2`` and the best penalty by score is kept. It certifies
    nothing.

    Attributes:
        kernel_size: K, the side of the support along every spatial axis in pixels, odd.
        penalties: ADMM penalties, positive.
        num_iterations: ADMM iterations.
        kernel_steps: ADMM iterations between two estimates of the kernel.
        noise: Standard deviation of the noise: the data count for less the larger it is.
        chunk_size: Attempts at once; None chooses by memory.

    Raises:
        ValueError: An attribute is out of its range; the message names it and its value.

    >>> stored = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> def f(x):
    ...     return stored[torch.cdist(x.flatten(1), stored.flatten(1)).argmin(1)]
    >>> row = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0, 0, 0]]).view(1, 1, 3, 3) / 3  # a horizontal motion of 3 pixels
    >>> recovery = BlindDeblurring(kernel_size=3)(f, observed=blur(stored, row))
    >>> torch.equal(recovery.image, stored), torch.allclose(recovery.kernel, row, atol=1e-3)
    (True, True)
    """

    families: ClassVar[tuple[Family, ...]] = ("blur",)

    kernel_size: int = 7
    penalties: Sequence[float] = (0.01, 0.03, 0.1, 0.3)
    num_iterations: int = 100
    kernel_steps: int = 2
    noise: float = 0.0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        check_penalties(tuple(self.penalties))
        check_noise(self.noise)
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size}: must be odd and positive, such as 5")
        check_counts(num_iterations=self.num_iterations, kernel_steps=self.kernel_steps)

    def __call__(self, autoencoder: Autoencoder, observed: Tensor) -> Recovery:
        """Recover ``observed``, (B, C, *spatial); the kernels come back in ``recovery.kernel``, (B, 1, *[K]).

        Raises:
            ValueError: ``observed`` is not a finite batch of images, or a side of it is smaller than the kernel.
        """
        check_images("observed", observed)
        autoencoder = InputProtected(autoencoder)
        if min(spatial(observed)) < self.kernel_size:
            raise ValueError(f"kernel_size={self.kernel_size}: larger than the images, {spatial(observed)}")
        rows = rows_per_chunk(observed, self.chunk_size)
        if self.chunk_size is None:  # beside an image there is a matrix, of volumes the larger one
            rows = min(rows, MATRIX_ELEMENTS // self.kernel_size ** (2 * len(spatial(observed))))
        rows = max(1, rows // len(self.penalties))
        return concatenate(map_chunks(lambda part: self._recover(autoencoder, observed[part]), len(observed), rows))

    @torch.no_grad()
    def _recover(self, autoencoder: Autoencoder, observed: Tensor) -> Recovery:
        count, number = len(self.penalties), len(observed)
        observed_rows = repeat(observed, count)
        penalty = with_axes(observed.new_tensor(self.penalties).repeat_interleave(number), observed)
        penalty = penalty + self.noise**2
        transformed = transform(observed_rows)
        prior = repeat(autoencoder(observed), count)
        image, dual = prior, torch.zeros_like(prior)
        kernel = estimate_kernel(image, observed_rows, self.kernel_size)
        for iteration in range(self.num_iterations):
            if iteration and iteration % self.kernel_steps == 0:
                kernel = estimate_kernel(image, observed_rows, self.kernel_size)
            transfer = transfer_function(kernel, spatial(observed))
            image = fourier_data_step(transformed, transfer, prior - dual, penalty)
            prior = autoencoder(image + dual)
            dual = dual + image - prior
        output = autoencoder(image)
        kernel = estimate_kernel(output, observed_rows, self.kernel_size)
        blurred = blur(output, kernel)
        score = per_image_mean((blurred - observed_rows).square()) + per_image_mean((output - image).square())
        finite = score.isfinite() & all_finite(output)
        best = torch.where(finite, score, torch.inf).view(count, number).min(0)
        chosen = best.indices * number + torch.arange(number, device=observed.device)
        recovered = best.values.isfinite()
        evaluations = 1 + count * (self.num_iterations + 1)
        return Recovery(
            image=torch.where(with_axes(recovered, observed), output[chosen], observed),
            mask=torch.ones_like(observed[:, :1]),
            score=best.values,
            certified=torch.zeros_like(recovered),
            num_evaluations=torch.full((number,), evaluations, dtype=torch.int64, device=observed.device),
            kernel=torch.where(with_axes(recovered, observed), kernel[chosen], torch.nan),
        )


def transform(images: Tensor) -> Tensor:
    """Fourier transform of real images (B, C, *spatial) along all spatial axes, half of the last one."""
    transformed: Tensor = torch.fft.rfftn(images, dim=axes(images))
    return transformed


def transform_back(transformed: Tensor, size: Sequence[int]) -> Tensor:
    """The real images (B, C, *size) that have this transform."""
    images: Tensor = torch.fft.irfftn(transformed, s=tuple(size), dim=axes(transformed))
    return images


def transfer_function(kernel: Tensor, size: Sequence[int]) -> Tensor:
    """Fourier transform of kernels (B, 1, *[K]), centred on the origin, for images of ``size``, all sides at least K.

    Returns:
        (B, 1, *size) with ``size[-1] // 2 + 1`` places along the last axis, complex, as of :func:`transform`.
    """
    padded = kernel.new_zeros(*kernel.shape[:2], *size)
    corner: Any = (..., *(slice(side) for side in spatial(kernel)))
    padded[corner] = kernel
    return transform(padded.roll([-(side // 2) for side in spatial(kernel)], axes(kernel)))


def blur(image: Tensor, kernel: Tensor) -> Tensor:
    """Circular convolution of images (B, C, *spatial) with kernels (B or 1, 1, *[K]): (B, C, *spatial)."""
    size = spatial(image)
    return transform_back(transfer_function(kernel, size) * transform(image), size)


def fourier_data_step(transformed: Tensor, transfer: Tensor, target: Tensor, penalty: Tensor) -> Tensor:
    """Minimize ``|k * x - y|^2 + penalty |x - target|^2`` over x.

    Args:
        transformed: F y, as of :func:`transform`.
        transfer: F k, (B, 1, ...), as of :func:`transfer_function`.
        target: z - u, (B, C, *spatial).
        penalty: (B, 1, *[1]), positive.

    Returns:
        x, (B, C, *spatial).
    """
    numerator = transfer.conj() * transformed + penalty * transform(target)
    return transform_back(numerator / (transfer.abs().square() + penalty), spatial(target))


def estimate_kernel(image: Tensor, observed: Tensor, size: int) -> Tensor:
    """Least squares of ``|k * x - y|^2`` over kernels with this support, then the nearest point of the simplex.

    The normal equations hold correlations of x with itself and with y at shifts within the support, which the Fourier
    transform gives at once for all shifts.

    Args:
        image: x, (B, C, *spatial), every side at least ``size``.
        observed: y, (B, C, *spatial).
        size: Side of the support along every axis, odd.

    Returns:
        (B, 1, *[size]), non-negative, of sum 1.
    """
    shape, number = spatial(image), len(spatial(image))
    spectrum = transform(image)
    # Summed over the channels, and one channel again.
    itself = transform_back((spectrum.conj() * spectrum).sum(1, keepdim=True), shape)[:, 0]
    other = transform_back((spectrum.conj() * transform(observed)).sum(1, keepdim=True), shape)[:, 0]
    offsets = torch.arange(size, device=image.device) - size // 2
    shifts = [grid.flatten() for grid in torch.meshgrid(*[offsets] * number, indexing="ij")]
    apart: Any = (slice(None), *(shift[:, None] - shift[None, :] for shift in shifts))
    within: Any = (slice(None), *shifts)
    matrix, vector = itself[apart], other[within]
    scale = itself.flatten(1)[:, :1].clamp_min(1e-12)
    # A little of the identity, so that kernels that no pixel tells apart are shared out evenly.
    system = matrix / scale[:, :, None] + 1e-4 * torch.eye(size**number, dtype=image.dtype, device=image.device)
    system, vector = system.nan_to_num(), (vector / scale).nan_to_num()  # attempts that diverged stay apart
    solution = torch.linalg.lstsq(system, vector.unsqueeze(-1)).solution
    return project_to_simplex(solution.squeeze(-1)).view(-1, 1, *[size] * number)


def project_to_simplex(points: Tensor) -> Tensor:
    """The nearest non-negative vectors of sum 1, (B, N), to ``points`` (B, N) (Duchi et al. 2008)."""
    ordered = points.sort(1, descending=True).values
    excess = ordered.cumsum(1) - 1
    counts = torch.arange(1, points.shape[1] + 1, device=points.device, dtype=points.dtype)
    number = (ordered - excess / counts > 0).sum(1, keepdim=True).clamp_min(1)
    level = excess.gather(1, number - 1) / number
    return (points - level).clamp_min(0)
