"""``audit RUN``: the config and the checkpoint that ``fit`` has left in the folder of a run."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_only

from lightning_memaudit.cli.hyperparameters import Given
from lightning_memaudit.cli.main import UsageError, legible
from lightning_memaudit.report.checkpoint import read_checkpoint
from lightning_memaudit.results.hashes import tensors_sha256
from lightning_memaudit.results.run_folder import CONFIG, RUN, RunFolder


def with_run_folder(arguments: Sequence[str]) -> list[str]:
    """The arguments of ``audit``, with options in the place of the run folder that they begin with, if they do.

    The results go below the folder as it is now, even where it has moved, and never into those of the training.

    Raises:
        UsageError: There is no such folder, no config in it, or no checkpoint, or several that may be meant.

    >>> with_run_folder(["--ckpt_path=a.ckpt"])
    ['--ckpt_path=a.ckpt']
    >>> Path("runs/a/checkpoints").mkdir(parents=True)
    >>> _ = Path("runs/a/config.yaml").write_text("seed_everything: 0")
    >>> Path("runs/a/checkpoints/last.ckpt").touch()
    >>> with_run_folder(["runs/a"])[-1]
    --config runs/a/config.yaml --ckpt_path runs/a/checkpoints/last.ckpt
    '--ckpt_path=runs/a/checkpoints/last.ckpt'
    """
    if not arguments or arguments[0].startswith("-"):
        return list(arguments)
    run, rest = Path(arguments[0]), arguments[1:]
    if not run.is_dir():
        what = "is a file" if run.exists() else "does not exist"
        raise UsageError(f"run folder {run} {what}: pass the folder of a run first, or a checkpoint as --ckpt_path")
    root, config = _root_and_config(run)
    if config is None:
        raise UsageError(f"run folder {run} holds no {CONFIG}, as `fit` leaves it: give --config and --ckpt_path")
    given = Given.read(rest)
    if given.ckpt_path:
        path = named_checkpoint(run, given.ckpt_path)
    else:
        path = str(_checkpoint(run, root, config, given.allow_types))
    rank_zero_only(print)(legible(f"--config {config} --ckpt_path {path}", sys.stdout))
    return [
        f"--config={config}",
        f"--trainer.default_root_dir={root}",
        "--memaudit.dirpath=null",
        *rest,
        f"--ckpt_path={path}",
    ]


def named_checkpoint(run: Path, given: str) -> str:
    """The checkpoint of a run that is given by its name alone, such as ``last``; as it is given where there is none.

    >>> Path("runs/a/checkpoints").mkdir(parents=True, exist_ok=True)
    >>> _ = Path("runs/a/config.yaml").write_text("seed_everything: 0")
    >>> Path("runs/a/checkpoints/last.ckpt").touch()
    >>> named_checkpoint(Path("runs/a"), "last"), named_checkpoint(Path("runs/a"), "best")
    ('runs/a/checkpoints/last.ckpt', 'best')
    """
    root, config = _root_and_config(run)
    if config is None or Path(given).exists() or Path(given).name != given:
        return given
    named = [path for path in _checkpoints(root, config) if given in (path.name, path.stem)]
    return str(named[0]) if len(named) == 1 else given


def _root_and_config(run: Path) -> tuple[Path, Path | None]:
    """The root of a run, and its config, from that root or from the results in it."""
    if (run / RUN).is_file():
        return run.parent, RunFolder(run).config()
    if (run / CONFIG).is_file():
        return run, run / CONFIG
    with suppress(OSError, ValueError):
        return run, RunFolder.find(run).config()
    return run, None


def _checkpoint(run: Path, root: Path, config: Path, allow_types: Sequence[str]) -> Path:
    """The checkpoint of the run; of several, one that holds the weights that were audited last."""
    found = _checkpoints(root, config)
    if not found:
        raise UsageError(f"run folder {run} holds no checkpoint: give one as --ckpt_path")
    if len(found) == 1:
        return found[0]
    audited = _audited_weights(run)
    for path in found if audited is not None else ():
        if path.is_file() and _weights(path, allow_types) == audited:
            return path
    names = ", ".join(map(str, found[:5]))
    raise UsageError(f"run folder {run} holds {len(found)} checkpoints, {names}: give one of them as --ckpt_path")


def _checkpoints(root: Path, config: Path) -> list[Path]:
    return list(dict.fromkeys(path for place in _places(root, config) for path in sorted(place.glob("*.ckpt"))))


def _places(root: Path, config: Path) -> Iterator[Path]:
    """Folders in which the run may have left checkpoints: beside its results, or where its config or logger says."""
    yield root / "checkpoints"
    content = yaml.safe_load(config.read_text())
    trainer = content.get("trainer") if isinstance(content, Mapping) else None
    callbacks = trainer.get("callbacks") if isinstance(trainer, Mapping) else None
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if isinstance(callback, Mapping) and "Checkpoint" in str(callback.get("class_path")):
            settings: Any = callback.get("init_args")
            if isinstance(settings, Mapping) and settings.get("dirpath"):
                yield Path(settings["dirpath"])
    yield from sorted(root.glob("*/version_*/checkpoints"))


def _audited_weights(run: Path) -> str | None:
    with suppress(OSError, ValueError):
        rows = RunFolder.find(run).audits()
        return str(rows[-1]["weights_sha256"]) if rows and rows[-1].get("weights_sha256") else None
    return None


def _weights(path: Path, allow_types: Sequence[str]) -> str | None:
    content = read_checkpoint(path, allow_types)
    return tensors_sha256(content["state_dict"]) if isinstance(content, Mapping) and "state_dict" in content else None
