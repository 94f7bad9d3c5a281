"""Task compare: tables, significance and plots across the runs of sweeps, printed and as one page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmo_rl.command_line import command_line
from mmo_rl.commands.base import Command, Context
from mmo_rl.config.project import job_key, project_root
from mmo_rl.config.tasks import CompareOptions
from mmo_rl.errors import ConfigError
from mmo_rl.plain_text import harmless
from mmo_rl.report.compare_page import compare_page
from mmo_rl.report.compare_table import as_csv, as_markdown, json_text, print_compared
from mmo_rl.report.compared import Compared, compare_runs
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.report.runs import Run, find_runs, offer
from mmo_rl.report.wandb_page import write_wandb_report
from mmo_rl.report.wandb_runs import wandb_runs


async def run(context: Context, options: CompareOptions) -> None:
    """Reads ``runs`` (folders, sweep folders or globs) or a group of W&B (``entity/project/group``), prints the
    comparison, and writes ``compare.html``, ``compare.csv`` and ``compare.json`` into ``output``.

    Raises `ConfigError` where there is nothing to compare. ``wandb_report`` also writes a draft report into the W&B
    project.
    """
    if options.wandb_report and options.wandb is None:
        raise ConfigError(
            "compare.wandb_report writes about runs that are on W&B",
            hint="compare.wandb=entity/project/group names them",
        )
    compared = compare_runs(
        _found(_listed(options.runs), options.wandb),
        by=_listed(options.by),
        metrics=_listed(options.metrics),
        sort=options.sort,
        cost=options.cost,
        where=options.where,
        against=None if options.against is None else str(options.against),
    )
    folder = RunFolder(_output(context, options.output))
    _write(folder, compared, _listed(options.curves), context)
    if options.wandb_report and options.wandb is not None:
        link = write_wandb_report(compared, options.wandb)
        context.console.say(f"W&B report {link}")
    if options.format == "table":
        print_compared(compared, context.console)
        context.console.print()
        context.console.say(f"page       {folder.path / 'compare.html'}")
    else:
        sys.stdout.write(
            harmless({"markdown": as_markdown, "csv": as_csv, "json": json_text}[options.format](compared))
        )


def _found(patterns: Sequence[str], wandb: str | None) -> list[Run]:
    roots = [Path.cwd(), project_root()]
    if wandb is not None:
        if patterns:
            raise ConfigError("compare.runs and compare.wandb are both set", hint="leave one of them out")
        return wandb_runs(wandb)
    if not patterns:
        raise ConfigError("compare.runs: missing, it has no default", hint=offer(roots))
    return find_runs(patterns, roots=roots)


def _write(folder: RunFolder, compared: Compared, curves: Sequence[str], context: Context) -> None:
    command = command_line(*context.overrides)
    folder.write_text("compare.csv", as_csv(compared))
    folder.write_text("compare.json", json_text(compared))
    folder.write_text("compare.html", compare_page(compared, curve_keys=curves, command=command))


def _output(context: Context, output: str | None) -> Path:
    if output is not None:
        path = Path(output).expanduser().absolute()
        if path.is_file():
            raise ConfigError(f"compare.output: {path} is a file", hint="name a folder: compare.output=comparison")
        return path
    return project_root() / "runs" / "compare" / job_key(context.overrides)


def _listed(value: str | Sequence[str] | Mapping[str, object] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else [str(v) for v in value]


COMMAND = Command(run=run)
