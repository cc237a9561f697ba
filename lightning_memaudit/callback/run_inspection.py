"""What can be known of a training run before its first step: its monitors, and what to write down of it."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn

from lightning_memaudit import __version__
from lightning_memaudit.callback.inspection import Inspection
from lightning_memaudit.callback.outputs import Outputs
from lightning_memaudit.callback.reading.group_reading import ReadGroup
from lightning_memaudit.callback.schedule import Schedule
from lightning_memaudit.measurement.engine import now
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.near_duplicates import CONTRAST_DB, NEAR_DUPLICATE_PSNR, near_duplicates
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.measurement.reference import ReferenceModels
from lightning_memaudit.results.files import plain
from lightning_memaudit.results.hashes import combined_sha256, tensors_sha256

DEFAULT_SOURCES = {"members": "train dataset", "controls": "validation dataset"}
"""What ``run.json`` calls the data sets that the run's own dataloaders have."""


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


def check_callbacks(callbacks: Sequence[Callback], audit: Callback, schedule: Schedule) -> None:
    """Warn when weights are averaged only after the audit at the end of fit, and when audits take of limited time.

    Args:
        callbacks: All of the trainer's.
        audit: Which of them is this one.
        schedule: When audits are due.
    """
    later = callbacks[list(callbacks).index(audit) + 1 :]
    for callback in later:
        if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
            rank_zero_warn(
                f"{type(callback).__name__} comes after {type(audit).__name__} in callbacks: the audit at the end of "
                "fit sees the weights before they are averaged; put it first to audit the averaged ones"
            )
    limited = any(isinstance(one, Timer) and one.time_remaining() is not None for one in callbacks)
    if limited and (schedule.first_epoch() is not None or schedule.at_train_loss):
        rank_zero_warn(
            "max_time, or a Timer's duration, goes on during audits: the training ends after fewer steps than without; "
            "audit at the end of fit alone, or allow for them"
        )


def check_folders(trainer: Trainer, own: Outputs, others: Sequence[Outputs]) -> None:
    """Raise where another callback of the same run writes to the same folder.

    Raises:
        ValueError: One does.
    """
    mine = own.folder(trainer.default_root_dir)
    if any(other.folder(trainer.default_root_dir).resolve() == mine.resolve() for other in others):
        raise ValueError(f"dirpath={str(mine)!r} is the folder of two callbacks: pass different ones")


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


def describe_group(read: ReadGroup, hashes: Sequence[str], num_saved: int) -> dict[str, Any]:
    """What ``run.json`` says of one group of images.

    Args:
        read: The whole group.
        hashes: Of each image.
        num_saved: Images whose recoveries are kept.
    """
    source = read.source
    normalization = read.format.normalization
    return {
        "num_images": len(hashes),
        "num_available": read.num_available,
        "source": type(source.dataset).__name__ if source.given else DEFAULT_SOURCES[source.group],
        "reading": "; ".join(read.reading),
        "mean": None if normalization.mean is None else list(normalization.mean),
        "std": None if normalization.std is None else list(normalization.std),
        "sha256": combined_sha256(list(hashes)),
        "saved_sha256": combined_sha256(list(hashes[:num_saved])),
    }


def describe(
    trainer: Trainer,
    pl_module: LightningModule,
    found: Inspection,
    plan: Plan,
    references: ReferenceModels | None,
    processes: Processes,
) -> dict[str, Any]:
    """The content of ``run.json``, but for the run's own name.

    Args:
        trainer: Of the run.
        pl_module: Its model.
        found: The images that were read.
        plan: What is measured.
        references: The reference models, if there are any.
        processes: Of the run.
    """
    groups = describe_groups(found, processes, plan.save_recoveries)
    description = {
        **describe_run(trainer, pl_module),
        "image_shape": list(found.reads[0].format.shape),
        "members": groups.get("members"),
        "controls": groups.get("controls"),
        "settings": describe_plan(plan, references),
        "notes": found.notes,
    }
    if trainer.is_global_zero:
        description["near_duplicates"] = describe_near_duplicates(found.groups)
    return description


def notes_on_history(before: Mapping[str, Any], now_: Mapping[str, Any], trainer: Trainer) -> list[str]:
    """What a reader should know who compares the audits of one history; other images than before are a warning too.

    Args:
        before: The ``run.json`` of its earlier audits; empty where there are none.
        now_: The one that is about to be written.
        trainer: Of the run.
    """
    notes = []
    changed = [
        group
        for group in ("members", "controls")
        if before and (before.get(group) or {}).get("sha256") != (now_.get(group) or {}).get("sha256")
    ]
    if changed:
        notes.append(
            f"{' and '.join(changed)}: other images than in the earlier audits of this run, which stand beside the new "
            "ones in the same files: pass another name for a history of its own"
        )
        rank_zero_warn(notes[0])
    averaging = [type(one).__name__ for one in trainer.callbacks if isinstance(one, WeightAveraging)]  # type: ignore[attr-defined]
    if averaging:
        notes.append(
            f"{averaging[0]} averages the weights: audits during the training are of the weights as they are trained; "
            "that at the end of fit is of the averaged ones where this comes before the audit in callbacks"
        )
    return notes


def describe_groups(found: Inspection, processes: Processes, num_saved: int) -> dict[str, Any]:
    """What ``run.json`` says of members and controls; every process takes part.

    Args:
        found: The images; what there is to note of them is noted.
        processes: Which of them have compared how many.
        num_saved: Images of each group whose recoveries are kept.
    """
    groups = {read.group.name: describe_group(read, found.hashes[read.group.name], num_saved) for read in found.reads}
    if found.compared is not None:
        shares = dict(processes.gather(found.compared.num_images))
        compared = replace(found.compared, num_images=sum(shares.values()))
        groups["controls"]["identity_check"] = {"checked": compared.num_images, "of": compared.num_reachable}
        found.notes += [] if compared.note is None else [compared.note]
    return groups


def describe_plan(plan: Plan, references: ReferenceModels | None = None) -> dict[str, Any]:
    """What ``run.json`` says of the settings of the audits."""
    return ({} if references is None else {"reference": list(references.sources)}) | {
        "patterns": [pattern.name for pattern in plan.patterns],
        "methods": list(plan.methods),
        "primary_method": plan.primary,
        "without_autoencoder": plan.without_autoencoder,
        "method_settings": {name: repr(method) for name, method in plan.methods.items()},
        "threshold_db": plan.threshold_db,
        "seed": plan.seed,
        "save_recoveries": plan.save_recoveries,
        **({} if plan.max_seconds is None else {"max_seconds": plan.max_seconds}),
        **({} if plan.show_channels is None else {"show_channels": list(plan.show_channels)}),
    }


def has_spread_weights(trainer: Trainer) -> bool:
    """Whether processes hold parts of one copy of the weights, so that all of them must call the model together."""
    return isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)


def weights_sha256(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Hash of the weights as a checkpoint would hold them; None where they are spread over processes."""
    if has_spread_weights(trainer) or isinstance(trainer.strategy, DeepSpeedStrategy):
        return None
    return tensors_sha256(pl_module.state_dict())


def describe_near_duplicates(groups: Sequence[Group]) -> dict[str, Any]:
    """Positions of members that nearly equal another member, and of controls that nearly equal a member."""
    members = groups[0].images
    found = {"members": near_duplicates(members)}
    found |= {group.name: near_duplicates(group.images, members) for group in groups[1:]}
    measure = {"psnr_db": NEAR_DUPLICATE_PSNR, "contrast_db": CONTRAST_DB}
    return measure | {name: one.nonzero().flatten().tolist() for name, one in found.items()}


def say_if_replaced(session: Any, after_last: bool) -> None:
    """Warn where the weights are no longer those that the audit after the last step has seen.

    Args:
        session: Of the run, see :class:`~lightning_memaudit.callback.session.Session`; every process asks it.
        after_last: Whether the newest audit was after the last step.
    """
    if after_last and session.weights_changed():
        rank_zero_warn(
            "the weights were replaced after the last audit, as by a moving average or a checkpoint that is loaded at "
            "the end: the report is of those before; audit what you use, with python -m lightning_memaudit audit RUN "
            "--ckpt_path FILE, or put the callback that replaces them before this one"
        )
