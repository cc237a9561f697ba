"""Which of many images are audited, where fewer are wanted: a seeded random choice, that hangs on nothing else."""

import random

import torch

from lightning_memaudit.measurement.groups import Group


def choose_indices(num_available: int, num_wanted: int | None, seed: int) -> list[int]:
    """All indices, or a seeded random choice of ``num_wanted`` of them, in increasing order."""
    if num_wanted is None or num_wanted >= num_available:
        return list(range(num_available))
    return sorted(random.Random(seed).sample(range(num_available), num_wanted))


def few_of(group: Group, number: int, seed: int) -> Group:
    """A whole group of fewer images, read now; each keeps its index and its name.

    >>> few = few_of(Group.whole("members", torch.rand(9, 1, 8, 8), names=list("abcdefghi")), number=3, seed=0)
    >>> len(few.images), few.positions, few.labels([0]) == ["abcdefghi"[few.indices[0]]]
    (3, range(0, 3), True)
    """
    rows = choose_indices(len(group.images), number, seed)
    images = torch.cat([group.images[slice(row, row + 1)] for row in rows])
    names = None if group.names is None else [group.names[row] for row in rows]
    conditions = None if group.conditions is None else [group.conditions[row] for row in rows]
    return Group(group.name, images, [group.indices[row] for row in rows], range(len(rows)), names, conditions)
