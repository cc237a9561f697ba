"""``fit`` with a twin: two models of the same kind, each audited with the other, on images that neither has seen."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_memaudit.cli.main import main, shipped_configs
from lightning_memaudit.cli.reference import divide
from lightning_memaudit.results.run_folder import RunFolder
from lightning_memaudit.training.data import FacesDataModule

CONFIG = [f"--config={shipped_configs() / 'reference.yaml'}", "--trainer.enable_progress_bar=false"]
SMALL = [
    *CONFIG,
    "--trainer.max_epochs=2",
    "--trainer.default_root_dir=runs",
    "--model.init_args.network.init_args.width=8",
    "--memaudit.figures=false",
    "--memaudit.print_table=false",
    "--memaudit.methods=[known_mask,biharmonic]",
]


def names(folder, group):
    return {row["name"] for row in RunFolder(folder).images() if row["group"] == group}


@pytest.mark.slow
def test_both_are_trained_alike_and_audited_both_ways(capsys):
    assert main(["fit", *SMALL, "--data.init_args.num_train=12", "--data.init_args.num_controls=25"]) == 0
    original, twin = Path("runs/both_ways/original"), Path("runs/both_ways/twin")
    assert str(original) in capsys.readouterr().out
    assert names(original, "members") == names("runs/memaudit", "members")
    assert names(twin, "members") == names("runs/twin/memaudit", "members")
    assert names("runs/twin/memaudit", "controls") == names(original, "members"), "members and controls are exchanged"
    assert names(twin, "members") < names("runs/memaudit", "controls")
    strangers = names("runs/memaudit", "controls") - names(twin, "members")
    assert names(original, "controls") == names(twin, "controls") == strangers
    assert [len(names(folder, group)) for folder in (original, twin) for group in ("members", "controls")] == [
        12,
        13,
    ] * 2
    weights = {folder: RunFolder(folder).audits()[0]["weights_sha256"] for folder in (original, twin)}
    for folder, other in ((original, twin), (twin, original)):
        (said,) = RunFolder(folder).run()["settings"]["reference"]
        assert weights[other] in said
        document = json.loads((folder / "report.json").read_text())
        told = document["judgement"]["memberships"]
        assert {"plain_loss", "reference"} <= set(told)
        assert (told["reference"]["num_members"], told["reference"]["num_controls"]) == (12, 13)
    assert weights[original] == RunFolder("runs/memaudit").audits()[-1]["weights_sha256"]
    assert weights[twin] == RunFolder("runs/twin/memaudit").audits()[-1]["weights_sha256"] != weights[original]


@pytest.mark.slow
def test_without_strangers_the_exchanged_controls_have_no_numbers_of_a_reference_that_was_trained_on_them():
    assert main(["fit", *SMALL, "--data.init_args.num_train=12", "--data.init_args.num_controls=12"]) == 0
    original, twin = "runs/both_ways/original", "runs/both_ways/twin"
    assert names(original, "members") == names(twin, "controls")
    assert names(original, "controls") == names(twin, "members")
    for row in RunFolder(original).images():
        assert (row["reference_psnr"] is None) == (row["group"] == "controls")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [(["--data=null"], "twin=True: the twin is trained on the controls of a data module; give --data")],
)
def test_what_a_twin_takes_is_said_before_the_training(options, complaint, capsys):
    assert main(["fit", *SMALL, *options]) == 2
    assert complaint in capsys.readouterr().err
    assert not Path("runs/memaudit/audits.jsonl").exists()


@pytest.mark.parametrize(("num_controls", "left"), [(30, 20), (20, 10), (19, 10), (6, 10)])
@pytest.mark.parametrize("on_controls", [False, True])
def test_images_are_divided_without_a_rest(num_controls, left, on_controls):
    data = FacesDataModule(num_train=10, num_controls=num_controls, batch_size=4)
    data.setup()
    members, controls = data.train_dataset[:], data.control_dataset[:]
    divide(data, on_controls=on_controls, strangers=True)
    trained, against = (
        torch.stack(list(loader.dataset)) for loader in (data.train_dataloader(), data.val_dataloader())
    )
    assert torch.equal(trained, controls[: min(10, num_controls)] if on_controls else members)
    if num_controls >= 20:
        assert torch.equal(against, controls[10:]), "neither has seen them"
        assert len(against) == left
    else:
        assert torch.equal(against, members if on_controls else controls)
    assert next(iter(data.train_dataloader())).shape == (4, 1, 25, 25)


def test_a_loader_without_a_length_is_refused():
    data = FacesDataModule(num_train=4, num_controls=4)
    data.setup()
    data.val_dataloader = lambda: [DataLoader(data.control_dataset), DataLoader(data.control_dataset)]
    divide(data, on_controls=True, strangers=True)
    with pytest.raises(ValueError, match="the validation dataloader must be one DataLoader"):
        data.train_dataloader()
