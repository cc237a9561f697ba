"""Runs that nobody here wrote: batches, outputs, ranges, loaders, limits, several audits, resuming, monitors."""

import contextlib
import re
import warnings

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler

from lightning_memaudit import MemorizationAuditCallback
from lightning_memaudit.callback.schedule import EpochLoss
from lightning_memaudit.callback.session import Session
from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.results.rows import headline_names
from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*")


@pytest.fixture(autouse=True)
def _without_report(monkeypatch):
    """The report at the end of fit has tests of its own, and takes longer than these runs."""
    monkeypatch.setattr("lightning_memaudit.report.write.write_report", lambda *_, **__: None)


def images(count, seed=0, channels=1, side=8):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


class Items(Dataset):
    """Wraps each image as ``wrap(image)``."""

    def __init__(self, tensor, wrap=lambda image: image):
        self.tensor, self.wrap = tensor, wrap

    def __len__(self):
        return len(self.tensor)

    def __getitem__(self, index):
        return self.wrap(self.tensor[index])


class Module(lightning.LightningModule):
    """Multiplies its input by a weight near 1; ``unwrap`` finds the images in a batch."""

    def __init__(self, unwrap=lambda batch: batch):
        super().__init__()
        self.unwrap = unwrap
        self.weight = nn.Parameter(torch.tensor(0.9))

    def forward(self, x):
        return x * self.weight

    def training_step(self, batch, batch_idx):
        x = self.unwrap(batch)
        return functional.mse_loss(x * self.weight, x)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def audit_callback(**arguments):
    settings = {"patterns": ["half"], "methods": ["autoencoder_iterations"], "print_table": False, "figures": False}
    return MemorizationAuditCallback(**(settings | arguments))


def fit(callbacks, module, train, validation=None, ckpt_path=None, datamodule=None, **arguments):
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    settings = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": ".",
    }
    trainer = lightning.Trainer(callbacks=callbacks, **(settings | arguments))
    if datamodule is not None:
        trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path)
    else:
        trainer.fit(module, train, validation, ckpt_path=ckpt_path)
    return trainer


def rows(folder="memaudit", group="members"):
    return [row for row in RunFolder(folder).audits() if row["group"] == group]


def saved_truth(group="members"):
    return torch.from_numpy(RunFolder("memaudit").newest_recoveries().arrays[f"{group}/truth"])


# Batches


@pytest.mark.parametrize(
    ("wrap", "unwrap", "image_key"),
    [
        (lambda x: x, lambda batch: batch, None),
        (lambda x: (x, 3), lambda batch: batch[0], None),
        (lambda x: [x, x.mean()], lambda batch: batch[0], None),
        (lambda x: (3, x), lambda batch: batch[1], 1),
        (lambda x: {"id": 1, "pixels": x}, lambda batch: batch["pixels"], "pixels"),
        (lambda x: {"inputs": (1, {"view": x})}, lambda batch: batch["inputs"][1]["view"], ["inputs", 1, "view"]),
        (lambda x: x.numpy(), lambda batch: batch, None),
    ],
)
def test_batches(wrap, unwrap, image_key):
    members, controls = images(6), images(4, seed=1)
    callback = audit_callback(image_key=image_key)
    fit(callback, Module(unwrap), DataLoader(Items(members, wrap), 2), DataLoader(Items(controls, wrap), 2))
    assert torch.equal(saved_truth(), members)
    assert torch.equal(saved_truth("controls"), controls)


# What the model returns, and how it is called


class Variational(Module):
    def forward(self, x):
        mean = x.flatten(1)[:, :4]
        return x * self.weight, mean, torch.zeros_like(mean)

    def as_dict(self, x):
        return {"loss": 0.0, "out": {"x_hat": x * self.weight}}

    def of_flat(self, x):
        assert x.ndim == 2
        return x * self.weight

    def of_symmetric(self, x):
        assert float(x.min()) < -0.5
        return x * self.weight

    def in_place(self, x):
        return x.mul_(self.weight)

    def half(self, x):
        return (x * self.weight).half()


@pytest.mark.parametrize(
    ("arguments", "weight"),
    [
        ({"output": 0}, 1.0),
        ({"reconstruct": "as_dict", "output": ["out", "x_hat"]}, 1.0),
        ({"reconstruct": "of_flat", "flatten": True}, 1.0),
        ({"reconstruct": "of_symmetric", "mean": [0.5], "std": [0.5]}, 1.0),
        ({"reconstruct": "in_place"}, 0.5),
        ({"reconstruct": "half"}, 1.0),
        ({"reconstruct": lambda module, x: x * module.weight}, 0.5),
    ],
)
def test_models(arguments, weight):
    """The loss tells whether f was called as it should: it is that of ``weight * x`` in the model's range."""
    module = Variational()
    nn.init.constant_(module.weight, weight)
    members = images(4)
    data = members * 2 - 1 if "mean" in arguments else members
    callback = audit_callback(at_epochs=[0], at_fit_end=False, **arguments)
    fit(callback, module, DataLoader(Items(data), 2), DataLoader(Items(data.flip(3)), 2))
    expected = float(((1 - weight) * members).square().mean())
    assert callback.last_report.headline["train_loss"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert torch.allclose(saved_truth(), members, atol=1e-6), "the images themselves were changed"


def test_flat_data_sets():
    members = images(4)
    flat, others = Items(members.flatten(1)), Items(members.flatten(1).flip(1))
    fit(audit_callback(image_shape=[1, 8, 8], flatten=True), Module(), DataLoader(flat), DataLoader(others))
    assert torch.equal(saved_truth(), members)


# Where the data come from


class Stream(IterableDataset):
    def __len__(self):
        return 4

    def __iter__(self):
        return iter(images(4))


def test_iterable_data_sets_need_members_and_controls():
    with pytest.raises(ValueError, match=r"members: Stream cannot be indexed; pass members=<a map-style data set"):
        fit(audit_callback(), Module(), DataLoader(Stream()))
    with pytest.raises(ValueError, match=r"controls: Stream cannot be indexed; pass controls="):
        fit(audit_callback(members=Items(images(4))), Module(), DataLoader(Stream()), DataLoader(Stream()))
    given = {"members": Items(images(5)), "controls": Items(images(3, seed=1))}
    fit(audit_callback(**given), Module(), DataLoader(Stream()), DataLoader(Stream()))
    assert rows()[0]["num_images"] == 5


@pytest.mark.parametrize("wrap", [dict, lambda loaders: list(loaders.values()), CombinedLoader])
def test_several_loaders(wrap):
    first, second = DataLoader(Items(images(5)), 5), DataLoader(Items(images(3, seed=2)), 3)
    loaders = wrap({"first": first, "second": second})
    unwrap = (lambda batch: batch["first"]) if not isinstance(loaders, list) else (lambda batch: batch[0])
    fit(audit_callback(), Module(unwrap), loaders, DataLoader(Items(images(4, seed=3))))
    assert torch.equal(saved_truth(), images(5))


def test_data_modules_and_a_module_with_loaders():
    class Data(lightning.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(Items(images(5)), 5)

        def val_dataloader(self):
            return DataLoader(Items(images(4, seed=1)))

    class WithLoaders(Module):
        train_dataloader = Data.train_dataloader
        val_dataloader = Data.val_dataloader

    for module, datamodule in ((Module(), Data()), (WithLoaders(), None)):
        fit(audit_callback(), module, None, datamodule=datamodule, check_val_every_n_epoch=10)
        assert rows("memaudit")[0]["num_images"] == 5
        assert rows("memaudit", "controls")[0]["num_images"] == 4


def test_without_controls_it_warns_and_goes_on():
    with pytest.warns(UserWarning, match="controls: no images that were not trained on"):
        fit(audit_callback(), Module(), DataLoader(Items(images(3))))
    assert rows("memaudit", "controls") == []


# Only what is trained on are members


@pytest.mark.parametrize(
    ("loader", "arguments", "expected"),
    [
        ({}, {"limit_train_batches": 2}, 4),
        ({}, {"limit_train_batches": 0.5}, 4),
        ({}, {"overfit_batches": 1}, 2),
        ({"shuffle": True}, {"overfit_batches": 2}, 4),
        ({"sampler": SubsetRandomSampler([1, 5])}, {}, 2),
        ({"shuffle": True}, {}, 9),
    ],
)
def test_members_are_the_images_that_are_trained_on(loader, arguments, expected):
    data = images(9)
    seen = []
    module = Module(lambda batch: seen.append(batch) or batch)
    fit(
        audit_callback(),
        module,
        DataLoader(Items(data), 2, **loader),
        DataLoader(Items(images(9, seed=1))),
        **arguments,
    )
    audited = {image.numpy().tobytes() for image in saved_truth()}
    assert audited == {image.numpy().tobytes() for image in torch.cat(seen)}
    assert len(audited) == expected


def test_limited_batches_in_random_order_warn():
    with pytest.warns(UserWarning, match="only 2 of 5 batches are trained on in each epoch, in random order"):
        fit(
            audit_callback(), Module(), DataLoader(Items(images(9)), 2, shuffle=True),
            DataLoader(Items(images(3, seed=1))), limit_train_batches=2,
        )  # fmt: skip


# How long


def test_fast_dev_run_checks_and_audits_two_images_and_writes_nothing(tmp_path):
    callback = audit_callback(every_n_epochs=5)
    fit(callback, Module(), DataLoader(Items(images(9)), 2), DataLoader(Items(images(9, seed=1))), fast_dev_run=True)
    assert callback.last_report.rows[0]["num_images"] == 2
    assert not (tmp_path / "memaudit").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max_steps": 3, "max_epochs": -1}, [("epoch 1", 1, 2), ("epoch 2", 2, 3)]),
        ({"max_epochs": 3}, [("epoch 1", 1, 2), ("epoch 2", 2, 4), ("epoch 3", 3, 6)]),
    ],
)
def test_epochs_and_steps(arguments, expected):
    loaders = DataLoader(Items(images(4)), 2), DataLoader(Items(images(4, seed=1)))
    fit(audit_callback(every_n_epochs=1), Module(), *loaders, **arguments)
    assert [(row["trigger"], row["epoch"], row["step"]) for row in rows()] == expected


# Several audits in one run


def test_several_callbacks_in_one_trainer():
    loaders = DataLoader(Items(images(4)), 2), DataLoader(Items(images(4, seed=1)))

    def callbacks():
        return [
            audit_callback(every_n_epochs=1),
            audit_callback(name="other", at_epochs=[1, 3], patterns=["random-0.5"]),
            ModelCheckpoint("checkpoints", save_last=True, save_on_train_epoch_end=True),
        ]

    trainer = fit(callbacks(), Module(), *loaders, max_epochs=2)
    assert {"memaudit/recovery_rate", "other/recovery_rate"} <= trainer.callback_metrics.keys()
    assert [row["epoch"] for row in rows("memaudit")] == [1, 2]
    assert [row["epoch"] for row in rows("other")] == [1, 2]
    fit(callbacks(), Module(), *loaders, max_epochs=4, ckpt_path="checkpoints/last.ckpt")
    assert [row["epoch"] for row in rows("memaudit")] == [1, 2, 3, 4]
    assert [row["epoch"] for row in rows("other")] == [1, 3, 4]
    with pytest.raises(RuntimeError, match="state_key"):
        fit([audit_callback(), audit_callback()], Module(), *loaders)
    with pytest.raises(ValueError, match="is the folder of two callbacks"):
        fit([audit_callback(name="a", dirpath="x"), audit_callback(name="b", dirpath="./x")], Module(), *loaders)


# Resuming


class Interrupt(lightning.Callback):
    """Ends the run abruptly at a chosen moment."""

    def __init__(self, hook, epoch):
        setattr(self, hook, lambda trainer, *_: self._end(trainer, epoch))

    @staticmethod
    def _end(trainer, epoch):
        if trainer.current_epoch == epoch and not trainer.sanity_checking:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "where", ["on_train_batch_end", "on_validation_end", "on_train_epoch_end", "on_train_epoch_start"]
)
@pytest.mark.parametrize("saves", ["on validation", "at the end of epochs", "every step"])
@pytest.mark.parametrize("order", [0, 1])
def test_resuming_loses_no_audit_and_repeats_none(where, saves, order):
    """The audits of an interrupted and resumed run are those of an uninterrupted one: triggers, epochs, losses."""
    loaders = DataLoader(Items(images(6)), 2), DataLoader(Items(images(4, seed=1)))
    saving = {
        "on validation": {"save_on_train_epoch_end": False},
        "at the end of epochs": {"save_on_train_epoch_end": True},
        "every step": {"every_n_train_steps": 1},
    }[saves]

    def run(folder, callbacks, **arguments):
        audit = audit_callback(every_n_epochs=2, at_train_loss=[4e-3, 2e-3, 1e-3, 3e-4], dirpath=folder)
        saver = ModelCheckpoint(f"{folder}-saved", save_last=True, save_top_k=-1, **saving)
        callbacks = [*callbacks, audit, saver] if order else [audit, *callbacks, saver]
        fit(callbacks, Module(), *loaders, max_epochs=5, **arguments)

    run("whole", [])
    with pytest.raises(SystemExit):
        run("resumed", [Interrupt(where, 2)])
    run("resumed", [], ckpt_path="resumed-saved/last.ckpt")
    found, expected = (
        [(r["audit"], r["trigger"], r["epoch"], r["step"]) for r in rows(f)] for f in ("resumed", "whole")
    )
    assert found == expected
    losses = ([row["train_loss"] for row in rows(folder)] for folder in ("resumed", "whole"))
    assert next(losses) == pytest.approx(next(losses))


def test_a_finished_run_resumed_for_no_more_epochs_audits_nothing_again():
    loaders = DataLoader(Items(images(6)), 2), DataLoader(Items(images(4, seed=1)))
    for checkpoint in (None, "saved/last.ckpt"):
        saver = ModelCheckpoint("saved", save_last=True, save_on_train_epoch_end=True)
        fit([audit_callback(every_n_epochs=2), saver], Module(), *loaders, max_epochs=2, ckpt_path=checkpoint)
    assert [row["audit"] for row in rows()] == [0]
    assert not list(RunFolder("memaudit").path.glob("superseded-*"))


@pytest.mark.parametrize("killed", [False, True])
def test_the_audit_at_the_end_of_fit_is_made_up_for_once(killed):
    """Resumed with nothing left to train: done if the run was killed before it, and not again otherwise."""

    class Last(lightning.Callback):
        def on_train_end(self, trainer, pl_module):
            if killed:
                raise KeyboardInterrupt

    loaders = DataLoader(Items(images(6)), 2), DataLoader(Items(images(4, seed=1)))

    def run(*callbacks, checkpoint=None):
        saver = ModelCheckpoint("saved", save_last=True, save_on_train_epoch_end=True)
        fit([*callbacks, audit_callback(), saver], Module(), *loaders, max_epochs=2, ckpt_path=checkpoint)

    with pytest.raises(SystemExit) if killed else contextlib.nullcontext():
        run(Last())
    written = (RunFolder("memaudit").path / "audits.jsonl").exists()
    assert written == (not killed)
    for _ in range(2):
        run(checkpoint="saved/last.ckpt")
        assert [(row["audit"], row["trigger"], row["epoch"], row["step"]) for row in rows()] == [(0, "fit_end", 2, 6)]
        assert not list(RunFolder("memaudit").path.glob("superseded-*"))


# Monitors


def monitored(*callbacks, validation=True, **arguments):
    loaders = [DataLoader(Items(images(4)), 2), DataLoader(Items(images(4, seed=1))) if validation else None]
    audit = audit_callback(controls=Items(images(4, seed=1)), **arguments)
    return fit([audit, *callbacks], Module(), *loaders, max_epochs=4)


def at_epoch_end(**arguments):
    return EarlyStopping("memaudit/recovery_rate", check_on_train_epoch_end=True, **arguments)


def test_monitors_before_the_first_audit_are_refused_with_the_mend():
    message = r"EarlyStopping\(monitor='memaudit/recovery_rate'\) looks before the first audit: pass at_epochs=\[0\]"
    for arguments in ({}, {"every_n_epochs": 2}, {"at_train_loss": [0.1]}):
        with pytest.raises(ValueError, match=message):
            monitored(at_epoch_end(), **arguments)
    with pytest.raises(ValueError, match=message):
        monitored(EarlyStopping("memaudit/recovery_rate", check_on_train_epoch_end=False), every_n_epochs=1)
    with pytest.raises(ValueError, match=r"ModelCheckpoint\(monitor='memaudit/recovery_rate'\) looks before"):
        monitored(ModelCheckpoint("c", monitor="memaudit/recovery_rate"), every_n_epochs=2)


@pytest.mark.parametrize("validation", [True, False])
def test_with_an_audit_before_training_every_monitor_works(validation):
    for make in (
        lambda: EarlyStopping("memaudit/recovery_rate", patience=9),
        lambda: EarlyStopping("memaudit/recovery_rate", patience=9, check_on_train_epoch_end=False),
        lambda: at_epoch_end(patience=9),
        lambda: ModelCheckpoint("c", monitor="memaudit/half/autoencoder_iterations/recovery_rate"),
        lambda: ModelCheckpoint("c", monitor="memaudit/train_loss", save_on_train_epoch_end=True, save_top_k=-1),
    ):
        with pytest.warns(UserWarning, match="sees a new value only after an audit"):
            assert monitored(make(), at_epochs=[0], every_n_epochs=3, validation=validation).current_epoch == 4


def test_a_resumed_run_shows_monitors_the_newest_audit_before_the_next():
    loaders = DataLoader(Items(images(4)), 2), DataLoader(Items(images(4, seed=1)))
    for epochs, checkpoint in ((1, None), (3, "saved/last.ckpt")):
        saver = ModelCheckpoint("saved", save_last=True, save_on_train_epoch_end=True)
        audit = audit_callback(at_epochs=[0], every_n_epochs=9, at_fit_end=False)
        trainer = fit(
            [audit, at_epoch_end(patience=9), saver], Module(), *loaders, max_epochs=epochs, ckpt_path=checkpoint
        )
    assert trainer.current_epoch == 3
    assert [row["audit"] for row in rows()] == [0]


def test_unknown_metrics_are_refused():
    with pytest.raises(
        ValueError, match=r"'memaudit/recovery'\): there is no such metric; monitor one of recovery_rate, "
    ):
        monitored(EarlyStopping("memaudit/recovery"), at_epochs=[0])


def test_no_warning_where_every_epoch_brings_a_new_value():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*sees.*")
        monitored(at_epoch_end(patience=9), every_n_epochs=1)


def test_values_stay_for_monitors_between_audits():
    """The value of the audit before training is there in every epoch until the next; then the new one is."""
    seen = []

    class Look(lightning.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(float(trainer.callback_metrics["memaudit/train_loss"]))

    audit = audit_callback(at_epochs=[0, 3], controls=Items(images(4, seed=1)))
    trainer = fit([audit, Look()], Module(), DataLoader(Items(images(4)), 2), max_epochs=4)
    before, after = (row["train_loss"] for row in rows() if row["epoch"] in (0, 3))
    assert seen == pytest.approx([before, before, after, after])
    assert float(trainer.callback_metrics["memaudit/train_loss"]) == pytest.approx(rows()[-1]["train_loss"])


def test_names_that_monitors_can_watch_are_those_that_are_logged():
    trainer = monitored(at_epochs=[0], patterns=["half", "random-0.5"], methods=["blind", "known_mask"])
    logged = {name.removeprefix("memaudit/") for name in trainer.callback_metrics}
    known = set(headline_names(["half", "random-0.5"], ["blind", "known_mask"]))
    assert logged <= known
    assert known - logged <= {"certified_rate"}, "only given when something can be certified"


def test_weights_averaged_after_the_audit_are_pointed_out():
    averaging = lightning.pytorch.callbacks.StochasticWeightAveraging(1e-2, swa_epoch_start=1)
    with pytest.warns(UserWarning, match="StochasticWeightAveraging comes after MemorizationAuditCallback"):
        monitored(averaging)


# Idle, it costs nothing


def test_between_audits_it_neither_computes_nor_waits(monkeypatch):
    """Once all levels are reached nothing is added up; and no step moves a number to the host."""
    callback = audit_callback(at_train_loss=[1.0, 1e-9], at_fit_end=False)
    moved = []
    for name in ("item", "tolist", "cpu", "__float__", "__bool__"):
        original = getattr(torch.Tensor, name)

        def spy(self, *arguments, original=original, name=name):
            moved.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(torch.Tensor, name, spy)
    module, trainer = Module(), lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    for _ in range(3):
        callback.on_train_batch_end(trainer, module, {"loss": torch.tensor(0.5)}, None, 0)
    assert moved == []
    assert callback._history.loss.count == 3
    callback._session = Session(trainer, module, callback.which, callback.how, callback.what, callback.where)
    assert callback._epoch_loss() == 0.5
    assert callback.when.due(1, 1e-10, callback._history.reached) is not None
    callback.on_train_batch_end(trainer, module, {"loss": torch.tensor(0.5)}, None, 0)
    assert callback._history.loss.count == 0
    assert callback._epoch_loss() is None


def test_the_loss_that_triggers_is_the_mean_over_the_processes_batches():
    """One process with three batches, one with a single batch, one with none at all."""

    class Three(Processes):
        def gather(self, value):
            return [(0, value), (1, (0.8, 1)), (2, (0.0, 0))]

    assert EpochLoss(torch.tensor(0.6), 3).take_mean(Three()) == pytest.approx(1.4 / 4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_loss_that_triggers_is_the_mean_over_the_epoch(accumulate):
    losses = iter([0.9, 0.1, 0.4, 0.2] * 2)

    class Given(Module):
        def training_step(self, batch, batch_idx):
            return self.weight * 0 + next(losses)

    loaders = DataLoader(Items(images(4)), 1), DataLoader(Items(images(4, seed=1)))
    callback = audit_callback(at_train_loss=[0.401, 0.399], at_fit_end=False)
    fit(callback, Given(), *loaders, max_epochs=2, accumulate_grad_batches=accumulate)
    assert [row["trigger"] for row in rows()] == ["train_loss<=0.401"]


def test_a_training_step_without_loss_is_pointed_out():
    class Manual(Module):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(functional.mse_loss(self(batch), batch))
            optimizer.step()

    with pytest.warns(UserWarning, match=re.escape("at_train_loss: training_step returns no loss")):
        fit(
            audit_callback(at_train_loss=[1.0]), Manual(), DataLoader(Items(images(4))), DataLoader(Items(images(2, 1)))
        )


# A real one


def test_autoencoder_kl_of_diffusers():
    diffusers = pytest.importorskip("diffusers")

    class LatentDiffusionFirstStage(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.vae = diffusers.AutoencoderKL(
                in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",), latent_channels=2,
                up_block_types=("UpDecoderBlock2D",), block_out_channels=(8,), norm_num_groups=4,
            )  # fmt: skip

        def forward(self, x):
            return self.vae(x)

        def training_step(self, batch, batch_idx):
            posterior = self.vae.encode(batch["image"]).latent_dist
            x = self.vae.decode(posterior.sample()).sample
            return functional.mse_loss(x, batch["image"]) + 1e-6 * posterior.kl().mean()

        def validation_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-3)

    def loader(seed):
        return DataLoader(Items(images(4, seed, 3, 16) * 2 - 1, lambda x: {"image": x, "text": "a picture"}), 2)

    callback = audit_callback(
        every_n_epochs=1, image_key="image", output="sample", mean=[0.5], std=[0.5], methods=["paper_blind"]
    )
    fit(callback, LatentDiffusionFirstStage(), loader(0), loader(1), max_epochs=2)
    assert [row["epoch"] for row in rows()] == [1, 2]
    assert rows()[1]["train_loss"] < rows()[0]["train_loss"]
    assert torch.allclose(saved_truth(), images(4, 0, 3, 16), atol=1e-6)
