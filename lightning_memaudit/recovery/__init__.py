"""Get images back: pure torch, no Lightning; takes any callable autoencoder."""

from lightning_memaudit.recovery.admm import Alternation
from lightning_memaudit.recovery.blind import BlindRecovery
from lightning_memaudit.recovery.iterations import AutoencoderIterations
from lightning_memaudit.recovery.known_mask import KnownMaskRecovery
from lightning_memaudit.recovery.types import Autoencoder, InformedRecoveryMethod, Recovery, RecoveryMethod, Trace

__all__ = [
    "Alternation",
    "Autoencoder",
    "AutoencoderIterations",
    "BlindRecovery",
    "InformedRecoveryMethod",
    "KnownMaskRecovery",
    "Recovery",
    "RecoveryMethod",
    "Trace",
]
