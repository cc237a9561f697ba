"""What anyone can fill in without the autoencoder: the generic baseline that every recovery must beat."""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import laplace
from scipy.sparse.linalg import LinearOperator, cg
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from lightning_memaudit.recovery import Autoencoder, Recovery
from lightning_memaudit.recovery.checks import check_images, check_mask
from lightning_memaudit.recovery.interpolation import interpolate

Image = NDArray[np.float64]
Missing = NDArray[np.bool_]

RELATIVE_RESIDUAL, MOST_STEPS = 1e-4, 2000
"""Conjugate gradients end at that residual, as a share of that of the interpolation which they start from, or after so
many steps: some tens for pixels that are missing at random, hundreds for half of a volume."""


class BiharmonicInpainting:
    """Fill the missing pixels of each image smoothly, given the true mask (scikit-image's ``inpaint_biharmonic``).

    It solves the biharmonic equation in the missing region (Damelin & Hoang, 2018). It never sees the autoencoder,
    so that what it recovers is no evidence of memorization. Of volumes the same equation is solved by conjugate
    gradients: a direct solution takes minutes and gigabytes from some fifty voxels a side on.

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
        """Inpaint ``observed``, (B, C, *spatial) in [0, 1], where ``mask``, (B, 1 or C, *spatial), is 0.

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
        filled = _inpaint(images, missing)
        count = len(observed)
        return Recovery(
            image=torch.from_numpy(filled).to(observed),
            mask=mask,
            score=observed.new_full((count,), torch.nan),
            certified=torch.zeros(count, dtype=torch.bool, device=observed.device),
            num_evaluations=torch.zeros(count, dtype=torch.int64, device=observed.device),
        )


def _inpaint(images: Image, missing: Missing) -> Image:
    """Images (B, C, *spatial) with missing pixels (B, 1 or C, *spatial).

    The equations depend on the mask alone, and are set up once for images that have the same one, as a member and its
    control do: as channels of one image. Of volumes nothing is set up, so that each is held by itself.
    """
    if missing.shape[1] > 1:  # every channel by itself
        one = (-1, 1, *images.shape[2:])
        return _inpaint(images.reshape(one), missing.reshape(one)).reshape(images.shape)
    alike: dict[bytes | int, list[int]] = {}
    for row, hole in enumerate(missing):
        alike.setdefault(hole.tobytes() if hole.ndim < 4 else row, []).append(row)
    filled = np.empty_like(images)
    for rows in alike.values():
        filled[rows] = _inpaint_shared(np.concatenate(images[rows]), missing[rows[0], 0]).reshape(images[rows].shape)
    return filled


def _inpaint_shared(image: Image, missing: Missing) -> Image:
    if not missing.any() or missing.all():
        return image
    if missing.ndim == 3:
        filled = _by_conjugate_gradients(image, missing)
    else:
        filled = inpaint_biharmonic(image, missing, channel_axis=0)
    return np.clip(filled, 0.0, 1.0)


def _by_conjugate_gradients(image: Image, missing: Missing) -> Image:
    """What ``inpaint_biharmonic`` returns, up to about 1e-3 of the range, for large volumes too.

    With L the Laplacian of the grid, mirrored at the borders, and u the values that are missing, others being given,
    it solves (L L u) = 0 where they are missing.
    """
    start = interpolate(torch.from_numpy(image)[None], torch.from_numpy(~missing).to(torch.float64)[None, None])[0]
    filled = np.stack([_solve(channel, missing) for channel in start.numpy()])
    known = image[:, ~missing]
    limits = (limit.reshape(-1, 1, 1, 1) for limit in (known.min(1), known.max(1)))
    clipped: Image = np.clip(filled, *limits)
    return clipped


def _solve(start: Image, missing: Missing) -> Image:
    """One channel, from what the missing voxels are at first."""

    def on_missing(values: Image) -> Image:
        everywhere = np.zeros(missing.shape)
        everywhere[missing] = values
        product: Image = laplace(laplace(everywhere))[missing]
        return product

    residual = -laplace(laplace(start))[missing]
    number = len(residual)
    operator = LinearOperator((number, number), matvec=on_missing, dtype=np.float64)
    enough = RELATIVE_RESIDUAL * float(np.linalg.norm(residual))
    # What comes after so many steps is near enough, whether or not the residual is.
    step, _ = cg(operator, residual, rtol=0.0, atol=enough, maxiter=MOST_STEPS)
    filled = start.copy()
    filled[missing] += step
    return filled
