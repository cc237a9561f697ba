"""``fit`` with ``twin: true``: a model and its twin, trained alike on other images, each the reference of the other.

The controls are divided: on the first of them, as many as there are members, the twin is trained; the rest neither has
seen. Then each model is audited with the other as its reference, its own training images as members, and the rest as
controls: by images that the reference was trained on no false positive rate could be told.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, RandomSampler, Subset

from lightning_memaudit.cli.audit import AuditTrainer, CheckpointCLI
from lightning_memaudit.cli.fit import AuditCLI, parse, put_below
from lightning_memaudit.cli.main import UsageError
from lightning_memaudit.results.membership import MIN_FOR_AUROC

TWIN = "twin"
"""Folder of the twin's own run, below that of the original."""


def fit_with_twin(arguments: Sequence[str], original: AuditCLI, below: Any) -> dict[str, Path]:
    """Train the twin of a model that was just trained, and audit both.

    Args:
        arguments: Options of ``fit``, those of the original.
        original: Its command line, after the training.
        below: As :func:`~lightning_memaudit.cli.fit.parse` takes it.

    Returns:
        The folders of the two audits by ``original`` and ``twin``.

    Raises:
        UsageError: The data module has no dataloaders that can be divided.
    """
    root = Path(original.trainer.default_root_dir)
    checkpoints = {"original": root / "original.ckpt", TWIN: root / "twin.ckpt"}
    original.trainer.save_checkpoint(checkpoints["original"])
    twin = parse(["fit", *arguments], command_line=_TwinCLI, below=below)
    twin.trainer.save_checkpoint(checkpoints[TWIN])
    folders = {}
    for name, other in (("original", TWIN), (TWIN, "original")):
        folders[name] = root / "both_ways" / name
        options = {
            "ckpt_path": checkpoints[name],
            "memaudit.reference": checkpoints[other],
            "memaudit.dirpath": folders[name],
        }
        parse(
            ["audit", *arguments, *(f"--{option}={value}" for option, value in options.items())],
            command_line=_AuditOfTwin if name == TWIN else _AuditOfOriginal,
            trainer_class=AuditTrainer,
            save_config_callback=None,
            below=below,
        )
    return folders


class _TwinCLI(AuditCLI):
    """``fit`` on the first controls, with the members as controls."""

    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        put_below(self.config[str(self.subcommand)], TWIN)

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        divide(self.datamodule, on_controls=True, strangers=False)


class _AuditOfOriginal(CheckpointCLI):
    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        divide(self.datamodule, on_controls=False, strangers=True)


class _AuditOfTwin(CheckpointCLI):
    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        divide(self.datamodule, on_controls=True, strangers=True)


def divide(datamodule: LightningDataModule, on_controls: bool, strangers: bool) -> None:
    """Let a data module give other images to train on, and other controls.

    Args:
        datamodule: Its two methods for dataloaders are replaced on the object.
        on_controls: Train on the first controls, as many as there are members, instead of on the members.
        strangers: Let the controls be those that are left, where they are enough to compare with. Otherwise they are
            the images that the other model is trained on.

    >>> from lightning_memaudit.training.data import FacesDataModule
    >>> data = FacesDataModule(num_train=20, num_controls=50)
    >>> data.setup()
    >>> divide(data, on_controls=True, strangers=True)
    >>> len(data.train_dataloader().dataset), len(data.val_dataloader().dataset)
    (20, 30)
    """
    train: Callable[[], Any] = datamodule.train_dataloader
    validation: Callable[[], Any] = datamodule.val_dataloader

    def parts() -> tuple[DataLoader[Any], DataLoader[Any], int]:
        members, controls = _one(train(), "train"), _one(validation(), "validation")
        return members, controls, min(_length(members), _length(controls))

    def train_dataloader() -> DataLoader[Any]:
        members, controls, count = parts()
        return _like(members, Subset(controls.dataset, range(count))) if on_controls else members

    def val_dataloader() -> DataLoader[Any]:
        members, controls, count = parts()
        number = _length(controls)
        if strangers and number - count >= MIN_FOR_AUROC:
            return _like(controls, Subset(controls.dataset, range(count, number)))
        return _like(controls, members.dataset) if on_controls else controls

    datamodule.train_dataloader = train_dataloader  # type: ignore[method-assign]
    datamodule.val_dataloader = val_dataloader  # type: ignore[method-assign]


def _one(loader: Any, name: str) -> DataLoader[Any]:
    if isinstance(loader, list | tuple) and len(loader) == 1:
        loader = loader[0]
    if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__len__"):
        raise UsageError(f"twin=True: the {name} dataloader must be one DataLoader of a data set with a length")
    return loader


def _length(loader: DataLoader[Any]) -> int:
    return len(loader.dataset)  # type: ignore[arg-type] # checked by _one


def _like(loader: DataLoader[Any], dataset: Any) -> DataLoader[Any]:
    """A loader of another data set with the same settings."""
    return DataLoader(
        dataset,
        batch_size=min(loader.batch_size or 1, len(dataset)),
        shuffle=isinstance(loader.sampler, RandomSampler),
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        drop_last=loader.drop_last,
    )
