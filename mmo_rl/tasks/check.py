"""Verifies windows: how many are ready to train on, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mmo_rl.errors import NotReady
from mmo_rl.types import Member, WindowStats

if TYPE_CHECKING:
    from rich.console import Console

    from mmo_rl.config import Context

MAX_ROWS = 40


@dataclass(frozen=True, slots=True)
class Readiness:
    """One window: ``reason`` says why it is not ready, None where it is. Counts are of members that may be trained
    on; ``pnl_low`` and ``pnl_high`` in game dollars, None where no P&L was recorded."""

    window_id: str
    agents: int
    trajectories: int
    steps: int
    pnl_low: float | None
    pnl_high: float | None
    has_outcomes: bool
    reason: str | None


async def run(context: Context, *, format: Literal["table", "json"] = "table") -> None:
    """Raises `NotReady` (exit code 3) where no window is ready."""
    source, sampler = await context.components.source(), context.components.sampler()
    windows = await source.windows(sampler.query(None))
    checked = assess(windows, min_agents=sampler.min_agents, min_actions=sampler.min_actions)
    report = summary(checked, rejected=source.rejected)
    if format == "json":
        import json
        import sys

        sys.stdout.write(json.dumps(report) + "\n")
    else:
        show(checked, report, context.console, next_command=training_command(context.overrides))
    verdict(report, min_agents=sampler.min_agents, min_actions=sampler.min_actions)


def assess(windows: Sequence[WindowStats], *, min_agents: int, min_actions: int) -> list[Readiness]:
    """Whether each window can be trained on: complete, and at least ``min_agents`` agents that took at least
    ``min_actions`` steps each in play that is meant for training."""
    return [_assess(stats, min_agents, min_actions) for stats in windows]


def _assess(stats: WindowStats, min_agents: int, min_actions: int) -> Readiness:
    trainable = [m for m in stats.members if m.is_training_data and not m.is_evaluation]
    active = [m for m in trainable if m.actions >= min_actions]
    agents = _agents(active)
    pnl = [m.final_pnl for m in trainable if m.final_pnl is not None]
    reason = None
    if not stats.complete:
        reason = "not over yet"
    elif not trainable:
        reason = "for evaluation only"
    elif agents < min_agents and _agents(trainable) >= min_agents:
        reason = f"{agents} of {min_agents} agents with {min_actions} steps"
    elif agents < min_agents:
        reason = f"{agents} of {min_agents} agents"
    return Readiness(
        window_id=stats.window.id,
        agents=_agents(trainable),
        trajectories=len(trainable),
        steps=sum(m.actions for m in trainable),
        pnl_low=min(pnl, default=None),
        pnl_high=max(pnl, default=None),
        has_outcomes=stats.has_outcomes,
        reason=reason,
    )


def _agents(members: Sequence[Member]) -> int:
    return len({m.agent_id for m in members})


def summary(checked: Sequence[Readiness], *, rejected: Any) -> dict[str, Any]:
    """The whole check as plain values; ``ready`` is whether any window can be trained on."""
    usable = [window for window in checked if window.reason is None]
    return {
        "ready": bool(usable),
        "windows": len(checked),
        "windows_ready": len(usable),
        "windows_ready_with_outcomes": sum(window.has_outcomes for window in usable),
        "trajectories": sum(window.trajectories for window in checked),
        "trajectories_ready": sum(window.trajectories for window in usable),
        "steps": sum(window.steps for window in checked),
        "rejected": dict(rejected),
        "per_window": [
            {
                "window_id": window.window_id,
                "ready": window.reason is None,
                "reason": window.reason,
                "agents": window.agents,
                "trajectories": window.trajectories,
                "steps": window.steps,
                "pnl_low": window.pnl_low,
                "pnl_high": window.pnl_high,
                "has_outcomes": window.has_outcomes,
            }
            for window in checked
        ],
    }


def training_command(overrides: Sequence[str]) -> str:
    """Trains on the windows that a check with these overrides looked at."""
    import shlex

    kept = [
        o for o in overrides if o.lstrip("+").partition("=")[0].partition(".")[0] not in ("task", "check", "collect")
    ]
    return shlex.join(["mmo-rl", *kept, "collect=none"])


def show(checked: Sequence[Readiness], report: dict[str, Any], console: Console, *, next_command: str) -> None:
    """A table with a row a window (the newest where there are many), the totals, and the verdict."""
    from rich.table import Table

    if checked:
        hidden = max(0, len(checked) - MAX_ROWS)
        caption = f"{hidden} older windows are not shown (check.format=json lists all)" if hidden else None
        table = Table(box=None, padding=(0, 2, 0, 0), caption=caption, caption_justify="left")
        table.add_column("window (UTC)", no_wrap=True)
        for heading in ("agents", "traj.", "steps", "P&L"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("outcomes")
        table.add_column("ready")
        for window in checked[-MAX_ROWS:]:
            table.add_row(
                window.window_id,
                str(window.agents),
                str(window.trajectories),
                f"{window.steps:,}",
                _range(window),
                "yes" if window.has_outcomes else "no",
                window.reason or "yes",
            )
        console.print(table)
    console.print(
        f"{report['windows_ready']} of {report['windows']} windows ready"
        f" ({report['windows_ready_with_outcomes']} with outcomes),"
        f" {report['trajectories_ready']:,} of {report['trajectories']:,} trajectories, {report['steps']:,} steps"
    )
    for reason, count in sorted(report["rejected"].items()):
        console.print(f"left out: {count} x {reason}")
    if report["ready"]:
        console.print(f"READY. Next: {next_command}", soft_wrap=True, markup=False, highlight=False)
    else:
        console.print("NOT READY")


def _range(window: Readiness) -> str:
    if window.pnl_low is None or window.pnl_high is None:
        return "-"
    if window.pnl_low == window.pnl_high:
        return f"{window.pnl_low:+,.0f}"
    return f"{window.pnl_low:+,.0f}..{window.pnl_high:+,.0f}"


def verdict(report: dict[str, Any], *, min_agents: int, min_actions: int) -> None:
    """Raises `NotReady`, with the next command, unless a window is ready."""
    if report["ready"]:
        return
    if not report["windows"]:
        raise NotReady("no window is recorded", hint="mmo-rl task=collect records some in the simulated market")
    raise NotReady(
        f"none of {report['windows']} windows is ready (sampler.min_agents={min_agents},"
        f" sampler.min_actions={min_actions})",
        hint="let more agents play, record some (mmo-rl task=collect), or lower sampler.min_agents",
    )
