"""Runs in other projects' styles, and what the audit of every one of them must get right.

What the autoencoder makes of its training images is computed by hand: from the raw images and the trained module, with
nothing of the package.
"""

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from foreign_parts import pictures
from torch import Tensor
from training_runs import audit_callback, trainer_with

from lightning_memaudit.recovery import AutoencoderIterations
from lightning_memaudit.results.run_folder import RunFolder

TOLERANCE_DB = 0.01

SETTINGS = {
    "every_n_epochs": 1,
    "at_epochs": [0],
    "on_error": "raise",
    "methods": {"autoencoder_iterations": AutoencoderIterations(num_iterations=10)},
}
"""Of the audits of every run: often, strict, and short."""

FAULT = pytest.mark.xfail(strict=True, raises=(AssertionError, ValueError, AttributeError, pytest.fail.Exception))
"""Of a run that the audit does not get right yet."""


@dataclass
class ForeignRun:
    """A run, the lines that the callback needs for it, and what must come of it.

    Attributes:
        module: The LightningModule.
        train: What ``fit`` gets for training; None where module or data module have loaders of their own.
        validation: Likewise.
        members: The raw images that are trained on, (n, C, H, W) in [0, 1], in the order of the data set.
        controls: The raw images that are validated on; None where there are none.
        own_output: The autoencoder's own output by hand: a function of the trained module, in evaluation mode, and raw
            images, that returns images in [0, 1].
        lines: The callback's arguments.
        trainer: The trainer's.
        datamodule: Instead of loaders.
        callbacks: The run's own.
        names: What the members are called in images.jsonl; None does not look.
        warnings: What the audit must say: part of each of its warnings.
        tolerance_db: Of the PSNR of the autoencoder's own output.
        probe: State of the data sets after training, which must be the same with the audit as without.
    """

    module: lightning.LightningModule
    train: Any = None
    validation: Any = None
    members: Tensor = field(default_factory=pictures)
    controls: Tensor | None = field(default_factory=lambda: pictures(seed=1))
    own_output: Callable[[Any, Tensor], Tensor] = lambda module, x: module(x)
    lines: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    datamodule: Any = None
    callbacks: Sequence[lightning.Callback] = ()
    names: Sequence[str] | None = None
    warnings: Sequence[str] = ()
    tolerance_db: float = TOLERANCE_DB
    probe: Callable[[], Any] = lambda: None


class Recorder(lightning.Callback):
    """Keeps what training sees and makes: batches, weights and random states, epoch by epoch."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen[f"batch {trainer.current_epoch}.{batch_idx}"] = snapshot(batch)

    def on_train_epoch_end(self, trainer, pl_module):
        epoch = trainer.current_epoch
        self.seen[f"weights {epoch}"] = snapshot(pl_module.state_dict())
        self.seen[f"random states {epoch}"] = snapshot(
            [random.getstate(), np.random.get_state(), torch.get_rng_state()]  # noqa: NPY002
        )

    def on_train_end(self, trainer, pl_module):
        self.seen["optimizers"] = snapshot([one.state_dict() for one in trainer.optimizers])
        self.seen["modes"] = {name: one.training for name, one in pl_module.named_modules()}


def snapshot(value):
    """Nested lists and dicts of bytes, that are equal exactly when the content is."""
    if isinstance(value, Tensor):
        value = value.detach().as_subclass(Tensor)
        return [
            str(value.dtype),
            list(value.shape),
            value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes(),
        ]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), value.tobytes()]
    if isinstance(value, Mapping):
        return {str(key): snapshot(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [snapshot(part) for part in value]
    if is_dataclass(value) or (hasattr(value, "__dict__") and not callable(value)):
        return snapshot(vars(value))
    return repr(value)


def differences(one, other, path=""):
    """Paths of what is not the same to the last bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [f"{path}: other keys"] if one.keys() != other.keys() else []
        return keys + [d for key in one if key in other for d in differences(one[key], other[key], f"{path}/{key}")]
    return [] if one == other else [path]


def train(build, callback=None):
    """Build a run anew and train it, with the callback or without: the run, its record, and what was warned of."""
    lightning.seed_everything(0, workers=True, verbose=False)
    run = build()
    recorder = Recorder()
    attached = [*run.callbacks, recorder, *([] if callback is None else [callback(run)])]
    settings = {"max_epochs": 2, "num_sanity_val_steps": 0} | dict(run.trainer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # From Python 3.12 on, where any thread is alive, be it of an earlier test.
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        trainer = trainer_with(*attached, **settings)
        trainer.fit(run.module, run.train, run.validation, datamodule=run.datamodule)
    recorder.seen["data sets"] = snapshot(run.probe())
    return run, recorder.seen, {str(one.message) for one in caught}, attached[-1]


def check(build):
    """Assert that the audit got images and model right, said what it must and nothing else, and disturbed nothing."""
    _, expected, usual, _ = train(build)
    run, found, said, callback = train(build, lambda run: audit_callback(**(SETTINGS | run.lines)))
    disturbed = differences(expected, found)
    assert disturbed == [], f"not the same with and without audits: {disturbed}"
    assert callback._history.num_audits >= 3
    check_warnings(run, said - usual)
    check_images(run, callback.last_report)
    check_own_output(run, callback.last_report)
    if run.names is not None:
        names = {row["image"]: row["name"] for row in saved_rows("members")}
        listed = [names[index] for index in sorted(names)]
        assert listed == list(run.names), f"images.jsonl calls them {listed}"
    return run, callback


def check_warnings(run, said):
    """Each that is expected was given, and no other."""
    missing = [part for part in run.warnings if not any(part in text for text in said)]
    assert missing == [], f"not said: {missing}"
    needless = [text for text in said if not any(part in text for part in run.warnings)]
    assert needless == [], f"said needlessly: {needless}"


def check_images(run, report):
    """The audited images are the raw ones."""
    for group, raw in (("members", run.members), ("controls", run.controls)):
        if raw is None:
            assert f"{group}/truth" not in report.recoveries, f"{group}/truth was audited"
            continue
        truth = torch.from_numpy(report.recoveries[f"{group}/truth"])
        assert truth.shape == raw.shape, f"{group}: {tuple(truth.shape)}, not {tuple(raw.shape)}"
        torch.testing.assert_close(truth, raw, atol=2e-5, rtol=0, msg=lambda text, group=group: f"{group}: {text}")


def check_own_output(run, report):
    """The PSNR of the autoencoder's own output, of all members together and of each, is the one computed by hand."""
    module = run.module.eval()
    for group, raw in (("members", run.members), ("controls", run.controls)):
        if raw is None:
            continue
        with torch.no_grad():
            output = run.own_output(module, raw.clone()).float()
        assert output.shape == raw.shape
        errors = (output - raw).square().flatten(1).mean(1)
        measured = {row["position"]: row["reconstruction_psnr"] for row in report.images if row["group"] == group}
        by_hand = (-10 * errors.log10()).tolist()
        for position, expected in enumerate(by_hand):
            close = abs(measured[position] - expected) < run.tolerance_db
            assert close, f"{group} {position}: {measured[position]:.4f} dB, by hand {expected:.4f} dB"
        if group == "members":
            measured_db = -10 * np.log10(report.rows[0]["train_loss"])
            assert abs(measured_db - float(-10 * errors.mean().log10())) < run.tolerance_db
            # An output that hardly depends on the images would be right for wrong ones too.
            assert float(errors.std()) > 0


def saved_rows(group):
    """The newest audit's images in images.jsonl."""
    rows = [row for row in RunFolder("memaudit").images() if row["group"] == group]
    newest = max(row["audit"] for row in rows)
    return [row for row in rows if row["audit"] == newest]


def refuse_before_the_first_step(build, message):
    """Train it with a callback, and see that it is refused in one line that matches, before any step."""
    steps = []

    class Steps(lightning.Callback):
        def on_before_optimizer_step(self, *arguments):
            steps.append(1)

    def built():
        run = build()
        run.callbacks = [Steps()]
        return run

    with pytest.raises(ValueError, match=message) as error:
        train(built, lambda run: audit_callback(**run.lines))
    assert "\n" not in str(error.value)
    assert steps == []
