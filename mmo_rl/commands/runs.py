"""Task runs: lists the runs of this project, newest first, with state, age and headline result."""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from rich.table import Table

from mmo_rl.clock import utc_now
from mmo_rl.commands.base import Command, Context
from mmo_rl.config.project import project_root
from mmo_rl.config.tasks import RunsOptions
from mmo_rl.errors import ConfigError
from mmo_rl.plain_text import one_line
from mmo_rl.report.runs import Listed, list_runs
from mmo_rl.terminal import ONE_LINE, Terminal

HEADLINES: Mapping[str, tuple[str, str]] = {
    "train": ("eval/pnl_improvement", "P&L {:+,.0f} $"),
    "evaluate": ("ab/pnl_difference", "B minus A {:+,.0f} $"),
    "judge": ("judge/oracle_tau", "oracle tau {:.2f}"),
}
"""Number of summary.json that a run is known by, and its words, by task."""


async def run(context: Context, options: RunsOptions) -> None:
    """Prints a table or one JSON list; ``name`` is an experiment, or a pattern of names such as ``pilot*``."""
    root = project_root()
    found = [run for run in list_runs(root) if fnmatch.fnmatch(run.name, options.name or "*")]
    if options.format == "json":
        sys.stdout.write(json.dumps([_as_json(run, root) for run in found]) + "\n")
        return
    if not found:
        named = "" if options.name is None else f" named {options.name}"
        raise ConfigError(f"there is no run{named} under {root / 'runs'}", hint="make one: mmo-rl +experiments=quick")
    _show(found[: options.limit], root, context.console)
    if len(found) > options.limit:
        context.console.print(f"... and {len(found) - options.limit} older ones: runs.limit={len(found)}")


def _show(runs: Sequence[Listed], root: Path, console: Terminal) -> None:
    table = Table(box=None, pad_edge=False)
    for head in ("run", "task", "state", "age", "result", "typed"):
        table.add_column(head, overflow="fold", no_wrap=head in ("task", "state", "age"))
    for run in runs:
        cells = (_place(run, root), run.task, run.state, _age(run.since), _headline(run), " ".join(run.overrides))
        table.add_row(*map(one_line, cells))
    (console if console.is_terminal else console.widened(ONE_LINE)).print(table)
    console.print("latest is the newest finished training: mmo-rl task=evaluate evaluate.b=latest")


def _as_json(run: Listed, root: Path) -> dict[str, object]:
    key = HEADLINES.get(run.task, ("", ""))[0]
    return {
        "run": _place(run, root),
        "name": run.name,
        "task": run.task,
        "state": run.state,
        "since": None if run.since is None else run.since.isoformat(),
        "result": run.summary.get(key),
        "result_key": key or None,
        "overrides": list(run.overrides),
    }


def _place(run: Listed, root: Path) -> str:
    return str(run.path.relative_to(root))


def _headline(run: Listed) -> str:
    key, words = HEADLINES.get(run.task, ("", ""))
    value = run.summary.get(key)
    return words.format(value) if isinstance(value, (int, float)) else ""


def _age(since: datetime | None) -> str:
    """Writes the time that has passed since a moment in its largest unit."""
    if since is None:
        return ""
    passed = utc_now() - since
    for unit, length in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1))):
        if passed >= length:
            return f"{passed // length} {unit}"
    return f"{max(0, int(passed.total_seconds()))} s"


COMMAND = Command(run=run)
