"""Modules that keep something and change it in forward, for tests of what an audit leaves behind."""

import warnings
from dataclasses import dataclass, field

from torch import nn

from lightning_memaudit.callback.isolation import undisturbed


class Slotted:
    __slots__ = ("calls", "unset")

    def __init__(self):
        self.calls = 0


@dataclass
class Nested:
    values: list = field(default_factory=list)
    slotted: Slotted = field(default_factory=Slotted)


class Holder(nn.Module):
    """Keeps something of the test's, and does something of the test's with it."""

    kept_by_class = 0

    def __init__(self, kept, act):
        super().__init__()
        self.kept, self.act = kept, act

    def forward(self, x=None):
        return self.act(self)


def changes(module, *owners):
    """Run forward within the protection; the names that the warning says."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with undisturbed(module, *owners):
            module()
    found = [str(one.message) for one in caught if "could not be restored" in str(one.message)]
    assert len(found) <= 1
    return found[0].split("after an audit: ")[1].rpartition(": the training")[0] if found else ""
