"""``bench extraction``: more training images for the same evaluations, none of untrained weights, no controls."""

import json

import numpy as np
import pytest
import torch

from lightning_memaudit.bench.common import load_images
from lightning_memaudit.cli.main import main


@pytest.mark.slow
def test_the_search_is_compared_for_equal_evaluations(tmp_path, capsys):
    output = tmp_path / "extraction.json"
    options = ["--num_members=8", "--width=64", "--num_layers=4", "--train_losses=[1e-4]", "--num_starts=100"]
    assert main(["bench", "extraction", *options, f"--output={output}"]) == 0
    rows = json.loads(output.read_text())["rows"]
    names = ["plain, contrast 1", "plain, same starts", "plain, 1152 starts", "accelerated, contrast 1", "accelerated"]
    assert [row["search"] for row in rows] == 2 * names
    assert all(row["num_extracted"] == 0 for row in rows[:5])
    assert {row["train_loss"] for row in rows[:5]} == {"untrained"}
    assert all(row["num_controls_extracted"] == 0 for row in rows)
    trained = {row["search"]: row for row in rows[5:]}
    assert trained["accelerated"]["num_extracted"] > 0
    least = trained["accelerated"]["num_evaluations"] - 200
    assert least <= trained["plain, same starts"]["num_evaluations"] <= least + 300  # 64 for the starts come on top
    assert "Training images that come out by themselves" in capsys.readouterr().out


def test_images_are_cut_from_the_middle_and_what_does_not_fit_is_named(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (3, 10, 12, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=array)
    path = str(tmp_path / "images.npz")
    assert torch.equal(load_images(path), torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255)
    middle = torch.from_numpy(array[:, 3:7, 4:8]).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(load_images(path, side=4), middle)
    with pytest.raises(ValueError, match="side=11: must be from 1 to 10"):
        load_images(path, side=11)
    np.savez(tmp_path / "wrong.npz", other=array)
    with pytest.raises(ValueError, match="save the images under the name images"):
        load_images(str(tmp_path / "wrong.npz"))
    assert load_images(None).shape == (100, 1, 25, 25)
