"""Names that the audit and its reports share; nothing here imports torch."""

from collections.abc import Sequence

INPAINTER = "biharmonic"
"""The generic inpainter: what it recovers without any autoencoder is no evidence of memorization."""


def primary_method(names: Sequence[str]) -> str:
    """The method that the headline speaks of: ``blind`` if it runs, else the first."""
    return "blind" if "blind" in names else names[0]
