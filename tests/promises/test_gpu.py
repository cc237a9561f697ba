"""On a GPU: the same findings as on a CPU, no waiting within an iteration, half the images where memory runs out."""

import warnings

import pytest
import torch
from autoencoders import associative
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn import functional
from training_runs import Items, fit

from lightning_memaudit import MemorizationAuditCallback, audit
from lightning_memaudit.recovery import Alternation, BlindRecovery, KnownMaskRecovery
from lightning_memaudit.recovery.replay import replays
from lightning_memaudit.results.run_folder import RunFolder
from lightning_memaudit.training.module import AutoencoderModule
from lightning_memaudit.training.networks import FullyConnectedAutoencoder

pytestmark = pytest.mark.gpu

METHODS = ["blind", "blind_black_box", "paper_blind", "known_mask", "autoencoder_iterations", "biharmonic"]
PATTERNS = ["random-0.5", "random-0.9", "block-0.5"]


def smooth_images(count, side=16):
    coarse = torch.rand(count, 3, 4, 4)
    return functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


def test_what_comes_back_is_the_same_as_on_a_cpu():
    images = smooth_images(24)
    reports = {}
    for device in ("cpu", "cuda"):
        members, controls = images[:12].to(device), images[12:].to(device)
        reports[device] = audit(associative(members), members, controls, patterns=PATTERNS, methods=METHODS)
    for here, there in zip(reports["cpu"].rows, reports["cuda"].rows, strict=True):
        assert (here["pattern"], here["method"], here["group"]) == (there["pattern"], there["method"], there["group"])
        assert here["recovery_rate"] == there["recovery_rate"], (here, there)
    assert reports["cuda"].rate("blind", "random-0.5") == 1
    assert reports["cuda"].rate("blind", "random-0.5", "controls") == 0


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision(kind):
    members = smooth_images(4).cuda()
    network = FullyConnectedAutoencoder((3, 16, 16), num_layers=2, width=32).cuda().eval().to(kind)
    report = audit(network, members, smooth_images(4).cuda(), patterns=["random-0.5"], methods=["blind"])
    assert report.rate("blind", "random-0.5", "controls") == 0


def waits(recover):
    """How often the host waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            recover()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(one.message) for one in caught)


@pytest.mark.parametrize("method", ["known", "paper"])
@torch.no_grad()
def test_iterations_do_not_wait_for_the_device(method):
    images = torch.rand(8, 3, 16, 16, device="cuda")
    mask = (torch.rand(8, 1, 16, 16, device="cuda") >= 0.5).float()
    network = FullyConnectedAutoencoder((3, 16, 16), num_layers=4, width=32).cuda().eval()

    def recover(iterations):
        settings = Alternation(num_iterations=iterations, tolerance=0.0)
        if method == "known":
            return KnownMaskRecovery(penalties=[0.1], alternation=settings)(network, images * mask, mask)
        blind = BlindRecovery(mask_estimator="least_squares", penalties=[0.1], alternation=settings)
        return blind(network, images * mask)

    few, many = (waits(lambda number=number: recover(number)) for number in (20, 60))
    assert 0 < few == many


@torch.no_grad()
def test_replayed_iterations_are_the_same_to_the_last_bit():
    images = smooth_images(8).cuda()
    observed = images * (torch.rand(8, 1, 16, 16, device="cuda") >= 0.5)
    network = FullyConnectedAutoencoder((3, 16, 16), num_layers=4, width=32).cuda().eval()
    expected, before = BlindRecovery()(network, observed), torch.cuda.get_rng_state()
    with replays():
        found = BlindRecovery()(network, observed)
    for name in ("image", "mask", "score", "num_evaluations"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(torch.cuda.get_rng_state(), before)


@torch.no_grad()
def test_when_memory_runs_out_it_goes_on_with_half(request):
    def hungry(images):  # about 2,000 times its input
        return images + 0 * images.repeat(1, 2000, 1, 1).mean()

    images = torch.rand(64, 3, 32, 32, device="cuda")
    mask = (torch.rand(64, 1, 32, 32, device="cuda") >= 0.5).float()
    recover = KnownMaskRecovery(penalties=[0.1], alternation=Alternation(num_iterations=5))
    expected = recover(hungry, images * mask, mask)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    request.addfinalizer(lambda: torch.cuda.set_per_process_memory_fraction(1.0))
    torch.cuda.set_per_process_memory_fraction(1.2 * 2**30 / total)
    with pytest.warns(UserWarning, match="out of memory with 64 images at once: going on with 32"):
        found = recover(hungry, images * mask, mask)
    torch.testing.assert_close(found.image, expected.image)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("strategy", ["auto", "nccl"])
def test_a_run_is_audited(precision, strategy, tmp_path):
    images = smooth_images(10)
    module = AutoencoderModule(FullyConnectedAutoencoder((3, 16, 16), num_layers=2, width=64))
    callback = MemorizationAuditCallback(
        every_n_epochs=10,
        num_controls=4,
        patterns=["random-0.5"],
        methods=["blind", "paper_blind"],
        dirpath=tmp_path,
        figures=False,
        on_error="raise",
    )
    loaders = (torch.utils.data.DataLoader(Items(part), 3) for part in (images[:6], images[6:]))
    settings = {} if strategy == "auto" else {"strategy": DDPStrategy(process_group_backend="nccl")}
    fit(callback, module, *loaders, accelerator="gpu", devices=1, precision=precision, max_epochs=20, **settings)
    assert callback.last_report is not None
    assert len({row["epoch"] for row in RunFolder(tmp_path).audits()}) == 2
    assert torch.cuda.get_device_name() in (tmp_path / "run.json").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])  # the latter gives one tensor again and again
def test_a_compiled_network_on_a_gpu(mode):
    network = FullyConnectedAutoencoder((3, 16, 16), num_layers=2, width=32).cuda().eval()
    images = smooth_images(8).cuda()
    compiled: nn.Module = torch.compile(network, mode=mode)  # type: ignore[assignment]
    eager, compiled_too = (
        audit(f, images[:4], images[4:], patterns=["random-0.5"], methods=["blind"]) for f in (network, compiled)
    )
    for one, other in zip(eager.cells, compiled_too.cells, strict=True):
        assert one.columns["psnr"] == pytest.approx(other.columns["psnr"], abs=0.5)
