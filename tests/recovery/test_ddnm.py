"""DDNM against the published equations, closed forms of Gaussian images, and a diffusion model trained here."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_memaudit.measurement.degradations import parse_degradation
from lightning_memaudit.measurement.metrics import hidden_psnr

diffusers = pytest.importorskip("diffusers", reason="the extra [ddnm] is not installed")

from lightning_memaudit.recovery.methods.ddnm import DDNM  # noqa: E402

SIDE = 8


def never(images):
    pytest.fail("it saw the autoencoder")


class GaussianDenoiser:
    """The exact noise estimate for images x0 ~ N(mean, covariance) in [-1, 1], with the linear schedule of DDPM."""

    def __init__(self, mean, covariance):
        self.config = SimpleNamespace(in_channels=1)
        self.mean, self.covariance = mean, covariance
        self.kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        self.seen = []

    def __call__(self, state, time):
        self.seen.append(int(time))
        a = self.kept[int(time)]
        x = state.flatten(1).double()
        # E[x0 | x_t] for x_t = sqrt(a) x0 + sqrt(1 - a) e
        size = len(self.covariance)
        gain = a.sqrt() * self.covariance @ torch.linalg.inv(a * self.covariance + (1 - a) * torch.eye(size))
        clean = self.mean + (x - a.sqrt() * self.mean) @ gain.T
        noise = (x - a.sqrt() * clean) / (1 - a).sqrt()
        return SimpleNamespace(sample=noise.view_as(state).to(state))


def independent(mean=0.2, deviation=0.1):
    return GaussianDenoiser(torch.full((SIDE**2,), mean).double(), deviation**2 * torch.eye(SIDE**2).double())


def observations(count=4, pattern="random-0.5"):
    images = torch.rand(count, 1, SIDE, SIDE)
    return images, *parse_degradation(pattern)(images, range(count))


@pytest.mark.parametrize("pattern", ["random-0.5", "block-0.25", "random-0.9+fill-noise"])
def test_observed_pixels_come_back_exactly_and_missing_ones_do_not_stay(pattern):
    _, observed, mask = observations(pattern=pattern)
    recovery = DDNM(independent(), num_steps=20)(never, observed, mask)
    kept = mask > 0
    assert torch.equal(recovery.image[kept], observed[kept])
    assert (recovery.image[~kept] != observed[~kept]).float().mean() > 0.99
    assert torch.equal(recovery.mask, mask)
    assert recovery.score.isnan().all()
    assert int(recovery.num_evaluations.sum()) == 0


def test_what_stands_in_missing_pixels_does_not_matter():
    """Only the generators' seed depends on it; with the same random numbers the result is the same."""
    _, observed, mask = observations()
    method = DDNM(independent(), num_steps=20)
    method._generator = lambda image: torch.Generator().manual_seed(7)
    one = method(never, observed, mask).image
    other = method(never, torch.where(mask > 0, observed, 0.77), mask).image
    torch.testing.assert_close(one, other)


def test_missing_pixels_that_depend_on_nothing_are_samples_of_the_prior():
    """Independent pixels ~ N(0.2, 0.1) in [-1, 1] are N(0.6, 0.05) in [0, 1]."""
    _, observed, mask = observations(50)
    image = DDNM(independent(), num_steps=500)(never, observed, mask).image
    hidden = image[mask == 0]
    assert float(hidden.mean()) == pytest.approx(0.6, abs=0.005)
    assert float(hidden.std()) == pytest.approx(0.05, rel=0.1)


def test_missing_pixels_are_the_posterior_mean_where_the_observed_ones_decide():
    """Images that are a line a + b * column: two observed pixels decide all others, by linear regression."""
    columns = torch.linspace(-1, 1, SIDE).repeat(SIDE).double()
    design = torch.stack([torch.ones(SIDE**2).double(), columns], 1)
    covariance = 0.2**2 * design @ design.T + 1e-4**2 * torch.eye(SIDE**2)
    method = DDNM(GaussianDenoiser(torch.zeros(SIDE**2).double(), covariance), num_steps=200)
    weights = torch.randn(6, 2, generator=torch.Generator().manual_seed(1)).double() * 0.2
    images = (((weights @ design.T) + 1) / 2).view(6, 1, SIDE, SIDE).float()
    observed, mask = parse_degradation("random-0.5")(images, range(6))
    recovery = method(never, observed, mask)
    assert float(hidden_psnr(recovery.image, images, mask).min()) > 35
    biased = method(never, observed * 0, mask * 0)
    assert float(hidden_psnr(biased.image, images, mask).max()) < 30, "without the observation it could not know"


def test_every_step_follows_the_published_equations():
    """The whole loop again in numpy, from Wang et al. 2023 and Ho et al. 2020, with the same random numbers."""
    images, observed, mask = observations(2)
    model = independent()
    num_steps = 10
    method = DDNM(model, num_steps=num_steps, clip=False, seed=3)
    found = method(never, observed, mask).image
    model_times = model.seen[:num_steps]
    assert model_times == list(range(900, -1, -100))
    betas = np.linspace(1e-4, 0.02, 1000)
    cumulative = np.cumprod(1 - betas)
    for row in range(2):
        generator = method._generator(observed[row])
        state = torch.randn(1, SIDE, SIDE, generator=generator).numpy().astype(np.float64)
        y, m = observed[row].numpy() * 2.0 - 1, mask[row].numpy()
        for time in model_times:
            a = cumulative[time]
            before = cumulative[time - 100] if time >= 100 else 1.0
            noise = model(torch.from_numpy(state)[None], torch.tensor(time)).sample[0].numpy()
            clean = (state - np.sqrt(1 - a) * noise) / np.sqrt(a)
            clean = m * y + (1 - m) * clean
            beta = 1 - a / before
            mean = np.sqrt(before) * beta / (1 - a) * clean + np.sqrt(1 - beta) * (1 - before) / (1 - a) * state
            variance = beta * (1 - before) / (1 - a)
            state = mean
            if time > 0:
                draw = torch.randn(1, SIDE, SIDE, generator=generator).numpy()
                state = mean + np.sqrt(variance) * draw
        np.testing.assert_allclose(found[row].numpy(), (state + 1) / 2, atol=2e-4)
    assert torch.equal(found[mask > 0], images[mask > 0])


def test_results_do_not_depend_on_the_others_in_the_batch():
    _, observed, mask = observations(5)
    whole = DDNM(independent(), num_steps=10)(never, observed, mask).image
    parts = DDNM(independent(), num_steps=10, chunk_size=2)(never, observed, mask).image
    torch.testing.assert_close(whole, parts)
    other = DDNM(independent(), num_steps=10, seed=1)(never, observed, mask).image
    assert not torch.allclose(whole[mask == 0], other[mask == 0])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    DDNM(independent(), num_steps=2)(never, observed, mask)
    assert torch.equal(before, torch.get_rng_state())


def tiny_unet(channels=1, width=16):
    return diffusers.UNet2DModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(width, 2 * width),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )


def test_models_are_loaded_from_folders_of_models_and_of_pipelines():
    unet = tiny_unet()
    unet.save_pretrained("model")
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained("pipeline")
    images = torch.rand(2, 1, 16, 16)
    observed, mask = parse_degradation("half")(images, range(2))
    expected = DDNM(unet, scheduler, num_steps=3)(never, observed, mask).image
    torch.testing.assert_close(DDNM("pipeline", num_steps=3)(never, observed, mask).image, expected)
    linear = DDNM("model", num_steps=3)(never, observed, mask).image
    torch.testing.assert_close(linear, DDNM(unet, num_steps=3)(never, observed, mask).image)
    assert not torch.allclose(linear, expected)
    assert "pipeline" in repr(DDNM("pipeline"))


def test_the_audit_runs_it_once_for_all_audits():
    from lightning_memaudit import audit

    images = torch.rand(3, 1, 16, 16)
    methods = {"known_mask": "known_mask", "ddnm": DDNM(tiny_unet(), num_steps=2)}
    report = audit(lambda x: x, images, None, patterns=["half"], methods=methods)
    (row,) = [row for row in report.rows if row["method"] == "ddnm"]
    assert row["num_images"] == 3
    assert row["num_certified"] is None
    assert DDNM.uses_autoencoder is False


def test_the_command_line_takes_it_by_class_path():
    import yaml

    from lightning_memaudit.cli.main import main

    tiny_unet().save_pretrained("model")
    ddnm = {
        "class_path": "lightning_memaudit.recovery.methods.ddnm.DDNM",
        "init_args": {"model": "model", "num_steps": 2},
    }
    with open("methods.yaml", "w") as file:  # noqa: PTH123
        yaml.safe_dump({"memaudit": {"methods": {"paper_blind": "paper_blind", "ddnm": ddnm}}}, file)
    from lightning_memaudit.cli.main import shipped_configs
    from lightning_memaudit.results.run_folder import RunFolder

    configs = ["--config", str(shipped_configs() / "quickstart.yaml"), "--config", "methods.yaml"]
    fast = ["--trainer.max_epochs=1", "--memaudit.patterns=[half]", "--memaudit.num_members=2"]
    fast += ["--memaudit.num_controls=2", "--data=ImagesDataModule", "--data.init_args.path=images.npy"]
    fast += ["--data.init_args.num_train=4", "--data.init_args.num_controls=4"]
    fast += ["--model.init_args.network.init_args.image_shape=[1,16,16]"]
    np.save("images.npy", np.random.default_rng(0).integers(0, 256, (8, 16, 16), dtype=np.uint8))
    assert main(["fit", *configs, *fast]) == 0
    assert {row["method"] for row in RunFolder("runs/quickstart/memaudit").audits()} == {"paper_blind", "ddnm"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_steps": 2000}, "num_steps=2000: at most the scheduler's 1000"),
        ({"model": "nowhere"}, "model='nowhere': no diffusion model there"),
        ({"scheduler": diffusers.DDPMScheduler(prediction_type="v_prediction")}, "predicts 'v_prediction'"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=message) as error:
        DDNM(**({"model": independent()} | arguments))
    assert "\n" not in str(error.value)


def test_channels_must_fit():
    observed = torch.rand(2, 3, SIDE, SIDE)
    with pytest.raises(ValueError, match="images of 1 channels, these have 3"):
        DDNM(independent(), num_steps=2)(never, observed, torch.ones(2, 1, SIDE, SIDE))


def test_without_diffusers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"pip install 'lightning-memaudit\[ddnm\]'"):
        DDNM("model")


@pytest.mark.slow
def test_a_small_diffusion_model_trained_on_other_faces_fills_in_plausibly():
    """Faces of 16x16: better than without the observation, worse than a memory would do."""
    from skimage.data import lfw_subset

    faces = torch.from_numpy(lfw_subset()[:100]).float()[:, None]
    faces = torch.nn.functional.interpolate(faces, (16, 16), mode="area")
    train, test = faces[:80], faces[80:]
    unet, scheduler = tiny_unet(width=32), diffusers.DDPMScheduler()
    optimizer = torch.optim.Adam(unet.parameters(), 2e-3)
    for _ in range(400):
        clean = 2 * train[torch.randint(80, (32,))] - 1
        noise, time = torch.randn_like(clean), torch.randint(1000, (32,))
        loss = (unet(scheduler.add_noise(clean, noise, time), time).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.2
    observed, mask = parse_degradation("random-0.5")(test, range(20))
    method = DDNM(unet, scheduler, num_steps=100)
    image = method(never, observed, mask).image
    assert torch.equal(image[mask > 0], test[mask > 0])
    informed = float(hidden_psnr(image, test, mask).mean())
    blind = float(hidden_psnr(method(never, observed, mask * 0).image, test, mask).mean())
    mean_face = float(hidden_psnr(train.mean(0).expand_as(test), test, mask).mean())
    print(f"hidden PSNR {informed:.1f} dB, without the observation {blind:.1f} dB, mean face {mean_face:.1f} dB")
    assert informed > blind + 3
    assert informed > mean_face + 1
    assert float(image.min()) > -0.1
    assert float(image.max()) < 1.1
