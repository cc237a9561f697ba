"""``report.html``: one self-contained file on one run or several, by a template. No network, no fonts, no torch."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup

from lightning_memaudit.report import charts
from lightning_memaudit.report.annex import annex
from lightning_memaudit.report.certificates import certificate_rows
from lightning_memaudit.report.comparison import comparison_chart
from lightning_memaudit.report.document import Document, run_name
from lightning_memaudit.report.gain_charts import gain_chart, gain_loss_chart
from lightning_memaudit.report.glossary import glossary
from lightning_memaudit.report.labels import (
    MEMBERS_MSE,
    TRAIN_LOSS,
    TRAIN_LOSS_EXPLAINED,
    image_name,
    printable,
    reason_label,
    shortened,
    trigger_label,
    well_formed,
)
from lightning_memaudit.report.pictures import page_gallery, page_strips
from lightning_memaudit.report.reading import reading_sentences
from lightning_memaudit.report.run_view import RunView
from lightning_memaudit.report.style import method_label
from lightning_memaudit.results.membership import MEASURES
from lightning_memaudit.results.names import DEFAULT_NAME, TOLD_NOTHING
from lightning_memaudit.results.run_folder import RunFolder

MAX_TABLE_IMAGES = 1000
"""Rows of the per-image table; a browser sorts more only slowly. All images are in report.json."""

MISSING = "\N{EN DASH}"

OUTCOMES = {
    "memorized": ("Memorized", "●"),
    "traces": ("Traces", "◕"),
    "not_memorized": ("No memorization found", "○"),
    "inconclusive": ("Inconclusive", "◐"),
}


def render(
    folders: Sequence[RunFolder],
    documents: Sequence[Document],
    pictures: bool = True,
    names: Sequence[str] = (),
    views: Sequence[RunView] = (),
) -> str:
    """The report as HTML: all of one run, or several runs compared, the essentials of each.

    Args:
        folders: Of the runs, which hold the pictures and the history of rates.
        documents: Their ``report.json``, in the same order.
        pictures: Show images; they are training data, and a report without them may go further.
        names: What the runs are called; default by their folders.
        views: Of the same runs, where there are any already: what they have drawn is not drawn again.

    Raises:
        ValueError: There is no run.
    """
    if not documents:
        raise ValueError("documents=[]: give at least one run")
    names = names or unique_names([printable(run_name(folder)) for folder in folders])
    views = views or [RunView(folder, document) for folder, document in zip(folders, documents, strict=True)]
    show = _run if len(views) == 1 else _brief
    runs = [
        show(view, name, f"r{number}", pictures) for number, (view, name) in enumerate(zip(views, names, strict=True))
    ]
    for run, settings in zip(runs, differing_settings(folders), strict=True):
        run["differs_in"] = settings
    comparison = comparison_chart(documents, names, "compare") if len(runs) > 1 else None
    page = _template().render(
        runs=runs,
        comparison=comparison,
        same_model=_same_model(documents),
        pictures=pictures,
        max_dots=charts.MAX_DOTS,
        members_mse=MEMBERS_MSE,
        train_loss=TRAIN_LOSS,
        train_loss_explained=TRAIN_LOSS_EXPLAINED,
        told_nothing=TOLD_NOTHING,
    )
    return str(well_formed(page))


def _same_model(documents: Sequence[Document]) -> str | None:
    """Class and size of the model, where all runs have the same: what no row of a comparison need repeat."""
    models = [document["setup"].get("model") or {} for document in documents]
    described = {(one.get("class"), one.get("num_parameters")) for one in models}
    name, number = described.pop()
    if described or not name:
        return None
    return str(name) if number is None else f"{name}, {number:,} parameters"


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, numbered where they repeat."""
    return [name if list(names).count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def differing_settings(folders: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """For each run the settings in which it differs from another, as in config.yaml if all have one, else run.json."""
    configs = [path for folder in folders if (path := folder.config()) is not None]
    have_configs = len(configs) == len(folders)
    flat = [_flat(one) for one in (map(_read_config, configs) if have_configs else map(_described, folders))]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    differing = [
        key
        for key in keys
        if key.startswith(("model", "data", DEFAULT_NAME, "seed"))
        and not key.endswith("dirpath")
        and "._" not in key
        and "method_settings" not in key
        and len({repr(settings.get(key)) for settings in flat}) > 1
    ]
    return [{key: settings[key] for key in differing if key in settings} for settings in flat]


def _read_config(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return {}  # not one of ours


def _described(folder: RunFolder) -> Any:
    """What run.json says of the model and the audit."""
    run = folder.run()
    return {"model": run.get("model"), DEFAULT_NAME: run.get("settings")}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings with dotted keys, without the levels that only say ``init_args``."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key)
        flat |= _flat(item, name)
    return flat


def _brief(view: RunView, name: str, prefix: str, pictures: bool) -> dict[str, Any]:
    """What a page on several runs shows of each: the rest is on the run's own page."""
    document = view.document
    outcome, sign = OUTCOMES[document["verdict"]["outcome"]]
    return {
        "name": name,
        "prefix": prefix,
        "document": document,
        "outcome": outcome,
        "sign": sign,
        "first": page_strips(view, few=True) if pictures else [],
    }


def _run(view: RunView, name: str, prefix: str, pictures: bool) -> dict[str, Any]:
    """Everything that the template needs of one run that has a page of its own."""
    folder, document, judgement = view.folder, view.document, view.document["judgement"]
    config = folder.config()
    measured = (document["largest_missing"] or {"images": []})["images"]
    largest = {(row["group"], row["image"]): {name: row.get(name) for name in LARGEST_MISSING} for row in measured}
    images = [
        row | largest.get((row["group"], row["image"]), dict.fromkeys(LARGEST_MISSING))
        for row in document["images"][:MAX_TABLE_IMAGES]
    ]
    return {
        **_brief(view, name, prefix, pictures),
        "rates": _rates(document),
        "memberships": [told | {"name": MEASURES[name]} for name, told in judgement["memberships"].items()],
        **{f"{chart.replace('-', '_')}_chart": _chart(view, chart, prefix) for chart in CHARTS},
        "largest_missing": _summary(document["largest_missing"], LARGEST_MISSING),
        "proximal": _summary(document["proximal"], PROXIMAL),
        "num_attractors": _count(document["proximal"], "attractor"),
        "num_proximal": sum(bool(row.get("proximal")) for row in (document["proximal"] or {"images": []})["images"]),
        "certificates": certificate_rows(document["rates"]),
        "membership_cautions": dict.fromkeys(
            told["caution"] for told in judgement["memberships"].values() if told["caution"]
        ),
        "strips": page_strips(view) if pictures else [],
        "extraction": page_gallery(view) if pictures else [],
        "images": images,
        "num_hidden_images": len(document["images"]) - len(images),
        "reading": reading_sentences(document["setup"]),
        "config": config.read_text(encoding="utf-8", errors="replace") if config else None,
        "hyperparameters": {
            key: value
            for key, value in ((document["setup"].get("model") or {}).get("hyperparameters") or {}).items()
            if not str(key).startswith("_")
        },
        "glossary": glossary(document),
        "annex": annex(document),
    }


CHARTS: dict[str, Callable[[RunView, str], Markup | None]] = {
    "loss": lambda view, prefix: charts.loss_chart(view.rows, view.primary, prefix),
    "image": lambda view, prefix: charts.image_chart(view.document, prefix),
    "gain": lambda view, prefix: gain_chart(view.document, prefix),
    "gain-loss": lambda view, prefix: gain_loss_chart(view.document, prefix),
    "fraction": lambda view, prefix: charts.fraction_chart(view.document, prefix),
    "survival": lambda view, prefix: charts.survival_chart(view.document, prefix),
    "roc": lambda view, prefix: charts.roc_chart(view.document, prefix),
}


def _chart(view: RunView, name: str, prefix: str) -> Markup | None:
    return view.chart(name, f"{prefix}-{name}", lambda ids: CHARTS[name](view, ids))


LARGEST_MISSING = ("largest_missing", "inpainted_missing", "beyond_inpainting")
PROXIMAL = ("asymmetry", "smallest_eigenvalue", "largest_eigenvalue", "spectral_norm", "spectral_radius")


def _count(extra: Mapping[str, Any] | None, name: str) -> dict[str, int]:
    """Images by what a verdict says: yes, no, and undecided; of no others."""
    found = [row[name] for row in (extra or {"images": []})["images"] if name in row]
    return {word: found.count(value) for word, value in (("yes", True), ("no", False), ("undecided", None))}


def _summary(extra: Mapping[str, Any] | None, names: Sequence[str]) -> list[dict[str, Any]]:
    """For each group and number of an extra measurement: its least, median and largest value."""
    rows = [] if extra is None else extra["images"]
    summary = []
    for group in dict.fromkeys(row["group"] for row in rows):
        for name in names:
            values = [float(row[name]) for row in rows if row["group"] == group and row.get(name) is not None]
            if values:
                numbers = {"low": min(values), "median": float(np.median(values)), "high": max(values)}
                summary.append({"group": group, "name": name, "num": len(values), **numbers})
    return summary


def _rates(document: Document) -> list[dict[str, Any]]:
    """Rows of the newest audit, members beside controls: a list of patterns, each with a list of methods."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for row in document["rates"]:
        table.setdefault(row["pattern"], {}).setdefault(row["method"], {})[row["group"]] = row
    return [
        {"pattern": pattern, "methods": [{"method": method, **groups} for method, groups in methods.items()]}
        for pattern, methods in table.items()
    ]


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lightning_memaudit.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        percent=_percent,
        interval=_interval,
        number=_number,
        share=_share,
        label=method_label,
        short=_short,
        name=_name,
        trigger=trigger_label,
        reason=reason_label,
        image_name=image_name,
        whole=_whole,
        breakable=_breakable,
    )
    return environment.get_template("report.html.j2")


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{value:.0%}"


def _interval(share: Mapping[str, Any] | None) -> str:
    if share is None or share["low"] is None:
        return MISSING
    return f"{100 * share['low']:.0f} to {share['high']:.0%}"


def _share(share: Mapping[str, Any] | None) -> Markup:
    """``45 of 50`` with its interval on a second line."""
    if share is None:
        return Markup(MISSING)
    return Markup('{} of {}<span class="interval">{}</span>').format(share["count"], share["num"], _interval(share))


def _name(name: str) -> Markup:
    """A name apart from the direction of the text around it; the whole of it in the title where it was shortened."""
    whole, shown = printable(name), shortened(name)
    title = Markup(' title="{}"').format(whole) if shown != whole else Markup("")
    return Markup("<bdi{}>{}</bdi>").format(title, shown)


def _whole(pattern: str) -> Markup:
    """A name that no narrow column breaks at its hyphen."""
    return Markup('<span class="whole">{}</span>').format(pattern)


def _breakable(model: str | None) -> Markup:
    """The classes of a model, one within the other, which may stand in lines of their own."""
    return Markup("(<wbr>").join((model or "").split("("))


def _number(value: float | None, form: str = ".1f") -> str:
    """The number; a unit may stand behind its form, and is left out with a number that is not there."""
    form, _, unit = form.partition(" ")
    return MISSING if value is None else f"{value:{form}}{' ' + unit if unit else ''}"


def _short(digest: str | None) -> str:
    return "not recorded" if digest is None else digest
