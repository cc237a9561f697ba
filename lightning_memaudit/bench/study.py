"""Trainings, and audits of their checkpoints, that are a study together: what is done is kept, a rerun does the rest.

Every piece is a command of this package, run in a process of its own, and printed: whoever wants one number alone runs
its command. In the folder of a study::

    fc10/config.yaml                              a training, as `fit` leaves it
    fc10/checkpoints/train-loss=1e-03.ckpt        its weights when the loss first fell to that
    fc10/audits/train-loss=1e-03/default/         an audit of those, as `audit` leaves it
    logs/                                         what the commands said
"""

import fnmatch
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_memaudit.results.files import write_json
from lightning_memaudit.results.run_folder import RunFolder
from lightning_memaudit.training.loss_levels import checkpoint_name

Run = Callable[[Sequence[str], Path], int]
"""Runs a command of this package, given its arguments and the file for what it says; returns its exit code."""

SECONDS = "seconds.json"
"""How long each piece took, added up over the times that it was begun."""


@dataclass(frozen=True)
class AuditOf:
    """One audit of some checkpoints of a training.

    Attributes:
        name: Of the audit, unique within the training.
        levels: Training losses whose checkpoints are audited.
        options: Of the command ``audit``.

    >>> AuditOf("default", (1e-3,), ("--memaudit.num_controls=300",)).name
    'default'
    """

    name: str
    levels: tuple[float, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Training:
    """One training of a study, and what is audited of it.

    Attributes:
        name: Of its folder.
        images: Which data of the study it trains on.
        configs: Of the command ``fit``, by name.
        options: Of the same, over the configs.
        audits: Of its checkpoints.

    >>> training = Training("fc10", "faces", ("quickstart",), (), (AuditOf("default", (1e-3,)),))
    >>> [piece.name for piece in pieces([training], Path("study"), lambda images: [])]
    ['fc10', 'fc10/train-loss=1e-03/default']
    """

    name: str
    images: str
    configs: tuple[str, ...]
    options: tuple[str, ...]
    audits: tuple[AuditOf, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A training or an audit: what is done or not.

    Attributes:
        name: Path-like, by which it can be asked for.
        results: Folder of its results; there is a report in it once it is done.
        arguments: Of the command that does it.
        checkpoint: That it audits; None for a training.
        begun: A checkpoint from which a training goes on.
        missing: Why it cannot be done, where its images are not there.

    >>> piece = Piece("fc10", Path("study/fc10/memaudit"), ("fit", "--config=quickstart"))
    >>> piece.is_done(), piece.command()
    (False, 'python -m lightning_memaudit fit --config=quickstart')
    """

    name: str
    results: Path
    arguments: tuple[str, ...]
    checkpoint: Path | None = None
    begun: Path | None = None
    missing: str = ""

    def is_done(self) -> bool:
        """Whether its report is written, which is the last thing that happens."""
        return (self.results / "report.json").is_file()

    def command(self) -> str:
        """As one would type it."""
        return shlex.join(["python", "-m", "lightning_memaudit", *self.current_arguments()])

    def current_arguments(self) -> list[str]:
        """The arguments, with the checkpoint to go on from if there is one by now."""
        resume = [] if self.begun is None or not self.begun.exists() else [f"--ckpt_path={self.begun}"]
        return [*self.arguments, *resume]


def pieces(trainings: Sequence[Training], root: Path, data: Callable[[str], Sequence[str]]) -> Iterator[Piece]:
    """All pieces, in the order in which they are done: each training, then its audits.

    Args:
        trainings: Of the study.
        root: Its folder.
        data: From the name of some images to the options that make their data module; a ValueError says that they are
            not there, which matters only to whoever asks for that training.
    """
    for training in trainings:
        run = root / training.name
        configs = [f"--config={config}" for config in training.configs]
        images, missing = _options_of(data, training.images)
        own = [*configs, *images, *training.options, f"--trainer.default_root_dir={run}"]
        last = run / "checkpoints" / "last.ckpt"
        yield Piece(training.name, run / "memaudit", ("fit", *own), begun=last, missing=missing)
        for audit in training.audits:
            for level in audit.levels:
                checkpoint = run / "checkpoints" / checkpoint_name(level)
                results = run / "audits" / checkpoint.stem / audit.name
                arguments = ("audit", str(run), f"--ckpt_path={checkpoint}", f"--memaudit.dirpath={results}")
                name = f"{training.name}/{checkpoint.stem}/{audit.name}"
                yield Piece(name, results, (*arguments, *audit.options), checkpoint)


def _options_of(data: Callable[[str], Sequence[str]], images: str) -> tuple[Sequence[str], str]:
    try:
        return data(images), ""
    except ValueError as error:
        return (), str(error)


@dataclass(frozen=True)
class Study:
    """Pieces in one folder, of which those that are not done are done.

    Attributes:
        root: The folder.
        pieces: In their order.
        run: Runs a command; for tests.

    >>> piece = Piece("fc10", Path("study/fc10/memaudit"), ("fit",))
    >>> Study(Path("study"), [piece], run=lambda arguments, log: 1).work("*")
    1 of 1 to do: fc10
      python -m lightning_memaudit fit
      failed (exit code 1), see study/logs/fc10.log
    ['fc10']
    """

    root: Path
    pieces: Sequence[Piece]
    run: Run | None = None

    def work(self, only: str) -> list[str]:
        """Do what is not done of the pieces that are asked for; returns the names of those that failed.

        An audit of a loss that its training did not reach is left out, and said.

        Args:
            only: Names, with ``*`` and ``?`` as in a shell.

        Raises:
            ValueError: There is no such piece, or the images of one are not there.
        """
        chosen = self.chosen(only)
        left = [piece for piece in chosen if not piece.is_done()]
        missing = [piece.missing for piece in left if piece.missing]
        if missing:
            raise ValueError(missing[0])
        failed: list[str] = []
        for number, piece in enumerate(left):
            if piece.checkpoint is not None and not piece.checkpoint.is_file():
                print(f"{piece.name}: no checkpoint, the training did not come so far", flush=True)
                continue
            print(f"{len(left) - number} of {len(chosen)} to do{self._time_left(left[number:])}: {piece.name}")
            print(f"  {piece.command()}", flush=True)
            log = self.root / "logs" / f"{piece.name.replace('/', '-')}.log"
            code = self._timed(piece, log)
            if code or not piece.is_done():
                print(f"  failed (exit code {code}), see {log}", flush=True)
                failed.append(piece.name)
        return failed

    def chosen(self, only: str) -> list[Piece]:
        """The pieces that are asked for by name.

        Raises:
            ValueError: There is none.
        """
        chosen = [piece for piece in self.pieces if fnmatch.fnmatchcase(piece.name, only)]
        if not chosen:
            some = ", ".join(piece.name for piece in self.pieces[:4])
            raise ValueError(f"only={only!r} names no piece of the study; they are {some}, ...: --list true shows all")
        return chosen

    def seconds(self) -> dict[str, float]:
        """How long each piece took, or has taken so far, by its name."""
        file = self.root / SECONDS
        known: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return known

    def _timed(self, piece: Piece, log: Path) -> int:
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        try:
            return (self.run or run_command)(piece.current_arguments(), log)
        finally:
            known = self.seconds()
            known[piece.name] = known.get(piece.name, 0.0) + time.monotonic() - began
            write_json(self.root / SECONDS, known)

    def _time_left(self, left: Sequence[Piece]) -> str:
        """As long as what is done and has the same kind took on average; nothing where one of a kind is not done."""
        known = self.seconds()
        by_kind: dict[str, list[float]] = {}
        for piece in self.pieces:
            if piece.is_done() and piece.name in known:
                by_kind.setdefault(_kind(piece), []).append(known[piece.name])
        means = [by_kind.get(_kind(piece)) for piece in left]
        if not all(means):
            return ""
        hours = sum(sum(mean) / len(mean) for mean in means if mean) / 3600
        return f", about {hours:.1f} h as the others took"


def _kind(piece: Piece) -> str:
    """Trainings differ; audits of one name and training are alike."""
    parts = piece.name.split("/")
    return f"{parts[0]}/{parts[-1]}"


def run_command(arguments: Sequence[str], log: Path) -> int:
    """Run a command of this package in a process of its own, its output in a file that it is added to."""
    with log.open("ab") as file:
        command = [sys.executable, "-m", "lightning_memaudit", *arguments]
        return subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode


def rows_of(piece: Piece) -> list[dict[str, object]]:
    """The rows of ``audits.jsonl`` of an audit that is done."""
    return [dict(row) for row in RunFolder(piece.results).audits()]
