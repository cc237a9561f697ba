"""The recovery gain: hidden PSNR of a recovery minus that of the best filling that takes no autoencoder."""

import numpy as np
import pytest
import torch

from lightning_memaudit import audit
from lightning_memaudit.measurement import measure as measuring
from lightning_memaudit.measurement.baselines import baseline_psnr
from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.measurement.engine import now, run_audit
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.recovery import BlindRecovery
from lightning_memaudit.recovery.interpolation import interpolate
from lightning_memaudit.recovery.methods.biharmonic import BiharmonicInpainting
from lightning_memaudit.results.rows import Occasion

PATTERNS = ["random-0.5", "block-0.25"]


def smooth_images(num, side=16, seed=0):
    """Sums of a few waves: an inpainter does well on them, but not perfectly."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side)))
    waves = rng.uniform(2, 9, (num, 3, 4, 2)) @ grid.reshape(2, -1) + rng.uniform(0, 6, (num, 3, 4, 1))
    images = 0.5 + 0.12 * np.sin(waves).sum(2).reshape(num, 3, side, side)
    return torch.from_numpy(images.clip(0, 1)).float()


def hidden_decibels(image, truth, mask):
    hidden = np.broadcast_to(np.asarray(mask) < 0.5, truth.shape)
    return -10 * np.log10(np.square(np.asarray(image) - np.asarray(truth))[hidden].mean())


@pytest.mark.parametrize("pattern", [*PATTERNS, "random-0.9+fill-noise"])
def test_the_baseline_is_the_best_of_three_fillings(pattern):
    images = smooth_images(4)
    degraded = parse_degradation(pattern)(images, range(4), 0)
    inpainted = BiharmonicInpainting()(None, degraded.observed, degraded.mask)
    fillings = [
        inpainted.image,
        interpolate(degraded.observed, degraded.mask),
        BlindRecovery(certification=None)(lambda x: x, degraded.observed).image,
    ]
    expected = [max(hidden_decibels(filling[i], images[i], degraded.mask[i]) for filling in fillings) for i in range(4)]
    best = baseline_psnr(degraded, images, BlindRecovery(), inpainted)
    assert best.tolist() == pytest.approx(expected, abs=1e-3)
    without = baseline_psnr(degraded, images, BlindRecovery(), None)
    assert bool((without <= best).all())


def test_every_row_has_its_gain():
    images = smooth_images(6)
    report = audit(lambda x: x, images[:3], images[3:], patterns=PATTERNS, methods=["blind", "biharmonic"])
    for row in report.images:
        assert row["recovery_gain"] == pytest.approx(row["hidden_psnr"] - row["baseline_psnr"], abs=1e-4)
        assert row["recovery_gain"] <= 1e-4, "neither inpainting nor the identity is closer than the best of them"


def test_what_an_image_looks_like_is_in_its_rows():
    images = smooth_images(4)
    [first, *_] = audit(lambda x: x, images[:2], images[2:], patterns=["half"], methods=["biharmonic"]).images
    truth = images[0].double().numpy()
    steps = np.concatenate([np.diff(truth, axis=1).ravel(), np.diff(truth, axis=2).ravel()])
    assert first["brightness"] == pytest.approx(truth.mean(), abs=1e-5)
    assert first["contrast"] == pytest.approx(truth.std(), abs=1e-5)
    assert first["roughness"] == pytest.approx(np.sqrt(np.square(steps).mean()), abs=1e-5)


def test_baselines_call_no_autoencoder_and_are_computed_once(monkeypatch):
    calls, computed = [], []

    def autoencoder(x):
        calls.append(len(x))
        return x * 0.5

    def counted(*arguments):
        computed.append(arguments)
        return baseline_psnr(*arguments)

    monkeypatch.setattr(measuring, "baseline_psnr", counted)
    groups = [Group.whole("members", smooth_images(3)), Group.whole("controls", smooth_images(3, seed=1))]
    plan, cache = Plan.of(PATTERNS, ["biharmonic"]), measuring.InpaintingCache()
    first, second = (
        run_audit(autoencoder, groups, plan, Occasion(i, "audit", None, None, now()), cache=cache) for i in range(2)
    )
    assert len(computed) == len(PATTERNS) * len(groups)
    # f(x) of each image once, and once more of the members, in two other batches of two.
    assert sum(calls) == 2 * (3 + 2 + 2 + 3)
    assert [row["baseline_psnr"] for row in first.images] == [row["baseline_psnr"] for row in second.images]


def test_where_a_baseline_is_missing_there_is_no_gain():
    """Without the best of them the gain would be too large, and an image might seem memorized."""

    class Failing(BiharmonicInpainting):
        def __call__(self, autoencoder, observed, mask):
            raise RuntimeError("singular")

    images = smooth_images(4)
    plan = Plan.of(["half"], {"blind": "blind", "biharmonic": Failing()}, raise_errors=False)
    with pytest.warns(UserWarning, match="singular"):
        report = run_audit(lambda x: x, [Group.whole("members", images)], plan, Occasion(0, "audit", None, None, now()))
    assert all(row["recovery_gain"] is None for row in report.images)

    def choosy(autoencoder, observed):
        if autoencoder is torch.clone:
            raise TypeError("needs a module")
        return BlindRecovery(certification=None)(autoencoder, observed)

    with pytest.warns(UserWarning, match="no baseline for members, half: TypeError: needs a module"):
        report = audit(
            lambda x: x, images, None, patterns=["half"], methods={"mine": choosy, "biharmonic": "biharmonic"}
        )
    assert all(row["baseline_psnr"] is None and row["hidden_psnr"] is not None for row in report.images)
    assert report.rate("mine", "half") >= 0


def test_behind_a_blur_nothing_is_missing():
    report = audit(lambda x: x, smooth_images(2), None, patterns=["blur-1"], methods=["blind_deblurring"])
    assert all(row["recovery_gain"] is None for row in report.images)
