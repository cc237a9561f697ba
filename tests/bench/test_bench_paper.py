"""The paper's table: rows of every autoencoder and loss, resumed where it stopped, and numbers that are those found."""

import json

import numpy as np
import pytest
import torch

from lightning_memaudit.bench.paper import markdown
from lightning_memaudit.bench.training import train_until
from lightning_memaudit.cli.main import main
from lightning_memaudit.training.networks import FullyConnectedAutoencoder

SMALL = [
    "--data=images.npz",
    "--autoencoders=[FC-10,U-Net]",
    "--num_members=3",
    "--num_controls=2",
    "--train_losses=[0.2,0.05]",
    "--patterns=[half]",
    "--methods=[paper_blind,biharmonic]",
    "--width=16",
    "--base_channels=2",
    "--max_steps=30",
]


@pytest.fixture
def images():
    np.savez("images.npz", images=np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8))


def test_every_autoencoder_at_every_loss_and_again_from_where_it_stopped(images, capsys):
    assert main(["bench", "paper", *SMALL, "--autoencoders=[FC-10]"]) == 0
    first = json.loads(open("bench-paper.json").read())["rows"]  # noqa: PTH123, SIM115
    assert {(row["autoencoder"], row["target_loss"]) for row in first} == {("FC-10", 0.2), ("FC-10", 0.05)}
    assert main(["bench", "paper", *SMALL]) == 0
    rows = json.loads(open("bench-paper.json").read())["rows"]  # noqa: PTH123, SIM115
    assert rows[: len(first)] == first, "what is done is not done again"
    assert len(rows) == 2 * 2 * 2 * 2 * 1  # autoencoders, losses, groups, methods, patterns
    assert {row["num_images"] for row in rows if row["group"] == "members"} == {3}
    output = capsys.readouterr().out
    assert main(["bench", "paper", *SMALL, "--seed=1", "--methods=[paper_blind]"]) == 2
    assert "bench-paper.json' was made with another methods, seed: give another output" in capsys.readouterr().err
    assert json.loads(open("bench-paper.json").read())["rows"] == rows  # noqa: PTH123, SIM115
    assert "| U-Net (3 images) |" in output
    assert "paper blind" in output


def test_the_table_holds_what_was_found():
    base = {"autoencoder": "FC-10", "target_loss": 1e-3, "train_loss": 9e-4, "reconstruction_psnr_mean": 31.2}
    base |= {"pattern": "half", "method": "blind", "threshold_db": 30.0, "device": "a processor", "threads": 2}
    member = base | {"group": "members", "num_images": 4, "num_recovered": 3, "recovery_rate": 0.75}
    member |= {"ci_low": 0.194, "ci_high": 0.994}
    control = base | {"group": "controls", "num_images": 5, "num_recovered": 1}
    lines = markdown([member, control]).splitlines()
    assert lines[2] == "| FC-10 (4 images) | 9.0e-04 | 31 dB | half | 0.75 (0.19-0.99), 1/5 |"
    assert "a processor" in lines[-1]


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
        (["--autoencoders=[FC-11]"], ["FC-11", "FC-10"]),
        (["--patterns=[hlaf]"], ["hlaf", "half"]),
        (["--methods=[blnd]"], ["did you mean 'blind'"]),
        (["--data=nowhere.npz"], ["nowhere.npz"]),
    ],
)
def test_bad_usage_is_exit_code_2(images, capsys, arguments, words):
    assert main(["bench", "paper", *SMALL, *arguments]) == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error
