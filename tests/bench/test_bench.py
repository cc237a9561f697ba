"""The measurements run, and measure what they say; DeepInverse is an independent check of the iterations."""

import json

import numpy
import pytest
import torch

from lightning_memaudit.bench import large
from lightning_memaudit.bench.timing import interleave
from lightning_memaudit.cli.main import main
from lightning_memaudit.recovery.admm import State, step


def test_speed_measures_the_same_number_of_evaluations(tmp_path, capsys):
    assert main(["bench", "--repeats=1", "--seconds=0.01", "--batches=[1]", "--processes=false"]) == 0
    content = json.loads((tmp_path / "bench-speed.json").read_text())
    (row,) = content["rows"]
    assert (row["network"], row["batch"], row["iterations"] + 2) == ("FC-10", 1, row["evaluations"])
    assert row["ratio_to_forwards"]["forwards"] == 1.0
    assert all(timing["low"] <= timing["median"] <= timing["high"] for timing in row["seconds"].values())
    assert "FC-10 32x32x3" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_are_compared_with_one(tmp_path):
    assert main(["bench", "speed", "--repeats=1", "--seconds=0.05", "--batches=[50]"]) == 0
    assert json.loads((tmp_path / "bench-speed.json").read_text())["two_processes"]["speedup"] > 0


@pytest.mark.slow
def test_overhead_measures_a_run_with_and_without(tmp_path):
    assert main(["bench", "overhead", "--repeats=1", "--epochs=30"]) == 0
    content = json.loads((tmp_path / "bench-overhead.json").read_text())
    assert content["waiting_over_without"] > 0
    assert content["help_seconds"] > 0


@pytest.mark.slow
def test_large_trains_and_audits(tmp_path):
    options = ["--cases=[fc10-600]", "--seconds=2", "--width=8", "--precision=32-true", "--num_members=5"]
    assert main(["bench", "large", *options]) == 0
    (row,) = json.loads((tmp_path / "bench-large.json").read_text())["rows"]
    assert row["epochs"] > 0
    assert 0 <= row["rates"]["random-0.5/blind/members"] <= 1


def test_large_audits_images_that_training_has_seen_also_where_an_epoch_has_several_batches(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(large, "CASES", {"fc10-600": large.Case("FC-10", 8, num_train=20, batch_size=5)})
    monkeypatch.setattr(large, "NUM_CONTROLS", 4)
    options = ["--cases=[fc10-600]", "--seconds=0.2", "--width=8", "--precision=32-true", "--num_members=20"]
    assert main(["bench", "large", *options]) == 0
    assert "are not among" not in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "bench-large.json").read_text())["rows"]
    assert {key.split("/")[1] for key in row["rates"]} >= {"blind", "biharmonic"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sped"], ["'sped'", "did you mean 'speed'"]),
        (["--repeats=0"], ["repeats=0", "at least 1"]),
        (["--repeat=3"], ["repeat", "repeats"]),
        (["speed", "--batches=[7]"], ["batches=[7]", "50"]),
        (["large", "--cases=[huge]"], ["huge", "fc10-600"]),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(capsys, arguments, words):
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    for word in words:
        assert word in error


def test_interleave_runs_everything_in_turn_and_drops_the_first_round():
    order = []
    works = {name: (lambda name=name: order.append(name)) for name in "ab"}
    timings = interleave(works, 3, torch.device("cpu"))
    assert "".join(order) == "ab" * 4
    assert set(timings) == {"a", "b"}


def test_the_iterations_are_those_of_deepinverse():
    """Known mask, the same start: after every number of iterations both hold the same image."""
    pytest.importorskip("deepinv", reason="the extra [bench] is not installed")
    from deepinv.optim import ADMM
    from deepinv.optim.data_fidelity import L2
    from deepinv.optim.prior import PnP
    from deepinv.physics import Inpainting

    mixing = torch.randn(48, 48) / 10

    def autoencoder(images):
        return torch.tanh(images.flatten(1) @ mixing).view_as(images)

    mask = (torch.rand(5, 1, 4, 4) > 0.5).float()
    observed = torch.rand(5, 3, 4, 4) * mask
    penalty = 0.3
    physics = Inpainting((3, 4, 4), mask=mask.expand_as(observed))
    start = (observed, torch.zeros_like(observed))  # by default its dual variable does not start at zero
    state = State(observed, observed, torch.zeros_like(observed))
    for iterations in range(1, 6):
        solver = ADMM(
            data_fidelity=L2(),
            prior=PnP(lambda image, sigma: autoencoder(image)),
            stepsize=1 / penalty,
            sigma_denoiser=0.0,
            max_iter=iterations,
        )
        state = step(autoencoder, observed, mask, state, torch.full((5, 1, 1, 1), penalty))
        torch.testing.assert_close(solver(observed, physics, init=start), state.prior, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_ablation_goes_from_the_papers_method_to_the_default(tmp_path, capsys):
    options = ["--num_members=3", "--train_losses=[1e-2]", "--patterns=[random-0.5]", "--num_layers=3"]
    assert main(["bench", "ablation", *options]) == 0
    rows = {row["method"]: row for row in json.loads((tmp_path / "bench-ablation.json").read_text())["rows"]}
    assert next(iter(rows)) == "paper_blind"
    assert rows["+four_penalties"]["evaluations_per_image"] > rows["+gradients_the_default"]["evaluations_per_image"]
    assert all(row["train_loss"] < 1e-2 for row in rows.values())
    assert rows["paper_blind"]["num_certified"] is None
    assert "Recovery rate of training images" in capsys.readouterr().out


def test_the_ablation_names_a_file_that_holds_no_images(tmp_path, capsys):
    numpy.savez(tmp_path / "wrong.npz", pictures=numpy.zeros(3))
    assert main(["bench", "ablation", f"--data={tmp_path / 'wrong.npz'}"]) == 2
    assert "save the images under the name images" in capsys.readouterr().err
