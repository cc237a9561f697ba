"""The commands that train or load a model, on Lightning's command line."""

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from lightning_memaudit.callback.memorization_audit import MemorizationAuditCallback
from lightning_memaudit.cli.hyperparameters import Given, known_arguments, namespace
from lightning_memaudit.cli.main import DONE, PROGRAM, TWIN, UsageError, look_up, shipped_configs
from lightning_memaudit.cli.parser import UNION, OneLineParser, explain
from lightning_memaudit.results.files import write_text
from lightning_memaudit.results.names import DEFAULT_NAME

QUICKSTART = "quickstart.yaml"


class LoggedConfig(SaveConfigCallback):
    """Saves the config where Lightning does, and beside the results, and gives it to the loggers to compare runs by.

    >>> cli = parse(with_quickstart(["--trainer.max_epochs=3"]), run=False)
    >>> LoggedConfig(cli.parser, cli.config).save_config(cli.trainer, cli.model, stage="fit")
    >>> yaml.safe_load(Path("runs/quickstart/config.yaml").read_text())["trainer"]["max_epochs"]
    3
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it; not into a folder that a logger has for all runs, where the next run's would replace it."""
        self.save_to_log_dir = trainer.logger is None or getattr(trainer.logger, "log_dir", None) is not None
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """What Lightning leaves to subclasses; on the first process only."""
        text = self.parser.dump(self.config, skip_none=False)
        beside = Path(trainer.default_root_dir) / self.config_filename
        beside.parent.mkdir(parents=True, exist_ok=True)
        write_text(beside, text)
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(text))


class AuditCLI(LightningCLI):
    """Lightning's command line with the audit callback under ``--memaudit.*``.

    Args:
        below: Arguments of the command that hold where neither a config nor an option says otherwise.

    >>> cli = parse(with_quickstart(["--memaudit.at_epochs=[0, 5]", "--data.num_train=20"]), run=False)
    >>> the_callback(cli.trainer).when.at_epochs, cli.datamodule.num_train
    ([0, 5], 20)
    """

    def __init__(self, *args: Any, below: Namespace | None = None, **kwargs: Any) -> None:
        self.below = below
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callback."""
        parser.add_lightning_class_args(MemorizationAuditCallback, DEFAULT_NAME)
        parser.add_argument(
            "--twin",
            type=bool,
            default=False,
            help="Also train a twin on the first controls, then audit each model with the other as its reference.",
        )
        parser.usage = "%(prog)s [--config FILE ...] [--option VALUE ...]"
        # What this package adds comes first in the help; Lightning's own hundreds of lines follow.
        groups: Any = parser._action_groups
        groups.sort(key=lambda group: getattr(group, "dest", None) != DEFAULT_NAME)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, without Lightning's warning that the process has arguments too: they are the same."""
        below = namespace(**{args[0]: self.below}) if self.below is not None else None
        self.config = parser.parse_args(args, namespace=below)

    def _parse_ckpt_path(self) -> None:
        """Lightning takes the model's arguments from the checkpoint, over those in the config: here they are below."""

    def before_instantiate_classes(self) -> None:
        """Give every run of a sweep folders of its own."""
        own = sweep_folder(os.environ)
        if own is not None:
            put_below(self.config.get(str(self.subcommand), self.config), own)

    def instantiate_classes(self) -> None:
        """Keep checkpoints beside the results, also where a logger has a folder of its own: what belongs together."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            if UNION not in str(error):
                raise
            raise UsageError(explain(str(error))) from error
        if self.config.get(str(self.subcommand), self.config)["trainer"].get("default_root_dir"):
            keep_checkpoints_beside_results(self.trainer)

    def before_fit(self) -> None:
        """Know before the training that no twin could follow it."""
        if not self.config["fit"].get("twin"):
            return
        if self.trainer.world_size > 1:
            raise UsageError("twin=True: a twin is trained in one process; give --trainer.devices=1")
        if self.datamodule is None:
            raise UsageError("twin=True: the twin is trained on the controls of a data module; give --data")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The methods of the trainer that can be run, each with the arguments that are not options."""
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"}}


_REASONS = {
    EarlyStoppingReason.DIVERGENCE_THRESHOLD: "diverged",
    EarlyStoppingReason.NON_FINITE_METRIC: "is not finite any more",
    EarlyStoppingReason.STOPPING_THRESHOLD: "is as good as was asked for",
    EarlyStoppingReason.PATIENCE_EXHAUSTED: "did not get better any more",
}


def why_it_ended(trainer: Trainer) -> list[str]:
    """What early stopping says of a fit that is over; nothing of an earlier one, from whose checkpoint it went on."""
    stoppers = trainer.early_stopping_callbacks if trainer.should_stop else []
    return [f"{one.monitor} {_REASONS[one.stopping_reason]}" for one in stoppers if one.stopping_reason in _REASONS]


def run_fit(arguments: Sequence[str]) -> int:
    """Train, and audit on the way; without a config the options change the quickstart."""
    quiet()
    named, below = known_arguments(Given.read(arguments), mend="--weights_only=false")
    arguments = with_quickstart(arguments, **named)
    cli = parse(["fit", *arguments], below=below)
    if cli.trainer.is_global_zero:
        for words in why_it_ended(cli.trainer):
            print(f"the training ended: {words}")
        print(f"results: {the_callback(cli.trainer).where.folder(cli.trainer.default_root_dir)}")
        saved = getattr(cli.trainer.checkpoint_callback, "last_model_path", "") or getattr(
            cli.trainer.checkpoint_callback, "best_model_path", ""
        )
        if saved:
            print(f"checkpoint: {_relative(saved)}")
    if cli.config["fit"].get("twin"):
        for name, folder in look_up(TWIN)(arguments, cli, below).items():
            print(f"results of the {name}, with the other as its reference: {folder}")
    return DONE


def parse(
    arguments: Sequence[str], run: bool = True, command_line: type[AuditCLI] = AuditCLI, **settings: Any
) -> AuditCLI:
    """Parse the arguments, make all objects, and run the command.

    Args:
        arguments: The command's name and its options; the options alone where ``run`` is false.
        run: Run the command; otherwise only make the objects.
        command_line: Which command line parses them.
        settings: Further arguments of Lightning's command line, such as ``trainer_class``.

    Raises:
        UsageError: An argument is wrong.
    """
    return command_line(
        LightningModule,
        None,  # any data module, or none: a model may have its own dataloaders
        subclass_mode_model=True,
        parser_class=OneLineParser,
        parser_kwargs={"prog": PROGRAM},
        # A run into the same folder replaces its config, as it does its results.
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        args=list(arguments),
        run=run,
        **({"save_config_callback": LoggedConfig} | settings),
    )


def with_quickstart(arguments: Sequence[str], model: str | None = None, data: str | None = None) -> list[str]:
    """The arguments, with the quickstart's config before them unless they have a config of their own.

    It is of no use for another model: neither its data nor its schedule, loggers and folders are meant then.

    Args:
        arguments: Of the command.
        model: The class of the model where the arguments name none; None is the quickstart's.
        data: Likewise, of the data module.
    """
    given = Given.read(arguments)
    path = shipped_configs() / QUICKSTART
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    model = given.model or model
    others = [(model, own["model"])] + ([] if given.data else [(data, own["data"])])
    if given.has_config or any(name not in (None, *_names(content["class_path"])) for name, content in others):
        return list(arguments)
    return ["--config", str(path), *arguments]


def _names(class_path: str) -> tuple[str, str]:
    return class_path, class_path.rpartition(".")[2]


def sweep_folder(environment: Mapping[str, str]) -> str | None:
    """Where a run of a W&B sweep keeps its files, below the folders that its config names; None for other runs.

    Several agents may run one sweep in one place. The names are those that the agent gives each run, and gives it again
    when it is resumed.

    >>> sweep_folder({"WANDB_SWEEP_ID": "a1b2", "WANDB_RUN_ID": "x9"})
    'sweep-a1b2/x9'
    """
    sweep, run = environment.get("WANDB_SWEEP_ID"), environment.get("WANDB_RUN_ID")
    return f"sweep-{sweep}/{run}" if sweep and run else None


def _relative(path: str) -> str:
    """As it can be given to the next command from here."""
    own = Path(path)
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else path


def put_below(config: Any, folder: str) -> None:
    """Put whatever a run writes below its folders into this folder there.

    Args:
        config: Of a command; changed. The loggers have folders of their own for every run already.
        folder: Relative.
    """
    trainer = config["trainer"]
    root = str(trainer.get("default_root_dir") or ".")  # perhaps an address, which is no path
    trainer["default_root_dir"] = f"{root}/{folder}"
    callbacks = trainer.get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    places = [config.get(DEFAULT_NAME), *(one.get("init_args") for one in callbacks if hasattr(one, "get"))]
    for place in places:
        if place is not None and place.get("dirpath") is not None:
            place["dirpath"] = f"{place['dirpath']}/{folder}"


def keep_checkpoints_beside_results(trainer: Trainer) -> None:
    """Let all checkpoints for which no folder was named go where they go without a logger.

    With one, Lightning puts them below its folder; in that of the run there may then be those of an older run, of other
    weights than the results there are about.

    >>> trainer = Trainer(default_root_dir="runs/a", accelerator="cpu", barebones=False)
    >>> keep_checkpoints_beside_results(trainer)
    >>> Path(trainer.checkpoint_callback.dirpath).relative_to(Path.cwd()).as_posix()
    'runs/a/checkpoints'
    """
    root = str(trainer.default_root_dir)
    place = f"{root}/checkpoints" if "://" in root else os.path.realpath(Path(root) / "checkpoints")
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = place


def quiet() -> None:
    """Keep Lightning from filling the terminal with what does not concern images held in memory."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for noise in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", noise)


def the_callback(trainer: Trainer) -> MemorizationAuditCallback:
    """The audit callback of ``--memaudit.*``: the command line puts it behind those of ``--trainer.callbacks``."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined] # Lightning sets it without declaring it
    return next(one for one in reversed(callbacks) if isinstance(one, MemorizationAuditCallback))
