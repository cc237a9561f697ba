"""Measure and judge: degradations, metrics, groups, the audit engine and its results files.

The package is also the function :func:`lightning_memaudit.audit.engine.audit`, called by its public name::

    from lightning_memaudit import audit
    report = audit(autoencoder, members, controls)
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_memaudit.audit.engine import AuditReport


class _CallablePackage(ModuleType):
    # A submodule always takes its parent's attribute of the same name, so that the function cannot stand there.
    def __call__(self, *arguments: Any, **named: Any) -> "AuditReport":
        """Call :func:`lightning_memaudit.audit.engine.audit`, which says what it takes."""
        from lightning_memaudit.audit.engine import audit

        return audit(*arguments, **named)


sys.modules[__name__].__class__ = _CallablePackage
