"""Runs of one W&B sweep, in one place and perhaps at once, each write into folders of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from their_project import FAST

import lightning_memaudit
from lightning_memaudit.cli.fit import parse, put_below, sweep_folder, the_callback, with_quickstart
from lightning_memaudit.cli.main import shipped_configs
from lightning_memaudit.results.run_folder import RunFolder

ROOT = Path(lightning_memaudit.__file__).parent.parent


def command(name, **values):
    """What an agent of W&B starts for a run of the shipped sweep, as its documentation says, but short and offline."""
    sweep = yaml.safe_load((shipped_configs() / "sweep.yaml").read_text())
    given = {"${env}": [], "${interpreter}": [sys.executable], "${program}": [sweep["program"]]}
    given["${args}"] = [f"--{key}={value}" for key, value in values.items()]
    parts = [part for word in sweep["command"] for part in given.get(word, [word])]
    short = ["--trainer.max_epochs=1", "--memaudit.at_epochs=[]", "--memaudit.at_train_loss=[]"]
    environment = os.environ | {"WANDB_SWEEP_ID": "abc", "WANDB_RUN_ID": name, "OMP_NUM_THREADS": "1"}
    return [*parts, *FAST[3:], *short, "--trainer.logger=false"], environment | {"PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_two_runs_at_once(tmp_path):
    running = []
    for name, count in (("one", 10), ("two", 25)):
        arguments, environment = command(name, **{"data.init_args.num_train": count})
        running.append(subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True))
    for process in running:
        error = process.communicate()[1]
        assert process.returncode == 0, error
    found = {}
    for name in ("one", "two"):
        place = tmp_path / "runs" / "quickstart" / "sweep-abc" / name
        assert (place / "checkpoints" / "last.ckpt").exists()
        config = yaml.safe_load((place / "config.yaml").read_text())
        audited = RunFolder(place / "memaudit").run()["members"]["num_images"]
        found[name] = audited, config["data"]["init_args"]["num_train"]
    assert found == {"one": (10, 10), "two": (25, 25)}
    assert {path.name for path in (tmp_path / "runs" / "quickstart").iterdir()} == {"sweep-abc"}


def test_whatever_folder_a_config_names(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_ID", "one")
    (tmp_path / "run.yaml").write_text(
        "memaudit: {dirpath: results}\ntrainer:\n  callbacks:\n"
        "    - class_path: ModelCheckpoint\n      init_args: {dirpath: kept}\n    - class_path: EarlyStopping\n"
        "      init_args: {monitor: train/loss}\n"
    )
    cli = parse([*with_quickstart([]), "--config=run.yaml"], run=False)
    assert cli.trainer.default_root_dir.endswith("runs/quickstart/sweep-abc/one")
    assert the_callback(cli.trainer).where.folder("x") == Path("results/sweep-abc/one")
    assert cli.trainer.checkpoint_callback.dirpath.endswith("kept/sweep-abc/one")


@pytest.mark.parametrize("environment", [{}, {"WANDB_RUN_ID": "one"}, {"WANDB_SWEEP_ID": "abc"}])
def test_other_runs_keep_the_folders_that_they_name(environment):
    assert sweep_folder(environment) is None


def test_a_run_without_a_folder_gets_one():
    config = {"trainer": {"default_root_dir": None, "callbacks": None}, "memaudit": {"dirpath": None}}
    put_below(config, "sweep-abc/one")
    assert config == {
        "trainer": {"default_root_dir": "./sweep-abc/one", "callbacks": None},
        "memaudit": {"dirpath": None},
    }
