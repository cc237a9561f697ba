"""Where results go: files, terminal, loggers, report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_memaudit.results.audit_report import AuditReport
from lightning_memaudit.results.files import plain
from lightning_memaudit.results.names import DEFAULT_NAME, check_name
from lightning_memaudit.results.run_folder import RUN, RunFolder

if TYPE_CHECKING:
    from lightning_memaudit.report.wandb_run import WandbRun
    from lightning_memaudit.report.write import WrittenReport


@dataclass(frozen=True)
class Outputs:
    """Where the results of audits go, on the first process.

    Attributes:
        name: Prefix of the metrics and name of the folder.
        dirpath: Folder of the results; None is ``<default_root_dir>/<name>``.
        figures: Draw PNG figures with the report.
        print_table: Print a table after every audit.
        log_images: Recovered training images per group and pattern to send to the loggers; they are training data.
        log_recoveries: Send W&B the saved recoveries too, and the page with its pictures: all of it training data.

    Raises:
        ValueError: The name cannot be part of a metric's, or a number is negative.

    >>> Outputs().folder("runs/a")
    PosixPath('runs/a/memaudit')
    """

    name: str = DEFAULT_NAME
    dirpath: str | Path | None = None
    figures: bool = True
    print_table: bool = True
    log_images: int = 0
    log_recoveries: bool = False

    def __post_init__(self) -> None:
        check_name(self.name, f"name={self.name!r}")
        if self.log_images < 0:
            raise ValueError(f"log_images={self.log_images}: must be 0 or more")

    def folder(self, default_root_dir: str | Path) -> Path:
        """The folder of the results, of a trainer with this root."""
        return Path(self.dirpath) if self.dirpath is not None else Path(default_root_dir) / self.name

    def publish(
        self, trainer: Trainer, report: AuditReport, folder: RunFolder | None, run: dict[str, Any], raise_errors: bool
    ) -> None:
        """Files first, then the terminal, then the loggers.

        Args:
            trainer: Whose loggers get the audit.
            report: The audit.
            folder: None writes no files.
            run: Content of ``run.json``, written where it is missing.
            raise_errors: Raise what a logger does not take; otherwise warn, since the files have it.
        """
        if folder is not None:
            report.append_to(folder)
            if not (folder.path / RUN).is_file():
                folder.write_run(run)
        if self.print_table:
            from lightning_memaudit.report.terminal import print_audit

            # What the columns are is the same in every audit of a run.
            print_audit(report.rows, primary=report.primary, legend=report.rows[0]["audit"] == 0)
        self._log(trainer.loggers, report, self._settings(trainer, run), raise_errors)

    def _log(
        self, loggers: Sequence[Any], report: AuditReport, settings: Mapping[str, Any], raise_errors: bool
    ) -> None:
        from lightning_memaudit.report.loggers import log_audit

        for logger in loggers:
            try:
                notice = log_audit(logger, report, self.name, self.log_images, settings)
            except Exception as error:
                if raise_errors:
                    raise
                rank_zero_warn(f"{type(logger).__name__} did not take the audit: {type(error).__name__}: {error}")
            else:
                if notice is not None:
                    rank_zero_warn(notice)

    def _settings(self, trainer: Trainer, run: Mapping[str, Any]) -> dict[str, Any]:
        """Of the audits: for own scripts, whose loggers know no config."""
        counts = {f"num_{group}": (run.get(group) or {}).get("num_images") for group in ("members", "controls")}
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined] # Lightning does not declare it
        mine = [one for one in callbacks if hasattr(one, "when") and getattr(one, "where", None) is self]
        schedule = vars(mine[0].when) if mine else {}
        found: dict[str, Any] = plain({**(run.get("settings") or {}), **counts, **schedule}, str)
        return found

    def write_report(self, folder: RunFolder, loggers: Sequence[Any] = ()) -> None:
        """Write report.json, report.html and the figures, print the verdict, and give all that to W&B."""
        from lightning_memaudit.report.terminal import print_verdict
        from lightning_memaudit.report.wandb_run import WandbRun
        from lightning_memaudit.report.write import write_report

        report = write_report(folder, figures=self.figures)
        if self.print_table:
            print_verdict(report.document)
        for logger in loggers:
            try:
                run = WandbRun.of(logger, self.name)
                if run is not None:
                    run.conclude(report.document)
                    self._log_files(run, folder, report)
            except Exception as error:  # the files have it
                rank_zero_warn(f"{type(logger).__name__} did not take the report: {type(error).__name__}: {error}")

    def _log_files(self, run: "WandbRun", folder: RunFolder, report: "WrittenReport") -> None:
        """The page without pictures, and only where that was asked for what holds training data."""
        from lightning_memaudit.report.html import render

        page = render([folder], [report.document], pictures=self.log_recoveries)
        saved = folder.newest_recoveries() if self.log_recoveries else None
        run.log_files(page, [] if saved is None else [report.json, saved.path])
