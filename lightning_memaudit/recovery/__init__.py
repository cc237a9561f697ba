"""Get images back: pure torch, no Lightning; takes any callable autoencoder."""

from lightning_memaudit.recovery.alternation import Alternation
from lightning_memaudit.recovery.certification import calibrate, certify, turned_copies
from lightning_memaudit.recovery.masks import LeastSquaresMask, PosteriorMask
from lightning_memaudit.recovery.methods.autoencoder_iterations import AutoencoderIterations
from lightning_memaudit.recovery.methods.blind import BlindRecovery
from lightning_memaudit.recovery.methods.deblurring import BlindDeblurring
from lightning_memaudit.recovery.methods.known_mask import KnownMaskRecovery
from lightning_memaudit.recovery.methods.white_box import WhiteBoxRecovery
from lightning_memaudit.recovery.tuning import Round, SelfTuning
from lightning_memaudit.recovery.types import (
    Autoencoder,
    Calibration,
    InformedRecoveryMethod,
    Recovery,
    RecoveryMethod,
    Trace,
)

__all__ = [
    "Alternation",
    "Autoencoder",
    "AutoencoderIterations",
    "BlindDeblurring",
    "BlindRecovery",
    "Calibration",
    "InformedRecoveryMethod",
    "KnownMaskRecovery",
    "LeastSquaresMask",
    "PosteriorMask",
    "Recovery",
    "RecoveryMethod",
    "Round",
    "SelfTuning",
    "Trace",
    "WhiteBoxRecovery",
    "calibrate",
    "certify",
    "turned_copies",
]
