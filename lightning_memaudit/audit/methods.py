"""The recovery methods by name, and what the audit must know about each."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence

from lightning_memaudit.audit.names import INPAINTER, primary_method
from lightning_memaudit.recovery import (
    AutoencoderIterations,
    BlindRecovery,
    InformedRecoveryMethod,
    KnownMaskRecovery,
    RecoveryMethod,
    WhiteBoxRecovery,
)

__all__ = [
    "INPAINTER",
    "METHODS",
    "Method",
    "Methods",
    "claims",
    "estimates_mask",
    "make_method",
    "needs_mask",
    "primary_method",
    "resolve_methods",
    "uses_autoencoder",
]

Method = RecoveryMethod | InformedRecoveryMethod
Methods = Sequence[str] | Mapping[str, str | Method]


def _paper_blind() -> Method:
    return BlindRecovery(mask_estimator="least_squares", penalties=(0.1,))


def _biharmonic() -> Method:
    from lightning_memaudit.audit.inpainting import BiharmonicInpainting  # scikit-image is slow to import

    return BiharmonicInpainting()


METHODS: dict[str, Callable[[], Method]] = {
    "blind": BlindRecovery,
    "paper_blind": _paper_blind,
    "known_mask": KnownMaskRecovery,
    "white_box": WhiteBoxRecovery,
    "autoencoder_iterations": AutoencoderIterations,
    "biharmonic": _biharmonic,
}
"""Name to factory. ``ddnm`` needs a diffusion model, so it is configured by class path."""


def resolve_methods(methods: Methods) -> dict[str, Method]:
    """Turn names, or a mapping from names to methods (or names), into methods in the given order.

    Raises:
        ValueError: An unknown name, or no method at all.
    """
    named = dict(methods) if isinstance(methods, Mapping) else {name: name for name in methods}
    if not named:
        raise ValueError(f"methods={methods!r}: name at least one of {', '.join(METHODS)}")
    for name in named:
        # Names become parts of metrics, arrays and pages.
        if not re.fullmatch(r"[A-Za-z0-9_.+-]*[A-Za-z0-9_+-]", name):
            raise ValueError(f"method name {name!r}: use letters, digits, '_', '-', '+' and '.' only")
    return {name: make_method(method) if isinstance(method, str) else method for name, method in named.items()}


def make_method(name: str) -> Method:
    """Make the method called ``name`` with its defaults.

    Raises:
        ValueError: There is none.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        extra = "; ddnm takes a diffusion model: methods={'ddnm': DDNM(...)}" if name == "ddnm" else ""
        raise ValueError(f"method {name!r} is unknown: {hint}pass one of {', '.join(METHODS)}{extra}")
    return METHODS[name]()


def needs_mask(method: Method) -> bool:
    """Whether the method is told the true mask (a bound or a baseline, never the audit itself)."""
    return bool(getattr(method, "needs_mask", False))


def estimates_mask(method: Method) -> bool:
    """Whether the mask that comes back is an estimate worth scoring."""
    return bool(getattr(method, "estimates_mask", False))


def claims(method: Method) -> bool:
    """Whether the method certifies images as recovered, which only blind ones can."""
    return bool(getattr(method, "claims", False))


def uses_autoencoder(method: Method) -> bool:
    """Whether the result depends on the autoencoder; if not, it is computed once per run."""
    return bool(getattr(method, "uses_autoencoder", True))
