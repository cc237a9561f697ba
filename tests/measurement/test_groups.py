"""Images keep their names, and those of different conditions are never recovered together."""

import json

import numpy as np
import pytest
import torch
from autoencoders import linear, memory

from lightning_memaudit import audit
from lightning_memaudit.measurement.checks import check_group
from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.measurement.engine import run_audit
from lightning_memaudit.measurement.extras import proximal_extra
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.inpainting_cache import InpaintingCache
from lightning_memaudit.measurement.largest_missing import largest_missing
from lightning_memaudit.measurement.measure import measure
from lightning_memaudit.measurement.plan import Plan, resolve_methods
from lightning_memaudit.recovery import KnownMaskRecovery
from lightning_memaudit.results.cells import Measurement
from lightning_memaudit.results.rows import Occasion
from lightning_memaudit.results.run_folder import RunFolder

LABELS = ["cat", "dog", "cat", "cat", "dog", "cat", "bird"]
METHODS = ("paper_blind", "known_mask", "biharmonic")
OCCASION = Occasion(0, "audit", None, None, "now")


class LabelledMemory:
    """Stores images by label; asked without one, it fails."""

    def __init__(self, stored, labels):
        self.stored = {label: stored[[one == label for one in labels]] for label in labels}
        self.batches = []

    def given(self, label):
        def recall(images):
            self.batches.append((label, len(images)))
            return memory(self.stored[label])(images)

        return recall


@pytest.fixture
def stored():
    return torch.rand(len(LABELS), 1, 12, 12) * 0.8 + 0.1


def plan(block_size=2, **settings):
    patterns = [parse_degradation("random-0.5"), parse_degradation("block-0.25")]
    return Plan(patterns, resolve_methods(METHODS), block_size=block_size, **settings)


def part_of(group, rank, count):
    rows = slice(rank, None, count)
    several = (group.images, group.indices, group.positions, group.names, group.conditions)
    return Group(group.name, *(None if one is None else one[rows] for one in several))


def by_position(measurement):
    """Every column of every cell by position, without the time that it took."""
    return {
        (cell.pattern, cell.method, name): dict(zip(cell.columns["position"].tolist(), column.tolist(), strict=True))
        for cell in measurement.cells
        for name, column in cell.columns.items()
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, values in one.items():
        assert values.keys() == other[key].keys(), key
        for position, value in values.items():
            assert value == other[key][position] or (value != value and other[key][position] != other[key][position])


def test_images_of_one_condition_are_measured_as_if_they_were_alone(stored):
    group = Group("members", stored, [10 + i for i in range(7)], range(7), conditions=LABELS)
    together = by_position(measure(LabelledMemory(stored, LABELS), group, plan()))
    alone = []
    for label in dict.fromkeys(LABELS):
        rows = [row for row, one in enumerate(LABELS) if one == label]
        same = Group("members", stored[rows], [10 + row for row in rows], rows)
        alone.append(measure(memory(stored[rows]), same, plan()))
    assert_same(together, by_position(Measurement.join(alone)))


def test_blocks_hold_one_condition_each_and_all_images_once(stored):
    group = Group.whole("members", stored, conditions=LABELS)
    memories = LabelledMemory(stored, LABELS)
    blocks = list(group.blocks(memories, 2))
    assert [list(block.rows) for block in blocks] == [[0, 2], [3, 5], [1, 4], [6]]
    for block in blocks:
        assert torch.equal(block.images, stored[list(block.rows)])
        assert torch.equal(block.autoencoder(block.images), block.images), "given its own label, and stored under it"
    assert memories.batches == [("cat", 2), ("cat", 2), ("dog", 2), ("bird", 1)]


def test_blocks_without_conditions_are_consecutive_slices_of_the_function_itself(stored):
    class Source:
        def __init__(self):
            self.asked = []

        def __len__(self):
            return 7

        def __getitem__(self, rows):
            self.asked.append(rows)
            return stored[rows]

    def autoencoder(images):
        return images

    source = Source()
    blocks = list(Group("members", source, range(7), range(7)).blocks(autoencoder, 3))
    assert source.asked == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert all(block.autoencoder is autoencoder for block in blocks)
    assert [list(block.rows) for block in Group("members", stored[:0], [], []).blocks(autoencoder, 3)] == [[]]
    assert [len(block.images) for block in Group("members", stored[:0], [], [], None, []).blocks(None, 3)] == [0]


@pytest.mark.parametrize("conditions", [None, LABELS])
@pytest.mark.parametrize("num_shares", [2, 3, 8])
def test_processes_share_names_and_conditions(stored, conditions, num_shares):
    names = [f"{label}/{i:04d}.jpg" for i, label in enumerate(LABELS)]
    whole = Group("members", stored, [3 * i for i in range(7)], range(7), names, conditions)
    autoencoder = memory(stored) if conditions is None else LabelledMemory(stored, LABELS)
    single = Measurement.join([measure(autoencoder, whole, plan())])
    joined = Measurement.join(
        [measure(autoencoder, part_of(whole, rank, num_shares), plan()) for rank in range(num_shares)]
    )
    assert by_position(single)["random-0.5", "known_mask", "name"] == dict(enumerate(names))
    assert_same(by_position(single), by_position(joined))
    for made in (single, joined):
        assert made.recoveries["members/names"].tolist() == names
        assert made.recoveries["members/indices"].tolist() == [0, 3, 6, 9, 12, 15, 18]
        assert np.array_equal(made.recoveries["members/truth"], stored.numpy())
        # The nearest of those with the same label: the image itself, in the row of its name.
        assert np.array_equal(made.recoveries["members/block-0.25/known_mask/image"].round(4), stored.numpy().round(4))


def test_what_needs_no_autoencoder_is_taken_from_the_right_block_again(stored):
    group = Group.whole("members", stored, conditions=LABELS)
    cache = InpaintingCache()
    first, again = (measure(LabelledMemory(stored, LABELS), group, plan(), cache) for _ in range(2))
    assert {key[2] for key in cache.recoveries} == {"biharmonic"}
    assert len(cache.recoveries) == len(cache.baselines) == 2 * 4, "two patterns of four blocks"
    assert_same(by_position(first), by_position(again))
    # Other blocks over the same images, from the same cache.
    assert_same(
        by_position(measure(LabelledMemory(stored, LABELS), group, plan(3), cache)),
        by_position(measure(LabelledMemory(stored, LABELS), group, plan(3))),
    )


def test_the_largest_missing_fraction_is_found_with_the_own_condition(stored):
    group = Group("members", stored, range(10, 17), range(7), [f"{i}.png" for i in range(7)], LABELS)
    rows = largest_missing(LabelledMemory(stored, LABELS), group, KnownMaskRecovery(), num_rounds=3, block_size=2)
    assert [(row["image"], row["name"], row["position"]) for row in rows] == [(10 + i, f"{i}.png", i) for i in range(7)]
    for row, label in zip(rows, LABELS, strict=True):
        same = stored[[one == label for one in LABELS]]
        place = [i for i, one in enumerate(LABELS) if one == label].index(row["position"])
        alone = Group("members", same, range(len(same)), [i for i, one in enumerate(LABELS) if one == label])
        expected = largest_missing(memory(same), alone, KnownMaskRecovery(), num_rounds=3)[place]
        assert row["largest_missing"] == expected["largest_missing"]


def test_the_proximal_diagnostic_looks_with_the_own_condition():
    """An autoencoder whose Jacobian is known: it multiplies with a factor of the label's own."""
    factors = {"cat": 0.25, "dog": 0.5, "bird": 1.5}

    class Scaled:
        def given(self, label):
            return linear(factors[label] * torch.eye(16))

    group = Group.whole("members", torch.rand(7, 1, 4, 4), conditions=LABELS)
    rows = proximal_extra(5, num_steps=4).measure(Scaled(), group)
    assert [row["position"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["name"] for row in rows] == ["0", "1", "2", "3", "4"]
    for row, label in zip(rows, LABELS, strict=False):
        assert row["spectral_norm"] == pytest.approx(factors[label], rel=1e-4)


def test_the_check_before_an_audit_gives_the_condition(stored):
    memories = LabelledMemory(stored, LABELS)
    check_group(Group.whole("members", stored, conditions=LABELS), memories)
    assert set(memories.batches) == {("cat", 1), ("dog", 1)}, "the first two images are of two labels"


STRANGE = ["cats/0017.jpg", "Ünïcødé 猫.png", 'two\nlines, "quoted" \\', "", "no text: \udcff", "a" * 300, "<b>$x$</b>"]


def test_any_name_comes_back_from_the_files(tmp_path, stored):
    group = Group("members", stored, range(7), range(7), STRANGE)
    report = run_audit(memory(stored), [group], plan(), OCCASION)
    assert [row["name"] for row in report.images if row["method"] == "known_mask"] == STRANGE * 2
    folder = RunFolder(tmp_path / "memaudit")
    report.append_to(folder)
    assert {row["position"]: row["name"] for row in folder.images()} == dict(enumerate(STRANGE))
    lines = (folder.path / "images.jsonl").read_bytes().splitlines()
    assert len(lines) == 7 * 2 * 3, "one line each, whatever is in the names"
    assert [json.loads(line)["name"] for line in lines[:7]] == STRANGE
    saved = folder.newest_recoveries().arrays["members/names"]  # loaded with allow_pickle=False
    assert saved.dtype.kind == "U"
    assert saved.tolist() == STRANGE
    report.to_json(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["images"][2]["name"] == STRANGE[2]


def test_images_without_names_are_called_by_their_index(stored):
    report = audit(memory(stored), stored, None, patterns=["half"], methods=["known_mask"])
    assert [row["name"] for row in report.images] == [str(i) for i in range(7)]
    group = Group("members", stored, [40 + i for i in range(7)], range(7))
    report = run_audit(memory(stored), [group], plan(), OCCASION)
    assert report.recoveries["members/names"].tolist() == [str(40 + i) for i in range(7)]


def test_a_group_is_refused_names_or_conditions_that_do_not_fit(stored):
    with pytest.raises(ValueError, match="members: 1 names for 7 images"):
        Group.whole("members", stored, ["a"])
    with pytest.raises(ValueError, match="controls: 8 conditions for 7 images"):
        Group.whole("controls", stored, conditions=[*LABELS, "cat"])
    with pytest.raises(ValueError, match="conditions must be hashable"):
        Group.whole("members", stored, conditions=[[0]] * 7)


def test_an_empty_part_of_a_conditional_group_joins(stored):
    """A process may hold no image of a group: it takes part with empty columns."""
    group = Group.whole("members", stored[:1], conditions=LABELS[:1])
    memories = LabelledMemory(stored, LABELS)
    parts = [measure(memories, part_of(group, rank, 2), plan()) for rank in range(2)]
    assert parts[1].num_images == 0
    assert_same(by_position(Measurement.join(parts)), by_position(measure(memories, group, plan())))
