"""How much of its training data does this autoencoder remember?

Train autoencoders with PyTorch Lightning, audit them by blind recovery (Abitbul & Dar, arXiv 2310.02897),
and report what came back. Four rooms, one import direction: ``report`` -> ``audit`` -> ``recovery``, with
``training`` alone; ``callback`` and ``cli`` compose them and nothing imports those two.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_memaudit.audit.engine import audit
    from lightning_memaudit.callback import MemorizationAuditCallback

__version__ = "0.1.0"
__all__ = ["MemorizationAuditCallback", "__version__", "audit"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `--help` and `report` do not pay for torch and lightning.
    if name == "MemorizationAuditCallback":
        from lightning_memaudit.callback import MemorizationAuditCallback

        return MemorizationAuditCallback
    if name == "audit":
        return import_module("lightning_memaudit.audit")  # which can be called
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
