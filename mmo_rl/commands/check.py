"""Verifies windows: how many are ready to train on, and why the others are not.

Statistics come first and read no step; then the steps of the same windows stream by once, for what only they tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from mmo_rl.clock import utc_now, window_id
from mmo_rl.errors import DatabaseError, NotReady
from mmo_rl.sampler.lookback import outside
from mmo_rl.sampler.quality import Quality, total
from mmo_rl.types import Member, Selection, WindowStats

if TYPE_CHECKING:
    from mmo_rl.config.components import Context

MAX_NAMES = 5
THRESHOLDS = (2, 3, 5, 8)


@dataclass(frozen=True, slots=True)
class Readiness:
    """One window: ``reason`` says why it is not ready, None where it is. Counts are of members that may be trained
    on, ``active_agents`` of those with enough steps; ``pnl_low`` and ``pnl_high`` in game dollars, None where no P&L
    was recorded. ``trainable_calls`` and ``with_logprobs`` count LLM calls, None where no step was read. Where agents
    are compared within their role (``roles``, its active agents by role, else None), ``active_agents`` is that of the
    largest role, and ``usable`` trajectories are those of roles with enough agents."""

    window_id: str
    agents: int
    active_agents: int
    trajectories: int
    slices: int
    steps: int
    pnl_low: float | None
    pnl_high: float | None
    has_outcomes: bool
    trainable_calls: int | None
    with_logprobs: int | None
    complete: bool
    reason: str | None
    usable: int = 0
    roles: Mapping[str, int] | None = None


async def run(context: Context, *, format: Literal["table", "json"] = "table", steps: bool = True) -> None:
    """Raises `NotReady` (exit code 3) where no window is ready. ``steps`` False looks at statistics alone."""
    source, sampler = await context.components.source(), context.components.sampler()
    query = sampler.query(None)
    windows = await source.windows(query)
    qualities = await examine(source, windows, now=utc_now()) if steps else {}
    checked = assess(
        windows,
        min_agents=sampler.min_agents,
        min_actions=sampler.min_actions,
        by_role=query.by_role,
        qualities=qualities if steps else None,
    )
    report = summary(
        checked, windows=windows, rejected=source.rejected, quality=total(list(qualities.values())) if steps else None
    )
    rejections = getattr(source, "rejections", None)
    report["rejected_in"] = str(rejections.path) if source.rejected and rejections and rejections.path else None
    report["outside_lookback"] = await outside(
        source, query, windows, min_agents=sampler.min_agents, min_actions=sampler.min_actions
    )
    report["next"] = await _before_training(context, checked) or next_command(
        report, context.overrides, sampler.min_agents
    )
    if format == "json":
        import json
        import sys

        sys.stdout.write(json.dumps(report) + "\n")
    else:
        from mmo_rl.report.readiness_table import show

        show(checked, report, context.console)
    verdict(report, min_agents=sampler.min_agents, min_actions=sampler.min_actions)


async def _before_training(context: Context, checked: Sequence[Readiness]) -> str | None:
    """What a training on the ready windows lacks beside them, as the command that brings it; None where nothing is."""
    ready = [window for window in checked if window.reason is None]
    if not ready:
        return None
    nodes = context.settings.nodes
    source, database, judge = (nodes[name] or {} for name in ("source", "database", "judge"))
    needs_outcomes = str(judge.get("_target_", "")).endswith(".OracleJudge") and not any(w.has_outcomes for w in ready)
    kept = [o for o in context.overrides if o.lstrip("+").partition("=")[0].partition(".")[0] in ("source", "database")]
    if "dsn_env" not in source:
        return _command(kept, without=(), more=("task=import",)) if needs_outcomes else None
    if source["dsn_env"] == database.get("dsn_env"):
        target = await context.components.database()
        if await target.refused() is not None:
            return _command(kept, without=("database",), more=("task=import", "database=embedded"))
        try:
            await target.require_tables()
        except DatabaseError:
            return _command(kept, without=(), more=("task=migrate",))
    return _command(kept, without=(), more=("task=outcomes",)) if needs_outcomes else None


async def examine(source: Any, windows: Sequence[WindowStats], *, now: datetime) -> dict[str, Quality]:
    """Streams the steps of the windows; a bar on the terminal shows how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    chosen = tuple(stats.everything for stats in windows)
    count = sum(len(selected.trajectory_ids) for selected in chosen)
    selection = Selection(0, chosen, len(chosen), count, 0.0, 0, {})
    sizes = {selected.window.id: len(selected.trajectory_ids) for selected in chosen}
    qualities = {selected.window.id: Quality() for selected in chosen}
    columns = (TextColumn("reading steps"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=count)
        async for group in source.groups(selection):
            for member in group.members:
                qualities[group.window.id].add(member, now=now)
            progress.advance(task, sizes[group.window.id])
    return qualities


def assess(
    windows: Sequence[WindowStats],
    *,
    min_agents: int,
    min_actions: int,
    by_role: bool = False,
    qualities: Mapping[str, Quality] | None = None,
) -> list[Readiness]:
    """Whether each window can be trained on: complete, at least ``min_agents`` agents (``by_role``: of one role) that
    took at least ``min_actions`` steps each in play that is meant for training, and, where steps were read
    (``qualities``), readable and with LLM calls."""
    return [
        _assess(stats, min_agents, min_actions, by_role, None if qualities is None else qualities[stats.window.id])
        for stats in windows
    ]


def _assess(stats: WindowStats, min_agents: int, min_actions: int, by_role: bool, quality: Quality | None) -> Readiness:
    trainable = [m for m in stats.members if m.trainable]
    groups: dict[str | None, list[Member]] = {}
    for member in trainable:
        groups.setdefault(member.role if by_role else None, []).append(member)
    active = {role: [m for m in group if m.actions >= min_actions] for role, group in groups.items()}
    readable = {
        role: [m for m in group if quality is None or m.trajectory_id in quality.readable]
        for role, group in active.items()
    }
    agents = _largest(readable)
    of = " of one role" if by_role else ""
    pnl = [m.final_pnl for m in trainable if m.final_pnl is not None]
    reason = None
    if not stats.complete:
        reason = "not over yet"
    elif not trainable:
        reason = "for evaluation only"
    elif _largest(groups) < min_agents:
        reason = f"{_largest(groups)} of {min_agents} agents{of}"
    elif _largest(active) < min_agents:
        reason = f"{_largest(active)} of {min_agents} agents{of} with {min_actions} steps"
    elif agents < min_agents:
        reason = f"{agents} of {min_agents} agents{of} readable"
    elif quality is not None and quality.trainable_calls == 0:
        reason = "no LLM calls"
    return Readiness(
        window_id=stats.window.id,
        agents=_agents(trainable),
        active_agents=agents,
        trajectories=len(trainable),
        slices=sum(sliced for m in trainable for _, sliced in origins(m)),
        steps=sum(m.actions for m in trainable),
        pnl_low=min(pnl, default=None),
        pnl_high=max(pnl, default=None),
        has_outcomes=stats.has_outcomes,
        trainable_calls=None if quality is None else quality.trainable_calls,
        with_logprobs=None if quality is None else quality.with_logprobs,
        complete=stats.complete,
        reason=reason,
        usable=sum(len(group) for role, group in groups.items() if _agents(readable[role]) >= min_agents),
        roles={role or "(none)": _agents(group) for role, group in readable.items()} if by_role else None,
    )


def _largest(groups: Mapping[str | None, Collection[Member]]) -> int:
    """Of those who are compared with each other: how many agents where there are most."""
    return max(map(_agents, groups.values()), default=0)


def _agents(members: Collection[Member]) -> int:
    return len({m.agent_id for m in members})


def origins(member: Member) -> list[tuple[str, bool]]:
    """The recorded trajectories that a member is made of: the id of each, and whether it is a slice of it."""
    from mmo_rl.source.slices import split_id

    parts = [split_id(part) for part in member.parts or (member.trajectory_id,)]
    return [(identity, window is not None) for identity, window in parts]


def recorded_windows(windows: Sequence[WindowStats]) -> list[dict[str, Any]]:
    """The windows as they were recorded, before trajectories that cross their ends were sliced: each trajectory in
    the window that it began in. ``crossing`` counts those that go on into a later one."""
    begun: set[str] = set()
    recorded = []
    for stats in windows:
        placed = [(member, *found) for member in stats.members for found in origins(member)]
        own = [(member, sliced) for member, identity, sliced in placed if identity not in begun]
        begun |= {identity for _, identity, sliced in placed if sliced}
        if own:
            recorded.append(
                {
                    "window_id": stats.window.id,
                    "end": window_id(stats.window.end),
                    "agents": _agents([member for member, _ in own]),
                    "trajectories": len(own),
                    "crossing": sum(sliced for _, sliced in own),
                }
            )
    return recorded


def window_ids(windows: Sequence[WindowStats]) -> dict[str, Any]:
    """How trajectories were placed: by the recorded window id, by one in another format that was mapped, or by their
    start time because the id names no hour. ``examples`` counts the ids of the latter two."""
    from mmo_rl.source.slices import named_start

    found: dict[str, str | None] = {}
    for stats in windows:
        for member in stats.members:
            found |= {identity: member.odd_window_id for identity, _ in origins(member)}
    odd = Counter(name for name in found.values() if name is not None)
    mapped = sum(count for name, count in odd.items() if named_start(name) is not None)
    return {
        "recorded": len(found) - odd.total(),
        "mapped": mapped,
        "derived": odd.total() - mapped,
        "examples": {name or "(none)": count for name, count in odd.most_common(MAX_NAMES)},
    }


def summary(
    checked: Sequence[Readiness],
    *,
    rejected: Mapping[str, int],
    windows: Sequence[WindowStats] = (),
    quality: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole check as plain values; ``ready`` is whether any window can be trained on."""
    usable = [window for window in checked if window.reason is None]
    return {
        "ready": bool(usable),
        "windows": len(checked),
        "windows_ready": len(usable),
        "windows_ready_with_outcomes": sum(window.has_outcomes for window in usable),
        "trajectories": sum(window.trajectories for window in checked),
        "trajectories_ready": sum(window.usable for window in usable),
        "steps": sum(window.steps for window in checked),
        "at_least_agents": {
            str(agents): sum(window.complete and window.active_agents >= agents for window in checked)
            for agents in THRESHOLDS
        },
        "recorded_windows": recorded_windows(windows),
        "window_ids": window_ids(windows),
        "quality": quality,
        "rejected": dict(rejected),
        "per_window": [{"ready": window.reason is None, **asdict(window)} for window in checked],
    }


def training_command(overrides: Sequence[str]) -> str:
    """Trains on the windows that a check with these overrides looked at."""
    return _command(overrides, without=("task", "check", "collect"), more=("collect=none",))


def next_command(report: Mapping[str, Any], overrides: Sequence[str], min_agents: int) -> str:
    """What to type next: the training, else what would make windows ready."""
    if report["ready"]:
        return training_command(overrides)
    if not report["windows"]:
        return _command(overrides, without=("task", "check", "source", "database"), more=("task=collect",))
    reasons = [window["reason"] for window in report["per_window"]]
    hidden = report.get("outside_lookback")
    if hidden and hidden["windows_with_agents"]:
        return _command(overrides, without=("sampler.lookback_hours",), more=(hidden["override"],))
    best = max((t for t in THRESHOLDS if t < min_agents and report["at_least_agents"][str(t)]), default=None)
    if best is not None:
        return _command(overrides, without=("sampler.min_agents",), more=(f"sampler.min_agents={best}",))
    if any(reason.endswith("steps") for reason in reasons):
        return _command(overrides, without=("sampler.min_actions",), more=("sampler.min_actions=1",))
    if all(reason == "not over yet" for reason in reasons):
        return _command(overrides, without=(), more=())  # the same again, when the window is over
    return _command(overrides, without=("task", "check", "source", "database"), more=("task=collect",))


def _command(overrides: Sequence[str], *, without: Collection[str], more: Sequence[str]) -> str:
    import shlex

    def named(override: str) -> tuple[str, str]:
        key = override.lstrip("+~").partition("=")[0]
        return key, key.partition(".")[0]

    kept = [override for override in overrides if not set(named(override)) & set(without)]
    return shlex.join(["mmo-rl", *kept, *more])


def verdict(report: dict[str, Any], *, min_agents: int, min_actions: int) -> None:
    """Raises `NotReady`, with the next command, unless a window is ready."""
    if report["ready"]:
        return
    if not report["windows"]:
        raise NotReady("no window is recorded", hint=f"{report['next']} records some in the simulated market")
    reasons = Counter(window["reason"] for window in report["per_window"])
    hint = f"{report['next']}, let more agents play, or lower sampler.min_agents"
    hidden = report.get("outside_lookback")
    if set(reasons) == {"not over yet"} and not (hidden and hidden["windows_with_agents"]):
        hint = f"{report['next']} again when the window is over (source.settle_minutes after its end)"
    listed = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    raise NotReady(
        f"none of {report['windows']} windows is ready (sampler.min_agents={min_agents},"
        f" sampler.min_actions={min_actions}): {listed}",
        hint=hint,
    )
