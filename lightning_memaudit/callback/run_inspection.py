"""What can be known of a training run before its first step: its data sets, its monitors, what to write down of it."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, SubsetRandomSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_memaudit import __version__
from lightning_memaudit.callback.schedule import Schedule
from lightning_memaudit.measurement.engine import now
from lightning_memaudit.measurement.near_duplicates import NEAR_DUPLICATE_PSNR, near_duplicates
from lightning_memaudit.measurement.plan import Group, Plan
from lightning_memaudit.results.files import plain
from lightning_memaudit.results.hashes import combined_sha256, tensors_sha256


def train_dataset(trainer: Trainer) -> tuple[Dataset[Any], list[int]]:
    """The data set of the (first) train dataloader, and which of its items can be trained on at all.

    Raises:
        ValueError: There is no data set that can be indexed.
    """
    loader = first_loader(trainer.train_dataloader, "members")
    return dataset_of(loader, "members"), trained_indices(loader, trainer.num_training_batches)


def validation_dataset(trainer: Trainer) -> Dataset[Any] | None:
    """The data set of the (first) validation dataloader; None when the run has none.

    Lightning asks for these loaders when validation first runs, perhaps many epochs from now. Asking in its place would
    change when their hook draws random numbers. So they are asked for once more; the caller preserves random states.

    Raises:
        ValueError: There is no data set that can be indexed.
    """
    loaders = trainer.val_dataloaders
    if loaders is None:
        source = trainer.fit_loop.epoch_loop.val_loop._data_source
        if source.instance is None or not source.is_defined():
            return None
        loaders = source.dataloader()
    if not loaders:
        return None
    return dataset_of(first_loader(loaders, "controls"), "controls")


def first_loader(loaders: Any, group: str) -> Any:
    """The first dataloader within whatever Lightning was given: one, a list, a mapping, a CombinedLoader.

    Raises:
        ValueError: There is none that has a data set.
    """
    while not isinstance(loaders, DataLoader):
        if isinstance(loaders, Mapping) and loaders:
            loaders = next(iter(loaders.values()))
        elif isinstance(loaders, Sequence) and loaders:
            loaders = loaders[0]
        elif hasattr(loaders, "iterables"):
            loaders = loaders.iterables
        elif hasattr(loaders, "dataset"):
            break
        else:
            raise ValueError(f"{group}: no data set found in {type(loaders).__name__}; pass {group}=<a data set>")
    return loaders


def dataset_of(loader: Any, group: str) -> Dataset[Any]:
    """The data set of a loader.

    Raises:
        ValueError: It cannot be indexed.
    """
    dataset: Dataset[Any] = loader.dataset
    indexable = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, IterableDataset) or not indexable:
        raise ValueError(
            f"{group}: {type(dataset).__name__} cannot be indexed; pass {group}=<a map-style data set of the images>"
        )
    return dataset


def trained_indices(loader: Any, num_batches: float) -> list[int]:
    """Indices of the items that ``num_batches`` batches per epoch can reach, in increasing order.

    With limited batches (``limit_train_batches``, ``overfit_batches``, ``fast_dev_run``) and no shuffling, the rest of
    the data set is never trained on; nor is what a sampler leaves out.
    """
    count = len(loader.dataset)
    sampler, batch_size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None)
    plain = type(getattr(loader, "batch_sampler", None)) is BatchSampler
    if isinstance(sampler, SubsetRandomSampler):
        return sorted({int(index) for index in sampler.indices})
    if not plain or batch_size is None or num_batches >= len(loader):
        return list(range(count))
    shuffled = not isinstance(sampler, SequentialSampler)
    copies = 1
    if isinstance(sampler, DistributedSampler):
        shuffled, copies = sampler.shuffle, sampler.num_replicas
    if not shuffled:
        return list(range(min(count, int(num_batches) * batch_size * copies)))
    rank_zero_warn(
        f"members: only {int(num_batches)} of {len(loader)} batches are trained on in each epoch, in random order: "
        "some images may never have been; pass members=<a data set of those that are> for exact rates"
    )
    return list(range(count))


def check_monitors(trainer: Trainer, names: Sequence[str], schedule: Schedule, prefix: str) -> None:
    """Check callbacks that monitor an audit's metric: it must exist when they first look, and they must know its age.

    Warns where a callback would see the number of an earlier audit.

    To be called when all callbacks have been set up.

    Args:
        trainer: Whose callbacks.
        names: Of the metrics that there will be, without the prefix.
        schedule: When audits are due.
        prefix: What comes before ``/`` in the names of an audit's metrics.

    Raises:
        ValueError: There is no such metric, or not yet when it is first looked at.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str) or not monitor.startswith(f"{prefix}/"):
            continue
        who = f"{type(callback).__name__}(monitor={monitor!r})"
        if monitor.removeprefix(f"{prefix}/") not in names:
            raise ValueError(f"{who}: there is no such metric; monitor one of {', '.join(names)} after {prefix}/")
        if isinstance(callback, EarlyStopping):
            at_epoch_end, needed = bool(callback._check_on_train_epoch_end), callback.strict
        elif isinstance(callback, ModelCheckpoint):
            at_epoch_end, needed = callback._should_save_on_train_epoch_end(trainer), True
        else:
            at_epoch_end, needed = True, False
        first = schedule.first_epoch()
        if needed and (first is None or first > int(at_epoch_end)):
            raise ValueError(f"{who} looks before the first audit: pass at_epochs=[0] to audit before the first epoch")
        if schedule.every_n_epochs != 1:
            rank_zero_warn(
                f"{who} sees a new value only after an audit, and the last one again until then: repeats count for "
                "patience and top-k; pass every_n_epochs=1 for a new one in every epoch"
            )
        elif not at_epoch_end:
            rank_zero_warn(
                f"{who} looks after validation, before the audit of the same epoch: it sees the value of the epoch "
                "before; let it look at the end of training epochs"
            )


def check_order(callbacks: Sequence[Callback], audit: Callback) -> None:
    """Warn when averaged weights replace the trained ones only after the audit at the end of fit."""
    later = callbacks[list(callbacks).index(audit) + 1 :]
    for callback in later:
        if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
            rank_zero_warn(
                f"{type(callback).__name__} comes after {type(audit).__name__} in callbacks: the audit at the end of "
                "fit sees the weights before they are averaged; put it first to audit the averaged ones"
            )


def describe_run(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """What ``run.json`` says of software, machine and model."""
    device = pl_module.device
    children = ", ".join(type(child).__name__ for child in pl_module.children())
    return {
        "created": now(),
        "versions": {
            "lightning_memaudit": __version__,
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "python": platform.python_version(),
        },
        "machine": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "num_processes": trainer.world_size,
        },
        "model": {
            "class": f"{type(pl_module).__name__}({children})",
            "num_parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
            "hyperparameters": plain(dict(pl_module.hparams), otherwise=repr),
        },
    }


def describe_group(
    group: Group, hashes: Sequence[str], given: Dataset[Any] | None, default: str, num_saved: int
) -> dict[str, Any]:
    """What ``run.json`` says of one group of images.

    Args:
        group: The whole group.
        hashes: Of each image.
        given: The data set that was passed; None where it is the run's own.
        default: What the run's own is called.
        num_saved: Images whose recoveries are kept.
    """
    available = getattr(group.images, "dataset", group.images)
    return {
        "num_images": len(hashes),
        "num_available": len(available),
        "source": default if given is None else type(given).__name__,
        "sha256": combined_sha256(list(hashes)),
        "saved_sha256": combined_sha256(list(hashes[:num_saved])),
    }


def describe_plan(plan: Plan) -> dict[str, Any]:
    """What ``run.json`` says of the settings of the audits."""
    return {
        "patterns": [pattern.name for pattern in plan.patterns],
        "methods": list(plan.methods),
        "primary_method": plan.primary,
        "method_settings": {name: repr(method) for name, method in plan.methods.items()},
        "threshold_db": plan.threshold_db,
        "seed": plan.seed,
    }


def weights_sha256(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Hash of the weights as a checkpoint would hold them; None where they are spread over processes."""
    if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
        return None
    return tensors_sha256(pl_module.state_dict())


def describe_near_duplicates(groups: Sequence[Group]) -> dict[str, Any]:
    """Positions of members that nearly equal another member, and of controls that nearly equal a member."""
    members = groups[0].images
    found = {"members": near_duplicates(members)}
    found |= {group.name: near_duplicates(group.images, members) for group in groups[1:]}
    return {"psnr_db": NEAR_DUPLICATE_PSNR} | {name: one.nonzero().flatten().tolist() for name, one in found.items()}
