"""``python -m lightning_memaudit``."""

import sys

from lightning_memaudit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
