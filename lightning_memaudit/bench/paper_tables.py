"""The tables and figures of a study, from what is done of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_memaudit.bench.study import Study, rows_of
from lightning_memaudit.report.figures import rate_figure
from lightning_memaudit.report.paper_figures import fraction_figure, iteration_figures
from lightning_memaudit.report.style import save_figure
from lightning_memaudit.results.files import write_json, write_text
from lightning_memaudit.results.run_folder import RunFolder

FORMATS = ("png", "pdf")


def write_results(study: Study) -> str:
    """Write results.md, results.json and the figures of a study; returns the tables, in Markdown."""
    done = [piece for piece in study.pieces if piece.checkpoint is not None and piece.is_done()]
    rows: list[dict[str, Any]] = []
    for piece in done:
        training, level, audit = piece.name.split("/")
        rows += [{**row, "training": training, "level": level, "asked": audit} for row in rows_of(piece)]
    if not rows:
        return "no audit is done yet"
    tables = [
        f"### {audit}\n\n" + markdown([row for row in rows if row["asked"] == audit])
        for audit in dict.fromkeys(row["asked"] for row in rows)
    ]
    text = "\n\n".join(tables)
    write_text(study.root / "results.md", f"{text}\n")
    write_json(study.root / "results.json", {"seconds": study.seconds(), "rows": rows})
    _write_figures(study, rows)
    return text


def _write_figures(study: Study, rows: Sequence[Mapping[str, Any]]) -> None:
    target = study.root / "figures"
    default = [dict(row) for row in rows if row["asked"] == "default"]
    for training in dict.fromkeys(row["training"] for row in default):
        mine = [row for row in default if row["training"] == training]
        save_figure(rate_figure(mine), target / f"{training}-against-loss", FORMATS)
    folders = [RunFolder(piece.results) for piece in study.pieces if piece.is_done() and piece.checkpoint is not None]
    fractions = fraction_figure([folder for folder in folders if folder.path.name == "fractions"])
    if fractions is not None:
        save_figure(fractions, target / "against-missing-fraction", FORMATS)
    for folder in folders:
        for name, figure in iteration_figures(folder).items():
            training = folder.path.relative_to(study.root).parts[0]
            save_figure(figure, target / f"{training}-{name}", FORMATS)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of some rows: recovered members of all, the rate's 95% interval, then recovered controls of all."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cells = {(row["training"], row["level"], row["pattern"], row["method"], row["group"]): row for row in rows}
    lines = [
        "| training | train MSE | own PSNR | mask | " + " | ".join(one.replace("_", " ") for one in methods) + " |",
        "|" + "---|" * (4 + len(methods)),
    ]
    for training, level, pattern in dict.fromkeys((row["training"], row["level"], row["pattern"]) for row in rows):
        found = [cells.get((training, level, pattern, method, "members")) for method in methods]
        first = next(cell for cell in found if cell is not None)
        head = [
            training,
            f"{first['train_loss']:.1e}",
            f"{first['reconstruction_psnr_mean']:.0f} dB",
            pattern,
        ]
        parts = [
            "-"
            if cell is None
            else f"{cell['recovery_rate']:.2f} ({cell['ci_low']:.2f}-{cell['ci_high']:.2f}), "
            + _controls(cells.get((training, level, pattern, method, "controls")))
            for method, cell in zip(methods, found, strict=True)
        ]
        lines.append("| " + " | ".join([*head, *parts]) + " |")
    members, controls = (
        sorted({row["num_images"] for row in rows if row["group"] == group}) for group in ("members", "controls")
    )
    lines += [
        "",
        f"Share of the audited training images (n = {_numbers(members)}) recovered, PSNR ≥ "
        f"{rows[0]['threshold_db']:g} dB, with its exact 95% interval; then how many images that were not trained on "
        f"(of {_numbers(controls)}).",
    ]
    return "\n".join(lines)


def _numbers(values: Sequence[int]) -> str:
    return " or ".join(map(str, values)) or "none"


def _controls(cell: Mapping[str, Any] | None) -> str:
    return "" if cell is None else f"{cell['num_recovered']}/{cell['num_images']}"
