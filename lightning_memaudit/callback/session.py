"""One run being audited, from its setup to its teardown; the callback and the command ``audit`` drive it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_memaudit.callback.dataset_images import (
    DatasetImages,
    ImageChoice,
    check_disjoint,
    image_hashes,
    part_of,
    warn_if_random,
)
from lightning_memaudit.callback.isolation import preserved_objects, preserved_random_state, undisturbed
from lightning_memaudit.callback.model import ModelCall
from lightning_memaudit.callback.outputs import Outputs
from lightning_memaudit.callback.progress import AuditProgress
from lightning_memaudit.callback.run_inspection import (
    describe_group,
    describe_near_duplicates,
    describe_plan,
    describe_run,
    weights_sha256,
)
from lightning_memaudit.measurement.engine import run_audit
from lightning_memaudit.measurement.extras import extra_measurements
from lightning_memaudit.measurement.measure import InpaintingCache
from lightning_memaudit.measurement.plan import Group, Plan, check_degradations, check_group
from lightning_memaudit.measurement.processes import AuditInterrupted, Lockstep, Processes
from lightning_memaudit.results.audit_report import AuditReport
from lightning_memaudit.results.rows import Occasion
from lightning_memaudit.results.run_folder import RunFolder

DEFAULT_SOURCES = {"members": "train dataset", "controls": "validation dataset"}
"""What ``run.json`` calls the data sets that the run's own dataloaders have."""


@dataclass
class Session:
    """A run being audited: every process of the run has one, and calls the same methods in the same order.

    :meth:`open` and :meth:`inspect` once; then :meth:`audit` and :meth:`publish` for every audit; :meth:`finish`,
    :meth:`close`.

    Attributes:
        trainer: In a stage that has set up the model under its strategy; on one CPU there is nothing to set up.
        pl_module: The model.
        which: Which images.
        how: How the model is called.
        what: What is measured.
        where: Where results go.
        processes: The processes of the run.
        folder: The results files; None in a ``fast_dev_run``.
        groups: This process's part of the images; none before :meth:`inspect`.

    >>> import torch
    >>> from lightning_memaudit.training.module import AutoencoderModule
    >>> trainer = Trainer(accelerator="cpu", logger=False)
    >>> model = AutoencoderModule(torch.nn.Conv2d(1, 1, 3, padding=1))
    >>> which = ImageChoice(members=torch.rand(4, 1, 8, 8), controls=torch.rand(4, 1, 8, 8))
    >>> what, where = Plan.of(["half"], ["known_mask"]), Outputs(print_table=False)
    >>> session = Session.open(trainer, model, which, ModelCall(), what, where)
    >>> session.inspect()
    >>> report = session.audit(Occasion(audit=0, trigger="by hand", epoch=0, step=0, time="2024-05-01T12:00:00+00:00"))
    Audit (by hand): 8 recoveries
    >>> session.publish(report)
    >>> session.close()
    >>> [(row["group"], row["recovery_rate"]) for row in session.folder.audits()]
    [('members', 0.0), ('controls', 0.0)]
    """

    trainer: Trainer
    pl_module: LightningModule
    which: ImageChoice
    how: ModelCall
    what: Plan
    where: Outputs
    processes: Processes = field(default_factory=Processes)
    folder: RunFolder | None = None
    groups: list[Group] = field(default_factory=list)
    _description: dict[str, Any] = field(default_factory=dict)
    _cache: InpaintingCache = field(default_factory=dict)
    _lockstep: Lockstep | None = None

    @classmethod
    def open(
        cls,
        trainer: Trainer,
        pl_module: LightningModule,
        which: ImageChoice,
        how: ModelCall,
        what: Plan,
        where: Outputs,
        process_timeout: float = 1800.0,
    ) -> "Session":
        """Join the processes, and check what needs no data: how the model is called, the folder.

        Raises:
            ValueError: There is no such method of the model.
            NotADirectoryError: Something else is where the folder should be.
            PermissionError: The folder cannot be written to.
        """
        share = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {"rank": 0, "num_replicas": 1}
        processes = Processes.connect(share["rank"], share["num_replicas"], process_timeout)
        session = cls(trainer, pl_module, which, how, what, where, processes)
        try:
            processes.share(session._prepare)
        except BaseException:
            session.close()
            raise
        return session

    def _prepare(self) -> None:
        self.how.bind(self.pl_module)
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.folder = RunFolder(self.where.folder(self.trainer.default_root_dir))
            if self.trainer.is_global_zero:
                self.folder.prepare()

    # Before the first audit

    def inspect(self) -> None:
        """Find the images, check them and the model with one small batch, and write ``run.json``.

        Raises:
            ValueError: Images or model are not what an audit needs; the message says what to change.
        """
        # Loaders are asked for once more: what that changes in the module and the data module is put back.
        with preserved_random_state(), preserved_objects(self.pl_module, self.trainer.datamodule):  # type: ignore[attr-defined]
            self.groups = self.which.find_groups(self.trainer, self.pl_module, self.how.normalization, self.what.seed)
            hashes = self._check()
            self._description = self._describe(hashes)
            self.processes.share(self._write_run)
            rank, num_shares = self.processes.rank, self.processes.num_shares
            self.groups = [part_of(group, rank, num_shares) for group in self.groups]

    def _check(self) -> dict[str, list[str]]:
        """Check images and model in every process, where an error in one is an error in all; hashes of the images."""
        with self._autoencoder() as (autoencoder, processes):
            everywhere = self.processes.share(self._check_images)
            processes.share(partial(self._check_model, autoencoder))
        hashes = everywhere[0]
        for name, expected in hashes.items():
            if any(other.get(name) != expected for other in everywhere):
                raise ValueError(
                    f"{name} are not the same images in every process: split data sets with a seeded generator, or "
                    f"pass {name}=<a data set>"
                )
        return hashes

    def _check_images(self) -> dict[str, list[str]]:
        hashes = {group.name: image_hashes(group) for group in self.groups}
        if "controls" in hashes:
            check_disjoint(hashes["members"], hashes["controls"])
        else:
            rank_zero_warn(
                "controls: no images that were not trained on; rates of members alone say little. "
                "Give the run a validation dataloader, or pass controls=<a data set>"
            )
        images = self.groups[0].images
        assert isinstance(images, DatasetImages)
        if self.which.members is None:
            warn_if_random(images.dataset, images.indices[0], self.which.image_key)
        return hashes

    def _check_model(self, autoencoder: Callable[[Tensor], Tensor]) -> None:
        for group in self.groups:
            check_group(group, autoencoder)
            check_degradations(self.what, group)

    def _describe(self, hashes: dict[str, list[str]]) -> dict[str, Any]:
        """The content of ``run.json``."""
        groups = {
            group.name: describe_group(
                group,
                hashes[group.name],
                getattr(self.which, group.name),
                DEFAULT_SOURCES[group.name],
                self.what.save_recoveries,
            )
            for group in self.groups
        }
        description = {
            **describe_run(self.trainer, self.pl_module),
            "image_shape": list(self.groups[0].images[slice(0, 1)].shape[1:]),
            "members": groups.get("members"),
            "controls": groups.get("controls"),
            "settings": describe_plan(self.what),
            "notes": [],
        }
        if self.trainer.is_global_zero:
            description["near_duplicates"] = describe_near_duplicates(self.groups)
        return description

    def _write_run(self) -> None:
        if self.trainer.is_global_zero and self.folder is not None:
            self.folder.write_run(self._description)

    # Audits

    def audit(self, occasion: Occasion) -> AuditReport:
        """Audit the model as it is; every process returns the same report.

        Args:
            occasion: When and why; the hash of the weights is added here.
        """
        if self.trainer.is_global_zero:
            occasion = replace(occasion, weights_sha256=weights_sha256(self.trainer, self.pl_module))
        total = sum(len(group.images) for group in self.groups) * len(self.what.cells)
        with (
            self._autoencoder() as (autoencoder, processes),
            AuditProgress(self.trainer, total, occasion.trigger) as bar,
        ):
            return run_audit(autoencoder, self.groups, self.what, occasion, processes, self._cache, bar.advance)

    def publish(self, report: AuditReport) -> None:
        """Write, show and log an audit, on the first process."""
        self.processes.share(partial(self._publish, report))

    def _publish(self, report: AuditReport) -> None:
        if self.trainer.is_global_zero:
            self.where.publish(self.trainer, report, self.folder, self._description, self.what.raise_errors)

    @contextmanager
    def _autoencoder(self) -> Iterator[tuple[Callable[[Tensor], Tensor], Processes]]:
        """The model as a function on images, within everything that keeps the training undisturbed."""
        processes, precision, strategy = self.processes, self.trainer.precision_plugin, self.trainer.strategy
        call = self.how.bind(self.pl_module)
        if isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
            call = self.how.bind(self.pl_module, strategy.model)
            # One for the whole run: it keeps the input of the check before the first step, with which a process that
            # has no images of its own takes part in the calls of the others.
            self._lockstep = self._lockstep or Lockstep(call, processes)
            call, processes = self._lockstep, replace(processes, finish=self._lockstep.finish)

        def forward(images: Tensor) -> Any:
            if self.trainer.received_sigterm:
                raise AuditInterrupted("SIGTERM")
            with precision.forward_context():
                return call(precision.convert_input(images))

        owners = [group.images.dataset for group in self.groups if isinstance(group.images, DatasetImages)]
        with undisturbed(self.pl_module, self.trainer.datamodule, *owners):  # type: ignore[attr-defined]
            yield self.how.autoencoder(forward), processes

    # After the last audit

    def finish(self) -> None:
        """Measure what was asked for beyond the audits, then write the report on the first process."""
        for extra in extra_measurements(self.what):
            with self._autoencoder() as (autoencoder, processes):
                parts = processes.share(partial(extra.measure_all, autoencoder, self.groups))
            if self.trainer.is_global_zero and self.folder is not None:
                extra.write(self.folder.path, parts)
        self.processes.share(self._write_report)

    def _write_report(self) -> None:
        if self.trainer.is_global_zero and self.folder is not None:
            self.where.write_report(self.folder)

    def audited(self, number: int, step: int) -> bool:
        """Whether the results files of any process hold the audit of this number and step."""
        return self.processes.any(self.folder is not None and (number, step) in self.folder.audited())

    def close(self) -> None:
        """Give back what was taken for this run only."""
        self.processes.disconnect()
        self.processes = Processes()
