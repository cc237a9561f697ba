"""The callback: hooks and state, nothing else. :class:`~lightning_memaudit.callback.session.Session` does the work."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset

from lightning_memaudit.callback.dataset_images import ImageChoice
from lightning_memaudit.callback.handover import ReportHandover, is_launched
from lightning_memaudit.callback.history import History
from lightning_memaudit.callback.isolation import preserved_random_state
from lightning_memaudit.callback.keys import GroupKey, Key
from lightning_memaudit.callback.model import ModelCall, Reconstruct
from lightning_memaudit.callback.outputs import Outputs
from lightning_memaudit.callback.progress import end_display
from lightning_memaudit.callback.reference import Reference, check_given
from lightning_memaudit.callback.run_inspection import check_callbacks, check_folders, check_monitors, say_if_replaced
from lightning_memaudit.callback.schedule import Schedule
from lightning_memaudit.callback.seen import Normalization
from lightning_memaudit.callback.session import Session
from lightning_memaudit.measurement.engine import now
from lightning_memaudit.measurement.plan import DEFAULT_PATTERNS, Methods, Plan
from lightning_memaudit.measurement.processes import AuditInterrupted, ProcessesLost
from lightning_memaudit.results.audit_report import AuditReport
from lightning_memaudit.results.names import DEFAULT_NAME
from lightning_memaudit.results.rows import Occasion, headline_names


class MemorizationAuditCallback(Callback):
    """Audits what an autoencoder remembers of its training images, at chosen moments of any training run.

    Attach it to a run that already exists; nothing about the run changes, and the trained weights are the same to the
    last bit. At every audit the images are degraded, recovered blindly with the current autoencoder (Abitbul & Dar,
    arXiv 2310.02897) and compared with the truth. Rates go to the loggers, everything to files under ``dirpath``.

    One callback may serve several fits, as in cross-validation: each starts afresh, unless it resumes from a checkpoint
    or goes on with the same trainer and module. It can be pickled and copied. Images are pictures, volumes or signals.

    Args:
        every_n_epochs: After every n-th epoch.
        at_epochs: After these numbers of epochs; 0 is before the first.
        at_train_loss: When the loss of ``training_step``, averaged over an epoch, first falls to each of these levels.
            Not ``train_loss`` in the results: that is the members' own mean squared error in [0, 1], in eval mode.
        at_fit_end: At the end of fit.
        members: Images that are trained on; default: the data set of the run's train dataloader.
        controls: Images that are not; default: the data set of the run's validation dataloader.
        num_members: Audit a seeded random choice of so many; None audits all.
        num_controls: Likewise. 0: audit without controls, the verdict is then inconclusive.
        image_key: Index, key or attribute of the image in an item, or several, outermost first, or a function of the
            item (in YAML its import path); ``{"members": ..., "controls": ...}`` where they differ. Default: the item
            itself, or its first element.
        image_shape: (C, L), (C, H, W) or (C, D, H, W) of an image, where its shape in a batch leaves that open.
        reconstruct: ``"forward"``, another method's name, or a function ``(module, images)``, in YAML its import path.
            A function ``(module, batch)``, or a method ``(batch)``, gets the run's own batch with the images put in.
        output: Index, key or attribute of the reconstruction in what is returned, several of them, or a function.
        flatten: Give the model (B, C·H·W).
        mean: What the data set subtracts from images in [0, 1], per channel or one for all.
        std: What it then divides by. For images in [-1, 1]: ``mean=[0.5], std=[0.5]``.
        data_range: Instead of both: the lowest and the highest possible value, such as ``[-1000, 3000]``.
        reference: A model of the same kind that was trained on other images of the same source, or several: members are
            then also told by what the model knows beyond it. A checkpoint, an import path of what makes one, a module.
        patterns: Degradations by name, such as ``random-0.5`` or ``block-0.25``.
        methods: Names, or a mapping from names. Default: ``blind, paper_blind, known_mask, autoencoder_iterations,
            biharmonic``; ``blind, biharmonic`` for images of 128 pixels a side or more if those take over ten minutes.
        threshold_db: PSNR in dB at or above which an image counts as recovered.
        seed: Seeds the masks and the choice of images.
        block_size: Images that are degraded and recovered together.
        name: Prefix of the metrics and name of the folder; several callbacks in one run need different ones.
        dirpath: Folder of the results; default ``<default_root_dir>/<name>``.
        figures: Draw PNG figures at the end of fit, beside report.html and report.json.
        print_table: Print a table after every audit.
        num_proximal: At the end, also say how far the model is from a proximal map at so many images per group.
        largest_missing: At the end, also find the largest missing fraction from which each image still comes back.
        extraction: Also look for images that come out by themselves, from at most so many starts, such as 1000.
        max_seconds: That one audit may take, by an estimate before the first, for all of the run: fewer members and
            controls, 20 of each at least; then fewer evaluations; then fewer starts of ``extraction``. The report says
            what was cut. ``largest_missing`` is not bounded.
        log_images: Recovered training images per group and pattern to send to the loggers; they are training data.
        log_recoveries: Send W&B the saved recoveries too, and the page with its pictures: all of it training data.
        save_recoveries: Images per group whose recoveries the newest audit keeps on disk.
        show_channels: Of more than three channels those that pictures show, from 0: ``[3, 2, 1]``. Default: the first.
        on_error: A failing audit: ``warn`` or ``raise``. Errors before the first step and lost processes always raise.
        process_timeout: Seconds that the processes of a run wait for each other in an audit.

    Raises:
        ValueError: An argument is wrong; the message names it, its value and the mend.

    >>> import lightning as L
    >>> from lightning_memaudit.training.data import FacesDataModule
    >>> from lightning_memaudit.training.module import AutoencoderModule
    >>> from lightning_memaudit.training.networks import FullyConnectedAutoencoder
    >>> audit = MemorizationAuditCallback(methods=["blind"], figures=False, print_table=False)
    >>> quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    >>> trainer = L.Trainer(max_epochs=200, accelerator="cpu", logger=False, callbacks=[audit], **quiet)
    >>> trainer.fit(AutoencoderModule(FullyConnectedAutoencoder((1, 25, 25), 3, 128)), FacesDataModule(4, 4))
    Audit (fit_end): 16 recoveries
    >>> [audit.last_report.rate("blind", "random-0.5", group) for group in ("members", "controls")]
    [1.0, 0.0]
    """

    def __init__(
        self,
        *,
        every_n_epochs: int | None = None,
        at_epochs: Sequence[int] = (),
        at_train_loss: Sequence[float] = (),
        at_fit_end: bool = True,
        members: Dataset | None = None,  # type: ignore[type-arg] # jsonargparse takes no arguments of a Dataset[Any]
        controls: Dataset | None = None,  # type: ignore[type-arg]
        num_members: int | None = 100,
        num_controls: int | None = 100,
        image_key: GroupKey | None = None,
        image_shape: Sequence[int] | None = None,
        reconstruct: Reconstruct = "forward",
        output: Key | None = None,
        flatten: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        data_range: Sequence[float] | None = None,
        reference: Reference = None,
        patterns: Sequence[str] = DEFAULT_PATTERNS,
        methods: Methods | None = None,
        threshold_db: float = 30.0,
        seed: int = 0,
        block_size: int = 512,
        name: str = DEFAULT_NAME,
        dirpath: str | Path | None = None,
        figures: bool = True,
        print_table: bool = True,
        num_proximal: int = 0,
        largest_missing: bool = False,
        extraction: int = 0,
        max_seconds: float | None = None,
        log_images: int = 0,
        log_recoveries: bool = False,
        save_recoveries: int = 64,
        show_channels: Sequence[int] | None = None,
        on_error: Literal["warn", "raise"] = "warn",
        process_timeout: float = 1800.0,
    ) -> None:
        if not 0 < process_timeout < float("inf"):
            raise ValueError(f"process_timeout={process_timeout}: must be a positive number of seconds, such as 1800")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error={on_error!r}: pass 'warn' or 'raise'")
        check_given(reference)
        self.when = Schedule(every_n_epochs, at_epochs, at_train_loss, at_fit_end)
        self.which = ImageChoice(members, controls, num_members, num_controls, image_key, image_shape)
        self.how = ModelCall(reconstruct, output, flatten, Normalization.of_range(data_range, mean, std), reference)
        self.what = Plan.of(
            patterns,
            methods,
            threshold_db=threshold_db,
            seed=seed,
            block_size=block_size,
            save_recoveries=save_recoveries,
            show_channels=show_channels,
            raise_errors=on_error == "raise",
            num_proximal=num_proximal,
            find_largest_missing=largest_missing,
            extraction=extraction,
            max_seconds=max_seconds,
        )
        self.where = Outputs(name, dirpath, figures, print_table, log_images, log_recoveries)
        self.process_timeout = process_timeout

        self._history = History()
        self._session: Session | None = None
        self._last_report: AuditReport | None = None
        self._handover = ReportHandover()
        self._is_launched = False
        self._fitted: tuple[weakref.ref[Trainer], weakref.ref[LightningModule]] | None = None

    @property
    def last_report(self) -> AuditReport | None:
        """What the last audit of the last fit found, also where that ran in other processes; None before the first."""
        if not self._is_launched:
            for report in self._handover.take():
                self._last_report = report
        return self._last_report

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets: all but the run that this one is attached to, and the model through which it could log."""
        state = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}
        return state | {"_session": None, "_is_launched": False, "_fitted": None}

    @property
    def state_key(self) -> str:
        """Tells the states of several such callbacks apart in a checkpoint."""
        return self._generate_state_key(name=self.where.name)

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs, see :class:`History`."""
        return self._history.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._history = History.of(state_dict)

    # Hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check everything that needs no data: the schedule, how the model is called, the folder."""
        if stage != "fit":
            return
        self.when.check(trainer.max_epochs)
        for part in self.when.parts_beyond(trainer.max_epochs):
            rank_zero_warn(f"{part}: no such audit within max_epochs={trainer.max_epochs}")
        check_callbacks(trainer.callbacks, self, self.when)  # type: ignore[attr-defined]
        others = [one for one in trainer.callbacks if isinstance(one, MemorizationAuditCallback) and one is not self]  # type: ignore[attr-defined]
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            check_folders(trainer, self.where, [other.where for other in others])
        self._start(trainer, pl_module)
        self._session = Session.open(
            trainer, pl_module, self.which, self.how, self.what, self.where, self.process_timeout
        )

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the fit before, unless this one goes on with it; a checkpoint restores its own history after this."""
        before = (None, None) if self._fitted is None else tuple(reference() for reference in self._fitted)
        if not (trainer.global_step > 0 and before == (trainer, pl_module)):
            old = self._history if before[1] is pl_module else History()
            self._history, self._last_report = History(trained_on=old.trained_on, given=old.given), None
        self._fitted = weakref.ref(trainer), weakref.ref(pl_module)
        self._is_launched = is_launched(trainer)
        self._hand_over(trainer)

    def _hand_over(self, trainer: Trainer) -> None:
        """Give the last report to the process that called ``fit``, where this is another."""
        try:
            if not self._is_launched:
                self._handover.discard()
            elif trainer.local_rank == 0:
                self._handover.put(self._last_report)
        except OSError as error:
            rank_zero_warn(f"last_report stays in the process that trains, the files have it all: {error}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the images and the model with one small batch, before the first step; audit if epoch 0 is due."""
        history = self._history
        self._check_monitors(trainer, self.what)
        self._opened.trained_before, self._opened.given.record = history.trained_on, history.given
        history.trained_on = self._opened.inspect(None, history.num_audits, history.run_id, bounds=history.bounds)
        history.bounds = self._opened.bounds
        if self._opened.what.cells != self.what.cells:  # large images have got fewer methods
            self._check_monitors(trainer, self._opened.what)
        trigger = self.when.due_at_start()
        if trigger is not None and trainer.global_step == 0 and history.num_audits == 0:
            self._audit(trainer, trigger, 0)
        self._show_monitors(trainer)
        if history.num_epochs is None:
            history.num_epochs = trainer.current_epoch
        elif trainer.current_epoch > history.num_epochs:
            # Resumed from a checkpoint after the last batch of an epoch, but before its end.
            self._end_epoch(trainer, trainer.current_epoch)

    def _check_monitors(self, trainer: Trainer, plan: Plan) -> None:
        if not trainer.fast_dev_run and not self._history.headline:  # type: ignore[attr-defined]
            check_monitors(trainer, headline_names(plan.cells, plan.extraction), self.when, self.where.name)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether the train dataloader was reloaded."""
        self._opened.look_at_loaders()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Compare the first batch, and some later ones, with the images that are audited."""
        self._opened.begin_step(batch, batch_idx, self.when, self._history)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Compare what reached the model, before the step."""
        self._opened.end_step(stepped=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up the loss on its device, without waiting for it."""
        if self._session is not None:
            self._session.end_step(stepped=False, batch=batch)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if self.when.waits_for_loss(self._history.reached) and isinstance(loss, Tensor):
            # Under automatic optimization the loss comes divided by the number of accumulated batches.
            self._history.loss.add(loss * (trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit if one is due, and show its rates to monitors."""
        self._end_epoch(trainer, trainer.current_epoch + 1)  # counted as done only after this hook

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit at the end of fit, unless these very weights were audited; write the report."""
        end_display(trainer)
        audited = self._history.last_step == trainer.global_step and not self._opened.weights_changed()
        if self.when.at_fit_end and not audited:
            self._audit(trainer, "fit_end", trainer.current_epoch)
        history = self._history
        missed = self.when.missed(
            history.reached, history.newest_loss, history.headline.get("train_loss"), self.how.normalization.std
        )
        if missed is not None:
            rank_zero_warn(missed)
        if history.num_audits and self._opened.folder is not None:
            self._conclude(self._opened.finish)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """When a finished training is resumed there is no step left: make up for the last audit and the report."""
        history, session = self._history, self._opened
        say_if_replaced(session, after_last=self.when.at_fit_end and history.last_step == trainer.global_step)
        if history.num_epochs is None or session.groups or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        step = trainer.global_step
        last_is_due = self.when.at_fit_end and history.last_step != step
        due = last_is_due or trainer.current_epoch != history.num_epochs
        if due and not session.audited(history.num_audits, step, history.run_id):
            self.on_train_start(trainer, pl_module)
            self.on_train_end(trainer, pl_module)
        else:
            self._conclude(partial(session.finish_again, history.run_id, history.bounds))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let other runs into the folder: no teardown follows."""
        if self._session is not None:
            self._session.unlock()
            self._hand_over(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give back what was taken for this run only."""
        if self._session is not None:
            self._session.close()
            self._hand_over(trainer)
        self._session = None

    # The audits

    @property
    def _opened(self) -> Session:
        assert self._session is not None  # Lightning calls setup before all other hooks
        return self._session

    def _end_epoch(self, trainer: Trainer, num_epochs: int) -> None:
        """Audit if one is due; one that gave way to SIGTERM leaves the state as it was, so that resuming makes it."""
        self._opened.given.end_epoch(self._opened.processes)
        before = self.state_dict()
        loss = self._history.take_epoch_loss(self.when, self._opened.processes)
        trigger = self.when.due(num_epochs, loss, self._history.reached)
        if trigger is None or self._audit(trainer, trigger, num_epochs):
            self._history.num_epochs = num_epochs
        else:
            self._history = History.of(before)
            self._opened.given.record = self._history.given

    def _audit(self, trainer: Trainer, trigger: str, num_epochs: int) -> bool:
        """Run one audit; False when the run was asked to end meanwhile. A failure warns or raises, see ``on_error``."""
        history, session = self._history, self._opened
        occasion = Occasion(history.num_audits, trigger, num_epochs, trainer.global_step, now())
        try:
            with preserved_random_state():
                report = session.audit(occasion)
                self._last_report, history.headline = report, report.headline
                self._show_monitors(trainer)
                session.publish(report)
        except ProcessesLost:
            raise
        except AuditInterrupted:
            rank_zero_warn(f"memorization audit {occasion.audit} ({trigger}) gave way to SIGTERM; resuming makes it")
            return False
        except Exception as error:
            if self.what.raise_errors:
                raise
            failed = f"memorization audit {occasion.audit} ({trigger}) failed"
            rank_zero_warn(f"{failed}, the training goes on: {type(error).__name__}: {error}")
        history.last_step = trainer.global_step
        history.num_audits += 1
        return True

    def _conclude(self, finish: Callable[[], None]) -> None:
        """Whatever comes after the last audit; a failure warns or raises, see ``on_error``."""
        try:
            with preserved_random_state():
                finish()
        except ProcessesLost:
            raise
        except Exception as error:
            if self.what.raise_errors:
                raise
            rank_zero_warn(f"the report was not written: {type(error).__name__}: {error}")

    def _show_monitors(self, trainer: Trainer) -> None:
        """Put the newest numbers where monitors look.

        Lightning keeps them there until the next fit, so that epochs between audits cost nothing. (What ``self.log``
        gets is forgotten at the start of the first epoch, and forbidden at the end of fit.)
        """
        numbers = {f"{self.where.name}/{name}": torch.tensor(value) for name, value in self._history.headline.items()}
        trainer.callback_metrics.update(numbers)
