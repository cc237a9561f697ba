"""The largest missing fraction by bisection, against methods whose limits are known."""

from itertools import pairwise

import pytest
import torch
from autoencoders import memory
from observations import smooth_images

from lightning_memaudit.measurement.extras import extra_measurements
from lightning_memaudit.measurement.largest_missing import largest_missing
from lightning_memaudit.measurement.plan import Group, Plan
from lightning_memaudit.recovery import KnownMaskRecovery, Recovery


def images(count=6):
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1


class ComesBackUpTo:
    """Returns the truth of an image while no more than its own limit is missing."""

    needs_mask = True

    def __init__(self, truth, limits):
        self.truth, self.limits, self.seen = truth, torch.tensor(limits), []

    def __call__(self, autoencoder, observed, mask):
        missing = 1 - mask.flatten(1).mean(1)
        self.seen.append(mask)
        ok = missing <= self.limits
        image = torch.where(ok.view(-1, 1, 1, 1), self.truth, observed)
        count = len(observed)
        return Recovery(
            image, mask, torch.zeros(count), torch.zeros(count, dtype=torch.bool), torch.ones(count, dtype=torch.int64)
        )


def test_finds_the_limit_of_every_image_to_the_resolution():
    truth = images()
    limits = [0.0, 0.1, 0.333, 0.5, 0.77, 0.99]
    method = ComesBackUpTo(truth, limits)
    rows = largest_missing(lambda x: x, Group.whole("members", truth), method, num_rounds=6)
    for row, limit in zip(rows, limits, strict=True):
        # Half a pixel of 256 is what rounding to whole pixels may move.
        assert row["largest_missing"] <= limit + 0.5 / 256
        assert row["largest_missing"] > limit - 2**-6 - 0.5 / 256
    assert rows[0] == {"group": "members", "image": 0, "name": "0", "position": 0, "largest_missing": 0.0}
    assert len(method.seen) == 6, "one batch per round"


def test_masks_are_nested_and_seeded_by_position():
    truth = images(2)
    method = ComesBackUpTo(truth, [0.99, 0.99])
    largest_missing(lambda x: x, Group.whole("members", truth), method, num_rounds=4)
    for less, more in pairwise(method.seen):
        assert (more <= less).all(), "always further from what came back: more and more are missing"
    again = ComesBackUpTo(truth, [0.99, 0.99])
    largest_missing(lambda x: x, Group("controls", truth, [5, 9], [0, 1]), again, num_rounds=4)
    assert all(torch.equal(one, other) for one, other in zip(method.seen, again.seen, strict=True))


def test_a_memory_gives_back_more_than_an_identity():
    stored = images(5)
    rows = largest_missing(
        memory(stored), Group.whole("members", stored), KnownMaskRecovery(), num_rounds=4, block_size=2
    )
    assert min(row["largest_missing"] for row in rows) > 0.8
    assert [row["position"] for row in rows] == [0, 1, 2, 3, 4]
    rows = largest_missing(lambda x: x, Group.whole("members", stored), KnownMaskRecovery(), num_rounds=4)
    assert max(row["largest_missing"] for row in rows) == 0.0


def test_the_inpainter_has_the_same_masks_and_the_difference_is_that_of_each_image():
    truth = images(3)
    method, inpainter = ComesBackUpTo(truth, [0.9, 0.5, 0.2]), ComesBackUpTo(truth, [0.5, 0.5, 0.6])
    group = Group.whole("members", truth)
    rows = largest_missing(lambda x: x, group, method, num_rounds=6, inpainter=inpainter)
    alone = largest_missing(lambda x: x, group, ComesBackUpTo(truth, [0.5, 0.5, 0.6]), num_rounds=6)
    assert torch.equal(method.seen[0], inpainter.seen[0])
    assert [row["inpainted_missing"] for row in rows] == [row["largest_missing"] for row in alone]
    assert [row["beyond_inpainting"] for row in rows] == pytest.approx([0.4, 0.0, -0.4], abs=0.02)


def test_of_the_identity_on_smooth_images_nothing_is_left_beyond_the_inpainter():
    smooth = smooth_images(6, channels=1)
    plan = Plan.of(["half"], ["known_mask"], find_largest_missing=True)
    (extra,) = extra_measurements(plan)
    rows = extra.measure_all(lambda x: x, [Group.whole("members", smooth)])
    assert extra.settings["inpainter"] == "biharmonic"
    assert min(row["inpainted_missing"] for row in rows) > 0.6, "an inpainter alone brings them back from little"
    assert max(row["beyond_inpainting"] for row in rows) <= 0
    stored = images(4)
    rows = extra.measure_all(memory(stored), [Group.whole("members", stored)])
    assert min(row["beyond_inpainting"] for row in rows) > 0.7


@pytest.mark.parametrize("argument", ["num_rounds", "block_size"])
def test_bad_numbers_are_refused(argument):
    with pytest.raises(ValueError, match=f"{argument}=0"):
        largest_missing(lambda x: x, Group.whole("members", images()), KnownMaskRecovery(), **{argument: 0})
