"""The audit engine: what it counts is what was recovered, masks are paired, nothing bad becomes a number."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from autoencoders import memory

from lightning_memaudit import audit
from lightning_memaudit.callback.reading.stored_images import part_of
from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.measurement.engine import run_audit
from lightning_memaudit.measurement.plan import Group, Plan, resolve_methods
from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.recovery import Recovery
from lightning_memaudit.results.judgement import ImageColumns, judge
from lightning_memaudit.results.rows import Occasion
from lightning_memaudit.results.verdict import conclude

FAST = ("paper_blind", "autoencoder_iterations")


def finished(image, score=0.0):
    """What a method that knows its answer returns."""
    count = len(image)
    return Recovery(
        image,
        torch.ones(count, 1, *image.shape[2:]),
        torch.full((count,), score),
        torch.zeros(count, dtype=torch.bool),
        torch.ones(count, dtype=torch.int64),
    )


def assert_same(one, other):
    """Counts exactly, means of PSNR and the like but for the rounding of sums in another order."""
    for row, same in zip(one.rows, other.rows, strict=True):
        for key in row.keys() - {"seconds", "time", "cost"}:
            if isinstance(row[key], float):
                assert row[key] == pytest.approx(same[key], rel=1e-5), key
            else:
                assert row[key] == same[key], key
    assert one.recoveries.keys() == other.recoveries.keys()
    for key, array in one.recoveries.items():
        if array.dtype.kind == "U":
            assert array.tolist() == other.recoveries[key].tolist()
        else:
            np.testing.assert_allclose(array, other.recoveries[key], atol=1e-5)


def test_a_memory_is_found_out_and_an_identity_is_not(members, controls):
    report = audit(memory(members), members, controls, patterns=["random-0.5"])
    assert report.rate("blind", "random-0.5") == 1.0
    assert report.rate("blind", "random-0.5", "controls") == 0.0
    assert report.headline["recovery_rate"] == 1.0
    assert report.headline["membership_auroc"] == 1.0
    assert report.headline["train_loss"] == 0.0
    identity = audit(lambda images: images, members, controls, patterns=["random-0.5"])
    assert identity.rate("blind", "random-0.5") == 0.0


def test_rows_count_what_was_recovered(members, controls):
    """A method with known errors: image i is off by errors[i] everywhere."""
    errors = torch.tensor([0.0, 0.01, 0.03, 0.05, 0.2, 0.9])  # 120, 40, 30.5, 26, 14 and 0.9 dB

    def method(autoencoder, observed, mask):
        truth = members if torch.allclose(members[: len(observed)] * mask, observed) else controls
        return finished(truth + errors[: len(truth)].view(-1, 1, 1, 1))

    method.needs_mask = True
    report = audit(
        lambda x: x, members, controls, patterns=["random-0.5"], methods={"known": method}, threshold_db=30.0
    )
    row, control = report.rows
    assert (row["num_images"], row["num_recovered"], row["recovery_rate"]) == (6, 3, 0.5)
    assert (control["num_images"], control["num_recovered"]) == (5, 3)
    assert row["recovered_by_threshold"] == {"20.0": 4, "25.0": 4, "30.0": 3, "35.0": 2}
    assert row["ci_low"] == pytest.approx(0.11812, abs=1e-4)
    assert row["ci_high"] == pytest.approx(0.88188, abs=1e-4)
    assert [image["recovered"] for image in report.images if image["group"] == "members"] == [True] * 3 + [False] * 3


@pytest.mark.parametrize("num_controls", [5, 99])
def test_rows_say_what_a_certificate_claims_or_why_there_is_none(members, num_controls):
    controls = torch.rand(num_controls, 1, 12, 12) * 0.8 + 0.1
    report = audit(memory(members), members, controls, patterns=["random-0.5"], methods=["blind", "biharmonic"])
    rows = {(row["group"], row["method"]): row for row in report.rows}
    assert rows["members", "biharmonic"]["certification"] is None
    certification = rows["members", "blind"]["certification"]
    assert certification["num_control_scores"] == num_controls
    if num_controls == 5:
        assert certification["threshold"] is None
        assert "it takes 99" in certification["reason"]
    else:
        assert certification["false_rate"] == pytest.approx(0.01)
        assert certification["false_rate_high"] == pytest.approx(0.0366, abs=1e-3)  # Clopper-Pearson, 0 of 99
        assert rows["members", "blind"]["num_certified"] == 6
        assert rows["controls", "blind"]["num_certified"] == 0


def test_members_and_controls_get_the_same_masks(members, controls):
    masks = {}

    def method(autoencoder, observed, mask):
        masks[len(observed)] = mask
        return finished(observed)

    method.needs_mask = True
    audit(lambda x: x, members, controls, patterns=["random-0.5"], methods={"known": method})
    assert torch.equal(masks[6][:5], masks[5])
    assert not torch.equal(masks[5][0], masks[5][1])


def test_block_size_changes_nothing(members, controls):
    whole = audit(memory(members), members, controls, patterns=["random-0.5", "block-0.25"], methods=FAST)
    blocks = audit(
        memory(members), members, controls, patterns=["random-0.5", "block-0.25"], methods=FAST, block_size=2
    )
    assert_same(whole, blocks)


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_any_number_of_processes_gives_the_same_rows(members, controls, world_size):
    """Each process measures its part; what they gather is simulated by doing their work one after the other."""
    plan = Plan([parse_degradation("random-0.5")], resolve_methods(FAST), save_recoveries=4)
    occasion = Occasion(0, "audit", None, None, "now")
    groups = [Group.whole("members", members), Group.whole("controls", controls)]
    autoencoder = memory(members)
    single = run_audit(autoencoder, groups, plan, occasion)

    parts = [[part_of(group, rank, world_size) for group in groups] for rank in range(world_size)]
    gathered: list[list[object]] = []
    for rank in range(world_size):
        mine: list[object] = []

        class Recorded(Processes):
            def gather(self, value, mine=mine):
                mine.append((self.rank, value))
                return mine[-1:]

        run_audit(autoencoder, parts[rank], plan, occasion, Recorded(rank, world_size))
        gathered.append(mine)
    calls = iter(zip(*gathered, strict=True))

    class Replayed(Processes):
        def gather(self, value):
            return list(next(calls))

    joined = run_audit(autoencoder, parts[0], plan, occasion, Replayed(0, world_size))
    assert_same(single, joined)


def test_a_failing_method_counts_its_images_as_failed_when_asked(members):
    def method(autoencoder, observed):
        raise RuntimeError("no")

    plan = Plan([parse_degradation("random-0.5")], {"broken": method}, raise_errors=False)
    occasion = Occasion(0, "audit", None, None, "now")
    with pytest.warns(UserWarning, match="broken failed on members, random-0.5: RuntimeError: no"):
        report = run_audit(lambda x: x, [Group.whole("members", members)], plan, occasion)
    (row,) = report.rows
    assert (row["num_failed"], row["num_recovered"], row["num_images"]) == (6, 0, 6)
    assert row["psnr_mean"] is None
    with pytest.raises(RuntimeError, match="no"):
        audit(lambda x: x, members, None, patterns=["random-0.5"], methods={"broken": method})


def test_an_inpainter_that_fails_is_no_evidence_of_anything(members):
    def fails(autoencoder, observed, mask):
        raise RuntimeError("no")

    fails.needs_mask = True
    plan = Plan([parse_degradation("random-0.5")], {"found": lambda f, y: finished(members), "biharmonic": fails})
    plan = dataclasses.replace(plan, raise_errors=False)
    with pytest.warns(UserWarning, match="biharmonic failed"):
        report = run_audit(
            lambda x: x, [Group.whole("members", members)], plan, Occasion(0, "audit", None, None, "now")
        )
    assert [row["num_recovered"] for row in report.rows] == [6, 0]
    assert [row["num_beyond_inpainting"] for row in report.rows] == [None, None]


def test_diverged_images_are_counted_and_not_recovered(members):
    def method(autoencoder, observed, mask):
        return finished(members, torch.inf)

    method.needs_mask = True
    (row,) = audit(lambda x: x, members, None, patterns=["random-0.5"], methods={"known": method}).rows
    assert (row["num_diverged"], row["num_recovered"]) == (6, 0)


def test_to_json_holds_rows_and_images_without_nan(tmp_path, members, controls):
    report = audit(memory(members), members, controls, patterns=["half"], methods=FAST)
    report.to_json(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert len(content["rows"]) == 2 * 2
    assert len(content["images"]) == 2 * 11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": torch.rand(3, 12, 12)}, "members has shape"),
        ({"members": torch.rand(0, 1, 12, 12)}, "holds no images"),
        ({"members": torch.rand(3, 1, 12, 12) * 255}, r"\[0, 1\]"),
        ({"members": torch.full((3, 1, 12, 12), torch.nan)}, "NaN"),
        ({"controls": torch.rand(3, 1, 12, 12) - 1}, "controls has values in"),
        ({"autoencoder": lambda x: (x, x)}, "returned tuple"),
        ({"autoencoder": lambda x: x.flatten(1)}, "same shape"),
        ({"autoencoder": lambda x: x * torch.nan}, "NaN or infinite"),
        ({"patterns": ["randon-0.5"]}, "did you mean random"),
        ({"patterns": []}, "patterns=\\[\\]"),
        ({"methods": ["blnd"]}, "did you mean 'blind'"),
        ({"block_size": 0}, "block_size=0"),
    ],
)
def test_bad_input_raises_one_line(members, arguments, message):
    given = {"autoencoder": lambda x: x, "members": members, "patterns": ["random-0.5"], "methods": FAST} | arguments
    with pytest.raises(ValueError, match=message) as error:
        audit(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize("num_controls", [None, 1])
def test_without_controls_or_with_one_image_the_verdict_is_inconclusive(count, num_controls):
    members = torch.rand(count, 1, 12, 12) * 0.8 + 0.1
    controls = None if num_controls is None else torch.rand(num_controls, 1, 12, 12)
    report = audit(
        memory(members), members, controls, patterns=["random-0.5"], methods=["blind", "biharmonic"], block_size=7
    )
    verdict = conclude(judge(report.rows, ImageColumns(report.images)))
    assert (verdict.outcome, verdict.reasons) == ("inconclusive", ("too_few_controls",))
    assert f"{count} of {count} training images came back" in verdict.headline
