"""Attach the audit to a Lightning run: hooks, which images, how the model is called, when, and where results go."""

from lightning_memaudit.callback.memorization_audit import MemorizationAuditCallback

__all__ = ["MemorizationAuditCallback"]
