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

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_memaudit.callback import MemorizationAuditCallback
    from lightning_memaudit.measurement.engine import audit

__version__ = "0.1.0"
__all__ = ["MemorizationAuditCallback", "__version__", "audit"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `--help` and `report` do not pay for torch and lightning.
    if name == "MemorizationAuditCallback":
        from lightning_memaudit.callback import MemorizationAuditCallback

        return MemorizationAuditCallback
    if name == "audit":
        from lightning_memaudit.measurement.engine import audit

        return audit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
