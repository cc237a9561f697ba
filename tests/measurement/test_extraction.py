"""Fixed points matched with members and controls: as brute force matches them, and nothing counted by chance."""

import numpy as np
import pytest
import torch

from lightning_memaudit import audit
from lightning_memaudit.measurement.extraction import (
    check_extraction,
    extraction_report,
    nearest_images,
    search_and_match,
    trivial_error,
)
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.recovery.extraction import Extraction, FixedPointSearch
from lightning_memaudit.results.extraction import MARGIN_DB, ExtractionReport, in_words

SHAPE = (1, 12, 12)
SEARCH = FixedPointSearch(num_starts=256, unseen_share=0.0)


@pytest.fixture
def images():
    return torch.rand(30, *SHAPE, generator=torch.Generator().manual_seed(0))


def memory(stored):
    return lambda x: stored[torch.cdist(x.flatten(1).double(), stored.flatten(1).double()).argmin(1)]


def report_of(points, groups, basin=None, threshold_db=30.0, parts=1):
    """The report on given fixed points, the groups divided among so many processes."""
    basin = [1] * len(points) if basin is None else basin
    found = Extraction(points, torch.zeros(len(points)), torch.tensor(basin), torch.zeros(9), 0, 9, False, False)
    shares = [
        [
            Group(
                one.name,
                one.images[rank::parts],
                list(one.indices)[rank::parts],
                list(one.positions)[rank::parts],
            )
            for one in groups
        ]
        for rank in range(parts)
    ]
    matched = [(found, [nearest_images(points, one, threshold_db, block_size=4) for one in share]) for share in shares]
    return extraction_report(SEARCH, matched, threshold_db, num_pictures=3)


def decibels(first, second):
    return -10 * np.log10(((first - second).double() ** 2).mean().item())


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_matches_are_those_of_brute_force(images, parts):
    generator = torch.Generator().manual_seed(1)
    groups = [Group.whole("members", images[:12]), Group.whole("controls", images[12:])]
    noise = 10 ** -torch.linspace(0.5, 3, 80).view(-1, 1, 1, 1) * torch.randn(80, *SHAPE, generator=generator)
    points = images[torch.arange(80) % 30] + noise
    basin = list(range(1, 81))
    report = report_of(points, groups, basin, parts=parts)
    expected: dict[tuple[str, int], list[tuple[float, int]]] = {}
    for point, size in zip(points, basin, strict=True):
        quality = [decibels(point, image) for image in images]
        nearest = int(np.argmax(quality))
        if quality[nearest] >= 30:
            place = ("members", nearest) if nearest < 12 else ("controls", nearest - 12)
            expected.setdefault(place, []).append((quality[nearest], size))
    assert {(row["group"], row["position"]) for row in report.images} == set(expected)
    assert max(map(len, expected.values())) > 1
    for row in report.images:
        hits = expected[row["group"], row["position"]]
        assert row["psnr"] == pytest.approx(max(quality for quality, _ in hits), abs=1e-3)
        assert row["basin"] == sum(size for _, size in hits)
    assert report.num_extracted == sum(group == "members" for group, _ in expected) > 2
    assert report.summary["num_controls_extracted"] == sum(group == "controls" for group, _ in expected) > 2
    assert len(report.images) > len(report.pictures["extraction/truth"]) == 3
    for row, truth, image in zip(
        report.images, report.pictures["extraction/truth"], report.pictures["extraction/image"], strict=False
    ):
        assert row["group"] == "members"
        assert np.array_equal(truth, images[row["position"]].numpy())
        assert decibels(torch.from_numpy(image), torch.from_numpy(truth)) == pytest.approx(row["psnr"], abs=1e-3)


def test_members_come_out_of_a_memory_of_them_and_controls_do_not(images):
    groups = [Group.whole("members", images[:10]), Group.whole("controls", images[10:])]
    report = extraction_report(SEARCH, [search_and_match(memory(images[:10]), groups, SEARCH, 30.0)], 30.0, 64)
    assert report.num_extracted > 3
    assert report.summary["num_controls_extracted"] == 0
    assert sum(row["share"] for row in report.images) == 1  # every start ended at a member
    assert report.summary["num_hits"] == report.summary["num_settled"] == 256
    assert report.summary["unseen_high"] <= 10 - report.num_extracted
    swapped = [Group.whole("members", images[10:]), Group.whole("controls", images[:10])]
    report = extraction_report(SEARCH, [search_and_match(memory(images[:10]), swapped, SEARCH, 30.0)], 30.0, 64)
    assert report.num_extracted == 0
    assert report.summary["num_controls_extracted"] > 3


def test_the_search_sees_no_image(images):
    """Other members and controls, the same fixed points."""
    search = FixedPointSearch(num_starts=50)
    f = memory(images[:10])
    first, _ = search_and_match(f, [Group.whole("members", images[:10])], search, 30.0)
    second, _ = search_and_match(f, [Group.whole("members", torch.zeros(3, *SHAPE))], search, 30.0)
    assert torch.equal(first.images, second.images)


def test_nothing_comes_out_of_the_identity(images):
    groups = [Group.whole("members", images[:10]), Group.whole("controls", images[10:])]
    report = extraction_report(SEARCH, [search_and_match(lambda x: x, groups, SEARCH, 30.0)], 30.0, 64)
    assert report.num_extracted == report.summary["num_controls_extracted"] == 0
    assert report.summary["identity_like"]
    assert "Nothing can be said" in in_words(report.summary)


def test_a_grey_fixed_point_is_no_flat_member(images):
    flat = torch.full(SHAPE, 0.5) + 0.01 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    groups = [Group.whole("members", torch.stack([flat, images[0]]))]
    grey = torch.full((1, *SHAPE), 0.5)
    assert decibels(grey[0], flat) > 30
    report = report_of(grey, groups)
    assert report.num_extracted == 0
    assert report.summary["num_too_smooth"] == 1
    assert "1 left out" in in_words(report.summary)
    # The flat one counts when it comes out with its own detail.
    report = report_of(torch.cat([grey, flat[None]]), groups)
    assert (report.num_extracted, report.summary["num_too_smooth"]) == (1, 0)


def test_the_trivial_copies_are_one_color_and_smooth_patches(images):
    assert trivial_error(torch.full((1, *SHAPE), 0.3))[0] == pytest.approx(0, abs=1e-12)
    ramp = torch.linspace(0, 1, 12).expand(1, *SHAPE)
    assert trivial_error(ramp)[0] < 0.1 * ramp.var()  # patches follow it, one color does not
    assert trivial_error(images[:1])[0] > 0.5 * images[0].var()


def test_no_fixed_points_and_no_images_of_a_process(images):
    groups = [Group.whole("members", images[:3]), Group.whole("controls", images[3:5])]
    report = report_of(torch.zeros(0, *SHAPE), groups)
    assert report.num_extracted == 0
    assert report.summary["num_members"] == 3
    assert report_of(images[:2], groups, parts=4).num_extracted == 2


def test_without_controls_none_are_spoken_of(images):
    report = report_of(images[:2], [Group.whole("members", images[:3])])
    assert report.summary["num_controls"] is None
    assert "controls" not in in_words(report.summary)
    assert "2 of 3 training images come out" in in_words(report.summary)


def test_the_margin_is_that_which_is_reported():
    nearest = nearest_images(torch.zeros(1, *SHAPE), Group.whole("members", torch.rand(1, *SHAPE)), 30.0)
    clear = nearest._replace(psnr=np.array([40.0]), trivial_psnr=np.array([40.0 - MARGIN_DB]))
    close = nearest._replace(psnr=np.array([40.0]), trivial_psnr=np.array([40.1 - MARGIN_DB]))
    settings = {"threshold_db": 30.0, "num_starts": 1}
    found = [ExtractionReport.of(settings, [one], [1], np.zeros((1, *SHAPE)), 0) for one in (clear, close)]
    assert [one.num_extracted for one in found] == [1, 0]


def test_a_negative_number_of_starts_is_named(images):
    with pytest.raises(ValueError, match="extraction=-1"):
        audit(memory(images[:3]), images[:3], extraction=-1)


def test_a_model_that_takes_labels_is_refused(images):
    plan = Plan.of(["half"], ["biharmonic"], extraction=10)
    group = Group.whole("members", images[:2], conditions=["a", "b"])
    with pytest.raises(ValueError, match="extraction=10: the model takes more than the image"):
        check_extraction([group], plan)
    check_extraction([group], Plan.of(["half"], ["biharmonic"]))


def test_it_is_said_when_most_starts_never_came_to_rest(images):
    groups = [Group.whole("members", images[:3])]
    search = FixedPointSearch(num_starts=20)
    report = extraction_report(search, [search_and_match(lambda x: 1 - x.round(), groups, search, 30.0)], 30.0, 0)
    assert "only 0 of the starts came to rest" in in_words(report.summary)
