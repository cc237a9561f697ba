"""The gate: conditions are read as they are written or refused, and what was not measured never passes."""

import copy
import math

import pytest
import torch
from autoencoders import memory
from failing_inpainter import FailsAtFirst

from lightning_memaudit import audit
from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.measurement.engine import run_audit
from lightning_memaudit.measurement.plan import Group, Plan
from lightning_memaudit.recovery import KnownMaskRecovery
from lightning_memaudit.report.document import build_document
from lightning_memaudit.results.gate import COMPARISONS, NAMES, Condition, Examined, named_numbers, read_conditions
from lightning_memaudit.results.rows import Occasion
from lightning_memaudit.results.run_folder import RunFolder


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("memorized_rate>0.05", 0.05, False),
        ("memorized_rate>0.05", 0.0501, True),
        ("memorized_rate >= 5e-2", 0.05, True),
        (" memorized_rate<.5 ", 0.5, False),
        ("memorized_rate<=0.5", 0.5, True),
        ("num_memorized==3", 3, True),
        ("num_memorized != 0", 0, False),
        ("recovery_gain>-1.5", -1.0, True),
        ("outcome==memorized", "memorized", True),
        ("outcome=='memorized'", "traces", False),
        ("outcome!=not_memorized", "inconclusive", True),
    ],
)
def test_a_condition_holds_as_it_is_written(text, value, expected):
    assert Condition.of(text).holds(value) is expected


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, "0.5", True])
@pytest.mark.parametrize("comparison", COMPARISONS)
def test_what_is_no_number_neither_holds_nor_does_not(comparison, value):
    assert Condition("recovery_gain", comparison, 0.5).holds(value) is None


@pytest.mark.parametrize("value", [None, "", "safe", 1.0])
def test_an_outcome_that_is_none_decides_nothing(value):
    assert Condition.of("outcome==memorized").holds(value) is None
    assert Condition.of("outcome!=memorized").holds(value) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "such as 'memorized_rate>0.05'"),
        ("memorized_rate", "in quotes, or the shell takes"),
        ("memorized_rate=0.5", "one of >= <= =="),
        ("memorized_rate=>0.5", "pass a name"),
        ("memorized_rate>0.05>1", "pass a name"),
        ("0.05<memorized_rate", "pass a name"),
        ("memorized_rate>0.05 and extracted>0", "pass a name"),
        ("memorised_rate>0.05", "did you mean 'memorized_rate'?"),
        ("memorized_rate>5%", "numbers from 0 to 1"),
        ("memorized_rate>nan", "no finite number"),
        ("memorized_rate>inf", "no finite number"),
        ("memorized_rate>5", "can never hold"),
        ("memorized_rate>1", "can never hold"),
        ("gain_auroc<0", "can never hold"),
        ("num_memorized<0", "can never hold"),
        ("num_memorized==0.5", "whole number"),
        ("outcome>memorized", "no order"),
        ("outcome==memorised", "did you mean 'memorized'?"),
    ],
)
def test_what_is_no_condition_or_can_never_hold_is_refused(text, words):
    with pytest.raises(ValueError, match=r"^fail_if=") as error:
        Condition.of(text)
    assert words in str(error.value)
    assert repr(text) in str(error.value)


def test_several_conditions_in_one_or_in_many():
    many = ["extracted>0", "num_memorized>0", "extracted>0"]
    assert read_conditions(many) == read_conditions(["[extracted>0, num_memorized>0]"])
    with pytest.raises(ValueError, match="fail_if=''"):
        read_conditions(["extracted>0,"])


def document_of(folder, members, controls, **settings):
    report = audit(memory(members), members, controls, patterns=["half", "random-0.5"], **settings)
    return report, written(folder, report)


def written(folder, report):
    """The report of a run with this audit."""
    run = RunFolder(folder / "memaudit")
    run.write_run({"model": {"class": "memory", "num_parameters": 0}, "settings": {"primary_method": report.primary}})
    report.append_to(run)
    return build_document(run)


def test_the_numbers_are_those_that_loggers_get(tmp_path):
    report, document = document_of(
        tmp_path, torch.rand(12, 1, 12, 12), torch.rand(11, 1, 12, 12), methods=["blind", "biharmonic"], extraction=8
    )
    numbers = named_numbers(document)
    assert numbers.keys() == NAMES.keys()
    same = numbers.keys() & report.headline.keys()
    assert len(same) >= 11
    for name in same:
        assert numbers[name] == pytest.approx(report.headline[name]), name
    assert numbers["outcome"] == report.verdict.outcome
    assert numbers["num_memorized"] == report.num_memorized
    assert numbers["extracted"] == report.extraction.num_extracted
    assert numbers["plain_loss_auroc"] == report.membership["plain_loss"].value
    assert numbers["reference_auroc"] is None


def test_what_was_not_measured_has_no_value(tmp_path):
    _, document = document_of(tmp_path, torch.rand(4, 1, 12, 12), None, methods=["paper_blind"])
    numbers = named_numbers(document)
    missing = {name for name, value in numbers.items() if value is None}
    assert missing == {
        *("num_memorized", "memorized_rate", "memorized_rate_low", "memorized_rate_high", "control_memorized_rate"),
        *("control_recovery_rate", "extracted", "gain_auroc", "membership_auroc", "plain_loss_auroc"),
        "reference_auroc",
    }
    examined = Examined.of(document, read_conditions(["memorized_rate>0.05", "recovery_rate>=0"]), strict=False)
    assert list(examined.held.values()) == [None, True]
    assert examined.fails
    assert examined.is_undecided


@pytest.mark.parametrize("strict", [False, True])
def test_an_inconclusive_verdict_counts_only_where_that_is_asked(tmp_path, strict):
    _, document = document_of(tmp_path, torch.rand(4, 1, 12, 12), None, methods=["paper_blind"])
    examined = Examined.of(document, (), strict)
    assert examined.is_inconclusive
    assert (examined.fails, examined.is_undecided) == (False, strict)


def test_recoveries_that_failed_are_no_pass(tmp_path):
    """As in a training, which goes on where a method fails."""
    members, controls = torch.rand(4, 1, 12, 12), torch.rand(4, 1, 12, 12)
    methods = {"known_mask": KnownMaskRecovery(), "biharmonic": FailsAtFirst()}
    plan = Plan([parse_degradation("random-0.5")], methods, block_size=2, raise_errors=False)
    groups = [Group.whole("members", members), Group.whole("controls", controls)]
    with pytest.warns(UserWarning, match="biharmonic failed"):
        report = run_audit(memory(members), groups, plan, Occasion(0, "audit", 1, 1, "2024-01-01T00:00:00+00:00"))
    document = written(tmp_path, report)
    texts = ["memorized_rate>0.6", "memorized_rate<0.6", "outcome==memorized", "train_loss>0.5", "recovery_rate>0.5"]
    examined = Examined.of(document, read_conditions(texts), strict=False)
    assert list(examined.held.values()) == [None, True, None, False, True]
    assert examined.reason(Condition.of("outcome==memorized")).endswith("as if nothing had come back")


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("num_memorized>11", True),
        ("num_memorized>12", None),
        ("num_memorized>=12", True),
        ("num_memorized>=13", None),
        ("num_memorized==13", None),
        ("num_memorized==11", False),
        ("num_memorized<1", False),
        ("memorized_rate_low>0.7", True),  # 12 of 12: 0.735 by Clopper and Pearson
        ("memorized_rate_low>0.74", None),
        ("memorized_rate>0.99", True),
        ("extracted>12", None),
    ],
)
def test_what_so_few_images_could_never_show_is_undecided(twelve, text, holds):
    condition = Condition.of(text)
    examined = Examined.of(twelve, [condition], strict=False)
    assert examined.held[condition] is holds
    assert examined.is_undecided == (holds is None)
    assert holds is not None or "at most" in examined.reason(condition)


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    """The report of an audit of 12 members, all of which come back."""
    generator = torch.Generator().manual_seed(0)
    members, controls = (torch.rand(12, 1, 12, 12, generator=generator) for _ in range(2))
    settings = {"methods": ["known_mask", "biharmonic"], "extraction": 8}
    return document_of(tmp_path_factory.mktemp("twelve"), members, controls, **settings)[1]


def test_easy_patterns_that_thin_the_mean_do_not_pass_the_gate(twelve):
    areas = {"mean of all patterns": (0.6, 0.4, 0.8), "half": (0.5, 0.3, 0.7), "random-0.9": (0.9, 0.75, 0.97)}
    document = copy.deepcopy(twelve)
    document["judgement"]["gain"] = {
        "overall": {"members": 1.0, "auroc": dict(zip(("value", "low", "high"), (0.6, 0.5, 0.7), strict=True))},
        "patterns": [
            {"pattern": name, "auroc": dict(zip(("value", "low", "high"), area, strict=True))}
            for name, area in areas.items()
        ]
        + [{"pattern": "blur-1", "auroc": None}],
    }
    document["membership"] = {**document["membership"], "recovery_gain": {"value": 0.6, "low": 0.5, "high": 0.7}}
    for text, held in (("gain_auroc>0.7", None), ("gain_auroc>0.5", True), ("gain_auroc>0.76", False)):
        examined = Examined.of(document, [Condition.of(text)], strict=False)
        assert list(examined.held.values()) == [held], text
    assert "random-0.9 it is 0.75 to 0.97" in Examined.of(document, [Condition.of("gain_auroc>0.7")], False).reason(
        Condition.of("gain_auroc>0.7")
    )


@pytest.mark.parametrize(("reference", "held"), [("untrained", None), ("trained", False)])
def test_a_reference_that_was_not_trained_passes_nothing(tmp_path, reference, held):
    members, others = torch.rand(2, 12, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    models = {"untrained": lambda x: 1 - x, "trained": lambda x: x + 0.1 * (x - x.mean((1, 2, 3), keepdim=True))}
    options = {"methods": ["autoencoder_iterations", "biharmonic"], "reference": models[reference]}
    _, document = document_of(tmp_path, members, others, **options)
    assert named_numbers(document)["reference_auroc"] == 1
    examined = Examined.of(document, [Condition.of("reference_auroc<0.5")], strict=False)
    assert list(examined.held.values()) == [held]
    if held is None:
        assert "reproduces no image" in examined.reason(Condition.of("reference_auroc<0.5"))
