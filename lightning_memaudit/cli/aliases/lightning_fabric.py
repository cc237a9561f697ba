"""What a process that a command has started (a spawned worker) finds under this name: the package that is meant."""

import sys
from importlib import import_module

from lightning_memaudit.cli.twins import install, meant

if __name__ == "lightning_fabric":
    install()
    sys.modules[__name__] = import_module(str(meant(__name__)))
