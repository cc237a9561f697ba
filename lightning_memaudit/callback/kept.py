"""Which blocks of an interrupted audit an audit may take over: those of the same weights, images and settings."""

from collections.abc import Mapping
from typing import Any

from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.results.files import plain
from lightning_memaudit.results.hashes import json_sha256
from lightning_memaudit.results.kept_blocks import KeptBlocks
from lightning_memaudit.results.run_folder import RunFolder

_OF_THE_RUN_ALONE = ("created", "run_id")
"""What ``run.json`` says of a run, and that changes when the same is audited again."""


def kept_blocks(
    folder: RunFolder, processes: Processes, about: tuple[str | None, Mapping[str, float], int, Mapping[str, Any]]
) -> KeptBlocks | None:
    """Where this process keeps its blocks; None where the weights are in parts, and all must call the model alike.

    Args:
        folder: Of the results.
        processes: That share the audit.
        about: Hash of the weights, how well the model reproduces the first images (which tells of code that has
            changed), images in a block, and the content of ``run.json``; those of the first process count.

    >>> folder, alone = RunFolder("runs/a/memaudit"), Processes()
    >>> first, second, other = (
    ...     kept_blocks(folder, alone, (weights, {"members": 41.5}, 512, {"created": created}))
    ...     for weights, created in (("a1", "Monday"), ("a1", "Friday"), ("b2", "Friday"))
    ... )
    >>> first.key == second.key, first.key == other.key
    (True, False)
    """
    weights, own, block_size, description = about
    lasting = {name: value for name, value in description.items() if name not in _OF_THE_RUN_ALONE}
    mine = None if weights is None else json_sha256(plain([weights, own, block_size, lasting], str))
    shares = processes.gather(mine)
    key = shares[0][1]
    return None if key is None else KeptBlocks(folder.path, f"{key} {len(shares)}", processes.rank)
