"""What runs showed, side by side: tables, significance and plots across the runs of sweeps, as one page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmo_rl.errors import ConfigError

if TYPE_CHECKING:
    from mmo_rl.config.components import Context
    from mmo_rl.report.compared import Compared
    from mmo_rl.report.runs import Run


async def run(
    context: Context,
    *,
    runs: str | list[str] | None = None,
    wandb: str | None = None,
    wandb_report: bool = False,
    by: str | list[str] | None = None,
    metrics: str | list[str] | None = None,
    sort: str | None = None,
    where: dict[str, Any] | None = None,
    against: str | int | None = None,
    cost: str | None = None,
    curves: str | list[str] | None = None,
    format: Literal["table", "markdown", "json", "csv"] = "table",
    output: str | None = None,
) -> None:
    """Reads ``runs`` (folders, sweep folders or globs) or a group of W&B (``entity/project/group``), prints the
    comparison, and writes ``compare.html``, ``compare.csv`` and ``compare.json`` into ``output``.

    The other keys are those of `mmo_rl.report.compared.compare_runs`; ``curves`` are keys of metrics.jsonl. Raises
    `ConfigError` where there is nothing to compare. ``wandb_report`` also writes a draft report into the W&B project.
    """
    from mmo_rl.report.compare_table import as_csv, as_markdown, json_text, print_compared
    from mmo_rl.report.compared import compare_runs
    from mmo_rl.report.run_folder import RunFolder

    if wandb_report and wandb is None:
        raise ConfigError(
            "compare.wandb_report writes about runs that are on W&B",
            hint="compare.wandb=entity/project/group names them",
        )
    found = await _found(_listed(runs), wandb)
    compared = compare_runs(
        found,
        by=_listed(by),
        metrics=_listed(metrics),
        sort=sort,
        cost=cost,
        where=where,
        against=None if against is None else str(against),
    )
    folder = RunFolder(_output(context, output))
    _write(folder, compared, _listed(curves), context)
    if wandb_report and wandb is not None:
        from mmo_rl.report.wandb_page import write_wandb_report

        context.console.print(f"W&B report {write_wandb_report(compared, wandb)}", soft_wrap=True, highlight=False)
    if format == "table":
        print_compared(compared, context.console)
        context.console.print(f"\npage       {folder.path / 'compare.html'}", soft_wrap=True, highlight=False)
    else:
        text = {"markdown": as_markdown, "csv": as_csv, "json": json_text}[format](compared)
        sys.stdout.write(text)


async def _found(patterns: Sequence[str], wandb: str | None) -> list[Run]:
    from mmo_rl.config.project import project_root
    from mmo_rl.report.runs import find_runs, offer

    roots = [Path.cwd(), project_root()]
    if wandb is not None:
        if patterns:
            raise ConfigError("compare.runs and compare.wandb are both set", hint="leave one of them out")
        from mmo_rl.report.wandb_runs import wandb_runs

        return wandb_runs(wandb)
    if not patterns:
        raise ConfigError("compare.runs: missing, it has no default", hint=offer(roots))
    return find_runs(patterns, roots=roots)


def _write(folder: Any, compared: Compared, curves: Sequence[str], context: Context) -> None:
    from mmo_rl.report.compare_page import compare_page
    from mmo_rl.report.compare_table import as_csv, json_text

    command = "mmo-rl " + " ".join(_quoted(o) for o in context.overrides)
    folder.write_text("compare.csv", as_csv(compared))
    folder.write_text("compare.json", json_text(compared))
    folder.write_text("compare.html", compare_page(compared, curve_keys=curves, command=command))


def _output(context: Context, output: str | None) -> Path:
    from mmo_rl.config.project import job_key, project_root

    if output is not None:
        path = Path(output).expanduser().absolute()
        if path.is_file():
            raise ConfigError(f"compare.output: {path} is a file", hint="name a folder: compare.output=comparison")
        return path
    return project_root() / "runs" / "compare" / job_key(context.overrides)


def _listed(value: str | Sequence[str] | Mapping[str, Any] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else [str(v) for v in value]


def _quoted(argument: str) -> str:
    import shlex

    return shlex.quote(argument)
