"""What the autoencoder makes of intact images reaches the rows, the report and the verdict, however many share it."""

import warnings

import pytest
import torch
from autoencoders import memory

from lightning_memaudit import audit
from lightning_memaudit.measurement.checks import FUNCTION_MENDS, check_group
from lightning_memaudit.measurement.engine import run_audit
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.measure import measure
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.recovery import AutoencoderIterations
from lightning_memaudit.results.cells import Measurement
from lightning_memaudit.results.judgement import ImageColumns, judge
from lightning_memaudit.results.own_output import doubts_about
from lightning_memaudit.results.rows import Occasion
from lightning_memaudit.results.verdict import conclude

FAST = {"patterns": ["random-0.5"], "methods": ["paper_blind", "biharmonic"]}


@pytest.fixture
def members():
    return torch.rand(30, 1, 8, 8) * 0.8 + 0.1


@pytest.fixture
def controls():
    return torch.rand(25, 1, 8, 8) * 0.8 + 0.1


def untrained(images):
    """What a network knows before its training: nothing."""
    return 0.02 * images.roll(3, 2)


def noisy(images):
    return torch.nn.functional.dropout(untrained(images) + 0.5, 0.2)


AUTOENCODERS = {
    "output_range": lambda members: lambda x: 2 * memory(members)(x) - 1,
    "output_logits": lambda members: lambda x: torch.logit(memory(members)(x)),
    "not_deterministic": lambda members: noisy,
}


@pytest.mark.parametrize("code", AUTOENCODERS)
def test_outputs_that_are_no_images_are_the_reason_and_not_the_train_loss(members, controls, code):
    with pytest.warns(UserWarning, match="members: ") as caught:
        report = audit(AUTOENCODERS[code](members), members, controls, **FAST)
    (warning,) = [str(one.message) for one in caught if str(one.message).startswith("members: ")]
    assert warning.endswith(FUNCTION_MENDS.outputs[code])
    assert "\n" not in warning
    (doubt,) = report.doubts
    assert doubt["code"] == code
    assert all(row["doubts"] == report.doubts for row in report.rows)
    verdict = conclude(judge(report.rows, ImageColumns(report.images)))
    assert verdict.outcome == "inconclusive"
    assert verdict.reasons == (code,)
    assert doubt["text"][1:] in verdict.why[0]
    assert len(verdict.headline) < 140


def test_an_untrained_network_is_still_called_so(members, controls):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = audit(untrained, members, controls, **FAST)
    assert report.doubts == []
    assert conclude(judge(report.rows, ImageColumns(report.images))).reasons == ("train_loss_too_high",)


@pytest.mark.parametrize("code", ["output_range", "output_logits"])
@pytest.mark.parametrize("num_shares", [1, 3, 40])
def test_processes_see_together_what_one_would(members, code, num_shares):
    quick = {"autoencoder_iterations": AutoencoderIterations(num_iterations=2)}
    plan = Plan.of(["random-0.5"], quick, block_size=7)
    autoencoder = AUTOENCODERS[code](members)
    parts = [
        Group("members", members[rank::num_shares], *2 * [range(len(members))[rank::num_shares]])
        for rank in range(num_shares)
    ]
    joined = Measurement.join([measure(autoencoder, part, plan) for part in parts])
    assert doubts_about(joined.outputs)[0].code == code
    assert joined.outputs.count == members.numel()


def test_any_process_that_gets_other_answers_is_enough(members):
    plan = Plan.of(["random-0.5"], ["known_mask"])
    parts = [
        measure(autoencoder, Group("members", members[rank::2], *2 * [range(30)[rank::2]]), plan)
        for rank, autoencoder in enumerate([memory(members), noisy])
    ]
    assert [one.code for one in doubts_about(Measurement.join(parts).outputs)] == ["not_deterministic"]


def test_a_buffer_that_every_call_overwrites_hides_no_difference(members):
    buffer = torch.zeros(999, 1, 8, 8)

    def with_buffer(images):
        buffer[: len(images)] = noisy(images)
        return buffer[: len(images)]

    plan = Plan.of(["random-0.5"], ["known_mask"])
    report = run_audit(with_buffer, [Group.whole("members", members)], plan, Occasion(0, "audit", None, None, "now"))
    assert [one["code"] for one in report.doubts] == ["not_deterministic"]
    with pytest.warns(UserWarning, match="two calls"):
        check_group(Group.whole("members", members), with_buffer)


def test_the_check_before_a_run_names_the_arguments_of_a_run(members):
    with pytest.warns(UserWarning, match=r"members: outputs lie in \[.*; pass reconstruct=<a function"):
        check_group(Group.whole("members", members), AUTOENCODERS["output_range"](members))


def test_members_alone_are_asked(members, controls):
    """Of images that it was not trained on, an autoencoder need not return anything like them."""
    plan = Plan.of(["random-0.5"], ["known_mask"])
    made = measure(AUTOENCODERS["output_range"](members), Group.whole("controls", controls), plan)
    assert doubts_about(made.outputs) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_group(Group.whole("controls", controls), AUTOENCODERS["output_range"](controls))
