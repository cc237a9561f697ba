"""The recovery methods by name, and what the audit must know about each."""

from collections.abc import Callable, Sequence
from typing import TypeGuard

from torch import Tensor

from lightning_memaudit.recovery.methods.autoencoder_iterations import AutoencoderIterations
from lightning_memaudit.recovery.methods.blind import BlindRecovery
from lightning_memaudit.recovery.methods.deblurring import BlindDeblurring
from lightning_memaudit.recovery.methods.known_mask import KnownMaskRecovery
from lightning_memaudit.recovery.methods.white_box import WhiteBoxRecovery
from lightning_memaudit.recovery.types import Autoencoder, Family, InformedRecoveryMethod, Recovery, RecoveryMethod

Method = RecoveryMethod | InformedRecoveryMethod


def _paper_blind() -> Method:
    return BlindRecovery(mask_estimator="least_squares", penalties=(0.1,))


def _blind_black_box() -> Method:
    return BlindRecovery(gradients="never")


def _biharmonic() -> Method:
    from lightning_memaudit.recovery.methods.biharmonic import BiharmonicInpainting  # scikit-image is slow to import

    return BiharmonicInpainting()


METHODS: dict[str, Callable[[], Method]] = {
    "blind": BlindRecovery,
    "blind_black_box": _blind_black_box,
    "paper_blind": _paper_blind,
    "known_mask": KnownMaskRecovery,
    "white_box": WhiteBoxRecovery,
    "blind_deblurring": BlindDeblurring,
    "autoencoder_iterations": AutoencoderIterations,
    "biharmonic": _biharmonic,
}
"""Name to factory. ``ddnm`` needs a diffusion model, so it is configured by class path."""


def needs_mask(method: Method) -> bool:
    """Whether the method is told the true mask (a bound or a baseline, never the audit itself)."""
    return bool(getattr(method, "needs_mask", False))


def estimates_mask(method: Method) -> bool:
    """Whether the mask that comes back is an estimate worth scoring."""
    return bool(getattr(method, "estimates_mask", False))


def claims(method: Method) -> bool:
    """Whether the method certifies images as recovered, which only blind ones can."""
    return bool(getattr(method, "claims", False))


def calibrates_on_copies(method: Method) -> TypeGuard[BlindRecovery]:
    """Whether the method searches turned copies for its certificates, where there are too few controls for them."""
    return isinstance(method, BlindRecovery) and method.calibrates_on_copies


def recovers_from(method: Method, family: Family) -> bool:
    """Whether the method is for images behind a mask, or behind a blur; one that does not say is for masks."""
    return family in getattr(method, "families", ("mask",))


def is_for_planes(method: Method) -> bool:
    """Whether the method is for images with two spatial axes alone."""
    return bool(getattr(method, "plane_only", False))


def uses_autoencoder(method: Method) -> bool:
    """Whether the result depends on the autoencoder; if not, it is computed once per run."""
    return bool(getattr(method, "uses_autoencoder", True))


def is_inpainter(method: Method) -> bool:
    """Whether it is the package's own inpainter, or of a subclass, and no other method that was given its name.

    >>> is_inpainter(METHODS["biharmonic"]()), is_inpainter(METHODS["blind"]())
    (True, False)
    """
    if uses_autoencoder(method):
        return False
    from lightning_memaudit.recovery.methods.biharmonic import BiharmonicInpainting  # scikit-image is slow to import

    return isinstance(method, BiharmonicInpainting)


def recover(
    method: Method,
    autoencoder: Autoencoder,
    observed: Tensor,
    mask: Tensor,
    earlier: Sequence[tuple[Method, Recovery]] = (),
) -> Recovery:
    """Call a method; only one that :func:`needs_mask` is given the mask.

    Args:
        method: Any method.
        autoencoder: f, images (B, C, *spatial) to the same shape.
        observed: (B, C, *spatial).
        mask: The true mask, (B, 1 or C, *spatial), 1 where observed.
        earlier: Other methods and what they made of the same observations with the same autoencoder; the known mask
            takes over what was searched alike.
    """
    if isinstance(method, KnownMaskRecovery) and earlier:
        return method.after(earlier, autoencoder, observed, mask)
    if needs_mask(method):
        return method(autoencoder, observed, mask)  # type: ignore[call-arg]
    return method(autoencoder, observed)  # type: ignore[call-arg]
