"""Get images back: pure torch, no Lightning; takes any callable autoencoder."""

from lightning_memaudit.recovery.admm import Alternation
from lightning_memaudit.recovery.blind import BlindRecovery
from lightning_memaudit.recovery.certification import Calibration, calibrate, certify, turned_copies
from lightning_memaudit.recovery.deblurring import BlindDeblurring
from lightning_memaudit.recovery.iterations import AutoencoderIterations
from lightning_memaudit.recovery.known_mask import KnownMaskRecovery
from lightning_memaudit.recovery.masks import LeastSquaresMask, PosteriorMask
from lightning_memaudit.recovery.search import Round, SelfTuning
from lightning_memaudit.recovery.types import Autoencoder, InformedRecoveryMethod, Recovery, RecoveryMethod, Trace
from lightning_memaudit.recovery.white_box import WhiteBoxRecovery

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
