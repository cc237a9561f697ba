"""The callback: audits a run while it trains, and shows what it found. Composes ``audit`` and ``report``."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset

from lightning_memaudit.audit.adapter import (
    HalvingBatches,
    Key,
    ModuleAutoencoder,
    Normalization,
    Reconstruct,
    bind_reconstruct,
)
from lightning_memaudit.audit.degradations import parse_degradation
from lightning_memaudit.audit.engine import (
    DEFAULT_METHODS,
    DEFAULT_PATTERNS,
    AuditReport,
    check_group,
    now,
    run_audit,
)
from lightning_memaudit.audit.extras import Extra, largest_missing_extra, proximal_extra, write_extra
from lightning_memaudit.audit.fingerprints import combined_sha256
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
from lightning_memaudit.audit.processes import AuditInterrupted, Lockstep, Processes, ProcessesLost
from lightning_memaudit.audit.results import RUN, RunFolder
from lightning_memaudit.audit.schedule import Schedule
from lightning_memaudit.audit.summary import Occasion, headline_names
from lightning_memaudit.run_inspection import (
    check_monitors,
    check_order,
    describe_near_duplicates,
    describe_run,
    train_dataset,
    validation_dataset,
    weights_sha256,
)

FAST_DEV_RUN_IMAGES = 2


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
        image_key: Index or key of the image in an item, or several, outermost first; default: the item itself, or its
            first element.
        image_shape: (C, H, W) for data sets of flat vectors.
        reconstruct: ``"forward"``, another method's name, or a function ``(module, images)``.
        output: Index, key or attribute of the reconstruction in what is returned, or several, outermost first.
        flatten: Give the model (B, C·H·W).
        mean: What the data set subtracts from images in [0, 1], per channel or one for all.
        std: What it then divides by. For images in [-1, 1]: ``mean=[0.5], std=[0.5]``.
        patterns: Degradations by name, such as ``random-0.5`` or ``block-0.25``.
        methods: Names, or a mapping from names to methods.
        threshold_db: PSNR in dB at or above which an image counts as recovered.
        seed: Seeds the masks and the choice of images.
        block_size: Images that are degraded and recovered together.
        name: Prefix of the metrics and name of the folder; several callbacks in one run need different ones.
        dirpath: Folder of the results; default ``<default_root_dir>/<name>``.
        figures: Draw PNG figures at the end of fit, beside report.html and report.json.
        print_table: Print a table after every audit.
        num_proximal: At the end, also say how far the model is from a proximal map at so many images per group.
        largest_missing: At the end, also find the largest missing fraction from which each image still comes back.
        log_images: Recovered training images per group and pattern to send to the loggers; they are training data.
        save_recoveries: Images per group whose recoveries the newest audit keeps on disk.
        on_error: What a failing audit does to the training: ``warn`` and go on, or ``raise``. What can be known to be
            wrong before the first step always raises; so does the loss of another process.
        process_timeout: Seconds that the processes of a run wait for each other in an audit.

    Raises:
        ValueError: An argument is wrong; the message names it, its value and the mend.
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
        image_key: Key | None = None,
        image_shape: Sequence[int] | None = None,
        reconstruct: Reconstruct = "forward",
        output: Key | None = None,
        flatten: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        patterns: Sequence[str] = DEFAULT_PATTERNS,
        methods: Methods = DEFAULT_METHODS,
        threshold_db: float = 30.0,
        seed: int = 0,
        block_size: int = 512,
        name: str = "memaudit",
        dirpath: str | Path | None = None,
        figures: bool = True,
        print_table: bool = True,
        num_proximal: int = 0,
        largest_missing: bool = False,
        log_images: int = 0,
        save_recoveries: int = 64,
        on_error: Literal["warn", "raise"] = "warn",
        process_timeout: float = 1800.0,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-]", name):
            raise ValueError(f"name={name!r}: pass letters, digits, '_', '-' and '.' only")
        for argument, value in (("num_members", num_members), ("num_controls", num_controls)):
            if value is not None and value < 1:
                raise ValueError(f"{argument}={value}: must be at least 1, or null for all")
        counts = {"num_proximal": num_proximal, "log_images": log_images, "save_recoveries": save_recoveries}
        for argument, count in counts.items():
            if count < 0:
                raise ValueError(f"{argument}={count}: must be 0 or more")
        if not 0 < process_timeout < float("inf"):
            raise ValueError(f"process_timeout={process_timeout}: must be a positive number of seconds, such as 1800")
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
        self.name = name
        self.dirpath = dirpath
        self.figures, self.print_table = figures, print_table
        self.extras: list[Extra] = []
        if num_proximal:
            self.extras.append(proximal_extra(num_proximal))
        if largest_missing:
            self.extras.append(largest_missing_extra(self.plan, threshold_db))
        self.log_images = log_images
        self.on_error = on_error
        self.process_timeout = process_timeout

        self.last_report: AuditReport | None = None
        self._num_audits = 0
        self._last_step: int | None = None
        self._num_epochs: int | None = None
        self._headline: dict[str, float] = {}
        self._loss_sum: Tensor | float = 0.0
        self._loss_count = 0
        self._groups: list[Group] = []
        self._owners: list[object] = []
        self._cache: InpaintingCache = {}
        self._folder: RunFolder | None = None
        self._run: dict[str, Any] = {}
        self._processes = Processes()
        self._lockstep: Lockstep | None = None

    @property
    def state_key(self) -> str:
        """Tells the states of several such callbacks apart in a checkpoint."""
        return self._generate_state_key(name=self.name)

    # What Lightning calls

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check everything that needs no data: the schedule, how the model is called, the folder."""
        if stage != "fit":
            return
        self._connect(trainer)
        self._processes.share(lambda: self._setup(trainer, pl_module))

    def _connect(self, trainer: Trainer) -> None:
        share = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {"rank": 0, "num_replicas": 1}
        self._processes = Processes.connect(share["rank"], share["num_replicas"], self.process_timeout)

    def _setup(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.schedule.check(trainer.max_epochs)
        for part in self.schedule.never(trainer.max_epochs):
            rank_zero_warn(f"{part}: no such audit within max_epochs={trainer.max_epochs}")
        check_order(trainer.callbacks, self)  # type: ignore[attr-defined]
        self._open(trainer, pl_module)

    def _open(self, trainer: Trainer, pl_module: LightningModule) -> None:
        bind_reconstruct(pl_module, pl_module, self.reconstruct)
        root = Path(self.dirpath) if self.dirpath is not None else Path(trainer.default_root_dir) / self.name
        self._folder = None if trainer.fast_dev_run else RunFolder(root)  # type: ignore[attr-defined]
        if trainer.is_global_zero and self._folder is not None:
            for other in trainer.callbacks:  # type: ignore[attr-defined]
                folder = getattr(other, "_folder", None)
                if other is not self and isinstance(folder, RunFolder) and folder.path.resolve() == root.resolve():
                    raise ValueError(f"dirpath={str(root)!r} is the folder of two callbacks: pass different ones")
            self._folder.prepare()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the images and the model with one small batch, before the first step; audit if epoch 0 is due."""
        if not trainer.fast_dev_run and not self._headline:  # type: ignore[attr-defined]
            names = headline_names([pattern.name for pattern in self.plan.patterns], list(self.plan.methods))
            check_monitors(trainer, names, self.schedule, self.name)
        with preserved_random_state(pl_module, trainer.datamodule):  # type: ignore[attr-defined]
            self._inspect(trainer, pl_module)
        trigger = self.schedule.due_at_start()
        if trigger is not None and trainer.global_step == 0 and self._num_audits == 0:
            self._audit(trainer, pl_module, trigger, 0)
        self._show_monitors(trainer)
        if self._num_epochs is None:
            self._num_epochs = trainer.current_epoch
        elif trainer.current_epoch > self._num_epochs:
            # Resumed from a checkpoint after the last batch of an epoch, but before its end.
            self._end_epoch(trainer, pl_module, trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up the loss on its device, without waiting for it."""
        if not self.schedule.waits_for_loss:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            # Under automatic optimization the loss comes divided by the number of accumulated batches.
            scale = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
            self._loss_sum = self._loss_sum + loss.detach() * scale
            self._loss_count += 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit if one is due, and log its rates for monitors."""
        self._end_epoch(trainer, pl_module, trainer.current_epoch + 1)  # counted as done only after this hook

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit at the end of fit, unless these very weights were audited; write the report."""
        if self.schedule.at_fit_end and self._last_step != trainer.global_step:
            self._audit(trainer, pl_module, "fit_end", trainer.current_epoch)
        if self._num_audits and self._folder is not None:
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
        self._connect(trainer)
        self._processes.share(lambda: self._open(trainer, pl_module))
        self._inspect(trainer, pl_module)
        weights = weights_sha256(trainer, pl_module) if trainer.is_global_zero else None
        report = self._measure(trainer, pl_module, Occasion(0, "audit", epoch, step, now(), weights))
        self.last_report = report
        self._processes.share(lambda: self._publish(trainer, report))
        self._finish(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for an audit that a finished training lacks, when resuming it finds nothing left to train."""
        if self._num_epochs is None or self._groups or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.current_epoch == self._num_epochs and not self._lacks_last_audit(trainer):
            return
        self.on_train_start(trainer, pl_module)
        if self._lacks_last_audit(trainer):
            self.on_train_end(trainer, pl_module)

    def _lacks_last_audit(self, trainer: Trainer) -> bool:
        """Whether the audit at the end of fit is in neither the state nor the folder."""
        if not self.schedule.at_fit_end or self._last_step == trainer.global_step:
            return False
        last = (self._num_audits, trainer.global_step)
        done = self._folder is not None and last in self._folder.audited()
        return not self._processes.any(done)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give back what was taken for this run only."""
        self._processes.disconnect()
        self._processes, self._lockstep = Processes(), None
        self._groups, self._owners, self._cache = [], [], {}

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs, in plain Python: no audit is lost, none is done twice."""
        return {
            "num_audits": self._num_audits,
            "last_step": self._last_step,
            "num_epochs": self._num_epochs,
            "headline": dict(self._headline),
            "loss_sum": float(self._loss_sum),
            "loss_count": self._loss_count,
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._num_audits = state_dict["num_audits"]
        self._last_step = state_dict["last_step"]
        self._num_epochs = state_dict["num_epochs"]
        self._headline = dict(state_dict["headline"])
        self._loss_sum, self._loss_count = state_dict["loss_sum"], state_dict["loss_count"]
        self.schedule.load_state_dict(state_dict["schedule"])

    # The audit

    def _end_epoch(self, trainer: Trainer, pl_module: LightningModule, num_epochs: int) -> None:
        before = self.state_dict()
        trigger = self.schedule.due(num_epochs, self._epoch_loss())
        if trigger is None or self._audit(trainer, pl_module, trigger, num_epochs):
            self._num_epochs = num_epochs
        else:
            self.load_state_dict(before)

    def _audit(self, trainer: Trainer, pl_module: LightningModule, trigger: str, num_epochs: int) -> bool:
        """Run one audit; False when the run was asked to end meanwhile. A failure warns or raises, see ``on_error``."""
        occasion = Occasion(self._num_audits, trigger, num_epochs, trainer.global_step, now())
        try:
            with preserved_random_state():
                weights = weights_sha256(trainer, pl_module) if trainer.is_global_zero else None
                report = self._measure(trainer, pl_module, replace(occasion, weights_sha256=weights))
                self.last_report, self._headline = report, report.headline
                self._show_monitors(trainer)
                self._processes.share(lambda: self._publish(trainer, report))
        except ProcessesLost:
            raise
        except AuditInterrupted:
            rank_zero_warn(
                f"memorization audit {occasion.audit} ({trigger}) gave way to SIGTERM; resuming makes up for it"
            )
            return False
        except Exception as error:
            if self.on_error == "raise":
                raise
            rank_zero_warn(
                f"memorization audit {occasion.audit} ({trigger}) failed, the training goes on: "
                f"{type(error).__name__}: {error}"
            )
        self._last_step = trainer.global_step
        self._num_audits += 1
        return True

    def _measure(self, trainer: Trainer, pl_module: LightningModule, occasion: Occasion) -> AuditReport:
        from lightning_memaudit.report.progress import AuditProgress

        total = sum(len(group.images) for group in self._groups) * len(self.plan.patterns) * len(self.plan.methods)
        with (
            self._autoencoder(trainer, pl_module) as (autoencoder, processes),
            AuditProgress(trainer, total, occasion.trigger) as bar,
        ):
            return run_audit(
                autoencoder,
                self._groups,
                self.plan,
                occasion,
                self.threshold_db,
                processes,
                self._cache,
                bar.advance,
            )

    @contextmanager
    def _autoencoder(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> Iterator[tuple[Callable[[Tensor], Tensor], Processes]]:
        """The model as a function on images, within everything that keeps the training undisturbed."""
        call, processes = bind_reconstruct(pl_module, pl_module, self.reconstruct), self._processes
        strategy = trainer.strategy
        if isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
            call = bind_reconstruct(pl_module, strategy.model or pl_module, self.reconstruct)
            # Kept from the check before the first step on: a process without images has that input to answer with.
            self._lockstep = self._lockstep or Lockstep(call, processes)
            call, processes = self._lockstep, replace(processes, finish=self._lockstep.finish)
        precision = trainer.precision_plugin

        def forward(images: Tensor) -> Any:
            if trainer.received_sigterm:
                raise AuditInterrupted("SIGTERM")
            with precision.forward_context():
                return call(precision.convert_input(images))

        with undisturbed(pl_module, *self._owners):
            yield HalvingBatches(ModuleAutoencoder(forward, self.output, self.flatten, self.normalization)), processes

    def _publish(self, trainer: Trainer, report: AuditReport) -> None:
        """Files first, then the terminal, then the loggers; on the first process only."""
        if not trainer.is_global_zero:
            return
        if self._folder is not None:
            report.append_to(self._folder)
            if not (self._folder.path / RUN).is_file():
                self._folder.write_run(self._run)
        if self.print_table:
            from lightning_memaudit.report.terminal import print_audit

            print_audit(report.rows)
        self._log(trainer, report)

    def _log(self, trainer: Trainer, report: AuditReport) -> None:
        from lightning_memaudit.report.loggers import log_audit

        for logger in trainer.loggers:
            try:
                log_audit(logger, report, self.name, self.log_images)
            except Exception as error:
                if self.on_error == "raise":
                    raise
                rank_zero_warn(f"{type(logger).__name__} did not take the audit: {type(error).__name__}: {error}")

    def _show_monitors(self, trainer: Trainer) -> None:
        """Put the newest numbers where monitors look.

        Lightning keeps them there until the next fit, so that epochs between audits cost nothing. (What ``self.log``
        gets is forgotten at the start of the first epoch, and forbidden at the end of fit.)
        """
        trainer.callback_metrics.update(
            {f"{self.name}/{name}": torch.tensor(value) for name, value in self._headline.items()}
        )

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure what was asked for beyond the audit, then write the report on the first process."""
        try:
            with preserved_random_state():
                self._measure_extras(trainer, pl_module)
                self._processes.share(lambda: self._write_report(trainer))
        except ProcessesLost:
            raise
        except Exception as error:
            if self.on_error == "raise":
                raise
            rank_zero_warn(f"the report was not written: {type(error).__name__}: {error}")

    def _measure_extras(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for extra in self.extras:
            with self._autoencoder(trainer, pl_module) as (autoencoder, processes):
                parts = processes.share(partial(extra.measure_all, autoencoder, self._groups))
            if trainer.is_global_zero and self._folder is not None:
                write_extra(self._folder.path / extra.file, extra.settings, parts)

    def _write_report(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero or self._folder is None:
            return
        from lightning_memaudit.report.terminal import print_verdict
        from lightning_memaudit.report.write import write_report

        report = write_report(self._folder, figures=self.figures)
        if self.print_table:
            print_verdict(report.document)

    # Before the first step

    def _inspect(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._groups = self._find_groups(trainer, pl_module)
        self._owners = [group.images.dataset for group in self._groups]  # type: ignore[attr-defined]
        self._preflight(trainer, pl_module)

    def _find_groups(self, trainer: Trainer, pl_module: LightningModule) -> list[Group]:
        if self.members is not None:
            members, trained = self.members, list(range(len(self.members)))  # type: ignore[arg-type]
        else:
            members, trained = train_dataset(trainer)
        controls = self.controls
        if controls is None and trainer.state.fn == TrainerFn.FITTING:
            controls = validation_dataset(trainer)
        available = {"members": (members, trained, self.num_members)}
        if controls is not None:
            available["controls"] = (controls, list(range(len(controls))), self.num_controls)  # type: ignore[arg-type]
        groups = []
        for name, (dataset, usable, wanted) in available.items():
            if trainer.fast_dev_run:  # type: ignore[attr-defined]
                wanted = min(wanted or FAST_DEV_RUN_IMAGES, FAST_DEV_RUN_IMAGES)
            indices = [usable[index] for index in choose_indices(len(usable), wanted, self.plan.seed)]
            images = DatasetImages(
                dataset, indices, self.image_key, self.normalization, pl_module.device, self.image_shape
            )
            # Mask i goes to the i-th image of either group: members and controls are paired by mask.
            groups.append(Group(name, images, indices, range(len(indices))))
        return groups

    def _preflight(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check images and model in every process; an error in one is an error in all."""

        def check_images() -> dict[str, list[str]]:
            hashes = {group.name: image_hashes(group) for group in self._groups}
            if "controls" in hashes:
                check_disjoint(hashes["members"], hashes["controls"])
            else:
                rank_zero_warn(
                    "controls: no images that were not trained on; rates of members alone say little. "
                    "Give the run a validation dataloader, or pass controls=<a data set>"
                )
            images = self._groups[0].images
            assert isinstance(images, DatasetImages)
            if self.members is None:
                warn_if_random(images.dataset, images.indices[0], self.image_key)
            return hashes

        def check_model() -> None:
            for group in self._groups:
                check_group(group, autoencoder)

        with self._autoencoder(trainer, pl_module) as (autoencoder, processes):
            everywhere = self._processes.share(check_images)
            processes.share(check_model)
        hashes = everywhere[0]
        for name, expected in hashes.items():
            if any(other.get(name) != expected for other in everywhere):
                raise ValueError(
                    f"{name} are not the same images in every process: split data sets with a seeded generator, or "
                    f"pass {name}=<a data set>"
                )
        shape = list(self._groups[0].images[slice(0, 1)].shape[1:])
        self._run = self._description(trainer, pl_module, hashes, shape)
        if trainer.is_global_zero:
            self._run["near_duplicates"] = describe_near_duplicates(self._groups)
        self._processes.share(lambda: self._write_run(trainer))
        rank, num_shares = self._processes.rank, self._processes.num_shares
        self._groups = [part_of(group, rank, num_shares) for group in self._groups]

    def _write_run(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and self._folder is not None:
            self._folder.write_run(self._run)

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

        methods = list(self.plan.methods)
        return {
            **describe_run(trainer, pl_module),
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

    def _epoch_loss(self) -> float | None:
        """Mean training loss of the epoch over all batches and processes; the one synchronization per epoch."""
        if not self.schedule.waits_for_loss:
            return None
        parts = [part for _, part in self._processes.gather((float(self._loss_sum), self._loss_count))]
        self._loss_sum, self._loss_count = 0.0, 0
        count = sum(count for _, count in parts)
        if not count:
            rank_zero_warn("at_train_loss: training_step returns no loss, so no audit will come of it; use at_epochs")
            return None
        return float(sum(total for total, _ in parts) / count)
