"""Outcome and headline of trained networks of which it is known what they have stored."""

import itertools

import numpy as np
import pytest
import skimage.color
import skimage.data
import torch
from torch import nn

from lightning_memaudit import audit
from lightning_memaudit.results.evidence import controls_needed
from lightning_memaudit.results.image_columns import ImageColumns
from lightning_memaudit.results.image_table import image_table

PATTERNS = ("random-0.5", "random-0.9")
METHODS = ("blind", "biharmonic")
SIZE = 16
NUM = 30


@pytest.fixture(scope="module")
def crops():
    """Grey crops of photographs that scikit-image ships, (800, 1, 16, 16), in random order: groups are exchangeable."""
    photos = [getattr(skimage.data, name)() for name in ("astronaut", "camera", "chelsea", "coffee", "coins", "rocket")]
    rng = np.random.default_rng(0)
    crops = []
    for number in range(800):
        photo = photos[number % len(photos)]
        photo = skimage.color.rgb2gray(photo) if photo.ndim == 3 else photo / 255
        photo = photo[: photo.shape[0] // 2 * 2 : 2, : photo.shape[1] // 2 * 2 : 2]
        row, column = (rng.integers(length - SIZE) for length in photo.shape)
        crop = photo[row : row + SIZE, column : column + SIZE]
        if crop.std() > 0.05:  # a smooth one shows nothing
            crops.append(crop)
    order = rng.permutation(len(crops))
    return torch.from_numpy(np.stack(crops)[order, None].astype(np.float32))


def trained(images, until, often=None):
    """Fully connected layers, trained until images that are drawn 300 times as often (default: all) reach a loss."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    widths = [SIZE * SIZE, 256, 256, 256, SIZE * SIZE]
    layers = [layer for pair in itertools.pairwise(widths) for layer in (nn.Linear(*pair), nn.LeakyReLU())]
    net = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    flat, weight = images.flatten(1), torch.ones(len(images))
    watched = flat if often is None else flat[often]
    weight[[] if often is None else often] = 300
    for step in range(20_000):
        batch = flat[torch.multinomial(weight, 40, replacement=True, generator=generator)]
        loss = (net(batch) - batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 and (net(watched) - watched).square().mean() < until:
            break
    return lambda x: net(x.flatten(1)).view_as(x)


def linear(images, number):
    """Principal component analysis."""
    flat = images.flatten(1)
    mean = flat.mean(0)
    directions = torch.linalg.svd(flat - mean, full_matrices=False)[2][:number]
    return lambda x: (mean + (x.flatten(1) - mean) @ directions.T @ directions).view_as(x)


def audited(f, members, controls, **options):
    with torch.no_grad():
        return audit(f, members, controls, patterns=PATTERNS, methods=METHODS, **options)


@pytest.mark.slow
def test_all_of_them(crops):
    members, strangers = crops[:40], crops[40:80]
    f = trained(members, 3e-5)
    report = audited(f, members, strangers)
    assert report.verdict.outcome == "memorized"
    assert report.num_memorized >= 32
    assert report.verdict.headline == f"Memorized: {report.num_memorized} of 40 training images came back."
    strangers = audited(f, strangers[:20], crops[80:100])
    assert strangers.verdict.outcome == "inconclusive"
    assert strangers.num_memorized == 0


def test_none_as_it_is_untrained(crops):
    report = audited(trained(crops[:NUM], 1.0), crops[:NUM], crops[NUM : 2 * NUM])
    assert (report.verdict.outcome, report.verdict.reasons) == ("inconclusive", ("train_loss_too_high",))


@pytest.mark.parametrize("number", [20, 120])
def test_none_as_its_directions_are_those_of_other_images(crops, number):
    report = audited(linear(crops[2 * NUM :], number), crops[:NUM], crops[NUM : 2 * NUM])
    assert report.verdict.outcome == "inconclusive"
    assert report.num_memorized == 0
    assert report.membership["recovery_gain"].low < 0.5


def test_all_as_their_directions_are_kept(crops):
    report = audited(linear(crops[:NUM], NUM), crops[:NUM], crops[NUM : 2 * NUM])
    assert report.verdict.outcome == "memorized"


def memorized(report):
    """Positions of the members that came back beyond every baseline."""
    columns = ImageColumns.of_cells(report.cells, 30.0)
    rows = image_table(columns, report.judgement)
    return {row["position"] for row in rows if row["group"] == "members" and row["memorized"]}


@pytest.mark.slow
def test_those_that_were_repeated(crops):
    members, controls, often = crops[:120], crops[120:], list(range(10, 120, 20))
    f = trained(members, 3e-4, often)
    many = audited(f, members, controls)
    assert many.verdict.outcome == "memorized"
    assert memorized(many) <= set(often)
    assert len(memorized(many)) >= 4
    few = audited(f, members, controls[:40])
    count = few.num_memorized
    assert count == many.num_memorized
    assert few.verdict.outcome == "inconclusive"
    assert f"{count} of 120 training images came back, but with 40 controls that is too few" in few.verdict.headline
    needed = controls_needed(count, 120, len(PATTERNS))
    assert f"Audit at least {needed} controls" in few.verdict.next_steps[0]


def test_the_tenth_that_was_overfitted(crops):
    members, controls, tenth = crops[:120], crops[120:240], list(range(5, 120, 10))
    report = audited(trained(members, 3e-4, tenth), members, controls)
    assert report.verdict.outcome == "memorized"
    assert memorized(report) <= set(tenth)
    assert report.num_memorized >= 7
    assert 3 <= report.judgement.evidence.at_least <= report.num_memorized
