"""The paper's study: pieces that are done once, asked for by name, and a table of what was found."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_memaudit.bench.paper import FULL, data_options, small
from lightning_memaudit.bench.paper_tables import markdown, write_results
from lightning_memaudit.bench.study import AuditOf, Piece, Study, Training, pieces
from lightning_memaudit.bench.training import train_until
from lightning_memaudit.cli.main import main
from lightning_memaudit.training.networks import FullyConnectedAutoencoder

FEW = ("--memaudit.num_members=3", "--memaudit.num_controls=2", "--memaudit.patterns=[half]")
LEVELS = (0.2, 0.1, 1e-9)
SAVE = {"class_path": "lightning_memaudit.training.loss_levels.CheckpointAtLoss", "init_args": {"levels": LEVELS}}
TINY = Training(
    "tiny",
    "",
    ("quickstart", "paper/levels"),
    (
        "--model.init_args.network.init_args.image_shape=[3, 8, 8]",
        "--model.init_args.network.init_args.width=32",
        "--data.num_train=3",
        "--data.num_controls=2",
        "--trainer.max_epochs=60",
        f"--trainer.callbacks={json.dumps(SAVE)}",
        *FEW,
        "--memaudit.figures=false",
    ),
    (AuditOf("default", LEVELS, (*FEW, "--memaudit.methods=[paper_blind, biharmonic]")),),
)


@pytest.fixture
def images():
    np.savez("images.npz", images=np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8))


def in_this_process(arguments, log):
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        return main(arguments)


def test_what_is_done_is_kept_and_what_is_missing_is_done(images, capsys):
    root = Path("study")
    study = Study(
        root, list(pieces([TINY], root, lambda name: data_options(Path("images.npz"), name))), in_this_process
    )
    assert study.work("tiny") == []
    assert {path.name for path in (root / "tiny/checkpoints").iterdir()} == {
        "train-loss=2e-01.ckpt",
        "train-loss=1e-01.ckpt",
    }
    assert study.work("*/train-loss=2e-01/*") == []
    first = (root / "tiny/audits/train-loss=2e-01/default/audits.jsonl").read_bytes()
    capsys.readouterr()
    assert study.work("*") == []
    output = capsys.readouterr().out
    assert "2 of 4 to do" in output
    assert "tiny/train-loss=1e-09/default: no checkpoint, the training did not come so far" in output
    assert (root / "tiny/audits/train-loss=2e-01/default/audits.jsonl").read_bytes() == first
    table = write_results(study)
    rows = json.loads((root / "results.json").read_text())["rows"]
    assert len(rows) == 2 * 2 * 2  # levels, groups, methods
    losses = [row["train_loss"] for row in rows if row["group"] == "members" and row["method"] == "paper_blind"]
    assert losses[0] > losses[1]
    assert table in (root / "results.md").read_text()
    assert (root / "figures/tiny-against-loss.pdf").is_file()
    command = next(piece for piece in study.pieces if piece.name == "tiny/train-loss=1e-01/default")
    assert main(["verify", str(command.results), f"--ckpt_path={command.checkpoint}"]) == 0


def test_images_of_others_need_not_be_there(images):
    def data(name):
        return data_options(Path(), name)

    other = Training("other", "elsewhere", (), (), (AuditOf("default", (0.1,)),))
    done = []

    def run(arguments, log):
        done.append(arguments[-1])
        return 1

    study = Study(Path("study"), list(pieces([replace(TINY, images="images"), other], Path("study"), data)), run)
    assert study.work("tiny") == ["tiny"]
    assert [piece.name for piece in study.chosen("other*")] == ["other", "other/train-loss=1e-01/default"]
    with pytest.raises(ValueError, match=r"elsewhere\.npy is missing"):
        study.work("*")
    assert len(done) == 1


def test_a_piece_that_fails_is_named_and_the_others_are_done(capsys):
    def run(arguments, log):
        if "bad" in arguments:
            return 1
        Path(arguments[-1]).mkdir(parents=True)
        (Path(arguments[-1]) / "report.json").touch()
        return 0

    these = [Piece(name, Path(name), (word, name)) for name, word in (("a", "bad"), ("b", "good"), ("c", "good"))]
    study = Study(Path("study"), these, run)
    assert study.work("*") == ["a"]
    assert [piece.is_done() for piece in these] == [False, True, True]
    assert set(study.seconds()) == {"a", "b", "c"}
    with pytest.raises(ValueError, match="only='d' names no piece of the study; they are a, b, c"):
        study.work("d")


def test_a_training_goes_on_from_its_last_checkpoint():
    piece = Piece("a", Path("a"), ("fit",), begun=Path("last.ckpt"))
    assert piece.current_arguments() == ["fit"]
    Path("last.ckpt").touch()
    assert piece.current_arguments() == ["fit", "--ckpt_path=last.ckpt"]


def test_every_name_in_the_study_is_known():
    names = [training.name for training in FULL]
    assert len(set(names)) == len(names)
    for training in (*FULL, *small((1, 25, 25))):
        overlays = [option.removeprefix("--config=") for audit in training.audits for option in audit.options]
        for name in (*training.configs, *(one for one in overlays if one.startswith("paper/"))):
            assert main(["configs", name]) == 0, name


def test_the_full_study_is_listed_and_its_commands_are_those_of_the_package(capsys):
    for name in ("tiny-imagenet", "cifar10", "svhn"):
        Path("data", name).mkdir(parents=True)
    assert main(["bench", "paper", "--size=full", "--data=data", "--list=true", "--only=unet-svhn/*/default"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[0] == "to do  unet-svhn/train-loss=1e-02/default"


def test_the_table_holds_what_was_found():
    base = {"training": "fc10", "level": "train-loss=1e-03", "train_loss": 9e-4, "reconstruction_psnr_mean": 31.2}
    base |= {"pattern": "half", "method": "blind", "threshold_db": 30.0}
    member = base | {"group": "members", "num_images": 4, "num_recovered": 3, "recovery_rate": 0.75}
    member |= {"ci_low": 0.194, "ci_high": 0.994}
    control = base | {"group": "controls", "num_images": 5, "num_recovered": 1}
    lines = markdown([member, control]).splitlines()
    assert lines[2] == "| fc10 | 9.0e-04 | 31 dB | half | 0.75 (0.19-0.99), 1/5 |"
    assert "(n = 4)" in lines[-1]
    assert "(of 5)" in lines[-1]


def test_training_stops_at_every_level():
    torch.manual_seed(0)
    images = torch.rand(4, 1, 8, 8)
    network = FullyConnectedAutoencoder((1, 8, 8), 3, 64)
    found = list(train_until(network, images, [1e-3, 1e-1, 1e-2], 2000, batch_size=2))
    assert [one.target for one in found] == [1e-1, 1e-2, 1e-3]
    assert all(one.loss < one.target for one in found)
    assert [one.steps for one in found] == sorted(one.steps for one in found)
    assert not network.training
    with torch.no_grad():
        assert float((network(images) - images).square().mean()) == pytest.approx(found[-1].loss, rel=1e-4)
    short = list(train_until(FullyConnectedAutoencoder((1, 8, 8), 3, 64), images, [1e-9], 3))
    assert [(one.target, one.steps) for one in short] == [(1e-9, 3)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data=images.npz", "--only=fc11"], ["only='fc11'", "fc10"]),
        (["--data=nowhere.npz"], ["nowhere.npz"]),
        (["--data=nowhere", "--size=full"], ["nowhere/tiny-imagenet", "is missing"]),
        (["--data=images.npz", "--size=large"], ["size", "large"]),
    ],
)
def test_bad_usage_is_exit_code_2(images, capsys, arguments, words):
    assert main(["bench", "paper", *arguments]) == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error
