"""One run being audited, from its setup to its teardown; the callback and the command ``audit`` drive it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lightning_memaudit.callback.budget import Budget, bounded_choice, bounded_plan
from lightning_memaudit.callback.caller import Caller
from lightning_memaudit.callback.dataset_images import ImageChoice
from lightning_memaudit.callback.given_images import GivenImages
from lightning_memaudit.callback.history import History
from lightning_memaudit.callback.inspection import Inspection, check_same_everywhere, read_images, reads_the_same
from lightning_memaudit.callback.isolation import uninitialized
from lightning_memaudit.callback.kept import kept_blocks
from lightning_memaudit.callback.later_steps import WatchedSteps
from lightning_memaudit.callback.model import ModelCall
from lightning_memaudit.callback.model_checks import check_model, what_the_model_sees
from lightning_memaudit.callback.outputs import Outputs
from lightning_memaudit.callback.progress import AuditProgress
from lightning_memaudit.callback.reading.loaders import RunLoaders
from lightning_memaudit.callback.reading.stored_images import part_of
from lightning_memaudit.callback.reference import check_references, reference_models
from lightning_memaudit.callback.reloads import ReloadWatch
from lightning_memaudit.callback.run_inspection import describe, has_spread_weights, notes_on_history, weights_sha256
from lightning_memaudit.callback.schedule import Schedule
from lightning_memaudit.callback.seen import Seen
from lightning_memaudit.callback.step_code import takes_iterator
from lightning_memaudit.measurement.engine import run_audit
from lightning_memaudit.measurement.estimate import Estimate
from lightning_memaudit.measurement.extras import extra_measurements
from lightning_memaudit.measurement.groups import Group
from lightning_memaudit.measurement.inpainting_cache import InpaintingCache
from lightning_memaudit.measurement.pace import Intact, Pace, measure_pace
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.measurement.reference import ReferenceModels
from lightning_memaudit.results.audit_report import AuditReport
from lightning_memaudit.results.cost import Bounds
from lightning_memaudit.results.rows import Occasion
from lightning_memaudit.results.run_folder import RunFolder


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
        bounds: What is left out of every audit to keep it within bounds; None before :meth:`inspect`.
        trained_before: Hashes of images that the model was trained on before, which can be no controls.
        given: Looks for the images in what the training is given.

    >>> import torch
    >>> from lightning_memaudit.training.module import AutoencoderModule
    >>> trainer = Trainer(accelerator="cpu", logger=False)
    >>> model = AutoencoderModule(torch.nn.Conv2d(1, 1, 3, padding=1))
    >>> which = ImageChoice(members=torch.rand(4, 1, 8, 8), controls=torch.rand(4, 1, 8, 8))
    >>> what, where = Plan.of(["half"], ["known_mask"]), Outputs(print_table=False)
    >>> session = Session.open(trainer, model, which, ModelCall(), what, where)
    >>> _ = session.inspect()
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
    bounds: Bounds | None = None
    trained_before: Sequence[str] = ()
    given: GivenImages = field(default_factory=GivenImages)
    _description: dict[str, Any] = field(default_factory=dict)
    _cache: InpaintingCache = field(default_factory=InpaintingCache)
    _found: Inspection = field(default_factory=Inspection)
    _seen: Seen | None = None
    _references: ReferenceModels | None = None
    _loaders: RunLoaders = field(default_factory=RunLoaders)
    _steps: WatchedSteps | None = None
    _reloads: ReloadWatch | None = None
    _audited_weights: str | None = None
    _budget: Budget = field(default_factory=Budget)

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
            PermissionError: The folder cannot be written to, or another run writes to it.
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
                self.folder.lock()
                self.folder.prepare()

    @cached_property
    def _caller(self) -> Caller:
        return Caller(self.trainer, self.pl_module, self.how, self.processes)

    # Before the first audit

    def inspect(
        self,
        loaders: RunLoaders | None = None,
        num_audits: int = 0,
        run_id: str | None = None,
        begins: bool = True,
        bounds: Bounds | None = None,
    ) -> list[str]:
        """Read the images, check them and the model, write ``run.json``, and return the hashes of what is trained on.

        Args:
            loaders: Of the run; None asks the trainer, which must have its train dataloader.
            num_audits: Audits that the run did before it was resumed, see :meth:`RunFolder.begin`.
            run_id: Tells runs apart.
            begins: Make room for the run in the folder, and write ``run.json``; otherwise the folder stays as it is.
            bounds: What the run had left out before it was resumed, if it is bounded now as then.

        Raises:
            ValueError: Images or model are not what an audit needs; the message says all that is to be changed.
        """
        self._budget, self.bounds = Budget(self.processes.num_shares), None
        if bounds is not None and bounds.max_seconds == self.what.max_seconds:
            self._keep_within(bounds)
        self._read_everywhere(loaders)
        self._check_with_model()
        if self.bounds is None:
            one_audit = self.trainer.state.fn != TrainerFn.FITTING
            asked = self.which.num_members, self.which.num_controls
            self._keep_within(self._budget.decide(self._found.groups, self.what, one_audit))
            if (self.which.num_members, self.which.num_controls) != asked:
                # Read again, as if so few had been asked for: then all that is said of them holds.
                self._read_everywhere(loaders)
                self._found.problems.raise_all()
        about = (self._found, self.what, self._references, self.processes)
        self._description = describe(self.trainer, self.pl_module, *about) | {"run_id": run_id}
        if begins:
            self.processes.share(partial(self._write_run, num_audits, run_id))
        rank, num_shares = self.processes.rank, self.processes.num_shares
        self.groups = [part_of(group, rank, num_shares) for group in self._found.groups]
        if self.trainer.global_step and not self.given.record.num_images:
            self.given.record.is_whole = False  # what came before was not watched
        rounded = self.trainer.precision_plugin.convert_input(torch.zeros(1))
        self.given.watch(self._found, rounded.dtype)
        return list(dict.fromkeys([*self.trained_before, *self._found.hashes["members"]]))

    def _keep_within(self, bounds: Bounds) -> None:
        self.bounds, self.which, self.what = bounds, bounded_choice(self.which, bounds), bounded_plan(self.what, bounds)

    def _read_everywhere(self, loaders: RunLoaders | None) -> None:
        with self._caller.undisturbed():
            everywhere = self.processes.share(partial(self._read, loaders))
        check_same_everywhere(self._found, everywhere, self.processes, set(self.trained_before))

    def _check_with_model(self) -> None:
        """Find out what the model sees, and check it."""
        self._seen = None
        if lazy := uninitialized(self.pl_module):
            # A call before the training's own would leave the weights behind that it initialized.
            self._found.problems.add(
                f"the model's {lazy[0]} gets its shape only in the first step, so that nothing can be checked before: "
                "call the model once in configure_model, as on zeros of a batch's shape"
            )
            self._found.problems.raise_all()
        self._decide_seen()
        with self._caller.autoencoder(self._seen) as (autoencoder, processes):
            paces = processes.share(partial(self._check_model, autoencoder))
            self._budget.time(paces, self._found.groups, self._references)
            if self.trainer.state.fn != TrainerFn.FITTING:
                self._budget.probe(autoencoder, processes, self.what, self._found.groups)

    def _read(self, loaders: RunLoaders | None) -> dict[str, list[str]]:
        self._loaders = loaders or RunLoaders.of_trainer(self.trainer)
        self._reloads = ReloadWatch(self._loaders) if self.which.members is None else None
        about = (self.which, self.how, self.what.seed, self._loaders, self.processes)
        self._found = read_images(self.trainer, self.pl_module, *about)
        return self._found.hashes

    def _decide_seen(self) -> None:
        with self._caller.calling() as (call, _):
            # A call that fails is no way to find out where the weights are spread over processes.
            trial = None if has_spread_weights(self.trainer) else call
            self._seen, self.how = what_the_model_sees(self._found.reads[0], trial, self.how, self.pl_module)
        self._caller.how = self.how

    def _check_model(self, autoencoder: Any) -> Pace | None:
        check_model(self._found, self.what, autoencoder, self._caller)
        self._references = reference_models(self.how, self.pl_module, self.trainer, self._seen)
        check_references(self._references, autoencoder, self._found.groups)
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._steps = WatchedSteps(self._caller, self._found, self._seen)
        return measure_pace(autoencoder, self._found.groups, self.what)

    def _write_run(self, num_audits: int, run_id: str | None) -> None:
        if self.trainer.is_global_zero and self.folder is not None:
            before = self.folder.run() if num_audits and self.folder.belongs_to(run_id) else {}
            self.folder.begin(num_audits, run_id)
            self._description["notes"] += notes_on_history(before, self._description, self.trainer)
            self.folder.write_run(self._description)

    # The steps of the training

    def begin_step(self, batch: Any, batch_idx: int, when: Schedule, history: History) -> None:
        """Look at a batch before ``training_step`` gets it.

        Raises:
            ValueError: It is the first, and holds other images, or the same in another range, than are audited.
        """
        if not takes_iterator(self.pl_module):
            self.given.look(batch)
        if self._steps is not None:
            self._steps.begin(batch, batch_idx, when, history)

    def end_step(self, stepped: bool, batch: Any = None) -> None:
        """Compare what reached the model in a step that is watched with what the audit gives it.

        Args:
            stepped: Whether a loss came of the batch.
            batch: The batch, once the step is over.

        Raises:
            ValueError: That is something else in the first step.
        """
        if batch is not None and takes_iterator(self.pl_module):
            self.given.look(batch)  # it was not known before
        if self._steps is not None:
            self._steps.end(stepped, batch)
            self.given.end_step(self._steps.reconstructing(), stepped)

    def look_at_loaders(self) -> None:
        """Say so, once, when the train dataloader was reloaded with other images."""
        if self._reloads is None:
            return

        def is_as_before(loader: Any) -> bool:
            with self._caller.undisturbed():
                return reads_the_same(self._found.reads[0], loader, self.trainer, self.pl_module)

        self._reloads.look(self.trainer, is_as_before)

    def weights_changed(self) -> bool:
        """Whether the weights are others than the newest audit saw, as after averaging at the end of fit."""
        before = self._audited_weights
        return self.processes.any(before is not None and weights_sha256(self.trainer, self.pl_module) != before)

    # Audits

    def audit(self, occasion: Occasion) -> AuditReport:
        """Audit the model as it is; every process returns the same report.

        Args:
            occasion: When and why; the hash of the weights is added here.
        """
        if self._steps is not None:
            self._steps.conclude()
        if self.trainer.is_global_zero:
            self._audited_weights = weights_sha256(self.trainer, self.pl_module)
            occasion = replace(occasion, weights_sha256=self._audited_weights)
        total = sum(len(group.images) for group in self.groups) * len(self.what.cells)
        began = time.monotonic()
        with self.processes.holding_sigterm(), self._caller.autoencoder(self._seen) as (autoencoder, processes):
            estimate, own = self._estimate(autoencoder, processes)
            with AuditProgress(self.trainer, total, occasion.trigger, estimate) as bar:

                def advance(description: str, count: int) -> None:
                    processes.check()  # also between inpaintings, which call no model
                    bar.advance(description, count)

                self._references = self._references or reference_models(
                    self.how, self.pl_module, self.trainer, self._seen
                )
                about = (self._audited_weights, own, self.what.block_size, self._description)
                kept = None if self.folder is None else kept_blocks(self.folder, processes, about)
                told = self.given.doubts(processes)
                repeated, apart = self._found.compared_groups(self.what.threshold_db, told)
                how = (processes, self._cache, advance, self._references, repeated, kept, [*told, *apart])
                report = run_audit(autoencoder, self.groups, self.what, occasion, *how)
        seconds = max(taken for _, taken in self.processes.gather(time.monotonic() - began))
        self._budget.learn(self.what, self._found.groups, report, seconds)
        return report.with_cost(None if estimate is None else estimate.to_dict(), self.bounds or Bounds(), seconds)

    def _estimate(self, autoencoder: Any, processes: Processes) -> tuple[Estimate | None, dict[str, float]]:
        """What the audit will cost, and how well the model reproduces intact images, as it is now."""
        groups = self._found.groups
        if not self._budget.knows_pace:  # when it was timed first, a call had failed
            paces = processes.share(partial(measure_pace, autoencoder, groups, self.what))
            self._budget.time(paces, groups, self._references)
        intact = processes.share(partial(Intact.of, autoencoder, groups))[0]
        self._budget.probe(autoencoder, processes, self.what, groups, intact)
        return self._budget.estimate(self.what, groups), dict(intact.own_psnr)

    def publish(self, report: AuditReport) -> None:
        """Write, show and log an audit, on the first process."""
        self.processes.share(partial(self._publish, report))

    def _publish(self, report: AuditReport) -> None:
        if self.trainer.is_global_zero:
            self.where.publish(self.trainer, report, self.folder, self._description, self.what.raise_errors)

    # After the last audit

    def finish(self) -> None:
        """Measure what was asked for beyond the audits, then write the report on the first process."""
        for extra in extra_measurements(self.what):
            with self._caller.autoencoder(self._seen) as (autoencoder, processes):
                parts = processes.share(partial(extra.measure_all, autoencoder, self.groups))
            if self.trainer.is_global_zero and self.folder is not None:
                extra.write(self.folder.path, parts)
        self.processes.share(self._write_report)

    def _write_report(self) -> None:
        if self.trainer.is_global_zero and self.folder is not None:
            self.where.write_report(self.folder, self.trainer.loggers)

    def finish_again(self, run_id: str | None, bounds: Bounds | None = None) -> None:
        """Write the report of a run that was audited to its end before; what else was asked for, only if it is missing.

        Args:
            run_id: Whose results these must be, or nothing is written.
            bounds: See :meth:`inspect`.
        """
        folder = self.folder
        if not self.processes.any(folder is not None and folder.belongs_to(run_id) and bool(folder.audited())):
            return
        extras = extra_measurements(self.what)
        if not self.processes.any(folder is not None and all(folder.concluded(extra.file) for extra in extras)):
            self.inspect(begins=False, bounds=bounds)
            self.finish()
        else:
            self.processes.share(self._write_report)

    def audited(self, number: int, step: int, run_id: str | None = None) -> bool:
        """Whether the results files of any process hold this run's audit of this number and step."""
        folder = self.folder
        return self.processes.any(
            folder is not None and folder.belongs_to(run_id) and (number, step) in folder.audited()
        )

    def unlock(self) -> None:
        """Stop watching, and let other runs write to the folder."""
        self.given.close()
        if self._steps is not None:
            self._steps.close()
        if self.folder is not None:
            self.folder.unlock()

    def close(self) -> None:
        """Give back what was taken for this run only."""
        self.unlock()
        self.processes.disconnect()
        self.processes = Processes()
