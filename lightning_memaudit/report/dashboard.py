"""A W&B workspace for audits: recovery against the members' MSE, membership, distributions, runs compared.

Building it needs no network; only saving does. Takes ``wandb-workspaces``, the extra ``[dashboard]``.
"""

import json
from typing import TYPE_CHECKING, Any

from lightning_memaudit.report.labels import TRAIN_LOSS
from lightning_memaudit.report.loggers import IMAGE_TABLE
from lightning_memaudit.results.names import DEFAULT_NAME as PREFIX

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

LOSS = f"{PREFIX}/train_loss"
MODEL = "model.init_args.network"
"""Where Lightning's command line logs the network, when ``log_config`` is on: its class, activation, depth."""


def build_workspace(entity: str, project: str, name: str = "Memorization audit") -> "Workspace":
    """Build the workspace.

    Args:
        entity: W&B user or team.
        project: Project that the runs log to.
        name: Of the saved view.

    Raises:
        ValueError: ``wandb-workspaces`` is not installed, or a name is empty.
    """
    for argument, value in (("entity", entity), ("project", project), ("name", name)):
        if not value:
            raise ValueError(f"{argument}={value!r}: must not be empty")
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as spaces
    except ImportError as error:
        raise ValueError("the dashboard needs wandb-workspaces: pip install 'lightning-memaudit[dashboard]'") from error
    sections = [
        spaces.Section(name="Is it memorized?", panels=_overview(panels), is_open=True, pinned=True),
        spaces.Section(name="Methods and patterns", panels=_methods(panels), is_open=True),
        spaces.Section(name="Image by image", panels=_images(panels), is_open=True),
        spaces.Section(name="Runs compared", panels=_runs(panels), is_open=True),
    ]
    return spaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=spaces.WorkspaceSettings(x_axis=LOSS, remove_legends_from_panels=False),
        runset_settings=spaces.RunsetSettings(
            pinned_columns=[
                f"summary:{PREFIX}/{key}" for key in ("recovery_rate", "control_recovery_rate", "train_loss")
            ]
        ),
    )


def _rate(panels: Any, title: str, metrics: list[str], **options: Any) -> Any:
    """Rates against the members' MSE, on a logarithmic axis."""
    return panels.LinePlot(
        title=title,
        x=LOSS,
        y=metrics,
        log_x=True,
        range_y=(0, 1),
        title_x=TRAIN_LOSS,
        ignore_outliers=False,
        **options,
    )


def _overview(panels: Any) -> list[Any]:
    both = [f"{PREFIX}/recovery_rate", f"{PREFIX}/control_recovery_rate"]
    return [
        _rate(panels, "Recovered: members and controls", both),
        _rate(panels, "Certified without ground truth", [f"{PREFIX}/certified_rate"]),
        _rate(panels, "Membership AUROC of the blind score", [f"{PREFIX}/membership_auroc"]),
        _rate(panels, "Members memorized (images)", [f"{PREFIX}/memorized_rate", f"{PREFIX}/control_memorized_rate"]),
        _rate(panels, "AUROC of the recovery gain", [f"{PREFIX}/gain_auroc"]),
        panels.ScalarChart(title="Members recovered", metric=f"{PREFIX}/recovery_rate"),
        panels.ScalarChart(title="Controls recovered", metric=f"{PREFIX}/control_recovery_rate"),
        panels.ScalarChart(title=TRAIN_LOSS[0].upper() + TRAIN_LOSS[1:], metric=LOSS),
    ]


def _methods(panels: Any) -> list[Any]:
    return [
        _rate(panels, "Members, by pattern and method", [], metric_regex=rf"{PREFIX}/[^/]+/[^/]+/recovery_rate"),
        _rate(
            panels, "Controls, by pattern and method", [], metric_regex=rf"{PREFIX}/[^/]+/[^/]+/control_recovery_rate"
        ),
    ]


def _images(panels: Any) -> list[Any]:
    def histogram(column: str, title: str) -> Any:
        return panels.CustomChart(
            query={"summaryTable": {"tableKey": f"{PREFIX}/{IMAGE_TABLE}"}},
            chart_name="wandb/histogram/v0",
            chart_fields={"value": column},
            chart_strings={"title": title},
        )

    return [
        histogram("psnr", "PSNR of the recoveries (dB)"),
        histogram("recovery_gain", "Recovery gain over the best baseline (dB)"),
        histogram("reconstruction_psnr", "PSNR of the autoencoder's own output (dB)"),
        panels.WeavePanelSummaryTable(table_name=f"{PREFIX}/{IMAGE_TABLE}"),
        panels.WeavePanelSummaryTable(table_name=f"{PREFIX}/rates"),
        panels.MediaBrowser(title="Recovered images, where logged", num_columns=4),
    ]


def _runs(panels: Any) -> list[Any]:
    return [
        panels.BarPlot(
            title="Members recovered, by network",
            metrics=[f"{PREFIX}/recovery_rate"],
            groupby=panels.Config(f"{MODEL}.class_path"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        ),
        panels.BarPlot(
            title="Members recovered, by activation",
            metrics=[f"{PREFIX}/recovery_rate"],
            groupby=panels.Config(f"{MODEL}.init_args.activation"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        ),
        panels.ScatterPlot(
            title="Last audit of each run",
            x=panels.SummaryMetric(LOSS),
            y=panels.SummaryMetric(f"{PREFIX}/recovery_rate"),
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
