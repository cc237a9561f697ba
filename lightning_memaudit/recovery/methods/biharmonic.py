"""What anyone can fill in without the autoencoder: the generic baseline that every recovery must beat."""

import functools
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from lightning_memaudit.recovery import Autoencoder, Recovery
from lightning_memaudit.recovery.checks import check_images, check_mask

Image = NDArray[np.float64]
Missing = NDArray[np.bool_]


class BiharmonicInpainting:
    """Fill the missing pixels of each image smoothly, given the true mask: the biharmonic equation.

    L L x = 0 in the missing pixels, with L the discrete Laplacian, mirrored at the borders, and x fixed in the others
    (Damelin & Hoang, 2018); the results are those of scikit-image's ``inpaint_biharmonic``, in less time. It never sees
    the autoencoder, so that what it recovers is no evidence of memorization.

    >>> ramp, mask = torch.linspace(0, 1, 8).repeat(1, 1, 8, 1), torch.ones(1, 1, 8, 8)
    >>> mask[..., 3:5, 3:5] = 0
    >>> recovery = BiharmonicInpainting()(lambda images: images, mask * ramp, mask)
    >>> torch.allclose(recovery.image, ramp, atol=1e-4), recovery.num_evaluations.tolist()  # smooth images need no f
    (True, [0])
    """

    needs_mask: ClassVar[bool] = True
    uses_autoencoder: ClassVar[bool] = False

    def __repr__(self) -> str:
        return "BiharmonicInpainting()"  # goes into run.json and its hash; an address would differ every time

    def __call__(self, autoencoder: Autoencoder, observed: Tensor, mask: Tensor) -> Recovery:
        """Inpaint ``observed``, (B, C, H, W) in [0, 1], where ``mask``, (B, 1 or C, H, W), is 0.

        An image of which nothing is observed stays as it is. ``autoencoder`` is not called.

        Returns:
            The images, filled with values in [0, 1], with ``mask`` as it is; their score is NaN, nothing is certified.

        Raises:
            ValueError: The shapes do not fit or values are not finite.
        """
        check_images("observed", observed)
        check_mask(mask, observed)
        images = observed.detach().cpu().numpy().astype(np.float64)
        missing = (mask < 0.5).cpu().numpy()
        filled = np.stack([_inpaint(*pair) for pair in zip(images, missing, strict=True)]) if len(images) else images
        count = len(observed)
        return Recovery(
            image=torch.from_numpy(filled).to(observed),
            mask=mask,
            score=observed.new_full((count,), torch.nan),
            certified=torch.zeros(count, dtype=torch.bool, device=observed.device),
            num_evaluations=torch.zeros(count, dtype=torch.int64, device=observed.device),
        )


def _inpaint(image: Image, missing: Missing) -> Image:
    """One image (C, H, W) with missing pixels (1 or C, H, W)."""
    if len(missing) == 1:
        return _inpaint_shared(image, missing[0])
    return np.concatenate([_inpaint_shared(channel[None], hole) for channel, hole in zip(image, missing, strict=True)])


def _inpaint_shared(image: Image, missing: Missing) -> Image:
    if not missing.any() or missing.all():
        return image
    hole = missing.ravel()
    equations = _biharmonic_operator(*missing.shape)[hole.nonzero()[0]]
    values = image.reshape(len(image), -1).T.copy()
    known = values[~hole]
    # A block of a positive definite matrix: no pivoting is needed.
    matrix = equations[:, hole.nonzero()[0]].tocsc()
    solver = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    values[hole] = solver.solve(-(equations[:, (~hole).nonzero()[0]] @ known))
    values = values.clip(known.min(0), known.max(0)).clip(0.0, 1.0)
    return np.ascontiguousarray(values.T).reshape(image.shape)


@functools.lru_cache(maxsize=1)
def _biharmonic_operator(height: int, width: int) -> Any:
    """L L of images of one size as a sparse matrix, (height * width, height * width)."""
    down = sparse.kron(_second_difference(height), sparse.eye_array(width))
    across = sparse.kron(sparse.eye_array(height), _second_difference(width))
    laplacian = sparse.csr_array(down + across)
    return sparse.csr_array(laplacian @ laplacian)


def _second_difference(side: int) -> Any:
    """``x[i - 1] - 2 x[i] + x[i + 1]`` as a sparse matrix, (side, side), mirrored at the borders."""
    neighbours = sparse.eye_array(side, k=1) + sparse.eye_array(side, k=-1)
    return neighbours - sparse.diags_array(neighbours.sum(1))
