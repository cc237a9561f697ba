"""``audit RUN``, and the README read from top to bottom: fit, audit, verify, also where the run has a logger."""

import shutil
from pathlib import Path

import pytest
import torch

from lightning_memaudit.cli.audited_run import with_run_folder
from lightning_memaudit.cli.main import main, shipped_configs
from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("reads_here", "without_page")

QUICK = ["--memaudit.methods=[biharmonic]", "--memaudit.patterns=[half]", "--memaudit.at_train_loss=[]"]
QUICK += ["--memaudit.figures=false", "--memaudit.print_table=false", "--data.num_train=4", "--data.num_controls=4"]
CHECKPOINT = "runs/quickstart/checkpoints/last.ckpt"


def fit(*options, epochs=1):
    return main(
        ["fit", f"--config={shipped_configs() / 'quickstart.yaml'}", *options, *QUICK, f"--trainer.max_epochs={epochs}"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "logger",
    [
        [f"--config={shipped_configs() / 'wandb.yaml'}"],
        ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"],
    ],
)
def test_a_logger_leaves_the_checkpoint_beside_the_results(logger, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    assert fit() == 0
    older = Path(CHECKPOINT).read_bytes()
    assert fit(*logger, epochs=2) == 0
    assert f"checkpoint: {CHECKPOINT}" in capsys.readouterr().out
    assert Path(CHECKPOINT).read_bytes() != older
    assert main(["verify", "runs/quickstart", "--ckpt_path", CHECKPOINT]) == 0
    assert main(["audit", "runs/quickstart", "--trainer.logger=false"]) == 0
    training, later = RunFolder.find("runs/quickstart").audits(), RunFolder("runs/quickstart/audits/last").audits()
    assert later[-1]["weights_sha256"] == training[-1]["weights_sha256"]
    assert not list(Path().glob("logs/**/*.ckpt"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert fit() == 0
    return folder / "runs" / "quickstart"


@pytest.fixture
def moved(trained):
    """That run in another place, as a relative path."""
    return Path(shutil.copytree(trained, "elsewhere"))


@pytest.mark.parametrize("place", ["elsewhere", "elsewhere/memaudit"])
def test_a_run_folder_is_enough(moved, place, capsys):
    before = RunFolder(moved / "memaudit").audits()
    assert main(["audit", place]) == 0
    assert "--ckpt_path elsewhere/checkpoints/last.ckpt" in capsys.readouterr().out
    found = RunFolder(moved / "audits" / "last").audits()
    assert found[-1]["weights_sha256"] == before[-1]["weights_sha256"]
    assert RunFolder(moved / "memaudit").audits() == before
    assert main(["report", str(moved / "audits" / "last"), "--no_figures"]) == 0
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["last", "last.ckpt"])
def test_a_checkpoint_of_the_run_by_its_name(moved, name, capsys):
    assert with_run_folder(["elsewhere", "--ckpt_path", name])[-1] == "--ckpt_path=elsewhere/checkpoints/last.ckpt"
    assert main(["verify", "elsewhere", "--ckpt_path", name]) == 0
    assert "NOT CHECKED: weights" not in capsys.readouterr().out
    assert main(["verify", "elsewhere", "--ckpt_path", f"first-{name}"]) == 2
    Path(name).touch()  # a file that is there is meant
    assert with_run_folder(["elsewhere", "--ckpt_path", name])[-1] == f"--ckpt_path={name}"


def test_of_several_checkpoints_the_one_with_the_audited_weights(moved):
    checkpoint = moved / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=False)
    content["state_dict"] = {name: value + 1 for name, value in content["state_dict"].items()}
    torch.save(content, moved / "checkpoints" / "a.ckpt")
    assert with_run_folder(["elsewhere"])[-1] == f"--ckpt_path={checkpoint}"
    checkpoint.rename(moved / "checkpoints" / "z.ckpt")
    assert with_run_folder(["elsewhere"])[-1].endswith("z.ckpt")
    torch.save(content, moved / "checkpoints" / "z.ckpt")
    with pytest.raises(ValueError, match=r"2 checkpoints, .* give one of them as --ckpt_path"):
        with_run_folder(["elsewhere"])
    assert with_run_folder(["elsewhere", "--ckpt_path", "mine.ckpt"])[-1] == "--ckpt_path=mine.ckpt"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run: shutil.rmtree(run), "does not exist"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "holds no checkpoint"),
        (lambda run: [path.unlink() for path in (*run.glob("*.yaml"), *run.glob("*/*.yaml"))], "holds no config.yaml"),
        (lambda run: (shutil.rmtree(run), run.write_text("")), "is a file"),
    ],
)
def test_what_is_missing_is_one_line(moved, spoil, words, capsys):
    spoil(moved)
    assert main(["audit", "elsewhere"]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
