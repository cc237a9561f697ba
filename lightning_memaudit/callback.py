"""The callback: audits a run while it trains, and shows what it found. Composes ``audit`` and ``report``."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import lightning_memaudit
from lightning_memaudit.audit.adapter import ModuleAutoencoder, Normalization, Reconstruct, bind_reconstruct
from lightning_memaudit.audit.degradations import parse_degradation
from lightning_memaudit.audit.engine import (
    DEFAULT_METHODS,
    DEFAULT_PATTERNS,
    AuditReport,
    Collective,
    check_group,
    now,
    run_audit,
)
from lightning_memaudit.audit.extras import Extra, largest_missing_extra, proximal_extra, write_extra
from lightning_memaudit.audit.fingerprints import combined_sha256, tensors_sha256
from lightning_memaudit.audit.groups import (
    DatasetImages,
    check_disjoint,
    choose_indices,
    image_hashes,
    part_of,
    warn_if_random,
)
from lightning_memaudit.audit.isolation import preserved_random_state, undisturbed
from lightning_memaudit.audit.measure import Group, InpaintingCache, Plan
from lightning_memaudit.audit.methods import Methods, primary_method, resolve_methods
from lightning_memaudit.audit.results import RunFolder
from lightning_memaudit.audit.schedule import Schedule
from lightning_memaudit.audit.summary import Occasion
from lightning_memaudit.duplicates import NEAR_DUPLICATE_PSNR, near_duplicates

PREFIX = "memaudit"


class MemorizationAuditCallback(Callback):
    """Audits what an autoencoder remembers of its training images, at chosen moments of any training run.

    Attach it to a run that already exists; nothing about the run changes, and the trained weights are the same to the
    last bit. At every audit the images are degraded, recovered blindly with the current autoencoder (Abitbul & Dar,
    arXiv 2310.02897) and compared with the truth. Rates go to the loggers, everything to files under ``dirpath``.

    When to audit, which images, how the model is called, what is measured and where results go, in this order:

    Args:
        every_n_epochs: After every n-th epoch.
        at_epochs: After these numbers of epochs; 0 is before the first.
        at_train_loss: When an epoch's mean training loss first falls to each of these levels.
        at_fit_end: At the end of fit.
        members: Images that are trained on; default: the data set of the run's train dataloader.
        controls: Images that are not; default: the data set of the run's validation dataloader.
        num_members: Audit a seeded random choice of so many; None audits all.
        num_controls: Likewise.
        image_key: Index or key of the image in an item; default: the item itself, or its first element.
        image_shape: (C, H, W) for data sets of flat vectors.
        reconstruct: ``"forward"``, another method's name, or a function ``(module, images)``.
        output: Index, key or attribute of the reconstruction in what is returned.
        flatten: Give the model (B, C·H·W).
        mean: What the data set subtracts from images in [0, 1], per channel or one for all.
        std: What it then divides by. For images in [-1, 1]: ``mean=[0.5], std=[0.5]``.
        patterns: Degradations by name, such as ``random-0.5`` or ``block-0.25``.
        methods: Names, or a mapping from names to methods.
        threshold_db: PSNR in dB at or above which an image counts as recovered.
        seed: Seeds the masks and the choice of images.
        block_size: Images that are degraded and recovered together.
        dirpath: Folder of the results; default ``<default_root_dir>/memaudit``.
        figures: Draw PNG figures at the end of fit, beside report.html and report.json.
        print_table: Print a table after every audit.
        num_proximal: At the end, also say how far the model is from a proximal map at so many images per group.
        largest_missing: At the end, also find the largest missing fraction from which each image still comes back.
        log_images: Recovered training images per group and pattern to send to the loggers; they are training data.
        save_recoveries: Images per group whose recoveries the newest audit keeps on disk.
        on_error: What a failing audit does to the training: ``warn`` and go on, or ``raise``.
    """

    def __init__(
        self,
        every_n_epochs: int | None = None,
        at_epochs: Sequence[int] = (),
        at_train_loss: Sequence[float] = (),
        at_fit_end: bool = True,
        members: Dataset[Any] | None = None,
        controls: Dataset[Any] | None = None,
        num_members: int | None = 100,
        num_controls: int | None = 100,
        image_key: int | str | None = None,
        image_shape: Sequence[int] | None = None,
        reconstruct: Reconstruct = "forward",
        output: int | str | None = None,
        flatten: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        patterns: Sequence[str] = DEFAULT_PATTERNS,
        methods: Methods = DEFAULT_METHODS,
        threshold_db: float = 30.0,
        seed: int = 0,
        block_size: int = 512,
        dirpath: str | Path | None = None,
        figures: bool = True,
        print_table: bool = True,
        num_proximal: int = 0,
        largest_missing: bool = False,
        log_images: int = 0,
        save_recoveries: int = 64,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        for name, value in (("num_members", num_members), ("num_controls", num_controls)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1, or null for all")
        counts = {"num_proximal": num_proximal, "log_images": log_images, "save_recoveries": save_recoveries}
        for name, count in counts.items():
            if count < 0:
                raise ValueError(f"{name}={count}: must be 0 or more")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error={on_error!r}: pass 'warn' or 'raise'")
        if not 0 < threshold_db < float("inf"):
            raise ValueError(f"threshold_db={threshold_db}: must be a positive number of decibels, such as 30")
        self.schedule = Schedule(every_n_epochs, at_epochs, at_train_loss, at_fit_end)
        self.plan = Plan(
            [parse_degradation(name) for name in patterns],
            resolve_methods(methods),
            seed,
            block_size,
            save_recoveries,
            raise_errors=on_error == "raise",
        )
        self.members, self.controls = members, controls
        self.num_members, self.num_controls = num_members, num_controls
        self.image_key, self.image_shape = image_key, image_shape
        self.reconstruct, self.output, self.flatten = reconstruct, output, flatten
        self.normalization = Normalization(mean, std)
        self.threshold_db = threshold_db
        self.dirpath = dirpath
        self.figures, self.print_table = figures, print_table
        self.extras: list[Extra] = []
        if num_proximal:
            self.extras.append(proximal_extra(num_proximal))
        if largest_missing:
            self.extras.append(largest_missing_extra(self.plan, threshold_db))
        self.log_images = log_images
        self.on_error = on_error

        self.last_report: AuditReport | None = None
        self._num_audits = 0
        self._last_step: int | None = None
        self._headline: dict[str, float] = {}
        self._loss_sum: Tensor | None = None
        self._loss_count = 0
        self._groups: list[Group] = []
        self._cache: InpaintingCache = {}
        self._folder: RunFolder | None = None

    # What Lightning calls

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check everything that needs no data: the schedule, how the model is called, the folder."""
        if stage != "fit":
            return
        self.schedule.check(trainer.max_epochs)
        self._open(trainer, pl_module)

    def _open(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bind(trainer, pl_module)
        root = Path(self.dirpath) if self.dirpath is not None else Path(trainer.default_root_dir) / PREFIX
        self._folder = RunFolder(root)
        if trainer.is_global_zero:
            self._folder.prepare()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the images and the model with one small batch, before the first step; audit if epoch 0 is due."""
        self._groups = self._find_groups(trainer, pl_module)
        self._preflight(trainer, pl_module)
        trigger = self.schedule.due_at_start()
        if trigger is not None and trainer.current_epoch == 0 and self._num_audits == 0:
            self._audit(trainer, pl_module, trigger, 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up the loss on its device, without waiting for it."""
        if not self.schedule.at_train_loss:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            # Lightning hands over the loss divided by the number of accumulated batches.
            loss = loss.detach() * trainer.accumulate_grad_batches
            self._loss_sum = loss if self._loss_sum is None else self._loss_sum + loss
            self._loss_count += 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit if one is due, and log the newest rates for monitors."""
        num_epochs = trainer.current_epoch + 1  # Lightning counts it as done only after this hook
        trigger = self.schedule.due(num_epochs, self._epoch_loss(trainer))
        if trigger is not None:
            self._audit(trainer, pl_module, trigger, num_epochs)
        for name, value in self._headline.items():
            pl_module.log(f"{PREFIX}/{name}", value, logger=False, rank_zero_only=False, sync_dist=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit at the end of fit, unless these very weights were audited; write the report."""
        if self.schedule.at_fit_end and self._last_step != trainer.global_step:
            self._audit(trainer, pl_module, "fit_end", trainer.current_epoch)
        if self._num_audits:
            self._finish(trainer, pl_module)

    def audit_once(self, trainer: Trainer, pl_module: LightningModule, epoch: int | None, step: int | None) -> None:
        """Audit the model as it is, outside of a fit; whatever fails is raised.

        Args:
            trainer: In a stage that has set up the model under its strategy.
            pl_module: The model.
            epoch: Epochs of training done, if known.
            step: Optimizer steps done, if known.
        """
        self.on_error = "raise"
        self.plan = replace(self.plan, raise_errors=True)
        self._open(trainer, pl_module)
        self._groups = self._find_groups(trainer, pl_module)
        self._preflight(trainer, pl_module)
        weights = _weights_sha256(trainer, pl_module) if trainer.is_global_zero else None
        self.last_report = self._measure(trainer, pl_module, Occasion(0, "audit", epoch, step, now(), weights))
        self._publish(trainer, self.last_report)
        self._finish(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs, in plain Python: no audit is lost, none is done twice."""
        return {
            "num_audits": self._num_audits,
            "last_step": self._last_step,
            "headline": dict(self._headline),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._num_audits = state_dict["num_audits"]
        self._last_step = state_dict["last_step"]
        self._headline = dict(state_dict["headline"])
        self.schedule.load_state_dict(state_dict["schedule"])

    # The audit

    def _audit(self, trainer: Trainer, pl_module: LightningModule, trigger: str, num_epochs: int) -> None:
        """Run one audit; a failure is logged or raised, and never disturbs the training otherwise."""
        weights = _weights_sha256(trainer, pl_module) if trainer.is_global_zero else None
        occasion = Occasion(self._num_audits, trigger, num_epochs, trainer.global_step, now(), weights)
        try:
            report = self._measure(trainer, pl_module, occasion)
            self._publish(trainer, report)
        except Exception as error:
            if self.on_error == "raise":
                raise
            rank_zero_warn(
                f"memorization audit {occasion.audit} ({trigger}) failed and was skipped, the training goes on: "
                f"{type(error).__name__}: {error}"
            )
            return
        finally:
            self._last_step = trainer.global_step
            self._num_audits += 1
        self.last_report = report
        self._headline = report.headline

    def _measure(self, trainer: Trainer, pl_module: LightningModule, occasion: Occasion) -> AuditReport:
        from lightning_memaudit.report.progress import AuditProgress

        total = sum(len(group.images) for group in self._groups) * len(self.plan.patterns) * len(self.plan.methods)
        with (
            self._autoencoder(trainer, pl_module) as autoencoder,
            AuditProgress(trainer, total, occasion.trigger) as bar,
        ):
            return run_audit(
                autoencoder,
                self._groups,
                self.plan,
                occasion,
                self.threshold_db,
                Collective(_gather),
                self._cache,
                bar.advance,
            )

    @contextmanager
    def _autoencoder(self, trainer: Trainer, pl_module: LightningModule) -> Iterator[ModuleAutoencoder]:
        """The model as a function on images, within everything that keeps the training undisturbed."""
        call = self._bind(trainer, pl_module)
        precision = trainer.precision_plugin

        def forward(images: Tensor) -> Any:
            with precision.forward_context():
                return call(precision.convert_input(images))

        with undisturbed(pl_module):
            yield ModuleAutoencoder(forward, self.output, self.flatten, self.normalization)

    def _bind(self, trainer: Trainer, pl_module: LightningModule) -> Callable[[Tensor], Any]:
        sharded = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
        forward = trainer.strategy.model if sharded and trainer.strategy.model is not None else pl_module
        return bind_reconstruct(pl_module, forward, self.reconstruct)

    def _publish(self, trainer: Trainer, report: AuditReport) -> None:
        """Files first, then the terminal, then the loggers; on the first process only."""
        if not trainer.is_global_zero:
            return
        assert self._folder is not None  # setup made it
        report.append_to(self._folder)
        if self.print_table:
            from lightning_memaudit.report.terminal import print_audit

            print_audit(report.rows)
        self._log(trainer, report)

    def _log(self, trainer: Trainer, report: AuditReport) -> None:
        from lightning_memaudit.report.loggers import log_audit

        for logger in trainer.loggers:
            log_audit(logger, report, PREFIX, self.log_images)

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure what was asked for beyond the audit, then write the report."""
        try:
            self._measure_extras(trainer, pl_module)
            if trainer.is_global_zero and self._folder is not None:
                self._write_report(self._folder)
        except Exception as error:
            if self.on_error == "raise":
                raise
            rank_zero_warn(f"the report was not written: {type(error).__name__}: {error}")

    def _measure_extras(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for extra in self.extras:
            with self._autoencoder(trainer, pl_module) as autoencoder:
                rows = [row for group in self._groups for row in extra.measure(autoencoder, group)]
            parts: list[Any] = _gather(rows)
            if trainer.is_global_zero and self._folder is not None:
                write_extra(self._folder.path / extra.file, extra.settings, parts)

    def _write_report(self, folder: RunFolder) -> None:
        from lightning_memaudit.report.write import write_report

        report = write_report(folder, figures=self.figures)
        if self.print_table:
            from lightning_memaudit.report.terminal import print_verdict

            print_verdict(report.document)

    # Before the first step

    def _find_groups(self, trainer: Trainer, pl_module: LightningModule) -> list[Group]:
        members = self.members if self.members is not None else dataset_of(trainer.train_dataloader, "members")
        controls = self.controls
        if controls is None and trainer.state.fn == TrainerFn.FITTING:
            if trainer.val_dataloaders is None:
                # Lightning loads them when validation first runs, perhaps many epochs from now; it keeps what is here.
                with preserved_random_state():
                    trainer.fit_loop.epoch_loop.val_loop.setup_data()
            if trainer.val_dataloaders:
                controls = dataset_of(trainer.val_dataloaders, "controls")
        groups = []
        for name, dataset, wanted in (
            ("members", members, self.num_members),
            ("controls", controls, self.num_controls),
        ):
            if dataset is None:
                continue
            indices = choose_indices(len(dataset), wanted, self.plan.seed)  # type: ignore[arg-type]
            images = DatasetImages(
                dataset, indices, self.image_key, self.normalization, pl_module.device, self.image_shape
            )
            # Mask i goes to the i-th image of either group: members and controls are paired by mask.
            groups.append(Group(name, images, indices, range(len(indices))))
        return groups

    def _preflight(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with self._autoencoder(trainer, pl_module) as autoencoder:
            hashes = {}
            for group in self._groups:
                check_group(group, autoencoder)
                hashes[group.name] = image_hashes(group)
            if "controls" in hashes:
                check_disjoint(hashes["members"], hashes["controls"])
            else:
                rank_zero_warn(
                    "controls: no images that were not trained on; rates of members alone say little. "
                    "Give the run a validation dataloader, or pass controls=<a data set>"
                )
            if self.members is None:
                images = self._groups[0].images
                assert isinstance(images, DatasetImages)
                warn_if_random(images.dataset, images.indices[0], self.image_key)
            twins = _near_duplicates(self._groups) if trainer.is_global_zero else {}
            shape = list(self._groups[0].images[slice(0, 1)].shape[1:])
        if trainer.is_global_zero and self._folder is not None:
            self._folder.write_run({**self._description(trainer, pl_module, hashes, shape), "near_duplicates": twins})
        self._groups = [part_of(group, trainer.global_rank, trainer.world_size) for group in self._groups]

    def _description(
        self, trainer: Trainer, pl_module: LightningModule, hashes: Mapping[str, list[str]], shape: list[int]
    ) -> dict[str, Any]:
        def group(name: str, given: Dataset[Any] | None, default: str) -> dict[str, Any] | None:
            if name not in hashes:
                return None
            source = default if given is None else type(given).__name__
            images = next(one.images for one in self._groups if one.name == name)
            assert isinstance(images, DatasetImages)
            return {
                "num_images": len(hashes[name]),
                "num_available": len(images.dataset),  # type: ignore[arg-type]
                "source": source,
                "sha256": combined_sha256(hashes[name]),
                "saved_sha256": combined_sha256(hashes[name][: self.plan.save_recoveries]),
            }

        device = pl_module.device
        methods = list(self.plan.methods)
        return {
            "created": now(),
            "versions": {
                "lightning_memaudit": lightning_memaudit.__version__,
                "torch": torch.__version__,
                "lightning": lightning.__version__,
                "python": platform.python_version(),
            },
            "machine": {
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                "num_processes": trainer.world_size,
            },
            "model": {
                "class": _describe(pl_module),
                "num_parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
                "hyperparameters": _plain(dict(pl_module.hparams)),
            },
            "image_shape": shape,
            "members": group("members", self.members, "train dataset"),
            "controls": group("controls", self.controls, "validation dataset"),
            "settings": {
                "patterns": [pattern.name for pattern in self.plan.patterns],
                "methods": methods,
                "primary_method": primary_method(methods),
                "method_settings": {name: repr(method) for name, method in self.plan.methods.items()},
                "threshold_db": self.threshold_db,
                "seed": self.plan.seed,
            },
            "notes": [],
        }

    def _epoch_loss(self, trainer: Trainer) -> float | None:
        """Mean training loss of the epoch over all batches and processes; the one synchronization per epoch."""
        if self._loss_sum is None:
            return None
        mean = trainer.strategy.reduce(self._loss_sum / self._loss_count, reduce_op="mean")
        self._loss_sum, self._loss_count = None, 0
        return float(mean)


def dataset_of(loaders: Any, group: str) -> Dataset[Any]:
    """The data set of the (first) dataloader in whatever Lightning was given."""
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
    dataset: Dataset[Any] = loaders.dataset
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"{group}: {type(dataset).__name__} cannot be indexed; pass {group}=<a map-style data set of the images>"
        )
    return dataset


def _near_duplicates(groups: Sequence[Group]) -> dict[str, Any]:
    """Positions of members that nearly equal another member, and of controls that nearly equal a member."""
    members = groups[0].images
    found = {"members": near_duplicates(members)}
    found |= {group.name: near_duplicates(group.images, members) for group in groups[1:]}
    return {"psnr_db": NEAR_DUPLICATE_PSNR} | {name: one.nonzero().flatten().tolist() for name, one in found.items()}


def _weights_sha256(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Hash of the weights as a checkpoint would hold them; None where they are spread over processes."""
    if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
        return None
    return tensors_sha256(pl_module.state_dict())


def _gather(value: object) -> list[object]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    gathered: list[object] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, value)
    return gathered


def _describe(pl_module: LightningModule) -> str:
    children = ", ".join(type(child).__name__ for child in pl_module.children())
    return f"{type(pl_module).__name__}({children})"


def _plain(value: Any) -> Any:
    """Plain JSON of hyperparameters; anything else by its repr."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) or value is None else repr(value)
