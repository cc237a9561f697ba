"""How much of its training data does this autoencoder remember?

Train autoencoders with PyTorch Lightning, audit them by blind recovery (Abitbul & Dar, arXiv 2310.02897), and report
what came back. Rooms, from the bottom up; each imports only those named behind it:

- ``recovery`` gets images back (torch alone);
- ``results`` is what was found and what it proves (numpy and scipy);
- ``measurement`` degrades, recovers and measures: ``recovery``, ``results``;
- ``training`` makes a model that memorizes: ``measurement.near_duplicates``;
- ``report`` shows it: ``results``;
- ``callback`` attaches it to a Lightning run: the four above but ``training``;
- ``bench`` measures the package itself, ``cli`` is the command line: everything below them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_memaudit.callback import MemorizationAuditCallback
    from lightning_memaudit.measurement.engine import audit
    from lightning_memaudit.results.audit_report import AuditReport

__version__ = "0.3.11"
__all__ = ["AuditReport", "MemorizationAuditCallback", "__version__", "audit"]

_PLACES = {
    "AuditReport": "lightning_memaudit.results.audit_report",
    "MemorizationAuditCallback": "lightning_memaudit.callback",
    "audit": "lightning_memaudit.measurement.engine",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `--help` and `report` do not pay for torch and lightning.
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
