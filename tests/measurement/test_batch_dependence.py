"""Every member is asked more than once: alone against random answers, and beside others against mixing the batch."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_memaudit import audit
from lightning_memaudit.measurement.checks import FUNCTION_MENDS, check_group
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.measure import measure
from lightning_memaudit.measurement.own_output import in_other_batches
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.recovery import KnownMaskRecovery, Recovery
from lightning_memaudit.report.verify.described import same_method
from lightning_memaudit.results.cells import Measurement
from lightning_memaudit.results.own_output import LARGEST_ROUNDING, MAX_DIFFERENCE, doubts_about

PLAN = Plan.of(["half"], ["biharmonic"])


def pictures(count, seed=0):
    """Gray gradients (count, 1, 8, 8) of any brightness and contrast."""
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.rand(2, count, 1, 1, 1, generator=generator) * 0.9
    texture = 0.1 * torch.rand(count, 1, 8, 8, generator=generator)
    return low + (high - low) * torch.linspace(0, 1, 8) + texture


def codes(autoencoder, members, block_size=512):
    plan = Plan.of(["half"], ["biharmonic"], block_size=block_size)
    return [one.code for one in doubts_about(measure(autoencoder, Group.whole("members", members), plan).outputs)]


def mixing(share):
    return lambda x: (1 - share) * x + share * x.mean(0, keepdim=True)


def noisy_if_dark(x):
    """Every answer is exact but those for the darkest images."""
    return x + 0.15 * torch.randn_like(x) * (x.flatten(1).mean(1) < 0.2).float()[:, None, None, None]


ORDERS = {
    "dark first": lambda x: x[x.flatten(1).mean(1).argsort()],
    "bright first": lambda x: x[x.flatten(1).mean(1).argsort(descending=True)],
    "any": lambda x: x,
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("block_size", [7, 512])
def test_random_answers_for_some_images_are_seen_in_any_order(order, block_size):
    members = ORDERS[order](pictures(60))
    assert 0 < (members.flatten(1).mean(1) < 0.2).sum() < 15
    assert codes(noisy_if_dark, members, block_size) == ["not_deterministic"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("count", [2, 3, 80, 512])
def test_mixing_the_batch_is_seen_in_any_order(order, count):
    assert codes(mixing(0.1), ORDERS[order](pictures(count))) == ["depends_on_batch"]


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_groups_of_unequal_size_make_no_traces_of_an_autoencoder_that_mixes_the_batch(share):
    members, controls = pictures(80), pictures(20, seed=1)
    with pytest.warns(UserWarning, match="beside other images"):
        report = audit(mixing(share), members, controls, patterns=["random-0.9"], methods=["paper_blind", "biharmonic"])
    assert report.verdict.outcome == "inconclusive"
    assert "depends_on_batch" in report.verdict.reasons
    assert "depends on the images beside it" in report.verdict.headline
    assert any("evaluation mode" in step for step in report.verdict.next_steps)


class Normalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("count", [2, 3, 30])
def test_functions_that_do_not_take_one_image_alone_are_not_refused(count):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Unflatten(1, (1, 8, 8)))
    group = Group.whole("members", pictures(count))
    with pytest.warns(UserWarning, match="beside other images"):
        check_group(group, module)
    assert codes(module, group.images) == ["depends_on_batch"]


@pytest.mark.parametrize("train", [True, False])
def test_batch_statistics_depend_on_the_batch_only_in_train_mode(train):
    torch.manual_seed(0)
    module, members = Normalized(), pictures(30)
    module(members)  # moves the statistics
    module.train(train)
    assert codes(module, members) == (["depends_on_batch"] if train else [])


def test_attention_over_the_batch_depends_on_it():
    def attending(x):
        flat = x.flatten(1)
        return (torch.softmax(4 * flat @ flat.T, 1) @ flat).view_as(x)

    assert codes(attending, pictures(40)) == ["depends_on_batch"]


def test_noise_that_is_seeded_at_every_call_depends_on_the_place_in_the_batch():
    def seeded(x):
        return x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

    assert codes(seeded, pictures(40)) == ["depends_on_batch"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_no_dependence(dtype):
    """What the network computes is the image; what comes back is rounded twice."""
    torch.manual_seed(0)
    turned = torch.linalg.qr(torch.randn(64, 64))[0]
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8))).eval()
    network[1].weight.data, network[2].weight.data = turned, turned.T.clone()
    network.to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = audit(network, pictures(75), pictures(20, seed=1), patterns=["half"], methods=["biharmonic"])
    assert report.doubts == []


def rounded_sums(x, parts):
    """Twelve layers in bfloat16; sums are made in parts, which are rounded, as some kernels do."""
    generator = torch.Generator().manual_seed(0)
    y = x.flatten(1).bfloat16()
    for _ in range(12):
        weight = torch.linalg.qr(torch.randn(64, 64, generator=generator))[0].bfloat16()
        y = sum((y[:, rows] @ weight[rows]) for rows in torch.arange(64).chunk(parts))
    return y.float().view_as(x)


def test_rounding_otherwise_at_another_batch_size_is_no_dependence():
    """Kernels are chosen by the size of the batch: beyond the tolerance, but not for one size."""
    members = pictures(40)
    apart = (rounded_sums(members, 1) - rounded_sums(members, 8)).flatten(1).square().mean(1).sqrt()
    assert MAX_DIFFERENCE < apart.max() < LARGEST_ROUNDING
    assert codes(lambda x: rounded_sums(x, 1 if len(x) == 40 else 8), members) == []
    # Beside mixing that is as small, it hides nothing.
    mixed = mixing(0.03)
    assert codes(lambda x: rounded_sums(mixed(x), 1 if len(x) == 40 else 8), members) == ["depends_on_batch"]


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_buffer_that_every_call_overwrites_changes_nothing(share):
    members, buffer = pictures(9), torch.zeros(9, 1, 8, 8)
    before = members.clone()

    def overwriting(x):
        buffer[: len(x)] = mixing(share)(x)
        return buffer[: len(x)]

    found = in_other_batches(overwriting, members, overwriting(members))
    assert [one.code for one in doubts_about(found)] == (["depends_on_batch"] if share else [])
    assert torch.equal(members, before)


def test_no_image_is_alone_in_a_call_unless_it_is_in_its_block_and_no_call_is_empty():
    sizes = []

    def counted(x):
        sizes.append(len(x))
        return x

    for count in (1, 2, 5):
        in_other_batches(counted, pictures(count), pictures(count))
    assert sizes == [1, 2, 2, 3, 2]


def test_nan_beside_other_images_is_told():
    def broken(x):
        return x if len(x) == 10 else x / 0

    assert codes(broken, pictures(10)) == ["not_finite"]


def test_any_process_that_sees_it_is_enough():
    members = pictures(30)
    shares = [Group("members", members[rank::2], *2 * [range(30)[rank::2]]) for rank in range(2)]
    parts = [measure(f, share, PLAN) for f, share in zip([torch.clone, mixing(0.2)], shares, strict=True)]
    assert [one.code for one in doubts_about(Measurement.join(parts).outputs)] == ["depends_on_batch"]


class Conditional:
    """Mixes the batch, and insists on batches of one condition: the first pixel says which."""

    def __init__(self, share):
        self.share = share

    def given(self, condition):
        def call(x):
            assert (x[:, 0, 0, 0] == condition).all()
            return mixing(self.share)(x)

        return call


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_images_stay_among_those_of_their_condition(share):
    members = pictures(23)
    conditions = [float(row % 3 == 0) for row in range(23)]
    members[:, 0, 0, 0] = torch.tensor(conditions)
    group = Group.whole("members", members, conditions=conditions)
    found = measure(Conditional(share), group, PLAN)
    assert [one.code for one in doubts_about(found.outputs)] == (["depends_on_batch"] if share else [])


def test_the_check_before_an_audit_says_the_same():
    members = Group.whole("members", pictures(5))
    with pytest.warns(UserWarning, match="members: outputs for an image beside other images differ by") as caught:
        check_group(members, mixing(0.2), mends=FUNCTION_MENDS)
    assert str(caught[0].message).endswith(
        "call model.eval() first, or pass a function that answers each image by itself"
    )
    with pytest.warns(UserWarning, match="pass reconstruct=<a function"):
        check_group(members, mixing(0.2))


class Thief:
    """Holds the members, and gives back the nearest: no autoencoder has a part in it."""

    uses_autoencoder = False

    def __init__(self, members):
        self.members = members

    def __call__(self, autoencoder, observed):
        known = (observed != 0).float()
        errors = ((self.members[None] - observed[:, None]) * known[:, None]).square().flatten(2).sum(2)
        zero = torch.zeros(len(observed))
        return Recovery(self.members[errors.argmin(1)], known, zero, zero.bool(), zero.long())


@pytest.mark.parametrize("with_blind", [True, False])
def test_a_method_that_never_calls_the_autoencoder_is_not_audited(with_blind):
    members, controls = pictures(30), pictures(25, seed=1)
    methods = {"thief": Thief(members), "biharmonic": "biharmonic", "known_mask": KnownMaskRecovery()}
    methods |= {"blind": "paper_blind"} if with_blind else {}
    report = audit(lambda x: 0.9 * x, members, controls, patterns=["random-0.9"], methods=methods)
    assert report.rate("thief", "random-0.9") == 1
    assert report.primary == ("blind" if with_blind else "known_mask")
    assert report.judgement.method == report.primary
    assert report.verdict.outcome == "inconclusive"
    settings = {"methods": list(methods), "primary_method": report.primary}
    for without, passed in ((["thief", "biharmonic"], with_blind or None), ([], with_blind)):
        run = {"settings": settings | {"without_autoencoder": without}}
        folder = SimpleNamespace(run=lambda run=run: run, audits=lambda: report.rows)
        assert same_method("method", folder).passed is passed


@pytest.mark.parametrize("names", [["thief"], ["thief", "biharmonic"], ["biharmonic", "other"], ["blind"]])
def test_a_plan_without_any_method_that_calls_it_is_refused(names):
    methods = {name: "biharmonic" if name == "biharmonic" else Thief(pictures(2)) for name in names}
    with pytest.raises(ValueError, match=r"^methods=\[.*\]: none of them calls the autoencoder, .*; add [^\n]*$"):
        Plan.of(["half"], methods)


def test_the_inpainter_alone_is_a_plan():
    plan = Plan.of(["half"], ["biharmonic"])
    assert (plan.primary, plan.without_autoencoder) == ("biharmonic", ["biharmonic"])
