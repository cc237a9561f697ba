"""``fit --help`` and ``audit --help``: the options that people use first, on one screen; ``-v`` shows all."""

from collections.abc import Sequence

from lightning_memaudit.cli.configs import with_paths
from lightning_memaudit.cli.main import COMMANDS, PROGRAM, in_columns, wrapped

HELP = ("-h", "--help")
ALL = ("-v", "--verbose")

AUDIT = {
    "--memaudit.patterns": ("[NAME,...]", "Degradations: random-0.9, half, ..."),
    "--memaudit.methods": ("[NAME,...]", "Recovery methods: blind, biharmonic, ..."),
    "--memaudit.num_members": ("N", "Training images that are audited; null: all."),
    "--memaudit.num_controls": ("N", "Images never trained on; 0: none."),
    "--memaudit.image_key": ("KEY", "Where the image is in an item of the data."),
    "--memaudit.reconstruct": ("METHOD", "What the autoencoder is, if not forward."),
    "--memaudit.mean": ("[X,...]", "What the data set subtracts from the images."),
    "--memaudit.std": ("[X,...]", "What it then divides them by."),
    "--memaudit.extraction": ("N", "Also what comes out from N blank starts."),
}
WHEN = {
    "--memaudit.every_n_epochs": ("N", "After every n-th epoch."),
    "--memaudit.at_epochs": ("[N,...]", "After so many epochs; 0: before the first."),
    "--memaudit.at_train_loss": ("[X,...]", "When the training's loss first falls so low."),
}
RUN = {
    "--config": ("NAME|FILE", "May be repeated; what comes later wins."),
    "--model": ("CLASS", "A LightningModule, by module.Class."),
    "--data": ("CLASS", "A LightningDataModule, by module.Class."),
}
GATE = {
    "--fail_if": ("'NAME>VALUE'", "Exit with 3 where it holds; names: -v."),
    "--strict": ("", "Exit with 4 where the verdict is inconclusive."),
}
USAGE = {"fit": "[--option VALUE ...]", "audit": "[RUN] [--option VALUE ...]"}
"""What stands behind a command; RUN is the folder of a run that `fit` has left."""
FIRST: dict[str, dict[str, tuple[str, str]]] = {
    "fit": RUN
    | {
        "--trainer.max_epochs": ("N", "How long to train."),
        "--trainer.accelerator": ("NAME", "cpu, gpu, auto, ..."),
        "--trainer.default_root_dir": ("DIR", "Where the results go."),
        "--ckpt_path": ("FILE", "Resume from this checkpoint."),
    }
    | WHEN
    | AUDIT
    | {"--print_config": ("", "Print the config, and run nothing.")},
    "audit": {"--ckpt_path": ("FILE", 'The checkpoint; "none": as the model is made.')}
    | RUN
    | {
        "--allow_types": ("[TYPE,...]", "Types that may be in it besides tensors."),
        "--trainer.accelerator": ("NAME", "cpu, gpu, auto, ..."),
        "--trainer.default_root_dir": ("DIR", "Results go to audits/ in this folder."),
        "--memaudit.dirpath": ("DIR", "Results go there instead."),
    }
    | AUDIT
    | GATE
    | {"--print_config": ("", "Print the config, and run nothing.")},
}
"""By command, the options that people use first: what they take, and what they do."""


def prepared(command: str, arguments: Sequence[str]) -> list[str] | None:
    """The arguments, with paths for names of configs; None when their help was asked for, which is then printed.

    Args:
        command: ``fit`` or ``audit``.
        arguments: Those behind it.

    Raises:
        UsageError: A config has no such name.
    """
    if set(arguments) & set(ALL):
        return [*with_paths(argument for argument in arguments if argument not in (*ALL, *HELP)), "--help"]
    if set(arguments) & set(HELP):
        print(first_help(command))
        return None
    return with_paths(arguments)


def first_help(command: str) -> str:
    """The options that people use first, in lines that this terminal shows whole."""
    options = {f"{name} {value}".rstrip(): words for name, (value, words) in FIRST[command].items()}
    what = COMMANDS[command][1]
    return "\n".join(
        (
            wrapped(f"usage: {PROGRAM} {command} {USAGE[command]}", "  "),
            wrapped(f"{what[0].upper()}{what[1:]}.", ""),
            in_columns(options, indent=" "),
            wrapped(f"`{command} --help -v` shows all options, `--data.help CLASS` those of a class."),
        )
    )
