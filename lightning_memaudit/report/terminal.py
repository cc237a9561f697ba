"""The table in the terminal after an audit."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import rich
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_memaudit.report.certificates import certificate_sentence
from lightning_memaudit.report.labels import MEMBERS_MSE, image_name, printable, shortened, trigger_label
from lightning_memaudit.results.cost import cost_sentences
from lightning_memaudit.results.extraction import in_words
from lightning_memaudit.results.names import INPAINTER, primary_method
from lightning_memaudit.results.rows import Row

MISSING = "-"
MAX_NAMES = 5
"""Images that the verdict names; all of them are in the report."""
_VERDICT_STYLES = {
    "memorized": "bold red",
    "traces": "bold magenta",
    "not_memorized": "bold green",
    "inconclusive": "bold yellow",
}
NARROW = 76
"""Columns below which the numbers of a method are written out: a table would be cut at the edge."""
_HEADERS = ("mem-\nbers", "rate", "95% CI", "certi-\nfied", "PSNR", "hid-\nden", "con-\ntrols", "beyond\ninp.")


def print_audit(
    rows: Sequence[Row], console: Console | None = None, primary: str | None = None, legend: bool = True
) -> None:
    """Print the table of one audit, above whatever progress bar is on the screen.

    Args:
        rows: All rows of one audit, as in ``audits.jsonl``.
        console: Where to; default: rich's own, which a live display of rich shares.
        primary: The audited method; default: by the names of the methods.
        legend: Say what the columns are.
    """
    console = console or rich.get_console()
    with _bars_out_of_the_way():
        console.print()
        console.print(audit_table(rows, console.width, primary, legend))
        if rows[0].get("extraction"):
            console.print(_text(in_words(rows[0]["extraction"]), console))
        for sentence in cost_sentences(rows):
            console.print(_text(sentence, console))


def print_verdict(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the verdict of a report, in the words of the report, and the first of its next steps.

    Args:
        document: The content of ``report.json``.
        console: Where to; default: rich's own.
    """
    console = console or rich.get_console()
    verdict = document["verdict"]
    with _bars_out_of_the_way():
        console.print()
        headline = _text(verdict["headline"], console)
        headline.stylize(_VERDICT_STYLES[verdict["outcome"]])
        console.print(headline)
        found = (verdict["found"], _which(document["images"]))
        for sentence in (*verdict["why"], *found, verdict["certainty"], *verdict["cautions"]):
            if sentence:
                console.print(_text(sentence, console))
        console.print(_text("Next: " + verdict["next_steps"][0], console))


def _which(images: Sequence[Mapping[str, Any]]) -> str:
    """The first of the members that came back, by name: an image can be taken out of a data set by that."""
    back = [image for image in images if image["group"] == "members" and _came_back(image)]
    if not back:
        return ""
    more = f" and {len(back) - MAX_NAMES} more, all in the report" if len(back) > MAX_NAMES else ""
    names = ", ".join(shortened(image_name(image)) for image in back[:MAX_NAMES])
    return f"Training images that came back: {names}{more}."


def _came_back(image: Mapping[str, Any]) -> bool:
    """As the verdict counts: beyond the inpainter, or at all where none ran."""
    return bool(image["recovered_in"]) if image["memorized"] is None else bool(image["memorized"])


def _text(text: str, console: Console) -> Text:
    """The text as this console can write it, with nothing in it that the console would obey."""
    encoding = console.encoding or "utf-8"
    return Text(printable(text).encode(encoding, "backslashreplace").decode(encoding))


def audit_table(rows: Sequence[Row], width: int = 100, primary: str | None = None, legend: bool = True) -> Table:
    """Pattern by method: how many members came back, against controls and the inpainter.

    Args:
        rows: All rows of one audit, as in ``audits.jsonl``.
        width: Of the terminal; 80 columns are enough, from 100 on there is some air; with few, numbers are in words.
        primary: The audited method; default: by the names of the methods.
        legend: Say what the columns are, below.

    Raises:
        ValueError: There are none.
    """
    if not rows:
        raise ValueError("rows=[]: pass the rows of one audit")
    members = [row for row in rows if row["group"] == "members"]
    others = {(row["pattern"], row["method"]): row for row in rows if row["group"] != "members"}
    table = Table(
        title=Text(_title(rows)),
        caption=Text(_caption(rows, primary, legend)),
        title_style="bold",
        title_justify="left",
        caption_style="dim",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1 if width >= 100 else 0),
        header_style="bold",
    )
    table.add_column("method", overflow="fold", min_width=10)
    numbers = [_cells(row, others.get((row["pattern"], row["method"])))[1:] for row in members]
    room = width - _taken(numbers, 1 if width < 100 else 2) if width >= NARROW else width // 2
    if width < NARROW:
        table.padding = (0, 1)
        table.add_column("what came back", overflow="fold")
    for header in _HEADERS if width >= NARROW else ():
        table.add_column(header, justify="right", no_wrap=True, min_width=max(map(len, header.split())))
    for pattern in dict.fromkeys(row["pattern"] for row in rows):
        table.add_section()
        table.add_row(Text(pattern, style="bold cyan"))
        for row in members:
            if row["pattern"] == pattern:
                cells = _cells(row, others.get((pattern, row["method"])), room)
                table.add_row(*(cells if width >= NARROW else [cells[0], _in_words(cells[1:])]), style=_style(row))
    return table


def _taken(rows: Sequence[Sequence[RenderableType]], apart: int) -> int:
    """Columns that the numbers take, each with the space before it."""
    columns = zip(_HEADERS, *rows, strict=True)
    return sum(apart + max(len(line) for cell in column for line in str(cell).split("\n")) for column in columns)


def _broken(name: str, room: int) -> str:
    """A name in lines of so many characters, broken behind an underscore where there is one."""
    lines = [" "]
    for part in re.split(r"(?<=_)", name):
        if len(lines[-1]) + len(part) > room and lines[-1].strip():
            lines.append("  ")
        lines[-1] += part
    return "\n".join(lines)


def _in_words(numbers: Sequence[RenderableType]) -> Text:
    """The numbers of a row behind the heads of their columns."""
    heads = (" ".join(header.replace("-\n", "").split()) for header in _HEADERS)
    return Text(", ".join(f"{head} {number}" for head, number in zip(heads, numbers, strict=True)))


def _cells(row: Row, control: Row | None, room: int = 100) -> list[RenderableType]:
    return [
        Text(_broken(row["method"], room)),
        f"{row['num_recovered']}/{row['num_images']}",
        Text(_number(row["recovery_rate"], ".2f"), style="bold"),
        f"{_number(row['ci_low'], '.2f')}-{_number(row['ci_high'], '.2f')}",
        Text(_certified(row)),  # as markup, :100: would be an emoji
        _number(row.get("psnr_mean"), ".1f"),
        _number(row.get("hidden_psnr_mean"), ".1f"),
        MISSING if control is None else f"{control['num_recovered']}/{control['num_images']}",
        MISSING if row["method"] == INPAINTER else _number(row.get("num_beyond_inpainting"), "d"),
    ]


def _style(row: Row) -> str:
    # The inpainter knows nothing of the autoencoder: it is the yardstick, not a finding.
    return "dim" if row["method"] == INPAINTER else ""


def _title(rows: Sequence[Row]) -> str:
    first = rows[0]
    parts = [f"Audit {first['audit']}"]
    epoch = first.get("epoch")
    if first["trigger"] not in ("audit", f"epoch {epoch}"):
        parts.append(printable(trigger_label(str(first["trigger"]))))
    if epoch is not None:
        parts.append(f"epoch {epoch}")
    parts.append(f"{MEMBERS_MSE} {_number(first.get('train_loss'), '.2e')}")
    own = {row["group"]: row.get("reconstruction_psnr_mean") for row in rows}
    line = f"autoencoder's own output: mean PSNR {_number(own.get('members'), '.1f')} dB on members"
    if own.get("controls") is not None:
        line += f", {_number(own['controls'], '.1f')} dB on controls"
    return " | ".join(parts) + "\n" + line


def _caption(rows: Sequence[Row], primary: str | None, legend: bool) -> str:
    parts = []
    if legend:
        parts.append(f"members, controls: recovered, that is PSNR >= {rows[0]['threshold_db']:g} dB")
        parts.append("PSNR, hidden: the members' mean in dB, of whole images and of the missing pixels alone")
        if any(row.get("num_beyond_inpainting") is not None for row in rows):
            parts.append(f"beyond inp.: members recovered where {INPAINTER} inpainting of the same mask fails")
    parts.append(_gains(rows, primary or primary_method(list(dict.fromkeys(row["method"] for row in rows)))))
    if legend:
        parts.append(_certificates(rows))
        what = "mean squared error of the autoencoder's own output for them, not training_step's loss"
        parts.append(f"{MEMBERS_MSE}: {what}")
    for name in ("diverged", "failed"):
        count = sum(row.get(f"num_{name}") or 0 for row in rows)
        parts.append(f"{count} recoveries {name}" if count else "")
    return "; ".join(part for part in parts if part)


def _gains(rows: Sequence[Row], primary: str) -> str:
    """Median gain of the audited method by pattern, members against controls."""
    gains: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["method"] == primary and row.get("recovery_gain_median") is not None:
            gains.setdefault(row["pattern"], {})[row["group"]] = f"{row['recovery_gain_median']:+.1f}"
    if not gains:
        return ""
    words = ", ".join(f"{printable(name)} {' against '.join(groups.values())}" for name, groups in gains.items())
    whose = f"{printable(primary)}'s median dB over the best filling without the autoencoder"
    return f"{whose}, members against controls: {words}"


def _certified(row: Row) -> str:
    """``49:48:38``: the certificates, of these at 25 dB, of these at the threshold; old rows have only the first."""
    counts = (row.get("num_certified"), row.get("num_certified_true"), row.get("num_certified_recovered"))
    if counts[0] is None:
        return MISSING
    return ":".join(str(count) for count in counts) if None not in counts else str(counts[0])


def _certificates(rows: Sequence[Row]) -> str:
    """What the numbers of certificates are, and what each claims or why there is none."""
    claiming = [row for row in rows if row.get("certification")]
    if not claiming:
        return ""
    threshold = f"{rows[0]['threshold_db']:g} dB"
    text = "certified: claimed recovered (PSNR >= 25 dB) without the truth"
    if any(row.get("num_certified_true") is not None for row in claiming):
        text += f" : of these at 25 dB : of these at {threshold}"
    sentences: dict[str, list[str]] = {}
    for row in claiming:
        which = printable(f"{row['method']}, {row['pattern']}")
        sentences.setdefault(certificate_sentence(row["certification"]), []).append(which)
    if len(sentences) == 1:
        return f"{text}; {next(iter(sentences))}"
    return text + "".join(f"; {' and '.join(dict.fromkeys(which))}: {words}" for words, which in sentences.items())


def _number(value: Any, form: str) -> str:
    return MISSING if value is None else format(value, form)


@contextmanager
def _bars_out_of_the_way() -> Iterator[None]:
    """Clear tqdm's bars while something else prints, then redraw them; rich's live display needs no help."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if tqdm is None:
        yield
        return
    with tqdm.external_write_mode(file=sys.stdout):
        yield
