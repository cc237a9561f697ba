"""Preparations that make of every value one other are told as curves, and what is drawn at random or moves is none."""

import pytest
import torch
from smooth_images import photographs
from test_first_batch import Network
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from training_runs import Items, audit_callback, fit, images

from lightning_memaudit.callback.curves import curve_between

CURVES = {
    "log1p": lambda x: torch.log1p(9 * x),
    "gamma": lambda x: x**2.2,
    "square root": torch.sqrt,
    "threshold": lambda x: (x > 0.5).float(),
    "3 bits": lambda x: (x * 7).round() / 7,
    "logit": lambda x: torch.logit(x.clamp(0.05, 0.95)),
    "negative of a power": lambda x: 1 - x**3,
    "clamped": lambda x: (1.5 * x).clamp(0, 1),
    "half precision": lambda x: (x.bfloat16() ** 2.2).float(),
    "gamma per channel": lambda x: x ** torch.tensor([1.5, 2.0, 3.0])[: x.shape[1]].view(-1, 1, 1),
}
NONE = {
    "nothing": lambda x: x,
    "8 bits": lambda x: (x * 255).round() / 255,
    "noise": lambda x: x + 0.2 * torch.randn_like(x),
    "little noise": lambda x: x + 0.01 * torch.randn_like(x),
    "noise, clamped": lambda x: (x + 0.2 * torch.randn_like(x)).clamp(0, 1),
    "noise behind a logarithm": lambda x: torch.log1p(9 * x) + 0.05 * torch.randn_like(x),
    "salt and pepper": lambda x: torch.where(torch.rand_like(x) < 0.05, (torch.rand_like(x) < 0.5).float(), x),
    "samples": torch.bernoulli,
    "dropout": lambda x: functional.dropout(x, 0.2),
    "missing pixels": lambda x: x * (torch.rand_like(x[:, :1]) < 0.95),
    "flips": lambda x: x.flip(-1),
    "turns": lambda x: x.rot90(1, (2, 3)),
    "crops": lambda x: torch.stack([v2.RandomCrop(x.shape[-1], padding=4)(one) for one in x]),
    "brightness of each": lambda x: x * (0.7 + 0.3 * torch.rand(len(x), 1, 1, 1)),
    "gamma of each": lambda x: x ** (0.7 + torch.rand(len(x), 1, 1, 1)),
    "each standardized": lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True),
    "blur": lambda x: v2.functional.gaussian_blur(x, [5, 5]),
    "gray": lambda x: x.mean(1, keepdim=True).expand_as(x) if x.shape[1] > 1 else x,
    "others": lambda x: x.roll(1, 0),
}


def strokes(count=16, side=16):
    """Mostly empty, as scans of handwriting are."""
    drawn = (torch.rand(count, 1, side, side) < 0.1).float()
    return (1.8 * functional.avg_pool2d(drawn, 3, 1, 1)).clamp(0, 1)


KINDS = {
    "photographs": lambda: photographs(16),
    "photographs in 8 bits": lambda: (photographs(16) * 255).round() / 255,
    "rough": lambda: torch.rand(16, 1, 16, 16) ** 4,
    "few small ones": lambda: torch.rand(2, 1, 8, 8),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*CURVES, *NONE])
def test_a_curve_is_told_and_what_is_none_is_not(name, kind):
    torch.manual_seed(0)
    given = KINDS[kind]()
    found = curve_between(given, (CURVES | NONE)[name](given))
    assert (found is not None) == (name in CURVES)


@pytest.mark.parametrize("name", ["threshold", "gamma", "noise", "samples", "salt and pepper", "dropout", "crops"])
def test_images_that_are_mostly_empty(name):
    torch.manual_seed(0)
    given = strokes()
    assert (curve_between(given, (CURVES | NONE)[name](given)) is not None) == (name in CURVES)


def test_a_curve_that_rises_and_falls_is_told_where_values_repeat():
    given = KINDS["photographs in 8 bits"]()
    assert curve_between(given, (given - 0.5).abs()) is not None
    assert curve_between(given, (given * 15).floor() % 4 / 3) is not None


def test_of_images_of_two_values_dropout_is_no_curve():
    torch.manual_seed(0)
    given = (photographs(16) > 0.5).float()
    assert curve_between(given, functional.dropout(given, 0.2)) is None


def test_another_batch_confirms_the_curve_and_not_one_that_is_drawn():
    one, other = photographs(24)[:12], photographs(24)[12:]
    first = curve_between(one, one**2.2)
    assert first.goes_on(curve_between(other, other**2.2))
    assert not first.goes_on(curve_between(other, other**1.5))


def test_constant_images_have_no_curve():
    assert curve_between(torch.full((4, 3, 8, 8), 0.5), torch.zeros(4, 3, 8, 8)) is None
    assert curve_between(torch.rand(4, 3, 8, 8), torch.zeros(4, 3, 8, 8)) is None


def doubts_of(prepare, recwarn, **arguments):
    data, others = images(8), images(4, seed=1)
    callback = audit_callback(**arguments)
    fit(callback, Network(prepare), DataLoader(Items(data), 4), DataLoader(Items(others), 4))
    told = [str(one.message) for one in recwarn]
    return callback.last_report, [one for one in told if "put through a curve" in one]


pytestmark = [
    pytest.mark.usefixtures("without_report", "reads_here"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]


@pytest.mark.parametrize("name", ["log1p", "gamma", "threshold", "3 bits", "logit"])
def test_a_run_is_told_of_the_curve_and_doubted(name, recwarn):
    report, told = doubts_of(CURVES[name], recwarn)
    assert len(told) == 2
    assert "if not at random" in told[0]
    assert "if not at random" not in told[1]
    assert "members= and controls= whose images are prepared so" in told[1]
    assert "called_otherwise" in str(report.verdict.reasons)


def test_a_curve_that_is_drawn_for_every_batch_is_no_doubt(recwarn):
    powers = iter([2.0, 3.0])
    report, told = doubts_of(lambda x: x ** next(powers), recwarn)
    assert len(told) == 1
    assert "called_otherwise" not in str(report.verdict.reasons)


def test_members_that_are_prepared_alike_are_the_mend(recwarn):
    prepare = CURVES["threshold"]
    report, told = doubts_of(
        prepare, recwarn, members=Items(prepare(images(8))), controls=Items(prepare(images(4, seed=1)))
    )
    assert told == []
    assert "called_otherwise" not in str(report.verdict.reasons)
    assert not any("from its dataloader" in str(one.message) for one in recwarn)


def test_members_that_are_not_prepared_are_doubted(recwarn):
    report, told = doubts_of(CURVES["gamma"], recwarn, members=Items(images(8)), controls=Items(images(4, seed=1)))
    assert len(told) == 2
    assert "called_otherwise" in str(report.verdict.reasons)


def test_a_function_that_prepares_them_alike_is_the_mend(recwarn):
    def reconstruct(module, x):
        return torch.expm1(module(torch.log1p(9 * x))) / 9

    report, told = doubts_of(CURVES["log1p"], recwarn, reconstruct=reconstruct)
    assert told == []
    assert "called_otherwise" not in str(report.verdict.reasons)
    assert not any("could not be compared" in str(one.message) for one in recwarn)


def test_a_function_that_prepares_them_otherwise_is_told(recwarn):
    doubts_of(CURVES["log1p"], recwarn, reconstruct=lambda module, x: module(x**2).abs().sqrt())
    assert any("could not be compared" in str(one.message) for one in recwarn)
