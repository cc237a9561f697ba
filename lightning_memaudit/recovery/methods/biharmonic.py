"""What anyone can fill in without the autoencoder: the generic baseline that every recovery must beat."""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from lightning_memaudit.recovery import Autoencoder, Recovery
from lightning_memaudit.recovery.checks import check_images, check_mask

Image = NDArray[np.float64]
Missing = NDArray[np.bool_]


class BiharmonicInpainting:
    """Fill the missing pixels of each image smoothly, given the true mask (scikit-image's ``inpaint_biharmonic``).

    It solves the biharmonic equation in the missing region (Damelin & Hoang, 2018). It never sees the autoencoder,
    so that what it recovers is no evidence of memorization.

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
    """One image (C, *spatial) with missing pixels (1 or C, *spatial)."""
    if len(missing) == 1:
        return _inpaint_shared(image, missing[0])
    return np.concatenate([_inpaint_shared(channel[None], hole) for channel, hole in zip(image, missing, strict=True)])


def _inpaint_shared(image: Image, missing: Missing) -> Image:
    if not missing.any() or missing.all():
        return image
    filled: Image = inpaint_biharmonic(image, missing, channel_axis=0)
    return np.clip(filled, 0.0, 1.0)
