"""W&B report of a comparison: result and tables as text, and W&B's own charts over the runs of the group."""

from __future__ import annotations

import importlib
from typing import Any

from mmo_rl.errors import ConfigError, MmoRlError
from mmo_rl.report.arms import TARGET
from mmo_rl.report.compare_page import CURVES, arms_verdict
from mmo_rl.report.compare_table import as_markdown, heading
from mmo_rl.report.compared import Compared
from mmo_rl.report.mask import mask

INSTALL = "pip install 'mmo-rl[reports]'"


def write_wandb_report(compared: Compared, path: str) -> str:
    """Saves the report as a draft in the project of ``entity/project/group``; returns its address.

    Raises `ConfigError` where the package wandb-workspaces is missing, `MmoRlError` where W&B refuses the report.
    """
    reports = _package()
    report = built(compared, path, reports)
    from wandb.errors import Error as WandbError

    try:
        report.save(draft=True)
    except (WandbError, ValueError, OSError) as error:
        raise MmoRlError(
            f"W&B did not take the report: {mask(str(error) or type(error).__name__)}",
            hint="may the key of WANDB_API_KEY write to this project? the page and the tables are complete without it",
        ) from None
    return str(report.url)


def built(compared: Compared, path: str, reports: Any) -> Any:
    """The report before it is saved; ``reports`` is the module ``wandb_workspaces.reports.v2``."""
    entity, project, group = path.strip("/").split("/", 2)
    told = arms_verdict(compared)
    runs = reports.Runset(entity=entity, project=project, name=group, filters=f"Metric('Group') == '{group}'")
    columns = [reports.ParallelCoordinatesPlotColumn(metric=reports.Config(k)) for k in config_keys(compared)]
    columns.append(reports.ParallelCoordinatesPlotColumn(metric=reports.SummaryMetric(compared.main)))
    panels = [reports.LinePlot(x="iteration", y=[key], title=key) for key in _curves(compared)]
    if compared.cost is not None:
        axes = {"x": reports.SummaryMetric(compared.cost), "y": reports.SummaryMetric(compared.main)}
        panels.append(reports.ScatterPlot(**axes, title=f"{compared.main} against {compared.cost}"))
    panels.append(reports.ParallelCoordinatesPlot(columns=columns, title="what was asked and what came out"))
    return reports.Report(
        entity=entity,
        project=project,
        title=f"{group}: {heading(compared)}",
        description=told.title,
        blocks=[
            reports.H1(told.title),
            reports.P(told.detail),
            *(reports.P(note) for note in compared.notes),
            reports.MarkdownBlock(as_markdown(compared)),
            reports.PanelGrid(runsets=[runs], panels=panels),
        ],
    )


def config_keys(compared: Compared) -> list[str]:
    """The keys of the runs' flat configs that columns stand for: a component's choice is its class."""
    known = {key for run in compared.runs for key in run.config}
    return [key if key in known else f"{key}.{TARGET}" for key in compared.columns]


def _curves(compared: Compared) -> list[str]:
    logged = {key for run in compared.runs for row in run.rows for key in row}
    return [key for key in CURVES if key in logged]


def _package() -> Any:
    try:
        return importlib.import_module("wandb_workspaces.reports.v2")
    except ImportError:
        raise ConfigError("compare.wandb_report needs the package wandb-workspaces", hint=INSTALL) from None
