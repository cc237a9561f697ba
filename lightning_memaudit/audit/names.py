"""Names that the audit and its reports share; nothing here imports torch."""

from collections.abc import Sequence

INPAINTER = "biharmonic"
"""The generic inpainter: what it recovers without any autoencoder is no evidence of memorization."""


def primary_method(names: Sequence[str]) -> str:
    """The method that the headline speaks of: ``blind`` if it runs, else the first that is not the inpainter."""
    return "blind" if "blind" in names else next((name for name in names if name != INPAINTER), names[0])
