"""A W&B workspace for audits: recovery against the members' MSE, membership, distributions, runs compared.

Building it needs no network; only saving does. Takes ``wandb-workspaces``, the extra ``[dashboard]``.
"""

import json
import re
from typing import TYPE_CHECKING, Any

from lightning_memaudit.report.labels import TRAIN_LOSS
from lightning_memaudit.report.logged_tables import IMAGE_TABLE, RATE_TABLE
from lightning_memaudit.report.wandb_run import RECOVERED_TABLE
from lightning_memaudit.results.names import DEFAULT_NAME, check_name

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

MAX_RUNS = 100
"""Runs that a chart shows: W&B's own default is 10, and a sweep has more."""

MODEL = "model.init_args.network"
"""Where Lightning's command line logs the network, when ``log_config`` is on: its class, activation, depth."""


def build_workspace(
    entity: str, project: str, name: str = "Memorization audit", prefix: str = DEFAULT_NAME
) -> "Workspace":
    """Build the workspace.

    Args:
        entity: W&B user or team.
        project: Project that the runs log to.
        name: Of the saved view.
        prefix: Of the metrics: the ``name`` of the callback.

    Raises:
        ValueError: ``wandb-workspaces`` is not installed, a name is empty, or the prefix is none.
    """
    for argument, value in (("entity", entity), ("project", project), ("name", name)):
        if not value:
            raise ValueError(f"{argument}={value!r}: must not be empty")
    check_name(prefix, f"prefix={prefix!r}")
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as spaces
    except ImportError as error:
        raise ValueError(
            f"the dashboard needs wandb-workspaces ({error}): pip install -U 'lightning-memaudit[dashboard]'"
        ) from error
    sections = [
        spaces.Section(name="Is it memorized?", panels=_overview(panels, prefix), is_open=True, pinned=True),
        spaces.Section(name="Methods and patterns", panels=_methods(panels, prefix), is_open=True),
        spaces.Section(name="Image by image", panels=_images(panels, prefix), is_open=True),
        spaces.Section(name="Runs compared", panels=_runs(panels, prefix), is_open=True),
    ]
    return spaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=spaces.WorkspaceSettings(
            x_axis=f"{prefix}/train_loss", remove_legends_from_panels=False, max_runs=MAX_RUNS
        ),
        runset_settings=spaces.RunsetSettings(
            pinned_columns=[
                f"summary:{prefix}/{key}"
                for key in (
                    *("outcome", "memorized_rate", "memorized_rate_low", "memorized_rate_high", "beyond_inpainting"),
                    *("extracted", "recovery_rate", "control_recovery_rate", "train_loss"),
                )
            ]
        ),
    )


def _rate(panels: Any, prefix: str, title: str, metrics: list[str], **options: Any) -> Any:
    """Rates against the members' MSE, on a logarithmic axis."""
    return panels.LinePlot(
        title=title,
        x=f"{prefix}/train_loss",
        y=[f"{prefix}/{metric}" for metric in metrics],
        max_runs_to_show=MAX_RUNS,
        log_x=True,
        range_y=(0, 1),
        title_x=TRAIN_LOSS,
        ignore_outliers=False,
        **options,
    )


def _overview(panels: Any, prefix: str) -> list[Any]:
    charts = {
        "Recovered: members and controls": ["recovery_rate", "control_recovery_rate"],
        "Certified without ground truth": ["certified_rate"],
        "Membership AUROC of the blind score": ["membership_auroc"],
        "Members memorized (images)": ["memorized_rate", "control_memorized_rate"],
        "AUROC of the recovery gain": ["gain_auroc"],
    }
    numbers = {
        "Members recovered": "recovery_rate",
        "Controls recovered": "control_recovery_rate",
        TRAIN_LOSS[0].upper() + TRAIN_LOSS[1:]: "train_loss",
    }
    return [
        *(_rate(panels, prefix, title, metrics) for title, metrics in charts.items()),
        *(panels.ScalarChart(title=title, metric=f"{prefix}/{metric}") for title, metric in numbers.items()),
    ]


def _methods(panels: Any, prefix: str) -> list[Any]:
    def every(title: str, metric: str) -> Any:
        regex = rf"{re.escape(prefix)}/[^/]+/[^/]+/{metric}"
        return _rate(panels, prefix, title, [], metric_regex=regex)

    return [
        every("Members, by pattern and method", "recovery_rate"),
        every("Controls, by pattern and method", "control_recovery_rate"),
    ]


def _images(panels: Any, prefix: str) -> list[Any]:
    def histogram(column: str, title: str) -> Any:
        return panels.CustomChart(
            query={"summaryTable": {"tableKey": f"{prefix}/{IMAGE_TABLE}"}},
            chart_name="wandb/histogram/v0",
            chart_fields={"value": column},
            chart_strings={"title": title},
        )

    return [
        histogram("psnr", "PSNR of the recoveries (dB)"),
        histogram("recovery_gain", "Recovery gain over the best baseline (dB)"),
        histogram("reconstruction_psnr", "PSNR of the autoencoder's own output (dB)"),
        *(panels.WeavePanelSummaryTable(table_name=f"{prefix}/{name}") for name in (IMAGE_TABLE, RATE_TABLE)),
        panels.WeavePanelSummaryTable(table_name=f"{prefix}/{RECOVERED_TABLE}"),  # where pictures were logged
    ]


def _runs(panels: Any, prefix: str) -> list[Any]:
    network, activation = panels.Config(f"{MODEL}.class_path"), panels.Config(f"{MODEL}.init_args.activation")
    depth, images = panels.Config(f"{MODEL}.init_args.num_layers"), panels.Config("data.init_args.num_train")
    loss, memorized = panels.SummaryMetric(f"{prefix}/train_loss"), panels.SummaryMetric(f"{prefix}/memorized_rate")

    def column(metric: Any, name: str, **options: Any) -> Any:
        return panels.ParallelCoordinatesPlotColumn(metric=metric, display_name=name, **options)

    def bars(title: str, config: Any) -> Any:
        return panels.BarPlot(
            title=title,
            metrics=[f"{prefix}/recovery_rate"],
            groupby=config,
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            max_runs_to_show=MAX_RUNS,
        )

    return [
        panels.ParallelCoordinatesPlot(
            title="Network, activation, train loss: what is memorized",
            columns=[
                column(network, "network"),
                column(depth, "layers"),
                column(activation, "activation"),
                column(images, "training images"),
                column(loss, TRAIN_LOSS, log=True),
                column(memorized, "members memorized"),
            ],
        ),
        panels.ParameterImportancePlot(with_respect_to=f"{prefix}/memorized_rate"),
        bars("Members recovered, by network", network),
        bars("Members recovered, by activation", activation),
        panels.ScatterPlot(
            title="Last audit of each run",
            x=loss,
            y=panels.SummaryMetric(f"{prefix}/recovery_rate"),
            log_x=True,
            range_y=(0, 1),
        ),
        panels.RunComparer(diff_only="split"),
    ]


def to_json(workspace: "Workspace") -> str:
    """The workspace as W&B would store it, with ids that are random in it numbered instead."""
    spec = workspace._to_model().spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return json.dumps(_numbered_ids(spec, {}), indent=1, sort_keys=True)


def save_workspace(workspace: "Workspace") -> str:
    """Save the workspace as a new view and return its address; takes a W&B login."""
    workspace.save()  # type: ignore[no-untyped-call]
    return str(workspace.url)


def _numbered_ids(value: Any, seen: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: seen.setdefault(item, f"id-{len(seen)}")
            if key in ("id", "__id__") and isinstance(item, str) and item
            else _numbered_ids(item, seen)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_numbered_ids(item, seen) for item in value]
    return value
