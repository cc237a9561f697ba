"""The same picture twice is no second piece of evidence, for memory or against it."""

from itertools import permutations

import pytest
import torch
from autoencoders import memory

import lightning_memaudit.measurement.near_duplicates as near_duplicates_module
from lightning_memaudit import audit
from lightning_memaudit.measurement.near_duplicates import REPEAT_PSNR, near_duplicates, repeats

PATTERNS, METHODS = ["random-0.5"], ["blind", "biharmonic"]


def images(number, seed=0):
    return torch.rand(number, 1, 12, 12, generator=torch.Generator().manual_seed(seed))


def chain(length, step_db=35.7, seed=5):
    """Each like the one before, and none like the next but one: neighbouring frames or slices."""
    generator = torch.Generator().manual_seed(seed)
    frames = [images(1)[0] * 0.6 + 0.2]
    for _ in range(length - 1):
        step = torch.randn(1, 12, 12, generator=generator)
        frames.append(frames[-1] + step * 10 ** (-step_db / 20) / step.square().mean().sqrt())
    return torch.stack(frames).clamp(0, 1)


def alike(some, others):
    """By a comparison of all pairs; these images have contrast enough."""
    return (some[:, None] - others[None]).square().flatten(2).mean(2) <= 10 ** (-REPEAT_PSNR / 10)


def kept(some, again):
    """Which pictures count, whatever their order."""
    return {some[row].numpy().tobytes() for row in range(len(some)) if row not in again}


@pytest.mark.parametrize("block_size", [1, 3, 1024])
def test_repeats_are_those_of_a_comparison_of_all_pairs(block_size, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    some = images(4)[torch.randint(4, (20,), generator=generator)]
    some = (some + 0.02 * torch.rand(20, 1, 1, 1, generator=generator)).clamp(max=1)  # up to 34 dB off: partly alike
    monkeypatch.setattr(near_duplicates_module, "_VALUES_AT_ONCE", block_size * some[0].numel())
    again = repeats(some)["members"]
    stay = [row for row in range(20) if row not in again]
    among = alike(some[stay], some[stay])
    assert 4 <= len(stay) < 20
    assert int(among.sum()) == len(stay), "none that counts shows another one that counts"
    assert alike(some[again], some[stay]).any(1).all(), "each that is left out shows one that counts"
    monkeypatch.undo()
    assert repeats(some)["members"] == again, "however many are compared at a time"


@pytest.mark.parametrize("seed", range(10))
def test_of_a_chain_those_count_that_show_none_that_counts(seed):
    frames = chain(9, seed=seed)
    again = repeats(frames)["members"]
    stay = [row for row in range(9) if row not in again]
    assert alike(frames[stay], frames[stay]).int().sum() == len(stay)
    assert alike(frames[again], frames[stay]).any(1).all()


def test_which_pictures_count_does_not_depend_on_their_order():
    frames = chain(5)
    assert alike(frames, frames).int().sum(1).tolist() == [2, 3, 3, 3, 2]
    by_order = {frozenset(kept(frames[list(o)], repeats(frames[list(o)])["members"])) for o in permutations(range(5))}
    assert len(by_order) == 1
    assert len(next(iter(by_order))) in (2, 3), "no chain of likes collapses into one"


def test_which_controls_count_does_not_depend_on_any_order():
    frames, members = chain(6), images(3, 1)
    members[1] = frames[2]
    found = set()
    for order in permutations(range(5)):
        controls = torch.cat([frames[:2], frames[3:]])[list(order)]
        for some in (members, members.flip(0)):
            found.add(frozenset(kept(controls, repeats(some, controls)["controls"])))
    [counting] = found
    # Those beside frame 2 show a member; of the last two, which show each other, one counts, and so does the first.
    assert frames[0].numpy().tobytes() in counting
    assert len(counting) == 2


@pytest.mark.parametrize("order", ["as they come", "every other one first", "reversed"])
def test_the_order_of_neighbouring_frames_decides_nothing(order):
    rows = list(range(30))
    rows = {"as they come": rows, "every other one first": rows[::2] + rows[1::2], "reversed": rows[::-1]}[order]
    members = chain(30)
    left = len(members) - len(repeats(members, psnr_db=30.0)["members"])
    report = audit(memory(members), members[rows], images(30, 2) * 0.6 + 0.2, patterns=["random-0.8"], methods=METHODS)
    assert f"{left} of {left} training images came back" in report.verdict.headline


def test_images_of_little_contrast_that_differ_are_no_repeats():
    flat, dim = 0.5 + 0.01 * (images(8) - 0.5), 0.02 * images(8, 1)
    for some in (flat, dim):
        assert alike(some, some).all()
        assert repeats(some[:4], some[4:]) == {"members": [], "controls": []}
        assert not near_duplicates(some).any()
        copies = some[[0, 1, 0]]
        assert len(repeats(copies)["members"]) == 1
        slightly = some[[0, 1, 0]]
        slightly[2] += 0.05 * (some[3] - some[3].mean())
        assert len(repeats(slightly)["members"]) == 1, "as alike as their contrast asks for"


def test_images_of_ordinary_contrast_are_repeats_at_35_decibels():
    generator = torch.Generator().manual_seed(3)
    step = torch.randn(1, 12, 12, generator=generator)
    step /= step.square().mean().sqrt()
    image = (images(1)[0] - 0.5) * 0.2 / images(1).std() + 0.5
    for level, number in ((35.1, 1), (34.9, 0)):
        assert len(repeats(torch.stack([image, image + step * 10 ** (-level / 20)]))["members"]) == number


def test_a_memory_of_images_of_little_contrast_has_controls():
    members, controls = (0.5 + 0.01 * (images(20, seed) - 0.5) for seed in (0, 1))
    report = audit(memory(members), members, controls, patterns=PATTERNS, methods=METHODS)
    assert report.judgement.num_repeated == {"members": 0, "controls": 0}


def test_controls_that_show_members_say_nothing_against_memory():
    members, controls = images(40), images(40, 1)
    close = (members[:15] + 1 / 255).clamp(max=1)
    report = audit(memory(members), members, torch.cat([close, controls]), patterns=PATTERNS, methods=METHODS)
    assert report.verdict.outcome == "memorized"
    assert report.judgement.overall.controls.memorized.count == 0
    assert report.judgement.overall.controls.memorized.num == 40
    assert any(caution.startswith("15 controls show a member") for caution in report.verdict.cautions)
    assert sum(row["repeated"] for row in report.images) == 15 * 2


def test_one_picture_ten_times_is_one():
    stored, others = images(1), images(50, 1)
    report = audit(
        memory(stored),
        torch.cat([stored.repeat(10, 1, 1, 1), others]),
        images(40, 2),
        patterns=PATTERNS,
        methods=METHODS,
    )
    assert report.num_memorized == 1
    assert report.verdict.outcome != "memorized"
    assert any(caution.startswith("9 audited members show another") for caution in report.verdict.cautions)


def test_five_controls_eight_times_are_five():
    members = images(40)
    report = audit(memory(members), members, images(5, 1).repeat(8, 1, 1, 1), patterns=PATTERNS, methods=METHODS)
    assert report.verdict.reasons[0] == "too_few_controls"
    assert "there were too few controls (5; 35 more were left out as repeats)." in report.verdict.headline


def test_controls_that_were_all_left_out_are_not_called_none():
    members = images(24)
    close = (members + 1 / 255).clamp(max=1)
    for number, words in ((24, "all 24 controls were left out as repeats"), (1, "the only control was left out as a")):
        report = audit(memory(members), members, close[:number], patterns=PATTERNS, methods=METHODS)
        assert report.verdict.reasons[0] == "too_few_controls"
        assert words in report.verdict.headline


def test_certificates_count_different_controls():
    members = images(10)
    report = audit(memory(members), members, images(60, 1).repeat(2, 1, 1, 1), patterns=PATTERNS, methods=METHODS)
    [row] = [row for row in report.rows if row["group"] == "members" and row["method"] == "blind"]
    assert row["certification"]["num_control_scores"] == 60
    assert row["certification"]["threshold"] is None


def test_repeats_by_group():
    assert repeats(images(3), None) == {"members": []}


@pytest.mark.parametrize("level", [33.0, 31.0])
def test_controls_whose_recovery_is_the_member_s_say_nothing_against_memory(level):
    """As alike as what counts as recovered, such as a compressed copy: no other control may turn that."""
    members, others = images(40), images(40, 1)
    step = torch.randn(40, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    near = members + step * 10 ** (-level / 20) / step.square().flatten(1).mean(1).sqrt().view(-1, 1, 1, 1)
    for threshold_db, left_out in ((30.0, 20), (60.0, 0)):  # above 35 dB these are pictures of their own
        settings = {"patterns": PATTERNS, "methods": METHODS, "threshold_db": threshold_db}
        report = audit(memory(members), members, torch.cat([near[:20].clamp(0, 1), others]), **settings)
        assert report.judgement.num_repeated["controls"] == left_out
        assert report.verdict.outcome == "memorized"
    alike_members = audit(
        memory(members), torch.cat([members, near[:5].clamp(0, 1)]), others, **settings | {"threshold_db": 30.0}
    )
    assert alike_members.judgement.num_repeated["members"] == 5, "of two members that come back together one counts"
