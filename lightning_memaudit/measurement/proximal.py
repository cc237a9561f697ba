"""How far an autoencoder is from a proximal map, at given images.

The theorem of Abitbul & Dar (arXiv 2310.02897) says that certain tied autoencoders are Moreau proximity operators, and
the recovery uses any autoencoder as if it were one. A map is one exactly when it is the gradient of a convex function
and nonexpansive (Moreau 1965): its Jacobian is symmetric with a spectrum in [0, 1]. Jacobians are never formed; they
are multiplied with vectors, so that images of 12,288 values and more work.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vjp
from torch.nn.utils import parametrize

from lightning_memaudit.recovery import Autoencoder
from lightning_memaudit.recovery.batches import images_at_once, per_image_mean
from lightning_memaudit.recovery.checks import check_counts, check_images

FILE = "proximal.json"
MOST_IMAGES = 16
"""That are looked at together."""
Operator = Callable[[Tensor], Tensor]
"""A linear map of every image: (B, C, *spatial) to (B, C, *spatial)."""


@dataclass(frozen=True)
class ProximalReport:
    """What the Jacobian J of an autoencoder looks like, one entry per image.

    All but ``reconstruction_error`` come from Krylov spaces of ``num_steps`` dimensions. Extreme eigenvalues are
    approached from inside the spectrum: an eigenvalue found below 0 or above 1 is a true violation, not an inaccuracy.
    ``residual`` says how precise they are.

    Attributes:
        asymmetry: ``|J - J^T| / 2 |J|`` in the spectral norm: 0 when symmetric, 1 when antisymmetric.
        smallest_eigenvalue: Of the symmetric part ``(J + J^T) / 2``; at least 0 for the gradient of a convex function.
        largest_eigenvalue: Of the symmetric part; at most 1 for a proximal map.
        spectral_norm: ``|J|``; at most 1 when nonexpansive.
        spectral_radius: Largest ``|eigenvalue|`` of J; below 1 a fixed point attracts what is near it, above 1 it does
            not. Within the tolerance of 1 rounding would decide, so that nothing is said.
        residual: Error bound: smallest and largest eigenvalue and spectral norm are each at most so far from some
            eigenvalue of the symmetric part, or singular value of J.
        reconstruction_error: Mean ``(f(x) - x)^2``: whether the image is a fixed point at all.
        tolerance: How far from exact still counts.
        num_steps: Dimension of the Krylov spaces.

    >>> numbers = {"smallest_eigenvalue": [0.0, 0.1], "largest_eigenvalue": [0.9, 1.4], "spectral_norm": [0.9, 1.4]}
    >>> numbers |= {"spectral_radius": [0.9, 1.4], "residual": [0.0, 0.0], "reconstruction_error": [0.0, 0.0]}
    >>> report = ProximalReport(asymmetry=[0.0, 0.0], **numbers, tolerance=1e-3, num_steps=40)
    >>> report.proximal, report.attractor  # at the second image a direction is stretched to 1.4 times its length
    ([True, False], [True, False])
    """

    asymmetry: list[float]
    smallest_eigenvalue: list[float]
    largest_eigenvalue: list[float]
    spectral_norm: list[float]
    spectral_radius: list[float]
    residual: list[float]
    reconstruction_error: list[float]
    tolerance: float
    num_steps: int

    def __len__(self) -> int:
        return len(self.asymmetry)

    @property
    def symmetric(self) -> list[bool]:
        """Whether J is symmetric: f is the gradient of a function there."""
        return [value <= self.tolerance for value in self.asymmetry]

    @property
    def nonexpansive(self) -> list[bool]:
        """Whether no direction is stretched."""
        return [value <= 1 + self.tolerance for value in self.spectral_norm]

    @property
    def proximal(self) -> list[bool]:
        """Whether J is that of a proximal map: symmetric, with a spectrum in [0, 1]."""
        return [
            symmetric and low >= -self.tolerance and high <= 1 + self.tolerance
            for symmetric, low, high in zip(
                self.symmetric, self.smallest_eigenvalue, self.largest_eigenvalue, strict=True
            )
        ]

    @property
    def attractor(self) -> list[bool | None]:
        """Whether a fixed point here attracts what is near it under plain iteration of f; None where undecided."""
        return [None if abs(value - 1) <= self.tolerance else value < 1 for value in self.spectral_radius]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row per image: the numbers and the verdicts."""
        columns = (*_NUMBERS, *_VERDICTS)
        return [{name: getattr(self, name)[row] for name in columns} for row in range(len(self))]


_NUMBERS = (
    "asymmetry",
    "smallest_eigenvalue",
    "largest_eigenvalue",
    "spectral_norm",
    "spectral_radius",
    "residual",
    "reconstruction_error",
)
_VERDICTS = ("symmetric", "nonexpansive", "proximal", "attractor")


def proximal_diagnostic(
    autoencoder: Autoencoder,
    images: Tensor,
    num_steps: int = 40,
    tolerance: float = 1e-3,
    seed: int = 0,
    chunk_size: int | None = None,
) -> ProximalReport:
    """Measure how far an autoencoder is from a proximal map at given images.

    With S and A the symmetric and the antisymmetric part of the Jacobian J, Krylov spaces of S, A^T A, J^T J and J give
    the extreme eigenvalues of S, ``|A|``, ``|J|`` and the spectral radius of J. That takes about ``11 num_steps``
    products with J or its transpose per image, each of the cost of a few evaluations of f.

    Args:
        autoencoder: f; images must not influence each other (put a module in eval mode first).
        images: (B, C, *spatial), where to look.
        num_steps: Dimension of the Krylov spaces; more is more precise. Never more than C·prod(spatial) is used.
        tolerance: How far from exact still counts in the verdicts.
        seed: Seeds the start vectors.
        chunk_size: Images at once; None is 16, or fewer where ``chunk_size · num_steps`` images, which are held, would
            be too large.

    Raises:
        ValueError: Bad shapes or numbers, or f returns values that are not finite.
    """
    check_images("images", images)
    if chunk_size is None:
        chunk_size = images_at_once(MOST_IMAGES * num_steps, images) // max(1, num_steps) or 1
    check_counts(num_steps=num_steps, chunk_size=chunk_size)
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance}: must be 0 or more")
    generator = torch.Generator().manual_seed(seed)
    columns: dict[str, list[float]] = {name: [] for name in _NUMBERS}
    # Cached: a weight that is computed from another, as under a spectral norm, stays what it is for all products.
    with parametrize.cached(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script.*", FutureWarning)  # torch's own use of it, in jvp
        for part in torch.split(images, chunk_size):
            for name, values in _measure(autoencoder, part, num_steps, generator).items():
                columns[name] += values.tolist()
    return ProximalReport(**columns, tolerance=tolerance, num_steps=num_steps)


def _measure(autoencoder: Autoencoder, images: Tensor, num_steps: int, generator: torch.Generator) -> dict[str, Tensor]:
    output, transposed_product = vjp(autoencoder, images)[:2]
    if not bool(output.isfinite().all()):
        raise ValueError("the autoencoder returned NaN or infinite values for images: check its weights")

    def forward(vectors: Tensor) -> Tensor:
        product: Tensor = jvp(autoencoder, (images,), (vectors,))[1]
        return product.detach()

    def backward(vectors: Tensor) -> Tensor:
        product: Tensor = transposed_product(vectors)[0]
        return product.detach()

    def symmetric(vectors: Tensor) -> Tensor:
        return (forward(vectors) + backward(vectors)) / 2

    def antisymmetric(vectors: Tensor) -> Tensor:
        return (forward(vectors) - backward(vectors)) / 2

    start = torch.randn(images.shape, generator=generator, dtype=torch.float64).to(images)
    spectrum = symmetric_extremes(symmetric, start, num_steps)
    norm = symmetric_extremes(lambda vectors: backward(forward(vectors)), start, num_steps)
    skewness = symmetric_extremes(lambda vectors: -antisymmetric(antisymmetric(vectors)), start, num_steps)
    spectral_norm = norm.largest.clamp_min(0).sqrt()
    ritz_values = torch.linalg.eigvals(krylov(forward, start, num_steps).projection)
    # d sqrt(a) = da / 2 sqrt(a): the residual of |J|^2 as one of |J|.
    residual = torch.maximum(spectrum.residual, norm.residual / (2 * spectral_norm).clamp_min(1e-12))
    return {
        "asymmetry": skewness.largest.clamp_min(0).sqrt() / spectral_norm.clamp_min(1e-12),
        "smallest_eigenvalue": spectrum.smallest,
        "largest_eigenvalue": spectrum.largest,
        "spectral_norm": spectral_norm,
        "spectral_radius": ritz_values.abs().amax(1),
        "residual": residual,
        "reconstruction_error": per_image_mean((output.detach() - images).square()),
    }


class Extremes(NamedTuple):
    """Extreme eigenvalues of a symmetric operator, one entry per image, float64.

    Attributes:
        smallest: (B,) at least the true one.
        largest: (B,) at most the true one.
        residual: (B,) each of the two is at most so far from some eigenvalue.

    >>> diagonal = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
    >>> extremes = symmetric_extremes(lambda vectors: diagonal * vectors, start=torch.ones(1, 1, 2, 2), num_steps=4)
    >>> round(extremes.smallest.item(), 3), round(extremes.largest.item(), 3)
    (1.0, 4.0)
    """

    smallest: Tensor
    largest: Tensor
    residual: Tensor


def symmetric_extremes(operator: Operator, start: Tensor, num_steps: int) -> Extremes:
    """Extreme eigenvalues of a symmetric operator by the Lanczos method (Golub & Van Loan, section 10.1).

    Args:
        operator: Symmetric, on (B, C, *spatial).
        start: (B, C, *spatial), not zero.
        num_steps: Number of products, at most C·prod(spatial) of them.

    Raises:
        ValueError: A product is not finite.
    """
    projection, last = krylov(operator, start, num_steps)
    values, vectors = torch.linalg.eigh((projection + projection.mT) / 2)
    # |T s - theta s| = beta |last entry of s| for a Ritz pair.
    residual = last * vectors[:, -1, [0, -1]].abs().amax(1)
    return Extremes(values[:, 0], values[:, -1], residual)


class Krylov(NamedTuple):
    """The projection of an operator onto a Krylov space of m dimensions.

    Attributes:
        projection: (B, m, m) upper Hessenberg, float64; its eigenvalues approach those of the operator.
        last: (B,) norm of what the last product has outside of the space, float64.

    >>> def rotate(vectors):  # by 90 degrees in the plane of two pixels: its eigenvalues are i and -i
    ...     return torch.stack([-vectors[..., 1], vectors[..., 0]], -1)
    >>> projection = krylov(rotate, start=torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), num_steps=2).projection
    >>> projection.tolist(), torch.linalg.eigvals(projection).abs().tolist()
    ([[[0.0, -1.0], [1.0, 0.0]]], [[1.0, 1.0]])
    """

    projection: Tensor
    last: Tensor


@torch.no_grad()
def krylov(operator: Operator, start: Tensor, num_steps: int) -> Krylov:
    """Arnoldi's method with full reorthogonalization (Golub & Van Loan, section 10.5), for all images at once.

    For a symmetric operator it is the Lanczos method. Where a Krylov space is exhausted, as for operators of low rank,
    it goes on from another direction, so that no eigenvalue stays out of reach.

    Args:
        operator: Linear, on (B, C, *spatial).
        start: (B, C, *spatial), not zero.
        num_steps: Dimension of the space, m; at most C·prod(spatial) is used.

    Raises:
        ValueError: A product is not finite.
    """
    count, size = len(start), start[0].numel()
    steps = min(num_steps, size)
    generator = torch.Generator().manual_seed(steps)
    basis = start.new_zeros(count, steps + 1, size)
    projection = torch.zeros(count, steps + 1, steps, dtype=torch.float64, device=start.device)
    basis[:, 0] = _normalized(start.flatten(1))
    for step in range(steps):
        product = operator(basis[:, step].view_as(start)).flatten(1)
        scale = product.norm(dim=1)
        remainder, coefficients = _orthogonalized(product, basis[:, : step + 1])
        projection[:, : step + 1, step] = coefficients
        length = remainder.norm(dim=1)
        exhausted = length <= 100 * torch.finfo(start.dtype).eps * scale
        projection[:, step + 1, step] = torch.where(exhausted, 0, length)
        if bool(exhausted.any()):
            other = torch.randn(count, size, generator=generator, dtype=torch.float64).to(start)
            other, _ = _orthogonalized(other, basis[:, : step + 1])
            remainder = torch.where(exhausted[:, None], other, remainder)
        basis[:, step + 1] = _normalized(remainder)
    if not bool(projection.isfinite().all()):
        raise ValueError("the autoencoder's Jacobian holds NaN or infinite values at these images: check its weights")
    return Krylov(projection[:, :steps], projection[:, steps, -1])


def _orthogonalized(vectors: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Take from vectors (B, N) their part within an orthonormal basis (B, m, N); twice, as once leaves rounding."""
    total = torch.zeros(basis.shape[:2], dtype=torch.float64, device=vectors.device)
    for _ in range(2):
        coefficients = (basis @ vectors[:, :, None])[:, :, 0]
        vectors = vectors - (basis.mT @ coefficients[:, :, None])[:, :, 0]
        total += coefficients
    return vectors, total


def _normalized(vectors: Tensor) -> Tensor:
    length: Tensor = vectors.norm(dim=1, keepdim=True)
    return vectors / length.clamp_min(1e-30)
