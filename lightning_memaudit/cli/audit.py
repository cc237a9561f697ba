"""The command ``audit``: the callback's engine on a checkpoint, without training, under any strategy of Lightning."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, IterableDataset

from lightning_memaudit.callback.dataset_images import ImageChoice
from lightning_memaudit.callback.given_record import GivenRecord
from lightning_memaudit.callback.isolation import preserved_random_state
from lightning_memaudit.callback.memorization_audit import MemorizationAuditCallback
from lightning_memaudit.callback.outputs import Outputs
from lightning_memaudit.callback.reading.loaders import RunLoaders
from lightning_memaudit.callback.session import Session
from lightning_memaudit.cli.audited_run import with_run_folder
from lightning_memaudit.cli.fit import AuditCLI, parse, quiet, the_callback, with_quickstart
from lightning_memaudit.cli.gate import Gate, Result, gate_help
from lightning_memaudit.cli.hyperparameters import HELP, Given, known_arguments
from lightning_memaudit.cli.main import UsageError
from lightning_memaudit.measurement.engine import now
from lightning_memaudit.recovery.replay import replays
from lightning_memaudit.report.checkpoint import allowed, read_checkpoint
from lightning_memaudit.report.document import read_document
from lightning_memaudit.results.gate import Condition
from lightning_memaudit.results.names import INPAINTER
from lightning_memaudit.results.rows import Occasion
from lightning_memaudit.results.run_folder import RunFolder

NO_CHECKPOINT = "none"
"""The ``ckpt_path`` of a model whose class loads its weights itself."""


class AuditTrainer(Trainer):
    """A trainer that can audit.

    Attributes:
        results: Folder of the results, known once :meth:`audit` has begun.

    >>> from lightning_memaudit.training.data import FacesDataModule
    >>> from lightning_memaudit.training.module import AutoencoderModule
    >>> from lightning_memaudit.training.networks import FullyConnectedAutoencoder
    >>> settings = MemorizationAuditCallback(methods=["known_mask"], figures=False, print_table=False)
    >>> trainer = AuditTrainer(accelerator="cpu", logger=False, callbacks=[settings], enable_progress_bar=False)
    >>> model = AutoencoderModule(FullyConnectedAutoencoder((1, 25, 25), num_layers=2, width=16))
    >>> trainer.audit(model, FacesDataModule(num_train=4, num_controls=4), ckpt_path=NO_CHECKPOINT)
    Audit (audit): 16 recoveries
    >>> trainer.results.name, (trainer.results / "audits.jsonl").is_file()
    ('as-made', True)
    """

    results: Path

    def audit(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        allow_types: Sequence[str] = (),
        weights_only: bool | None = None,
    ) -> None:
        """Audit a checkpoint.

        Args:
            model: Of the class that was trained.
            datamodule: The images it was trained on, and controls.
            ckpt_path: The checkpoint; "none" audits the weights that the model's own class has loaded.
            allow_types: Dotted names of types that may be unpickled from the checkpoint, besides tensors and plain
                values. Only from a source that you trust: unpickling can run code.
            weights_only: Here for configs of `fit`; anything but null or true is refused.

        Raises:
            ValueError: The checkpoint is missing, is none, holds other types, or does not fit the model.
        """
        if weights_only is False:
            raise UsageError("weights_only=False: checkpoints are loaded safely; name what may be in it in allow_types")
        settings = the_callback(self)
        progress = read_progress(ckpt_path, allow_types, settings.state_key)
        path = progress.path
        with allowed(allow_types), replays():  # nothing is trained in this process
            where = settings.where
            if where.dirpath is None:
                # Not the results folder of the training itself, whose audits stay what they are.
                name = "as-made" if path is None else Path(path).stem
                where = replace(where, dirpath=Path(self.default_root_dir) / "audits" / name)
            self.results = where.folder(self.default_root_dir)
            if datamodule is not None:
                rank_zero_only(datamodule.prepare_data)()
            callbacks: list[Callback] = self.callbacks  # type: ignore[attr-defined] # Lightning does not declare it
            callbacks.append(_AuditOnce(settings, where, datamodule, progress, allow_types))
            self.limit_predict_batches = 1.0
            self.predict_loop.inference_mode = False  # whatever is cached there could never be differentiated
            try:
                # Predicting is what launches processes, moves and wraps the model; there is nothing to predict.
                self.predict(
                    model, DataLoader(_NoBatches()), return_predictions=False, ckpt_path=path, weights_only=True
                )
            except RuntimeError as error:
                if "loading state_dict" not in str(error):
                    raise
                raise UsageError(
                    f"ckpt_path={path!r} does not fit the model: {_first_mismatch(str(error))}; "
                    "give the --config it was trained with"
                ) from error


class _NoBatches(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _AuditOnce(Callback):
    """Runs the audit when the model is where it must be; whatever fails is raised."""

    def __init__(
        self,
        settings: MemorizationAuditCallback,
        where: Outputs,
        datamodule: LightningDataModule | None,
        progress: "Progress",
        allow_types: Sequence[str] = (),
    ) -> None:
        self.settings, self.where, self.datamodule = settings, where, datamodule
        self.progress = progress
        self.allow_types, self.allowed_in = allow_types, os.getpid()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the data module that of the trainer, as in a training: the model may ask for it from now on.

        Its hooks are then those through which a batch goes to the device; of its loaders, none is asked for here.
        """
        if os.getpid() != self.allowed_in:
            # A process that was spawned for this audit, and ends with it, has yet to learn what it may load.
            self.permission = allowed(self.allow_types)  # kept: it ends with the object
            self.permission.__enter__()
        if self.datamodule is None:
            return
        nothing = trainer.predict_loop._data_source.instance
        trainer._data_connector.attach_datamodule(pl_module, self.datamodule)
        trainer.predict_loop._data_source.instance = nothing
        self.datamodule.setup("fit")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        settings = self.settings
        which = settings.which
        loaders = self._find_loaders(trainer, pl_module, which)
        what = replace(settings.what, raise_errors=True)
        session = Session.open(trainer, pl_module, which, settings.how, what, self.where, settings.process_timeout)
        session.given.record = GivenRecord.of(self.progress.given)
        if settings.how.reconstruct is not None:
            session.given.record.called = []  # what the training's own audits had left out, this may do
        try:
            session.inspect(loaders)
            session.publish(session.audit(Occasion(0, "audit", self.progress.epoch, self.progress.step, now())))
            session.finish()
        finally:
            session.close()

    def _find_loaders(self, trainer: Trainer, pl_module: LightningModule, which: ImageChoice) -> RunLoaders:
        """The train and validation loaders that ``fit`` would have asked for."""
        source: Any = pl_module if self.datamodule is None else self.datamodule
        kind = LightningModule if self.datamodule is None else LightningDataModule
        if self.datamodule is not None:
            self.datamodule.trainer = trainer
            self.datamodule.setup("fit")
        with preserved_random_state():
            train = source.train_dataloader() if is_overridden("train_dataloader", source, kind) else None
            validation = source.val_dataloader() if is_overridden("val_dataloader", source, kind) else None
        if train is None and which.members is None:
            raise UsageError("no images to audit: give --data, the data module that the model was trained with")
        return RunLoaders.of(train, validation or None)


class CheckpointCLI(AuditCLI):
    """The command line of ``audit``: that of ``fit``, with the method ``audit`` of :class:`AuditTrainer` in its place.

    Args:
        gate: What decides the exit code afterwards.

    >>> options = ["--ckpt_path=none", "--memaudit.patterns=[half]", "--data.num_train=4", "--data.num_controls=4"]
    >>> quiet = ["--memaudit.print_table=false", "--memaudit.figures=false"]
    >>> settings = {"command_line": CheckpointCLI, "trainer_class": AuditTrainer, "save_config_callback": None}
    >>> trainer = parse(["audit", *with_quickstart([*options, *quiet])], **settings).trainer
    Audit (audit): 40 recoveries
    >>> trainer.results.as_posix()
    'runs/quickstart/audits/as-made'
    """

    def __init__(self, *args: Any, gate: Gate | None = None, **kwargs: Any) -> None:
        self.gate = gate or Gate()
        super().__init__(*args, **kwargs)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """``audit``, whose model and data come from their own options."""
        return {"audit": {"model", "datamodule"}}

    def before_audit(self) -> None:
        """Know before the audit what the gate could never decide after it."""
        if self.gate.is_asked_for and self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise UsageError("fast_dev_run writes no report, which --fail_if, --strict and --format read: leave it out")
        check_measured(self.gate.conditions, the_callback(self.trainer))


_NEEDED: dict[str, tuple[Callable[[MemorizationAuditCallback], bool], str]] = {
    "memorized": (lambda one: INPAINTER in one.what.methods, f"add {INPAINTER} to --memaudit.methods"),
    "extracted": (lambda one: one.what.extraction > 0, "give --memaudit.extraction 1000"),
    "control": (lambda one: one.which.num_controls != 0, "it takes controls: --memaudit.num_controls"),
    "auroc": (lambda one: one.which.num_controls != 0, "it takes controls: --memaudit.num_controls"),
    "reference": (lambda one: one.how.reference is not None, "give --memaudit.reference"),
}
"""What a name takes that has one of these words in it: how to know, and what to give."""


def check_measured(conditions: Sequence[Condition], callback: MemorizationAuditCallback) -> None:
    """Raise where an audit with these settings measures nothing that a condition could be decided by.

    Raises:
        UsageError: It does not; the message names the option that would.
    """
    for condition in conditions:
        for word, (is_measured, mend) in _NEEDED.items():
            if word in condition.name and not is_measured(callback):
                raise UsageError(f"fail_if={str(condition)!r}: {condition.name} would not be measured; {mend}")


def run_audit(arguments: Sequence[str]) -> int:
    """Audit a checkpoint; without a config the options change the quickstart, or what the checkpoint says."""
    gate, arguments = Gate.take(arguments)
    if set(arguments) & {*HELP}:
        print(f"{gate_help('audit [RUN]')}\nRUN: the folder of a run of `fit`, instead of --config and --ckpt_path.\n")
    return gate.run(partial(_audit, arguments, gate))


def _audit(arguments: Sequence[str], gate: Gate) -> list[Result]:
    """Returns the results, on the first process."""
    quiet()
    arguments = with_run_folder(arguments)
    named, below = known_arguments(Given.read(arguments))
    cli = parse(
        ["audit", *with_quickstart(arguments, **named)],
        command_line=CheckpointCLI,
        trainer_class=AuditTrainer,
        save_config_callback=None,  # it would replace the config of the training
        below=below,
        gate=gate,
    )
    assert isinstance(cli.trainer, AuditTrainer)
    if not cli.trainer.is_global_zero:
        return []
    results = cli.trainer.results
    print(f"results: {results}")
    return [Result(results, read_document(RunFolder(results)))] if gate.is_asked_for else []


class Progress(NamedTuple):
    """How far the training of a checkpoint had come.

    Attributes:
        path: The checkpoint to load; None when there is nothing to load.
        epoch: Epochs done; None where it does not say.
        step: Steps likewise.
        given: What it remembers of the images that the training was given; None where it does not.

    >>> Progress("a.ckpt", 3).step is None
    True
    """

    path: str | None = None
    epoch: int | None = None
    step: int | None = None
    given: Mapping[str, Any] | None = None


def read_progress(ckpt_path: str | None, allow_types: Sequence[str] = (), state_key: str = "") -> Progress:
    """Check a checkpoint, and read how far the training had come.

    Args:
        ckpt_path: A file, a folder of a sharded checkpoint (which is not looked into), or "none".
        allow_types: Types that may be in it.
        state_key: Of the callback that goes on with it, whose own record counts where there are several.

    Raises:
        ValueError: It is missing, is no checkpoint, holds types that are not allowed, or only records of other
            callbacks, and several.
    """
    if ckpt_path == NO_CHECKPOINT:
        return Progress()
    if not ckpt_path:
        raise UsageError(
            "ckpt_path is required; name the folder of a run, as in `audit runs/quickstart`, or give --ckpt_path, "
            f"which is {NO_CHECKPOINT!r} for a model that loads its own weights"
        )
    if not Path(ckpt_path).exists():
        raise UsageError(f"ckpt_path={ckpt_path!r}: there is no such file")
    if Path(ckpt_path).is_dir():
        return Progress(ckpt_path)
    content = read_checkpoint(ckpt_path, allow_types)
    if not isinstance(content, dict) or "state_dict" not in content or "pytorch-lightning_version" not in content:
        raise UsageError(f"ckpt_path={ckpt_path!r} is no checkpoint of Lightning: there is no state_dict in it")
    epochs = content.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {}).get("current", {}).get("processed")
    return Progress(ckpt_path, epochs, content.get("global_step"), _given(content, ckpt_path, state_key))


def _given(content: Mapping[str, Any], ckpt_path: str, state_key: str) -> Mapping[str, Any] | None:
    """What the callback of this key, or the only one, remembers of the images that the training was given."""
    states = (content.get("callbacks") or {}).items()
    ours = {key: one for key, one in states if isinstance(one, Mapping) and "trained_on" in one}
    records = {key: one["given"] for key, one in ours.items() if "given" in one}
    if len(records) > 1 and state_key not in records:
        raise UsageError(
            f"ckpt_path={ckpt_path!r}: it was trained with several callbacks, {', '.join(records)}, and this audit is "
            f"none of them, {state_key}: give --memaudit.name=<that of one of them>"
        )
    return records.get(state_key) or next(iter(records.values()), None)


def _first_mismatch(message: str) -> str:
    """The first thing that is wrong in what ``load_state_dict`` complains about."""
    lines = [line.strip().rstrip(".") for line in message.splitlines()[1:] if line.strip()]
    return lines[0] if lines else message
