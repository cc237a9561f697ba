"""Attached or not: weights, optimizer, random states, batches and loops of a training are the same to the last bit."""

import random
from functools import cache

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_avg_fn
from torch.utils.data import DataLoader, Dataset, random_split
from training_runs import trainer_with

from lightning_memaudit import MemorizationAuditCallback
from lightning_memaudit.recovery import BlindRecovery, Recovery
from lightning_memaudit.recovery.alternation import Alternation

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class Augmented(Dataset):
    """Images that change a little with every reading, by global random states and by a generator of its own."""

    def __init__(self, count, seed):
        self.images = np.random.default_rng(seed).random((count, 1, 8, 8), dtype=np.float32) * 0.8
        self.generator = np.random.default_rng(seed)
        self.transforms = [torch.Generator().manual_seed(seed)]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        private = self.generator.random() + float(torch.rand((), generator=self.transforms[0]))
        noise = random.random() + np.random.random() + float(torch.rand(())) + private  # noqa: NPY002
        return torch.from_numpy(self.images[index]) + noise * 0.01


class Model(lightning.LightningModule):
    """Everything that a forward pass in the wrong mode, or at the wrong moment, would leave a trace in."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.frozen = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.decoder = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 1, 3, padding=1))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(()))
        self.generator = torch.Generator().manual_seed(0)
        self.batches = []

    def forward(self, images):
        self.calls += 1
        self.replaced = self.replaced + 1
        noise = torch.randn(images.shape, generator=self.generator).to(images)
        return self.decoder(self.drop(self.frozen(self.encoder(images + 0.01 * noise))))

    def on_train_epoch_start(self):
        self.frozen.eval()  # a mode of its own, as in fine-tuning

    def training_step(self, batch, batch_idx):
        assert not self.frozen.training
        assert self.drop.training
        assert torch.is_grad_enabled()
        self.batches.append(batch.detach().double().sum().item())
        loss = functional.mse_loss(self(batch), batch) + 1e-4 * self.calls + 1e-4 * self.replaced
        self.log("train", loss, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("validation", functional.mse_loss(self(batch), batch))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Data(lightning.LightningDataModule):
    """Splits at random when asked for a loader, and counts with a generator of its own."""

    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng(3)

    def train_dataloader(self):
        return DataLoader(Augmented(10, 0), 4, shuffle=True)

    def val_dataloader(self):
        private = int(self.generator.integers(3))
        return DataLoader(random_split(Augmented(8, 1), [4 + private, 4 - private])[0], 2)


class DrawingLogger(CSVLogger):
    def log_metrics(self, metrics, step=None):
        if any(name.startswith("memaudit/") for name in metrics):
            torch.rand(random.randint(1, 3) + np.random.randint(3))  # noqa: NPY002
        super().log_metrics(metrics, step)


class EMA(WeightAveraging):
    def __init__(self):
        super().__init__(avg_fn=get_ema_avg_fn(0.9))


def greedy(autoencoder, observed):
    """A method that draws from every global random state."""
    noise = torch.rand_like(observed) * (random.random() + np.random.random())  # noqa: NPY002
    image = autoencoder(autoencoder(observed + 0.01 * noise))
    count = len(observed)
    return Recovery(
        image, torch.ones_like(image[:, :1]), torch.zeros(count), torch.zeros(count).bool(), torch.ones(count).long()
    )


def failing(autoencoder, observed):
    greedy(autoencoder, observed)
    raise RuntimeError("a method that fails")


SHORT = BlindRecovery("least_squares", penalties=(0.1,), alternation=Alternation(num_iterations=20))


def audit_callback(**arguments):
    settings = {
        "every_n_epochs": 1,
        "at_epochs": [0],
        "at_train_loss": [1.0, 0.1],
        "patterns": ["random-0.5"],
        "methods": {"paper_blind": SHORT, "greedy": greedy},
        "num_members": 5,
        "num_controls": 4,
        "print_table": False,
        "figures": False,
    }
    return MemorizationAuditCallback(**(settings | arguments))


def train(audit, *, workers=0, persistent=False, data=None, compile=None, callbacks=(), **settings):
    """Train, and return all that could differ afterwards."""
    lightning.seed_everything(1, workers=True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = Model()
    defaults = {"max_epochs": 3, "num_sanity_val_steps": 0, "check_val_every_n_epoch": 2}
    attached = [*[make() for make in callbacks], *([audit] if audit else [])]
    trainer = trainer_with(*attached, **(defaults | settings))
    if compile is not None:
        # Not the whole module: training_step and its log are compiled anew for every change of the trainer's state.
        model.encoder.compile(backend=compile)
        model.drop.compile(backend=compile)
    if data is None:
        loader = {"num_workers": workers, "persistent_workers": persistent}
        trainer.fit(
            model,
            DataLoader(Augmented(10, 0), 4, shuffle=True, **loader),
            DataLoader(Augmented(6, 1), 2, **loader),
        )
    else:
        trainer.fit(model, datamodule=data())
    states = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "model's own": model.generator.get_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    trainer.save_checkpoint("after.ckpt")
    checkpoint = torch.load("after.ckpt", weights_only=False)  # older versions of torch save functions of SWA
    for key in [key for key in checkpoint["callbacks"] if key.startswith("MemorizationAuditCallback")]:
        del checkpoint["callbacks"][key]
    metrics = {name: value for name, value in trainer.callback_metrics.items() if not name.startswith("memaudit/")}
    modes = {name: module.training for name, module in model.named_modules()}
    compiled = dict(torch._dynamo.utils.counters["frames"])
    return {
        "compiled": compiled,
        "states": states,
        "checkpoint": checkpoint,
        "batches": model.batches,
        "metrics": metrics,
        "modes": modes,
    }


def differences(one, other, path=""):
    """Paths of everything that is not the same to the last bit."""
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        return (
            [] if same and one.cpu().numpy(force=True).tobytes() == other.cpu().numpy(force=True).tobytes() else [path]
        )
    if isinstance(one, np.ndarray):
        return [] if one.tobytes() == other.tobytes() else [path]
    if isinstance(one, dict):
        keys = [] if one.keys() == other.keys() else [f"{path}: keys"]
        return keys + [d for key in one if key in other for d in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{path}: length"]
        return [d for i, pair in enumerate(zip(one, other, strict=True)) for d in differences(*pair, f"{path}/{i}")]
    return [] if one == other else [path]


RUNS = {
    "dropout, batch norm, shuffling": {},
    "workers": {"workers": 1},
    "persistent workers": {"workers": 2, "persistent": True},
    "accumulated gradients": {"accumulate_grad_batches": 2},
    "moving average": {"callbacks": [EMA]},
    "weight averaging": {"callbacks": [lambda: StochasticWeightAveraging(1e-3, swa_epoch_start=1)]},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "compiled": {"compile": "eager", "limit_val_batches": 0},  # nothing else compiles the evaluation mode
    "ends in mid-epoch": {"max_steps": 5, "max_epochs": -1},
    "a validation hook that draws": {"data": Data},
    "validation loaders reloaded": {"data": Data, "reload_dataloaders_every_n_epochs": 1},
    "loaders reloaded every second epoch": {
        "data": Data,
        "reload_dataloaders_every_n_epochs": 2,
        "check_val_every_n_epoch": 1,
        "max_epochs": 4,
    },
    "validation switched off": {"data": Data, "limit_val_batches": 0},
    "validation within epochs": {"data": Data, "val_check_interval": 2, "check_val_every_n_epoch": 1},
    "sanity check": {"data": Data, "num_sanity_val_steps": 1, "check_val_every_n_epoch": 3},
    "overfit one batch": {"overfit_batches": 1},
    "a logger that draws": {"logger": lambda: DrawingLogger("logs")},
}


def resolved(settings):
    return {key: value() if key == "logger" else value for key, value in settings.items()}


@cache
def without_audits(run):
    """What a run leaves that nothing is attached to."""
    return train(None, **resolved(RUNS[run]))


def check(settings, audit, expected=None):
    expected = expected or train(None, **resolved(settings))
    callback = audit()
    found = train(callback, **resolved(settings))
    assert differences(expected, found) == []
    return callback


@pytest.mark.parametrize("run", RUNS)
def test_the_training_is_the_same_to_the_last_bit(run, request):
    if run != next(iter(RUNS)):  # one of them with the report, which is written after the last step
        request.getfixturevalue("without_report")
    callback = check(RUNS[run], audit_callback, without_audits(run))
    assert callback._history.num_audits >= 3
    assert callback.last_report is not None


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize("run", ["dropout, batch norm, shuffling", "a validation hook that draws"])
def test_also_when_every_audit_fails(run):
    def broken(module, images):
        result = module(images)
        if len(images) > 2:
            raise RuntimeError("a forward pass that fails")
        return result

    for arguments in ({"methods": {"failing": failing}}, {"reconstruct": broken}):
        check(RUNS[run], lambda arguments=arguments: audit_callback(**arguments), without_audits(run))


@pytest.mark.slow
def test_also_when_compiled_to_machine_code():
    check({"compile": "inductor"}, audit_callback)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_also_on_a_gpu(precision):
    torch.use_deterministic_algorithms(True)
    check({"accelerator": "gpu", "devices": 1, "precision": precision}, audit_callback)


def test_two_trainings_with_another_seed_differ():
    """The comparison sees what it must: one more number drawn, one more forward pass, one flag."""
    expected = without_audits(next(iter(RUNS)))

    class Disturbs(lightning.Callback):
        def __init__(self, act):
            self.act = act

        def on_train_epoch_end(self, trainer, pl_module):
            self.act(pl_module)

    acts = (
        lambda module: random.random(),
        lambda module: np.random.random(),  # noqa: NPY002
        lambda module: torch.rand(()),
        lambda module: torch.rand((), generator=module.generator),
        lambda module: module(torch.rand(2, 1, 8, 8, generator=torch.Generator())),
        lambda module: module.encoder.eval(),
    )
    for act in acts:
        assert differences(expected, train(None, callbacks=[lambda act=act: Disturbs(act)])) != []
