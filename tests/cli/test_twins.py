"""Modules made with ``pytorch_lightning`` are modules of ``lightning.pytorch``, as long as a command runs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from their_project import FAST, write_project

import lightning_memaudit
from lightning_memaudit.cli.main import main
from lightning_memaudit.cli.twins import imported_as_one
from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("reads_here", "without_page")

ROOT = Path(lightning_memaudit.__file__).parent.parent


def test_the_modules_are_the_very_same():
    import lightning.fabric.utilities
    import lightning.pytorch.callbacks.early_stopping

    specs = [lightning.pytorch.__spec__, lightning.pytorch.callbacks.__spec__]
    names = set(sys.modules)
    path, finders = list(sys.path), list(sys.meta_path)
    with imported_as_one():
        import lightning_fabric.utilities
        import pytorch_lightning
        import pytorch_lightning.callbacks.early_stopping
        from pytorch_lightning.utilities.types import STEP_OUTPUT

        assert pytorch_lightning is lightning.pytorch
        assert pytorch_lightning.callbacks is lightning.pytorch.callbacks
        assert sys.modules["pytorch_lightning.callbacks.early_stopping"] is lightning.pytorch.callbacks.early_stopping
        assert lightning_fabric.utilities is lightning.fabric.utilities
        assert lightning.pytorch.utilities.types.STEP_OUTPUT is STEP_OUTPUT
        with pytest.raises(ModuleNotFoundError, match=r"pytorch_lightning\.nonsense"):
            __import__("pytorch_lightning.nonsense")
    assert [lightning.pytorch.__spec__, lightning.pytorch.callbacks.__spec__] == specs
    assert not {name for name in set(sys.modules) - names if name.startswith(("pytorch_lightning", "lightning_fabric"))}
    assert (sys.path, sys.meta_path) == (path, finders)


def test_what_was_imported_before_comes_back(monkeypatch):
    stranger = type(sys)("pytorch_lightning")
    monkeypatch.setitem(sys.modules, "pytorch_lightning", stranger)
    with imported_as_one():
        assert sys.modules.get("pytorch_lightning") is not stranger
    assert sys.modules["pytorch_lightning"] is stranger


def test_fit_and_audit_without_a_config(project, capsys):
    named = [f"--model={project}.Autoencoder", f"--data={project}.Data"]
    options = [*FAST, "--trainer.max_epochs=1", f"--trainer.callbacks+={project}.Count"]
    assert main(["fit", *named, *options, "--data.count=5"]) == 0
    assert "their callback was called" in capsys.readouterr().out
    assert {row["num_images"] for row in RunFolder("memaudit").audits()} == {5}
    assert not Path("runs").exists(), "nothing of the quickstart, which is another model"
    checkpoint = next(Path("checkpoints").glob("*.ckpt"))
    assert main(["audit", *named, *FAST, f"--ckpt_path={checkpoint}", "--memaudit.dirpath=found"]) == 0
    first, second = (RunFolder(folder).audits()[0]["train_loss"] for folder in ("memaudit", "found"))
    assert first == pytest.approx(second)


def test_configs_may_say_pytorch_lightning_too(project, tmp_path):
    (tmp_path / "run.yaml").write_text(
        f"model: {project}.Autoencoder\ndata: {project}.Data\n"
        "trainer:\n  max_epochs: 1\n  callbacks:\n"
        "    - class_path: pytorch_lightning.callbacks.ModelCheckpoint\n      init_args: {dirpath: kept}\n"
    )
    assert main(["fit", "--config=run.yaml", *FAST]) == 0
    assert list(Path("kept").glob("*.ckpt"))


DDP = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.workers=1"]


@pytest.mark.parametrize(
    ("more", "installed"),
    [
        pytest.param(["--data.workers=1"], True, marks=pytest.mark.slow),
        pytest.param(["--data.workers=1"], False, marks=pytest.mark.slow),
        pytest.param(DDP, True, marks=pytest.mark.slow),
        pytest.param(DDP, False, marks=pytest.mark.slow),
    ],
)
def test_in_processes_of_their_own(tmp_path, installed, more):
    """Spawned workers and the processes of ddp; where it is not installed, importing it fails."""
    module = write_project(tmp_path)
    (tmp_path / "hidden").mkdir()
    path = [str(ROOT)]
    if not installed:
        for name in ("pytorch_lightning", "lightning_fabric"):
            (tmp_path / "hidden" / f"{name}.py").write_text("raise ImportError('it is not installed')")
        path.insert(0, str(tmp_path / "hidden"))
    command = [sys.executable, "-m", "lightning_memaudit", "fit", f"--model={module}.Autoencoder"]
    done = subprocess.run(
        [*command, f"--data={module}.Data", *FAST, *more, "--trainer.max_epochs=1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert {row["num_images"] for row in RunFolder("memaudit").audits()} == {6}


class EarlyStopping:
    pass


class AttributeDict(dict):
    pass


def rename(path, names):
    """Let a file name other classes than those it was saved with."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            if name.endswith("data.pkl"):
                for before, after in names.items():
                    assert f"c{__name__}\n{before}\n".encode() in content
                    content = content.replace(f"c{__name__}\n{before}\n".encode(), f"c{after}\n{before}\n".encode())
            archive.writestr(name, content)


def test_checkpoints_pickled_with_the_twins_classes(project, capsys):
    """As old versions pickled them: callbacks by their class, hyperparameters in a dictionary of Lightning's own."""
    named = [f"--model={project}.Autoencoder", f"--data={project}.Data"]
    assert main(["fit", *named, *FAST, "--trainer.max_epochs=1", "--model.width=2"]) == 0
    checkpoint = torch.load(next(Path("checkpoints").glob("*.ckpt")), weights_only=True)
    checkpoint["hyper_parameters"] = AttributeDict(width=2)
    checkpoint["callbacks"] = {EarlyStopping: {"wait_count": 0}}
    torch.save(checkpoint, "old.ckpt")
    place = "pytorch_lightning.callbacks.early_stopping"
    rename("old.ckpt", {"EarlyStopping": place, "AttributeDict": "pytorch_lightning.utilities.parsing"})
    options = [*named, *FAST, "--ckpt_path=old.ckpt", "--memaudit.dirpath=found"]
    allow = f"--allow_types=[{place}.EarlyStopping]"
    assert main(["audit", *options]) == 2
    assert allow in capsys.readouterr().err
    assert main(["audit", *options, allow]) == 0
    assert RunFolder("found").audits()
