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

_EXPORTS = {
    "MemorizationAuditCallback": "lightning_memaudit.callback",
    "audit": "lightning_memaudit.audit.engine",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `--help` and `report` do not pay for torch and lightning.
    if name in _EXPORTS:
        value = getattr(import_module(_EXPORTS[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
