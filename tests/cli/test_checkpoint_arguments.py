"""Arguments of model and data module: options over configs over the checkpoint."""

import json
from pathlib import Path

import lightning
import pytest
import torch
from their_project import FAST

from lightning_memaudit.cli.hyperparameters import Given, Known
from lightning_memaudit.cli.main import main

pytestmark = pytest.mark.usefixtures("reads_here", "without_page")


@pytest.fixture
def by_hand(project):
    """A checkpoint as a script saves it, of a model of width 2 and a data module of 5 images."""
    import importlib

    from lightning_memaudit.cli.twins import imported_as_one

    with pytest.MonkeyPatch.context() as patch, imported_as_one():
        patch.syspath_prepend(Path.cwd())
        theirs = importlib.import_module(project)
        trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False)
        trainer.fit(theirs.Autoencoder(width=2, scale=0.5), datamodule=theirs.Data(count=5))
    trainer.save_checkpoint("by_hand.ckpt")
    return ["--ckpt_path=by_hand.ckpt", *FAST, "--memaudit.dirpath=found"]


def change(**more):
    content = torch.load("by_hand.ckpt", weights_only=True)
    for name, value in more.items():
        content[name] = content.get(name, {}) | value
    torch.save(content, "by_hand.ckpt")


def found():
    run = json.loads(Path("found/run.json").read_text())
    return run["model"]["hyperparameters"], run["members"]["num_images"]


def test_it_knows_what_nobody_else_says(project, by_hand):
    change(hyper_parameters={"something_else": 3})
    assert main(["audit", *by_hand, f"--model={project}.Autoencoder", f"--data={project}.Data"]) == 0
    model, num_images = found()
    assert (model["width"], model["scale"], num_images) == (2, 0.5, 5)
    assert "something_else" not in model, "the class takes no such argument"


def test_options_over_configs_over_the_checkpoint(project, by_hand, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(
        f"model:\n  class_path: {project}.Autoencoder\n  init_args:\n    scale: 0.25\n"
        f"data:\n  class_path: {project}.Data\n  init_args:\n    count: 4\n"
    )
    assert main(["audit", "--config=run.yaml", *by_hand]) == 0
    assert [found()[0][name] for name in ("width", "scale")] == [2, 0.25]
    assert found()[1] == 4
    assert main(["audit", "--config=run.yaml", *by_hand, "--model.scale=2", "--data.init_args.count=3"]) == 0
    assert [found()[0][name] for name in ("width", "scale")] == [2, 2.0]
    assert found()[1] == 3
    assert main(["audit", "--config=run.yaml", *by_hand, "--model.width", "3"]) == 2
    assert "does not fit the model" in capsys.readouterr().err


def test_the_class_too_where_the_command_line_made_it(project, by_hand, capsys):
    change(
        hyper_parameters={"_class_path": f"{project}.Autoencoder", "_instantiator": "x.y"},
        datamodule_hyper_parameters={"_class_path": f"{project}.Data", "_instantiator": "x.y"},
    )
    assert main(["audit", *by_hand]) == 0
    output = capsys.readouterr().out
    assert f"--model {project}.Autoencoder, as the checkpoint says" in output
    assert f"--data {project}.Data, as the checkpoint says" in output
    assert (found()[0]["width"], found()[1]) == (2, 5)


def test_a_class_that_is_not_here(by_hand, capsys):
    change(hyper_parameters={"_class_path": "gone.away.Model"})
    assert main(["audit", *by_hand]) == 2
    error = capsys.readouterr().err
    assert "gone.away.Model" in error
    assert "--model" in error
    assert len(error.splitlines()) == 1


def test_another_model_is_not_audited_on_the_faces(project, by_hand, capsys):
    change(datamodule_hyper_parameters={"_class_path": None})
    assert main(["audit", *by_hand, f"--model={project}.Autoencoder"]) == 2
    assert "give --data" in capsys.readouterr().err


def test_fit_goes_on_from_it(project, by_hand):
    named = [f"--model={project}.Autoencoder", f"--data={project}.Data"]
    assert main(["fit", *by_hand, *named, "--trainer.max_epochs=2"]) == 0
    assert found()[0]["scale"] == 0.5


class OneArgument(lightning.LightningModule):
    def __init__(self, hparams):
        super().__init__()


class HandsOn(lightning.LightningModule):
    def __init__(self, depth=1, **kwargs):
        super().__init__()


class Inherits(HandsOn):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)


@pytest.mark.parametrize(
    ("kind", "name", "init_args", "dict_kwargs"),
    [
        (OneArgument, "hparams", {"hparams": {"width": 2, "depth": 3, "other": 4}}, None),
        (OneArgument, None, {}, None),
        (HandsOn, "kwargs", {"depth": 3}, {"width": 2, "other": 4}),
        (Inherits, "kwargs", {"width": 2, "depth": 3}, {"other": 4}),
    ],
)
def test_which_arguments_a_class_takes(kind, name, init_args, dict_kwargs):
    saved = {"width": 2, "depth": 3, "other": 4, "network": "Unable to serialize instance Linear()"}
    known = Known.of({"hyper_parameters": saved, "hparams_name": name}, lightning.LightningModule)
    below = known.below(f"{__name__}.{kind.__name__}", lightning.LightningModule, "model", "a.ckpt")
    assert below.init_args.as_dict() == init_args
    assert below.get("dict_kwargs") == dict_kwargs


def test_the_bare_name_of_a_class_that_is_imported():
    known = Known.of({"hyper_parameters": {"depth": 3}}, lightning.LightningModule)
    below = known.below("HandsOn", lightning.LightningModule, "model", "a.ckpt")
    assert below.class_path == f"{__name__}.HandsOn"
    assert below.init_args.depth == 3


def test_what_is_read_from_arguments(tmp_path):
    (tmp_path / "one.yaml").write_text("model:\n  class_path: a.Model\ndata: a.Data\nckpt_path: a.ckpt\n")
    (tmp_path / "model.yaml").write_text("class_path: c.Model\n")
    given = Given.read(["--config=one.yaml", "--data", "b.Data", "--allow_types", "[x.Y, x.Z]", "--memaudit.seed=3"])
    assert given == Given(True, "a.ckpt", "a.Model", "b.Data", ("x.Y", "x.Z"))
    assert Given.read(["-c", "one.yaml", '--model={"class_path": "b.Model"}']).model == "b.Model"
    assert Given.read(["-c", "nowhere.yaml", "--model=model.yaml"]).model == "c.Model"
    assert Given.read(["--model.init_args.width=3", "--model.class_path=d.Model"]).model == "d.Model"
