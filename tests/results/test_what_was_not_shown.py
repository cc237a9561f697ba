"""What an audit could not have shown is neither a finding nor a pass, whatever else it saw."""

import math

import pytest
import torch
from observations import smooth_images

from lightning_memaudit import audit
from lightning_memaudit.report.document import build_document
from lightning_memaudit.results.gate import Condition, Examined
from lightning_memaudit.results.run_folder import RunFolder

NUM = 24
MEMBERS, CONTROLS = smooth_images(2 * NUM, 1, 12).split(NUM)
NOISE = torch.randn(NUM, 1, 12, 12, generator=torch.Generator().manual_seed(1))


def answering(answers, farthest=math.inf, controls=CONTROLS):
    """The answer to the nearest member; as it is what is a control; NaN for what is nothing like any image."""
    keys, values = torch.cat([MEMBERS, controls]), torch.cat([answers, controls])

    def f(x):
        distance, nearest = torch.cdist(x.flatten(1), keys.flatten(1)).min(1)
        return torch.where((distance > farthest).view(-1, 1, 1, 1), torch.nan, values[nearest])

    return f


def audited(f, members=MEMBERS, controls=CONTROLS, **settings):
    return audit(f, members, controls, patterns=["random-0.9"], methods=["blind_black_box", "biharmonic"], **settings)


def document_of(folder, report):
    run = RunFolder(folder / "memaudit")
    run.write_run({"model": {"class": "memory", "num_parameters": 0}, "settings": {"primary_method": report.primary}})
    report.append_to(run)
    return build_document(run)


def decided(document, text, strict=True):
    condition = Condition.of(text)
    gate = Examined.of(document, [condition], strict)
    return gate.held[condition], gate.reason(condition)


def memory_of(answers):
    return lambda x: answers[torch.cdist(x.flatten(1), MEMBERS.flatten(1)).argmin(1)]


def test_recoveries_that_all_diverged_are_no_absence_and_no_pass(tmp_path):
    report = audited(answering(MEMBERS + 0.02 * NOISE, farthest=0.05))
    assert report.verdict.outcome == "inconclusive"
    assert "recoveries_diverged" in report.verdict.reasons
    document = document_of(tmp_path, report)
    assert document["judgement"]["untested"]["count"] == NUM
    for strict in (False, True):
        for text in ("memorized_rate>0.05", "memorized_rate_high>0.5", "num_memorized>0", "recovery_rate>0.05"):
            held, why = decided(document, text, strict)
            assert held is None
            assert f"{NUM} of {NUM} members diverged" in why
    assert decided(document, "train_loss>0.5")[0] is False, "that owes nothing to what was recovered"


def test_more_that_is_stored_is_no_better_pass(tmp_path):
    """What stores every member so dimly that none reaches the threshold; and the same, where none could."""
    dim = audited(memory_of(MEMBERS + 0.1 * NOISE))  # 20 dB
    assert (dim.verdict.outcome, dim.num_memorized) == ("traces", 0)
    assert dim.verdict.absence_not_shown == ("reconstruction_below_threshold",)
    assert any("reaches 30 dB on none of 24" in caution for caution in dim.verdict.cautions)
    document = document_of(tmp_path / "dim", dim)
    assert decided(document, "memorized_rate>0.05")[0] is None
    assert decided(document, "memorized_rate>0.05", strict=False)[0] is False
    assert decided(document, "gain_auroc>0.999")[0] is not None, "what it names was measured"
    sharp = audited(memory_of(MEMBERS + 0.01 * NOISE), threshold_db=60.0)
    assert (sharp.verdict.outcome, sharp.num_memorized) == ("traces", 0)
    assert decided(document_of(tmp_path / "sharp", sharp), "num_memorized>0")[0] is None
    whole = audited(memory_of(MEMBERS))
    assert decided(document_of(tmp_path / "whole", whole), "memorized_rate>0.05")[0] is True


@pytest.mark.parametrize("wide", [4, 10])
def test_a_range_too_wide_turns_no_traces_into_images_that_came_back(wide):
    """The same images and the same errors beside their contrast: only the range that they are given is another."""

    def narrowed(images):
        return 0.5 + (images - 0.5) / wide

    def narrow(x):
        return narrowed(memory(wide * (x - 0.5) + 0.5))

    memory = memory_of(MEMBERS + 0.05 * NOISE)
    as_it_is, in_part = audited(memory), audited(narrow, narrowed(MEMBERS), narrowed(CONTROLS))
    assert as_it_is.verdict.outcome == in_part.verdict.outcome == "traces"
    assert as_it_is.judgement.range_used / wide == pytest.approx(in_part.judgement.range_used)
    assert "narrow_range" not in as_it_is.verdict.absence_not_shown
    assert in_part.verdict.absence_not_shown == ("narrow_range",)
    assert "of their range" in in_part.verdict.headline
    assert not any("never seen" in caution for caution in in_part.verdict.cautions)


@pytest.mark.parametrize("same", [("random-0.5", "random-0.4999"), ("strokes-0.3", "strokes-0.3001")])
def test_a_pattern_in_another_spelling_counts_once(same):
    with pytest.raises(ValueError, match="leave the same of images of this size; leave one of them out"):
        audit(torch.clone, MEMBERS, CONTROLS, patterns=same, methods=["paper_blind"])
    black = torch.zeros(4, 1, 12, 12)  # of which nothing is left in any pattern
    audit(torch.clone, black, methods=["paper_blind"], patterns=["random-0.5", "half"])


def test_what_so_few_starts_could_never_give_is_undecided(tmp_path):
    document = document_of(tmp_path, audited(memory_of(MEMBERS), extraction=3))
    held, why = decided(document, "extracted>5", strict=False)
    assert held is None
    assert "at most 3" in why
    assert decided(document, "extracted>2")[0] is not None


def test_a_search_that_was_cut_is_no_pass(tmp_path):
    document = document_of(tmp_path, audited(memory_of(MEMBERS + 0.01 * NOISE)))
    cuts = [
        {"argument": "max_evaluations", "asked": None, "used": 60},
        {"argument": "num_members", "asked": 50, "used": 24},
    ]
    for some, undecided in ((cuts, {"memorized_rate", "gain_auroc"}), (cuts[1:], set())):
        changed = {**document, "cost": {"cuts": some}}
        for text in ("memorized_rate<0.5", "gain_auroc<0.5", "train_loss>0.5", "num_memorized>0"):
            held, why = decided(changed, text)
            assert (held is None) == (Condition.of(text).name in undecided), text
            assert held is not None or "max_evaluations is 60" in why


def test_traces_without_an_inpainter_say_that_it_is_missing():
    """Images came back, more than chance explains: that nobody filled them in otherwise is what keeps the verdict."""
    f = answering(MEMBERS, controls=CONTROLS[:0])
    report = audit(f, MEMBERS, CONTROLS, patterns=["random-0.9"], methods=["blind_black_box"])
    assert report.verdict.outcome == "traces"
    headline = report.verdict.headline
    assert f"{NUM} of {NUM} came back by blind black box recovery, but no generic inpainter ran" in headline
    assert "too few to tell from chance" not in headline
    assert "Add biharmonic to methods" in report.verdict.next_steps[1]
