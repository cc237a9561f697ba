"""What an audit is of: the weights that are delivered, buffers as training left them, controls never trained on."""

import copy
import logging
import pickle
import warnings

import lightning
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger
from torch.optim.swa_utils import get_ema_avg_fn
from torch.utils.data import DataLoader
from training_runs import Items, Module, audit_callback, images, trainer_with

from lightning_memaudit.callback.isolation import Buffers, silent_loggers, undisturbed
from lightning_memaudit.results.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("reads_here")


class RunningRange(Module):
    """Scales by the largest value that it has seen, also in evaluation."""

    def __init__(self, replaces):
        super().__init__()
        self.replaces = replaces
        self.register_buffer("largest", torch.tensor(1.0))

    def forward(self, x):
        largest = torch.maximum(self.largest, x.max())
        if self.replaces:
            self.largest = largest
        else:
            self.largest.copy_(largest)
        return x * self.weight / self.largest


@pytest.mark.parametrize("replaces", [False, True])
def test_what_a_call_writes_into_a_buffer_does_not_reach_the_next_call(replaces):
    module = RunningRange(replaces)
    mine = module.largest
    with undisturbed(module) as buffers:
        seen = []
        for scale in (1.0, 5.0, 1.0):
            seen.append(float(module(torch.full((1, 1, 2, 2), scale)).mean()))
            buffers.put_back_if_written()
    assert seen == pytest.approx([0.9, 0.9, 0.9])
    assert module.largest is mine
    assert float(mine) == 1.0


def test_buffers_that_nothing_was_written_to_are_left_alone(monkeypatch):
    buffers = Buffers(torch.nn.BatchNorm1d(1))
    monkeypatch.setattr(buffers, "put_back", lambda: pytest.fail("nothing was written"))
    buffers.put_back_if_written()


def test_an_audit_of_a_network_with_a_running_range_is_that_of_the_same_network_without():
    reports = []
    for writes in (True, False):
        module = RunningRange(replaces=False)
        module.weight.data.fill_(2.0)  # beyond the range, so that iterations would widen it
        if not writes:
            module.forward = lambda x, module=module: x * module.weight / torch.maximum(module.largest, x.max())
        callback = audit_callback(members=images(), controls=images(seed=1), at_fit_end=True)
        loader = DataLoader(Items(images()), 2)
        trainer_with(callback, max_epochs=1, limit_train_batches=0, num_sanity_val_steps=0).validate(module, loader)
        trainer = trainer_with(callback, max_epochs=1, default_root_dir=str(writes))
        trainer.fit(module, loader)
        reports.append([row["psnr_mean"] for row in callback.last_report.rows])
    assert reports[0] == pytest.approx(reports[1])


def test_a_model_that_asks_for_the_stage_is_called_as_in_validation():
    calls, training = logging.Filterer(), logging.Filterer()  # out of reach of what puts back the state after an audit
    calls.value = training.value = 0

    class Asks(Module):
        def forward(self, x):
            calls.value += 1
            training.value += trainer.training
            return super().forward(x)

    callback = audit_callback(members=images(), controls=images(seed=1))
    trainer = trainer_with(callback, max_epochs=1)
    trainer.fit(Asks(), DataLoader(Items(images()), 2))
    assert calls.value > 0
    assert training.value == 0


class ReplacesWeights(Callback):
    """A moving average that is home-made."""

    def on_train_end(self, trainer, pl_module):
        pl_module.weight.data.fill_(0.5)


@pytest.mark.parametrize("before", [False, True])
def test_weights_that_are_replaced_after_the_last_audit_are_told(before):
    audit = audit_callback(members=images(), controls=images(seed=1))
    callbacks = (ReplacesWeights(), audit) if before else (audit, ReplacesWeights())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer_with(*callbacks, max_epochs=1).fit(Module(), DataLoader(Items(images()), 2))
    told = any("weights were replaced after the last audit" in str(one.message) for one in caught)
    assert told is not before


def fit(callback, module, train, validation, **how):
    trainer = trainer_with(callback, max_epochs=how.pop("max_epochs", 1), num_sanity_val_steps=0)
    trainer.fit(module, DataLoader(Items(train), 2), DataLoader(Items(validation), 2), **how)
    return trainer


def test_controls_that_an_earlier_fit_trained_on_are_refused():
    first, second = images(), images(seed=1)
    callback, module = audit_callback(), Module()
    fit(callback, module, first, second)
    with pytest.raises(ValueError, match="6 of the controls are identical to members or to other images"):
        fit(callback, module, second, first)
    fit(callback, Module(), second, first)  # another model has not seen them


def test_controls_that_were_members_before_the_run_was_resumed_are_refused():
    first, second = images(), images(seed=1)
    trainer = fit(audit_callback(), Module(), first, second)
    trainer.save_checkpoint("half.ckpt")
    mixed = torch.cat([second[:4], first[:2]])
    with pytest.raises(ValueError, match="2 of the controls are identical"):
        fit(audit_callback(), Module(), first, mixed, max_epochs=2, ckpt_path="half.ckpt")
    fit(audit_callback(), Module(), first, second, max_epochs=2, ckpt_path="half.ckpt")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x.flip(-1), True),
        (lambda x: x.rot90(1, (2, 3)), True),
        (lambda x: x + 0.2 * torch.randn_like(x), False),  # noise is what denoising autoencoders are for
        (lambda x: x + torch.randn_like(x), False),
        (lambda x: x * (torch.rand_like(x) < 0.05), False),
        (lambda x: torch.cat([x[:1], x[1:].flip(-1)]), False),  # at random
        (lambda x: x, False),
    ],
)
def test_images_that_training_step_changes_within_their_range_are_told(change, told):
    class Changes(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = torch.nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.network(x)

        def training_step(self, batch, batch_idx):
            return (self(change(batch)) - batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer_with(audit_callback(controls=images(seed=1)), max_epochs=1).fit(
            Changes(), DataLoader(Items(images()), 3)
        )
    assert told == any("the training changes its images before the model" in str(one.message) for one in caught)


class CountsCalls(Callback):
    """Looks at what a layer returns, as monitors of activations do."""

    def __init__(self):
        self.seen, self.total = [], torch.zeros(1)

    def on_fit_start(self, trainer, pl_module):
        pl_module.network.register_forward_hook(self.note)

    def note(self, layer, arguments, output):
        self.seen.append(float(output.detach().mean()))
        self.total += 1


class CallsLayers(lightning.LightningModule):
    """Logs from within its forward pass, past ``self.log``."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        self.logger.log_metrics({"inside": float(x.mean())}, step=self.global_step)
        return self.network(x)

    def training_step(self, batch, batch_idx):
        return (self(batch) - batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Keeps(DummyLogger):
    def __init__(self):
        super().__init__()
        self.kept = []

    def log_metrics(self, metrics, step=None):
        if "inside" in metrics:
            self.kept.append((metrics["inside"], step))


def test_hooks_of_other_callbacks_and_loggers_see_no_call_of_an_audit():
    found = []
    for audits in (False, True):
        counts, logger = CountsCalls(), Keeps()
        callbacks = [counts, *([audit_callback(every_n_epochs=1, at_epochs=[0])] if audits else [])]
        trainer = trainer_with(*callbacks, max_epochs=2, logger=logger, log_every_n_steps=1)
        trainer.fit(CallsLayers(), DataLoader(Items(images()), 2), DataLoader(Items(images(seed=1)), 2))
        assert trainer.loggers == [logger]
        found.append((counts.seen, float(counts.total), logger.kept))
    assert found[0] == found[1]
    assert len(found[0][0]) >= 6


@pytest.mark.parametrize("same", [True, False])
def test_a_history_that_goes_on_with_other_images_says_so(same):
    trainer = trainer_with(audit_callback(), max_epochs=1, num_sanity_val_steps=0)
    controls = DataLoader(Items(images(seed=1)), 2)
    trainer.fit(Module(), DataLoader(Items(images()), 2), controls)
    trainer.save_checkpoint("first.ckpt")
    members = images() if same else images(seed=2)
    trainer = trainer_with(audit_callback(), max_epochs=2, num_sanity_val_steps=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Module(), DataLoader(Items(members), 2), controls, ckpt_path="first.ckpt")
    text = "members: other images than in the earlier audits of this run"
    assert any(text in str(one.message) for one in caught) is not same
    assert any(text in note for note in RunFolder("memaudit").run()["notes"]) is not same
    assert len({row["audit"] for row in RunFolder("memaudit").audits()}) == 2


def test_averaged_weights_are_noted():
    averaging = WeightAveraging(avg_fn=get_ema_avg_fn(0.9))
    trainer = trainer_with(averaging, audit_callback(), max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(Module(), DataLoader(Items(images()), 2), DataLoader(Items(images(seed=1)), 2))
    assert any("WeightAveraging averages the weights" in note for note in RunFolder("memaudit").run()["notes"])


def test_a_silenced_logger_is_taken_for_the_logger_and_copied_as_it():
    trainer = trainer_with(max_epochs=1, logger=CSVLogger("logs"))
    logger = trainer.logger
    with silent_loggers(trainer):
        silenced = trainer.logger
        assert isinstance(silenced, CSVLogger)
        assert (silenced.log_dir, silenced.name) == (logger.log_dir, logger.name)
        silenced.log_metrics({"loss": 1.0}, step=0)
        silenced.experiment.log_metrics({"loss": 1.0})
        assert copy.copy(silenced) is logger
        assert type(copy.deepcopy(silenced)) is CSVLogger
        assert type(pickle.loads(pickle.dumps(silenced))) is CSVLogger
    assert trainer.logger is logger
    assert not logger.experiment.metrics
