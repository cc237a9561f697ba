"""What one gradient tells of the loss that it is of, against gradients that were written down."""

import pytest
import torch
from training_runs import images

from lightning_memaudit.callback.loss_target import Target, find_target, left_out
from lightning_memaudit.callback.reading.affine import Affine

SHAPE = (2, 8, 8)
MEMBERS, OTHERS = images(6, shape=SHAPE), images(6, seed=2, shape=SHAPE)
HERE, THERE = (0,), (1,)
OUTPUT = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(3)).double()


def beside(gradient, share):
    """With so much of its variance added to it, of what nothing explains."""
    noise = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(4)).double()
    return gradient + noise * (share * gradient.var(dim=(0, 2, 3), keepdim=True)).sqrt()


def found_of(gradient, output=OUTPUT, given=None, **more):
    return find_target(output, gradient, given, {HERE: MEMBERS.double(), **more})


@pytest.mark.parametrize(("share", "is_found"), [(1e-6, True), (1e-4, False)])
def test_a_gradient_is_to_be_explained_to_a_hundred_thousandth(share, is_found):
    assert (found_of(beside(OUTPUT - MEMBERS, share)) is not None) == is_found
    assert (found_of(beside(OUTPUT.sigmoid() - MEMBERS, share / 10)) is not None) == is_found


@pytest.mark.parametrize(("share", "is_found"), [(1e-3, True), (1e-2, False)])
def test_in_half_precision_to_a_hundredth(share, is_found):
    assert (found_of(beside(OUTPUT - MEMBERS, share).bfloat16()) is not None) == is_found


@pytest.mark.parametrize(("share", "is_logits"), [(1e-7, True), (5e-6, None)])
def test_logits_take_an_explanation_ten_times_as_good_as_is_asked_for(share, is_logits):
    found = found_of(beside(OUTPUT.sigmoid() - MEMBERS, share))
    assert (found is None) == (is_logits is None)
    assert found is None or found.is_logits


@pytest.mark.parametrize("scale", [0.01, 0.05])
def test_where_both_explain_it_nothing_is_said(scale):
    """So near zero the sigmoid is a line: half a quarter of the output."""
    output = scale * OUTPUT
    assert found_of(beside(output.sigmoid() - MEMBERS, 1e-6), output) is None
    assert found_of(beside(output / 4 + 0.5 - MEMBERS, 1e-6), output) is None


def test_a_gradient_that_points_the_other_way_is_of_no_such_loss():
    assert found_of(MEMBERS - OUTPUT) is None
    assert found_of(MEMBERS - OUTPUT.sigmoid()) is None


@pytest.mark.parametrize("constant", ["images", "output", "gradient"])
def test_of_what_is_the_same_everywhere_in_a_channel_nothing_is_known(constant):
    output, members = OUTPUT.clone(), MEMBERS.double()
    for name, one in (("images", members), ("output", output)):
        if name == constant:
            one[:, 1] = 0.25
    gradient = output - members
    if constant == "gradient":
        gradient[:, 1] = 0.25
    assert find_target(output, gradient, None, {HERE: members}) is None


def test_a_map_of_each_channel_is_one_map_where_they_are_alike():
    for slopes, offsets in (((2.0,), (-1.0,)), ((2.0, 4.0), (-1.0, 0.5))):
        wanted = Affine(slopes, offsets)
        found = found_of(0.3 * (OUTPUT - wanted.apply(MEMBERS.double())))
        assert (found.path, found.is_logits) == (HERE, False)
        assert found.affine.slope == pytest.approx(slopes)
        assert found.affine.offset == pytest.approx(offsets)


def test_a_channel_that_is_not_explained_is_enough():
    gradient = OUTPUT - MEMBERS
    for channel in (0, 1):
        other = gradient.clone()
        other[:, channel] = (OUTPUT - OTHERS)[:, channel]
        assert found_of(other) is None


def test_of_images_that_explain_it_alike_the_audited_come_first_then_what_was_given():
    images = {HERE: MEMBERS.double(), THERE: OTHERS.double()}
    assert find_target(OUTPUT, OUTPUT - MEMBERS, MEMBERS, images).path == HERE
    assert find_target(OUTPUT, OUTPUT - OTHERS, OTHERS, images).path is None
    assert find_target(OUTPUT, OUTPUT - OTHERS, MEMBERS, images).path == THERE
    assert find_target(OUTPUT, OUTPUT - OTHERS, OTHERS[:, :1], images).path == THERE, "of another shape"


def test_targets_are_the_same_by_their_images_their_map_and_whether_they_are_logits():
    one = Target(HERE, Affine((2.0,), (-1.0,)))
    assert one.same(Target(HERE, Affine((2.01,), (-1.0,))))
    others = [None, Target(THERE, one.affine), Target(HERE, one.affine, is_logits=True)]
    others += [Target(HERE, Affine((2.0,), (-0.8,))), Target(None, one.affine)]
    assert not any(one.same(other) for other in others)


def test_a_target_ignores_images_where_nothing_of_any_channel_is_left():
    slopes = [((0.01, 0.02), True), ((0.01, 1.0), False), ((0.2, 0.2), False), ((-1.0,), False)]
    assert all(Target(HERE, Affine(one, (0.5,) * len(one))).ignores_images == ignores for one, ignores in slopes)


def of_border(num_images=4):
    """An output in [0, 1], a gradient that leaves out its first two columns, and these, (C, 8, 8)."""
    border = (torch.arange(8) < 2).expand(*SHAPE)
    return OUTPUT.sigmoid()[:num_images], OUTPUT[:num_images] * ~border, border


def test_a_border_that_gets_no_gradient_in_any_image_is_left_out():
    output, gradient, border = of_border()
    assert torch.equal(left_out(output, gradient), border)
    assert left_out(output, OUTPUT[:4]) is None, "none are"
    assert left_out(output, 0 * gradient) is None, "all are, as where nothing is learned"


def test_of_one_image_nobody_knows_what_is_left_out_of_all():
    assert left_out(*of_border(num_images=1)[:2]) is None


def test_places_that_differ_from_image_to_image_are_not_left_out():
    output, gradient, _ = of_border()
    gradient[2, 0, 0, 5] = 0
    assert left_out(output, gradient) is None


@pytest.mark.parametrize(("share", "is_left_out"), [(0.25, False), (0.75, True)])
def test_what_is_left_out_is_mostly_no_larger_nor_smaller_than_the_rest(share, is_left_out):
    """As what is clamped is: the border of the output is outside of what the rest has, but for a share of it."""
    output, gradient, border = of_border()
    within = output[:, border].flatten()
    beyond = torch.arange(len(within)) >= share * len(within)
    for clamped in (-1.0, 2.0):
        output[:, border] = torch.where(beyond, clamped, 0.5).view(len(output), -1).double()
        assert (left_out(output, gradient) is not None) == is_left_out
