"""Every shipped experiment can be parsed and made, its network fits its data, and overlays change what they say."""

import pytest
import torch
import yaml

from lightning_memaudit.callback import MemorizationAuditCallback
from lightning_memaudit.cli.fit import parse
from lightning_memaudit.cli.main import main, shipped_configs
from lightning_memaudit.measurement.extras import extra_measurements
from lightning_memaudit.recovery.methods.registry import METHODS
from lightning_memaudit.training import datasets
from lightning_memaudit.training.networks import ACTIVATIONS, is_proximal_activation

PAPER = shipped_configs() / "paper"

EXPERIMENTS = sorted(PAPER.glob("*-*.yaml"))

NONLINEARITIES = sorted((PAPER / "nonlinearity").glob("*.yaml"))

SHAPES = {
    datasets.TinyImageNetDataModule: (3, 64, 64),
    datasets.Cifar10DataModule: (3, 32, 32),
    datasets.SvhnDataModule: (3, 32, 32),
}


def make(*files, small=()):
    arguments = [part for file in files for part in ("--config", str(file))]
    return parse([*arguments, *small, "--trainer.accelerator=cpu"], run=False)


def small(file):
    """The same network with few units."""
    name = "width=4" if file.name.startswith("fc") else "base_channels=2"
    return [f"--model.init_args.network.init_args.{name}"]


def callback_of(cli):
    return next(one for one in cli.trainer.callbacks if isinstance(one, MemorizationAuditCallback))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_experiments_are_complete_and_fit_their_data(file):
    cli = make(file, small=small(file))
    shape = SHAPES[type(cli.datamodule)]
    with torch.no_grad():
        assert cli.model(torch.rand(2, *shape)).shape == (2, *shape)
    callback = callback_of(cli)
    assert set(callback.when.at_train_loss) == {10.0**-power for power in range(2, 9)}
    assert set(callback.what.methods) <= set(METHODS)
    expected = 25_000 if "25000" in file.stem else 600 if file.name.startswith("fc") else 50
    assert cli.datamodule.num_train == expected
    assert cli.trainer.default_root_dir.endswith(file.stem)
    assert type(cli.model.scheduler(cli.model.optimizer(cli.model.parameters()))).__name__ == "ReduceLROnPlateau"


def test_the_layers_are_as_many_as_the_names_say():
    for file in EXPERIMENTS:
        if file.name.startswith("fc"):
            linear = [one for one in make(file, small=small(file)).model.modules() if isinstance(one, torch.nn.Linear)]
            assert len(linear) == int(file.stem[2:4])


@pytest.mark.parametrize("overlay", NONLINEARITIES, ids=lambda file: file.stem)
def test_nonlinearities_are_laid_over_an_experiment(overlay):
    file = PAPER / "unet-cifar10.yaml"
    network = make(file, overlay, small=small(file)).model.network
    name = yaml.safe_load(overlay.read_text())["model"]["init_args"]["network"]["init_args"]["activation"]
    assert overlay.stem == name.lower()
    assert any(isinstance(one, ACTIVATIONS[name]) for one in network.modules())
    assert all(not isinstance(one, ACTIVATIONS["PReLU"]) for one in network.modules()) or name == "PReLU"


def test_more_fractions():
    file = PAPER / "unet-svhn.yaml"
    callback = callback_of(make(file, PAPER / "fractions.yaml", small=small(file)))
    assert [pattern.fraction for pattern in callback.what.patterns] == [
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
        0.6,
        0.7,
        0.8,
        0.9,
        0.95,
    ]
    assert [extra.file for extra in extra_measurements(callback.what)] == ["largest_missing.json"]


def test_the_tied_autoencoder_of_the_theorem():
    cli = make(shipped_configs() / "quickstart.yaml", PAPER / "tied.yaml")
    assert type(cli.model.network).__bases__[0].__name__ == "TiedAutoencoder"
    assert cli.model.network.proximal
    assert is_proximal_activation("LeakyReLU")
    assert [extra.file for extra in extra_measurements(callback_of(cli).what)] == ["proximal.json"]


def test_recorded_iterations(tmp_path):
    cli = make(shipped_configs() / "quickstart.yaml", PAPER / "record.yaml")
    methods = callback_of(cli).what.methods
    (tmp_path / "saved.yaml").write_text(cli.parser.dump(cli.config, skip_none=False))
    assert repr(callback_of(make(tmp_path / "saved.yaml")).what.methods) == repr(methods), "what fit saves can be read"
    assert list(methods) == ["blind", "paper_blind", "known_mask", "autoencoder_iterations", "biharmonic"]
    assert methods["paper_blind"].record_at[-1] == methods["autoencoder_iterations"].record_at[-1] == 200


def test_the_diffusion_baseline(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    diffusers.UNet2DModel(
        32, block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), norm_num_groups=4
    ).save_pretrained("model")
    text = (PAPER / "ddnm.yaml").read_text()
    (tmp_path / "ddnm.yaml").write_text(text.replace("google/ddpm-cifar10-32", "model"))
    file = PAPER / "unet-cifar10.yaml"
    methods = callback_of(make(file, tmp_path / "ddnm.yaml", small=small(file))).what.methods
    assert list(methods) == ["blind", "paper_blind", "known_mask", "autoencoder_iterations", "biharmonic", "ddnm"]
    assert type(methods["ddnm"]).__name__ == "DDNM"


def test_overlay_adds_an_offline_logger(tmp_path, capsys):
    configs = [f"--config={shipped_configs() / name}" for name in ("quickstart.yaml", "wandb.yaml")]
    assert main(["fit", *configs, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["trainer"]["logger"]["init_args"]["offline"] is True
    assert config["memaudit"]["at_epochs"] == [0]
    assert config["memaudit"]["log_images"] == 0


def test_sweep_sets_options_that_exist(capsys):
    """Every parameter of the sweep, with each of its values, is an option of ``fit`` over the overlays it names."""
    sweep = yaml.safe_load((shipped_configs() / "sweep.yaml").read_text())
    command = sweep["command"]
    assert command[:4] == ["${env}", "${interpreter}", "-m", "${program}"]
    fixed = command[4:-1]  # configs by name, which an agent finds wherever it was started
    for name, parameter in sweep["parameters"].items():
        for value in (parameter["values"][0], parameter["values"][-1]):
            assert main([*fixed, f"--{name}={value}", "--print_config"]) == 0, name
            assert str(value) in capsys.readouterr().out


def test_the_readme_lists_every_file():
    text = (shipped_configs() / "README.md").read_text()
    for file in [*shipped_configs().glob("*.yaml"), *PAPER.glob("*.yaml")]:
        assert file.name in text, file.name
    for file in NONLINEARITIES:
        name = yaml.safe_load(file.read_text())["model"]["init_args"]["network"]["init_args"]["activation"]
        assert name in text
