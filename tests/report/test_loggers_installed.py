"""Loggers as they are installed, where they are: numbers and images of a real training arrive, and disturb nothing."""

import io
import warnings

import numpy as np
import pytest
import torch
from autoencoders import memory
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from PIL import Image

from lightning_memaudit import MemorizationAuditCallback, audit
from lightning_memaudit.report.loggers import log_audit
from lightning_memaudit.training.data import FacesDataModule
from lightning_memaudit.training.module import AutoencoderModule
from lightning_memaudit.training.networks import FullyConnectedAutoencoder


def tensorboard(folder):
    pytest.importorskip("tensorboard")
    return TensorBoardLogger(folder)


def mlflow(folder):
    pytest.importorskip("mlflow")
    return MLFlowLogger("audits", tracking_uri=f"file:{folder}/mlruns")


@pytest.fixture(autouse=True)
def _file_store(monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its default takes a data base


def in_tensorboard(logger):
    """Every number and every image, by name and step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    numbers = {(name, one.step): one.value for name in events.Tags()["scalars"] for one in events.Scalars(name)}
    images = {
        (name, one.step): np.array(Image.open(io.BytesIO(one.encoded_image_string)))
        for name in events.Tags()["images"]
        for one in events.Images(name)
    }
    return numbers, images


def in_mlflow(logger):
    client, run = logger.experiment, logger.run_id
    names = client.get_run(run).data.metrics
    numbers = {(name, one.step): one.value for name in names for one in client.get_metric_history(run, name)}
    images = {}
    for one in client.list_artifacts(run, "images"):
        if one.path.endswith(".png"):
            name, _, rest = one.path.removeprefix("images/").replace("~", "/").partition("+step+")
            picture = np.array(Image.open(client.download_artifacts(run, one.path)))
            images[name, int(rest.split("+")[0])] = picture
    return numbers, images


WAYS = pytest.mark.parametrize(
    ("make", "read"), [(tensorboard, in_tensorboard), (mlflow, in_mlflow)], ids=["tensorboard", "mlflow"]
)


def trained(logger, *callbacks):
    """The weights after a short training."""
    seed_everything(0, verbose=False)
    model = AutoencoderModule(FullyConnectedAutoencoder((1, 25, 25), num_layers=2, width=8))
    settings = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", max_epochs=2, logger=logger, callbacks=list(callbacks), **settings)
    trainer.fit(model, FacesDataModule(num_train=4, num_controls=4))
    return torch.cat([one.detach().flatten() for one in model.parameters()])


@WAYS
@pytest.mark.usefixtures("without_report")
def test_a_training_is_logged_and_stays_what_it_is(tmp_path, make, read):
    logger = make(tmp_path)
    quiet = {"print_table": False, "figures": False}
    settings = {"methods": ["known_mask"], "patterns": ["half"], "every_n_epochs": 1, "log_images": 2}
    weights = trained(logger, MemorizationAuditCallback(**settings, **quiet))
    numbers, images = read(logger)
    steps = [step for name, step in numbers if name == "memaudit/recovery_rate"]
    assert len(steps) == 2
    for step in steps:
        assert 0 < numbers["memaudit/train_loss", step] < 1
        assert images["memaudit/images/members/truth/1", step].shape[:2] == (25, 25)
        assert ("memaudit/images/members/half/known_mask/image/1", step) in images
        assert ("memaudit/images/members/truth/2", step) not in images
    assert torch.equal(weights, trained(False))


@WAYS
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_and_numbers_arrive_as_they_are(tmp_path, make, read, channels):
    logger = make(tmp_path)
    members = torch.rand(3, channels, 12, 12)
    names = {"patterns": ["random-0.5+noise-0.05"], "methods": ["known_mask"]}
    report = audit(memory(members), members, torch.rand(3, channels, 12, 12), **names)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="MLFlow only allows")
        assert log_audit(logger, report, "memaudit", num_images=2) is None
    numbers, images = read(logger)
    pattern = "random-0.5+noise-0.05" if make is tensorboard else "random-0.5_noise-0.05"
    step = report.occasion.step or 0
    rate = numbers[f"memaudit/{pattern}/known_mask/recovery_rate", step]
    assert rate == pytest.approx(report.rate("known_mask", "random-0.5+noise-0.05"))
    assert (f"memaudit/images/members/{pattern}/known_mask/image/0", step) in images
    truth = np.moveaxis((255 * report.recoveries["members/truth"][1]).round().astype(np.uint8), 0, -1)
    arrived = images["memaudit/images/members/truth/1", step]
    assert np.array_equal(arrived.reshape(12, 12, -1)[..., :channels], truth)


class Plain(Logger):
    """All that Lightning asks of a logger."""

    name, version = "plain", 0

    def __init__(self):
        super().__init__()
        self.metrics = {}

    def log_metrics(self, metrics, step=None):
        self.metrics |= metrics

    def log_hyperparams(self, *args, **kwargs):
        pass


def test_a_logger_without_experiment_gets_the_numbers(report):
    logger = Plain()
    assert "takes no images" in log_audit(logger, report, "memaudit", num_images=2)
    assert logger.metrics["memaudit/recovery_rate"] == 1.0
