"""Task check: verifies recorded windows and names the next command, for a training or for what it lacks."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Collection, Sequence

from mmo_rl.clock import utc_now
from mmo_rl.command_line import command_line
from mmo_rl.commands.base import Command, Context
from mmo_rl.config.tasks import CheckOptions
from mmo_rl.errors import DatabaseError, NotReady
from mmo_rl.report.readiness_table import show
from mmo_rl.sampler.base import AGENT_THRESHOLDS, ReadinessReport, SamplingRules
from mmo_rl.sampler.lookback import older_windows
from mmo_rl.sampler.origins import origin_lines
from mmo_rl.sampler.quality import QualityCounter
from mmo_rl.sampler.readiness import examine, report
from mmo_rl.source.base import Rejecting, Source
from mmo_rl.types import WindowStats
from mmo_rl.vocabulary import Vocabulary
from mmo_rl.wording import counted


async def run(context: Context, options: CheckOptions) -> None:
    """Checks every window that the sampler looks at, and prints a table or one JSON object.

    ``steps`` False looks at statistics alone. Raises `NotReady` (exit code 3) where no window is ready.
    """
    source, sampler = context.components.source, context.components.sampler
    query, rules = sampler.query(None), sampler.rules
    windows = await source.windows(query)
    counters = await _examined(source, windows, context.components.vocabulary) if options.steps else None
    rejected_in = source.rejections.path if isinstance(source, Rejecting) and source.rejected else None
    checked = report(
        windows,
        rules,
        counters=counters,
        rejected=source.rejected,
        rejected_in=rejected_in,
        outside_lookback=await older_windows(source, query, windows, rules),
    )
    lines = await origin_lines(source, [stats.everything for stats in windows])
    following = await _before_training(context, checked) or next_command(checked, context.overrides, rules)
    if options.format == "json":
        sys.stdout.write(json.dumps(checked.as_json() | {"origins": lines, "next": following}) + "\n")
    else:
        for line in lines:
            context.console.say(line)
        show(checked, following, context.console)
    if not checked.ready:
        raise not_ready(checked, following, rules)


async def _examined(
    source: Source, windows: Sequence[WindowStats], vocabulary: Vocabulary
) -> dict[str, QualityCounter]:
    """Examines the steps of the windows, with a progress bar on the terminal."""
    from mmo_rl.terminal import Terminal, progress_bars

    with progress_bars(Terminal(stderr=True), remaining=True) as progress:
        bar = progress.add_task("reading steps")
        return await examine(
            source,
            windows,
            now=utc_now(),
            vocabulary=vocabulary,
            on_read=lambda done, count: progress.update(bar, completed=done, total=count),
        )


async def _before_training(context: Context, checked: ReadinessReport) -> str | None:
    """Returns the command that brings what a training on the ready windows lacks; None where nothing is lacking."""
    if not checked.ready:
        return None
    settings = context.settings
    needs_outcomes = context.components.judge.needs_truth and not checked.windows_ready_with_outcomes
    kept = [o for o in context.overrides if o.lstrip("+").partition("=")[0].partition(".")[0] in ("source", "database")]
    if not settings.reads_database:
        return _command(kept, without=(), more=("task=import",)) if needs_outcomes else None
    if settings.reads_written_database:
        target = context.components.database
        if await target.refusal() is not None:
            return _command(kept, without=("database",), more=("task=import", "database=embedded"))
        try:
            await target.require_tables()
        except DatabaseError:
            return _command(kept, without=(), more=("task=migrate",))
    return _command(kept, without=(), more=("task=outcomes",)) if needs_outcomes else None


def training_command(overrides: Sequence[str]) -> str:
    """Returns the command that trains on the windows that a check with these overrides looked at."""
    return _command(overrides, without=("task", "check", "collect"), more=("collect=none",))


def next_command(checked: ReadinessReport, overrides: Sequence[str], rules: SamplingRules) -> str:
    """Returns the next command to type: the training, else one that can make windows ready."""
    if checked.ready:
        return training_command(overrides)
    collecting = _command(overrides, without=("task", "check", "source", "database"), more=("task=collect",))
    if not checked.per_window:
        return collecting
    older = checked.outside_lookback
    if older is not None and older.windows_with_agents:
        return _command(overrides, without=("sampler.lookback_hours",), more=(older.override,))
    reached = [least for least in AGENT_THRESHOLDS if least < rules.min_agents and checked.at_least_agents[least]]
    if reached:
        return _command(overrides, without=("sampler.min_agents",), more=(f"sampler.min_agents={max(reached)}",))
    if any(window.lacks_actions for window in checked.per_window):
        return _command(overrides, without=("sampler.min_actions",), more=("sampler.min_actions=1",))
    if not any(window.complete for window in checked.per_window):
        return _command(overrides, without=(), more=())  # the same again, when the window is over
    return collecting


def _command(overrides: Sequence[str], *, without: Collection[str], more: Sequence[str]) -> str:
    """Returns a command of these overrides, ``without`` those of the named keys or groups, with ``more`` at its end."""

    def named(override: str) -> tuple[str, str]:
        key = override.lstrip("+~").partition("=")[0]
        return key, key.partition(".")[0]

    kept = [override for override in overrides if not set(named(override)) & set(without)]
    return command_line(*kept, *more)


def not_ready(checked: ReadinessReport, following: str, rules: SamplingRules) -> NotReady:
    """Returns the error of a check without a ready window; its hint begins with the next command."""
    if not checked.per_window:
        return NotReady("no window is recorded", hint=f"{following} records some in the simulated market")
    reasons = Counter(window.reason for window in checked.per_window)
    hint = f"{following}, let more agents play, or lower sampler.min_agents"
    older = checked.outside_lookback
    unfinished = not any(window.complete for window in checked.per_window)
    if unfinished and not (older is not None and older.windows_with_agents):
        hint = f"{following} again when the window is over (source.settle_minutes after its end)"
    listed = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    return NotReady(
        f"none of {counted(len(checked.per_window), 'window')} is ready (sampler.min_agents={rules.min_agents},"
        f" sampler.min_actions={rules.min_actions}): {listed}",
        hint=hint,
    )


COMMAND = Command(run=run)
