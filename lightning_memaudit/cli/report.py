"""The commands that read results: ``report``, ``verify``, ``dashboard``. None of them loads a model."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import rich
from rich.text import Text

from lightning_memaudit.cli.gate import OPTIONS as GATE_OPTIONS
from lightning_memaudit.cli.gate import Gate, Result
from lightning_memaudit.cli.main import DONE, FAILED, PROGRAM, UsageError, hint, legible
from lightning_memaudit.report.gate_formats import Document
from lightning_memaudit.results.chain import audit_sha256, by_audit
from lightning_memaudit.results.names import DEFAULT_NAME
from lightning_memaudit.results.run_folder import RunFolder


class _Parser(argparse.ArgumentParser):
    """Raises what is wrong as one line."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"{PROGRAM} {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        known = list(self._option_string_actions)
        if message.startswith("unrecognized arguments: "):
            stray = message.partition(": ")[2].split()[0]
            message = f"{stray!r} is not an option{hint(stray.split('=')[0], known)}"
        raise UsageError(f"{message}; `{self.prog} --help` lists the options")


def _check_copies(folders: Sequence[RunFolder]) -> None:
    """Raise where a run would be compared with its own copy, as if it had been made again."""
    seen: dict[str, Path] = {}
    for folder in folders:
        audits = by_audit(folder.chained_audits())
        if not audits:
            continue  # which is said where it is read
        other = seen.setdefault(audit_sha256(audits[-1]), folder.path)
        if other != folder.path:
            raise UsageError(f"{folder.path} ends with the audit of {other}, as a copy does: name one of them")


def _names(text: str) -> list[str]:
    """``[a, b]``, as the other commands take a list."""
    return [name.strip(" '\"") for name in text.strip("[] ").split(",") if name.strip()]


def _formats(text: str) -> list[str]:
    """Formats of figures."""
    names = _names(text)
    unknown = [name for name in names if name not in ("png", "pdf", "svg")]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of png, pdf, svg; such as --figures png,pdf")
    return list(dict.fromkeys(names))


def run_report(arguments: Sequence[str]) -> int:
    """Rebuild the table, the figures and the reports of runs; compare several in one HTML file."""
    parser = _Parser("report", "Rebuild table, figures, report.json and report.html from the results of runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or its results in it")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where the HTML, or what --format makes, goes; default: with the results of one run, "
        "memaudit-report.html here for several; stdout for --format",
    )
    parser.add_argument(
        "--no_pictures",
        action="store_true",
        help="leave all images out, they are training data: writes report-without-pictures.html, or FILE without any",
    )
    parser.add_argument("--no_figures", action="store_true", help="do not draw the figures")
    parser.add_argument(
        "--figures",
        type=_formats,
        default=["png"],
        metavar="[FORMAT,...]",
        help="formats of the figures: png, pdf, svg; default: png",
    )
    parser.add_argument("--pdf", action="store_true", help="also print the page to a PDF, by Chromium, Chrome or Edge")
    for name, settings in GATE_OPTIONS.items():
        parser.add_argument(f"--{name}", **settings)
    options = parser.parse_args(arguments)
    gate = Gate.of(options)
    if gate.format is None:
        _check_output(options.output)
    folders = [RunFolder.find(path) for path in options.runs]
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise UsageError(f"{' '.join(map(str, options.runs))}: a run is named twice; name each once")
    if len(folders) > 1:
        _check_copies(folders)
    return gate.run(partial(_write_reports, folders, options, checked=gate.is_asked_for))


def _write_reports(folders: Sequence[RunFolder], options: argparse.Namespace, checked: bool) -> list[Result]:
    """Write and print the reports of runs; compare several, unless the output is for machines.

    Args:
        folders: The results of each run.
        options: Of the command line.
        checked: Whether to say what is not true of them, as ``verify`` does: nothing may be decided by such numbers.
    """
    from lightning_memaudit.report.labels import printable
    from lightning_memaudit.report.manifest import add_to_manifest
    from lightning_memaudit.report.pdf import find_browser, write_pdf
    from lightning_memaudit.report.terminal import print_audit, print_verdict
    from lightning_memaudit.report.write import write_html, write_report

    browser = find_browser() if options.pdf else None
    pictures = not options.no_pictures
    written = []
    for folder in folders:
        anew = len(folders) == 1  # of many, those that are as they should be stay
        report = write_report(folder, not options.no_figures, pictures, options.figures, anew)
        written.append(report)
        if len(folders) > 1:
            rich.get_console().rule(Text(printable(str(folder.path))))
        print_audit(report.document["rates"], primary=report.document["judgement"]["method"])
        print_verdict(report.document)
        print(printable(str(report.json)), printable(str(report.html)), sep="\n")
    if options.format is None and (len(folders) > 1 or options.output):
        path = options.output or Path("memaudit-report.html")
        views = [report.view for report in written]
        write_html(folders, [report.document for report in written], path, pictures, views)
        print(printable(str(path)))
        if browser is not None:
            print(printable(str(write_pdf(path, browser))))
        if len(folders) > 1 and not options.no_figures:
            from lightning_memaudit.report.paper_figures import fraction_figure
            from lightning_memaudit.report.style import save_figure

            figure = fraction_figure(folders)
            if figure is not None:
                print(*save_figure(figure, _figure_beside(path).with_suffix(""), options.figures), sep="\n")
    elif browser is not None:
        for folder, report in zip(folders, written, strict=True):
            printed = write_pdf(report.html, browser)
            add_to_manifest(folder, printed)
            print(printable(str(printed)))
    return [
        _checked(folder, report.document) if checked else Result(folder.path, report.document)
        for folder, report in zip(folders, written, strict=True)
    ]


def _checked(folder: RunFolder, document: Document) -> Result:
    from lightning_memaudit.report.verify import NOT_SHOWN, is_shown, verify

    checks = verify(folder)
    untrue = tuple(f"{check.name}: {check.detail}" for check in checks if check.passed is False)
    return Result(folder.path, document, untrue, None if is_shown(checks) else NOT_SHOWN)


def _figure_beside(page: Path) -> Path:
    return page.with_name(f"{page.stem}-missing-fraction.png")


def _check_output(output: Path | None) -> None:
    """Raise unless what is written to is a file, or not there yet: a device would be written to, or worse replaced."""
    if output is None:
        return
    for path in (output, _figure_beside(output) if output.name else output):
        if path.exists() and not path.is_file():
            raise UsageError(f"--output {output}: {path} is no regular file; give the name of a file")


def run_verify(arguments: Sequence[str]) -> int:
    """Say whether a report is true: 0 it is, 1 it is not, or that was not shown, 2 there is none to check."""
    parser = _Parser("verify", "Score the saved recoveries again and say whether report.json is true.")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or its results in it")
    parser.add_argument(
        "--ckpt_path",
        type=Path,
        metavar="FILE",
        help="also check that this checkpoint holds the audited weights; the name of one of the run will do: last",
    )
    parser.add_argument(
        "--allow_types",
        type=_names,
        default=[],
        metavar="[TYPE,...]",
        help="types that may be in the checkpoint besides tensors and plain values; only from a source that you trust",
    )
    options = parser.parse_args(arguments)
    folder = RunFolder.find(options.run)
    if options.ckpt_path is not None and not options.ckpt_path.is_file():
        from lightning_memaudit.cli.audited_run import named_checkpoint

        options.ckpt_path = Path(named_checkpoint(options.run, str(options.ckpt_path)))
    if options.ckpt_path is not None and not options.ckpt_path.is_file():
        raise UsageError(f"--ckpt_path {options.ckpt_path}: there is no such file; give the checkpoint of the run")

    from lightning_memaudit.report.labels import printable
    from lightning_memaudit.report.verify import conclusion, is_true, verify

    checks = verify(folder, options.ckpt_path, options.allow_types)
    signs = {True: "✓ ", False: "✗ ", None: "- NOT CHECKED: "}
    lines = [*(f"{signs[check.passed]}{check.name}: {check.detail}" for check in checks), conclusion(checks)]
    for line in map(printable, lines):
        print(legible(line, sys.stdout))
    return DONE if is_true(checks) else FAILED


def run_dashboard(arguments: Sequence[str]) -> int:
    """Save a W&B workspace that shows audits, or print it."""
    parser = _Parser("dashboard", "Save a W&B workspace for the audits of a project.")
    parser.add_argument("--entity", required=True, help="W&B user or team")
    parser.add_argument("--project", required=True, help="W&B project that the runs log to")
    parser.add_argument("--name", default="Memorization audit", help="name of the saved view")
    parser.add_argument("--prefix", default=DEFAULT_NAME, help="of the metrics: the name of the callback")
    parser.add_argument("--dry_run", action="store_true", help="print the workspace as JSON; needs no network")
    options = parser.parse_args(arguments)

    from lightning_memaudit.report.dashboard import build_workspace, save_workspace, to_json

    workspace = build_workspace(options.entity, options.project, options.name, options.prefix)
    print(to_json(workspace) if options.dry_run else save_workspace(workspace))
    return DONE
