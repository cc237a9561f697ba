"""The command line: the quickstart, its config, help, and one clear line for whatever is wrong."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.demos.boring_classes import BoringModel

import lightning_memaudit
from lightning_memaudit.cli.fit import why_it_ended
from lightning_memaudit.cli.main import main, shipped_configs

pytestmark = pytest.mark.usefixtures("reads_here")

ROOT = Path(lightning_memaudit.__file__).parent.parent
QUICK = [
    "--trainer.max_epochs=3",
    "--memaudit.at_train_loss=[0.2]",
    "--memaudit.methods=[paper_blind,biharmonic]",
    "--memaudit.patterns=[random-0.5]",
]


def run(*arguments):
    return main(list(arguments))


def test_fit_without_a_config_runs_the_quickstart(tmp_path, capsys):
    assert run("fit", *QUICK) == 0
    folder = tmp_path / "runs" / "quickstart" / "memaudit"
    rows = [json.loads(line) for line in (folder / "audits.jsonl").read_text().splitlines()]
    assert {row["num_images"] for row in rows} == {50}
    assert (folder / "figures" / "strip-random-0.5.png").stat().st_size > 10_000
    assert (folder.parent / "checkpoints" / "last.ckpt").exists()
    printed = capsys.readouterr().out
    assert "results: runs/quickstart/memaudit" in printed
    assert "the training ended" not in printed


def test_a_training_of_the_paper_that_has_blown_up_ends_and_says_so(capsys):
    configs = (str(shipped_configs() / "paper" / f"{name}.yaml") for name in ("fc10-tiny-imagenet", "levels"))
    config, overlay = (f"--config={path}" for path in configs)
    model = "--model.init_args"
    status = run(
        *("fit", config, overlay, "--data=lightning_memaudit.training.data.FacesDataModule"),
        *("--data.num_train=4", "--data.num_controls=4", "--data.batch_size=4"),
        *("--memaudit.methods=[autoencoder_iterations]", "--memaudit.patterns=[random-0.5]"),
        *(f"{model}.network.init_args.width=8", f"{model}.network.init_args.image_shape=[1, 25, 25]"),
        *(f"{model}.optimizer.init_args.lr=1.0", "--trainer.max_epochs=2000", "--trainer.default_root_dir=runs"),
    )
    assert status == 0
    assert re.search("the training ended: train/loss (diverged|is not finite any more)\n", capsys.readouterr().out)


class Logs(BoringModel):
    def __init__(self, falls):
        super().__init__()
        self.falls = falls

    def training_step(self, batch, batch_idx):
        self.log("x", 1.0 - self.falls * self.current_epoch, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


def test_why_an_earlier_fit_ended_is_not_said_of_the_one_that_goes_on_from_it(tmp_path):
    said = []
    for falls, epochs, checkpoint in ((False, 9, None), (True, 4, tmp_path / "last.ckpt")):
        trainer = Trainer(
            max_epochs=epochs,
            limit_train_batches=1,
            limit_val_batches=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[EarlyStopping("x", patience=1)],
        )
        trainer.fit(Logs(falls), ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        said.append((trainer.current_epoch, why_it_ended(trainer)))
    assert said == [(2, ["x did not get better any more"]), (4, [])]


def test_the_config_spells_out_the_same_run(capsys):
    assert run("fit", "--print_config", *QUICK) == 0
    implicit = capsys.readouterr().out
    assert run("fit", "--config", str(shipped_configs() / "quickstart.yaml"), "--print_config", *QUICK) == 0
    assert capsys.readouterr().out == implicit
    assert yaml.safe_load(implicit)["memaudit"]["patterns"] == ["random-0.5"]


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "lightning_memaudit", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == f"lightning_memaudit {lightning_memaudit.__version__}"


def test_a_reader_that_has_enough_is_no_failure():
    command = f"{sys.executable} -m lightning_memaudit fit --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_lists_the_commands(capsys):
    for arguments in ([], ["--help"], ["help"]):
        assert run(*arguments) == 0
        assert "fit" in capsys.readouterr().out
    assert run("fit", "--help") == 0
    text = capsys.readouterr().out
    assert "--memaudit.every_n_epochs" in text
    assert "After every n-th epoch" in text, "arguments come with what they do"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fitt"], ["'fitt'", "did you mean 'fit'"]),
        (["fit", "--memaudit.every_n_epoch=3"], ["memaudit.every_n_epoch", "did you mean", "every_n_epochs"]),
        (["fit", "--memaudit.every_n_epochs=often"], ["memaudit.every_n_epochs", "often", "int"]),
        (["fit", "--memaudit.every_n_epochs=0"], ["every_n_epochs=0", "at least 1"]),
        (["fit", "--memaudit.patterns=[randon-0.5]"], ["randon-0.5", "did you mean random"]),
        (["fit", "--memaudit.methods=[blnd]"], ["blnd", "did you mean 'blind'"]),
        (["fit", "--memaudit.seed=-1"], ["seed=-1"]),
        (["fit", "--memaudit.seed", "-1"], ["seed=-1"]),
        (["fit", "--memaudit.on_error=ignore"], ["on_error", "ignore", "warn"]),
        (["fit", "--memaudit.at_train_loss=[-1]"], ["at_train_loss", "positive"]),
        (["fit", "--config=nowhere.yaml"], ["nowhere.yaml"]),
        (["fit", "--model.init_args.network.init_args.activation=leakyrelu"], ["leakyrelu", "LeakyReLU"]),
        (["fit", "--model.init_args.network.class_path=NoSuchNetwork"], ["NoSuchNetwork"]),
        (["fit", "--data.init_args.num_train=99"], ["num_train=99", "lower"]),
        (["fit", "--data=ImagesDataModule", "--data.init_args.path=nowhere"], ["nowhere"]),
        (["fit", "--trainer.max_epoch=3"], ["max_epoch", "max_epochs"]),
        (["fit", "--trainer.max_epochs=many"], ["max_epochs", "many"]),
        (["fit", "--trainer.accelerator=abacus"], ["abacus"]),
        (["fit", "--nonsense"], ["--nonsense"]),
        (["fit", "--trainer.callbacks.refreshrate=3"], ["of RichProgressBar", "did you mean 'refresh_rate'"]),
        (["fit", "--trainer.max_epochs.x=3"], ["trainer.max_epochs.x is not an option", "takes int or null"]),
        (["fit", "--trainer.callbacks.init_args=3"], ["trainer.callbacks.init_args", "mapping"]),
        (["fit", "--trainer.callbacks=lightning.pytorch.loggers.EarlyStopping"], ["did you mean 'EarlyStopping'"]),
        (["fit", "--data.dict_kwargs.x=3"], ["x is not an argument of FacesDataModule"]),
    ],
)  # fmt: skip
def test_bad_usage_is_one_line_and_exit_code_2(capsys, tmp_path, arguments, words):
    assert run(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    for word in words:
        assert word in error
    assert not list(tmp_path.iterdir()), "before anything starts"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--trainer.callbacks.monitor", "trainer.callbacks.monitor is not an option of RichProgressBar"),
        ("--model.network.monitor", "model.network.monitor is not an option of FullyConnectedAutoencoder"),
        ("--data.width", "data.width is not an option of FacesDataModule"),
        ("--trainer.logger.save_dir", "trainer.logger takes the name of a class"),
    ],
)
def test_what_is_right_elsewhere_is_not_answered_with_its_own_name(capsys, option, words):
    assert run("fit", option, "3") == 2
    error = capsys.readouterr().err
    assert words in error
    assert "did you mean" not in error


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--trainer=foo.x"], "trainer='foo.x': expected a YAML file that maps its options"),
        (["--memaudit", "foo"], "memaudit='foo': expected a YAML file that maps its options"),
        (["--trainer=words.yaml"], "trainer='words.yaml': expected a YAML file that maps its options"),
        (["--trainer=broken.yaml"], "trainer='broken.yaml': not valid YAML"),
        (["--model=broken.yaml"], "model='broken.yaml': not valid YAML"),
        (["--trainer=wrong.yaml"], "trainer.max_epochs='many': expected int or null"),
        (["--config=broken.yaml"], "--config broken.yaml: not valid YAML"),
        (["-c", "words.yaml"], "--config words.yaml: expected a mapping"),
        (["--config", "nosuch"], "--config nosuch: there is no such file or config"),
        (["--trainer.foo=1"], "'--trainer.foo=1' is not an option\n"),
        (["--memaudit.foo=1"], "'--memaudit.foo=1' is not an option\n"),
        (["--trainer.patterns=[half]"], "is not an option; did you mean '--memaudit.patterns'?\n"),
        (["--trainer.callbacks.foo.x=1"], "trainer.callbacks.foo.x is not an option of RichProgressBar\n"),
    ],
)
def test_what_was_typed_is_what_the_line_names(capsys, tmp_path, arguments, line):
    for name, text in (("words", "words"), ("broken", "a: ["), ("wrong", "max_epochs: many")):
        (tmp_path / f"{name}.yaml").write_text(text)
    assert run("fit", *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert line in error


def test_a_failure_that_is_not_the_users_is_exit_code_1(capsys, monkeypatch):
    def broken(arguments):
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr("lightning_memaudit.cli.fit.run_fit", broken)
    assert run("fit") == 1
    error = capsys.readouterr().err
    assert "RuntimeError: the disk is on fire" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_logger_with_one_folder_for_all_runs_gets_no_config_there(tmp_path):
    """Else it would be the next run's: the config stands beside the results, and nowhere above them."""
    logger = ["--trainer.logger=logger_of_all.Logger", "--trainer.logger.save_dir=runs"]
    (tmp_path / "logger_of_all.py").write_text(
        "from lightning.pytorch.loggers.logger import DummyLogger\n\n\n"
        "class Logger(DummyLogger):\n    def __init__(self, save_dir: str = '.') -> None:\n"
        "        super().__init__()\n        self._folder = save_dir\n\n"
        "    @property\n    def save_dir(self) -> str:\n        return self._folder\n"
    )
    assert run("fit", *QUICK, *logger) == 0
    assert (tmp_path / "runs" / "quickstart" / "config.yaml").is_file()
    assert not (tmp_path / "runs" / "config.yaml").exists()
