"""A killed audit goes on: what was measured is kept, and the numbers are those of one that ran through."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_memaudit.cli.main import main
from lightning_memaudit.measurement import measure as module
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.measure import measure_groups
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.results.kept_blocks import FOLDER, BlockParts, KeptBlocks

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(10, 1, 8, 8, generator=GENERATOR)
GROUPS = [
    Group.whole("members", IMAGES[:6], names=[f"é{i}.png" for i in range(6)]),
    Group.whole("controls", IMAGES[6:]),
]
PLAN = Plan.of(["half", "random-0.5+noise-0.05"], ["known_mask", "biharmonic"], block_size=2, save_recoveries=3)


class Shrink:
    """f(x) = x / 2, which counts the images it is called on, and dies at the end of its life."""

    def __init__(self, life=10**9):
        self.count, self.life = 0, life

    def __call__(self, images):
        self.count += len(images)
        if self.count > self.life:
            raise KeyboardInterrupt
        return images / 2


def assert_same(found, expected):
    for mine, other in zip(found, expected, strict=True):
        assert mine.error_sum == other.error_sum
        assert mine.num_images == other.num_images
        assert mine.recoveries.keys() == other.recoveries.keys()
        for key, array in mine.recoveries.items():
            np.testing.assert_array_equal(array, other.recoveries[key], err_msg=key)
        for one, another in zip(mine.cells, other.cells, strict=True):
            assert (one.group, one.pattern, one.method) == (another.group, another.pattern, another.method)
            assert one.columns.keys() == another.columns.keys()
            for name, column in one.columns.items():
                assert column.dtype == another.columns[name].dtype, name
                np.testing.assert_array_equal(column, another.columns[name], err_msg=name)
        np.testing.assert_array_equal(mine.outputs.sums, other.outputs.sums)


def test_an_interrupted_measurement_goes_on_where_it_stopped():
    whole = Shrink()
    expected = measure_groups(whole, GROUPS, PLAN)
    Path("results").mkdir()
    kept = KeptBlocks(Path("results"), "key")
    with pytest.raises(KeyboardInterrupt):
        measure_groups(Shrink(life=whole.count * 2 // 3), GROUPS, PLAN, kept=kept)
    done = len(list((Path("results") / FOLDER).glob("*.npz")))
    assert done in (1, 2)
    again, told = Shrink(), []
    found = measure_groups(again, GROUPS, PLAN, kept=kept, progress=lambda words, count: told.append((words, count)))
    assert_same(found, expected)
    assert again.count < whole.count * (1 - done / 4)
    assert sum(count for _, count in told) == len(IMAGES) * len(PLAN.cells)
    assert ("members · measured before", 2 * len(PLAN.cells)) in told


def test_blocks_of_anything_else_and_torn_ones_are_not_taken():
    Path("results").mkdir()
    kept = KeptBlocks(Path("results"), "key")
    kept.save(0, [BlockParts(error_sum=1.0)])
    assert kept.load(0)[0].error_sum == 1.0
    assert kept.load(1) is None
    assert KeptBlocks(Path("results"), "key", rank=1).load(0) is None
    other = KeptBlocks(Path("results"), "other weights")
    assert other.load(0) is None
    other.save(1, [BlockParts(error_sum=2.0)])
    assert kept.load(0) is None
    assert other.load(0) is None
    file = Path("results") / FOLDER / "0-0001.npz"
    whole = file.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert other.load(1) is None, length


def test_one_block_leaves_no_files():
    Path("results").mkdir()
    measure_groups(Shrink(), [group.first(2) for group in GROUPS], PLAN, kept=KeptBlocks(Path("results"), "key"))
    assert not list(Path("results").iterdir())


def test_what_cannot_be_kept_costs_nothing():
    found = measure_groups(Shrink(), GROUPS, PLAN, kept=KeptBlocks(Path("nowhere"), "key"))
    assert_same(found, measure_groups(Shrink(), GROUPS, PLAN))
    assert not Path("nowhere").exists()


def test_the_command_goes_on_after_a_kill_and_its_results_are_true(monkeypatch, capsys):
    options = ["--ckpt_path=none", "--memaudit.methods=[known_mask, biharmonic]", "--memaudit.patterns=[half]"]
    options += ["--data.num_train=8", "--data.num_controls=8", "--memaudit.block_size=3", "--memaudit.figures=false"]
    real, calls = module._measure_block, []

    def killed(*arguments):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "_measure_block", killed)
    assert main(["audit", *options, "--memaudit.dirpath=killed"]) != 0
    assert len(list(Path("killed/unfinished").glob("*.npz"))) == 2
    assert main(["audit", *options, "--memaudit.dirpath=killed"]) == 0
    assert len(calls) == 3 + 1, "of three blocks only the last is measured again"
    assert not Path("killed/unfinished").exists()
    assert len(Path("killed/images.jsonl").read_text().splitlines()) == 16 * 2
    assert main(["verify", "killed"]) == 0
