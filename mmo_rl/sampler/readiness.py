"""Readiness check: counts the windows that can be trained on, and names the rule that each other window misses.

Statistics come first and read no step; then the steps of the same windows stream by once, for the counts that only they
give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from mmo_rl.clock import window_id
from mmo_rl.sampler.base import (
    OlderWindows,
    Readiness,
    ReadinessReport,
    RecordedWindow,
    SamplingRules,
    WindowIds,
)
from mmo_rl.sampler.quality import QualityCounter, total
from mmo_rl.source.base import Source
from mmo_rl.types import Member, Selection, WindowStats
from mmo_rl.vocabulary import Vocabulary
from mmo_rl.window_ids import named_start, split_id

MAX_EXAMPLES = 5
"""Odd window ids that a report lists."""


async def examine(
    source: Source,
    windows: Sequence[WindowStats],
    *,
    now: datetime,
    vocabulary: Vocabulary,
    on_read: Callable[[int, int], None] = lambda done, count: None,
) -> dict[str, QualityCounter]:
    """Streams the steps of the windows and counts their quality, by window id; ``on_read`` is called with the number of
    trajectories read and their total."""
    chosen = tuple(stats.everything for stats in windows)
    sizes = {selected.window.id: len(selected.trajectory_ids) for selected in chosen}
    counters = {selected.window.id: QualityCounter(vocabulary) for selected in chosen}
    done, count = 0, sum(sizes.values())
    on_read(done, count)
    async for group in source.groups(Selection(0, chosen, len(chosen), count, 0.0, 0, {})):
        for member in group.members:
            counters[group.window.id].add(member, now=now)
        done += sizes[group.window.id]
        on_read(done, count)
    return counters


def assess(
    windows: Sequence[WindowStats], rules: SamplingRules, counters: Mapping[str, QualityCounter] | None = None
) -> list[Readiness]:
    """Applies the rules to each window.

    A window is ready when it is complete, at least ``min_agents`` agents (``by_role``: of one role) took at least
    ``min_actions`` steps each in play that is meant for training, and, where steps were read (``counters``), they are
    readable and have LLM calls.
    """
    return [_readiness(stats, rules, None if counters is None else counters[stats.window.id]) for stats in windows]


def _readiness(stats: WindowStats, rules: SamplingRules, counter: QualityCounter | None) -> Readiness:
    """Applies the rules to one window."""
    min_agents, min_actions = rules.min_agents, rules.min_actions
    trainable = [m for m in stats.members if m.trainable]
    groups: dict[str | None, list[Member]] = {}
    for member in trainable:
        groups.setdefault(member.role if rules.by_role else None, []).append(member)
    active = {role: [m for m in group if m.actions >= min_actions] for role, group in groups.items()}
    readable = {
        role: [m for m in group if counter is None or m.trajectory_id in counter.readable]
        for role, group in active.items()
    }
    quality = None if counter is None else counter.quality
    agents = _largest(readable)
    of = " of one role" if rules.by_role else ""
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
        failed_share=quality.failed_actions / quality.steps if quality is not None and quality.steps else None,
        mixes_insiders=any(len({is_insider(m.role) for m in group}) > 1 for group in active.values()),
        roles={role or "(none)": _agents(group) for role, group in readable.items()} if rules.by_role else None,
    )


def is_insider(role: str | None) -> bool:
    """Tells if a role, or a part of it (``trader/insider``), is that of agents who were told what others were not."""
    return "insider" in (role or "").lower().split("/")


def _largest(groups: Mapping[str | None, Collection[Member]]) -> int:
    """Counts the agents of the group that has most."""
    return max(map(_agents, groups.values()), default=0)


def _agents(members: Collection[Member]) -> int:
    """Counts the different agents."""
    return len({m.agent_id for m in members})


def origins(member: Member) -> list[tuple[str, bool]]:
    """Lists the recorded trajectories that a member is made of: the id of each, and True where it is a slice of it."""
    parts = [split_id(part) for part in member.parts or (member.trajectory_id,)]
    return [(identity, window is not None) for identity, window in parts]


def recorded_windows(windows: Sequence[WindowStats]) -> list[RecordedWindow]:
    """Lists the windows as they were recorded, before trajectories that cross their ends were sliced."""
    begun: set[str] = set()
    recorded = []
    for stats in windows:
        placed = [(member, *found) for member in stats.members for found in origins(member)]
        own = [(member, sliced) for member, identity, sliced in placed if identity not in begun]
        begun |= {identity for _, identity, sliced in placed if sliced}
        if own:
            recorded.append(
                RecordedWindow(
                    window_id=stats.window.id,
                    end=window_id(stats.window.end),
                    agents=_agents([member for member, _ in own]),
                    trajectories=len(own),
                    crossing=sum(sliced for _, sliced in own),
                )
            )
    return recorded


def window_ids(windows: Sequence[WindowStats]) -> WindowIds:
    """Counts how trajectories were placed: by the recorded window id, by a mapped one, or by their start time."""
    found: dict[str, str | None] = {}
    for stats in windows:
        for member in stats.members:
            found |= {identity: member.odd_window_id for identity, _ in origins(member)}
    odd = Counter(name for name in found.values() if name is not None)
    mapped = sum(count for name, count in odd.items() if named_start(name) is not None)
    return WindowIds(
        recorded=len(found) - odd.total(),
        mapped=mapped,
        derived=odd.total() - mapped,
        examples={name or "(none)": count for name, count in odd.most_common(MAX_EXAMPLES)},
    )


def report(
    windows: Sequence[WindowStats],
    rules: SamplingRules,
    *,
    counters: Mapping[str, QualityCounter] | None = None,
    rejected: Mapping[str, int],
    rejected_in: Path | None = None,
    outside_lookback: OlderWindows | None = None,
) -> ReadinessReport:
    """Assesses the windows and sums up the whole check; ``counters`` None: no step was read."""
    return ReadinessReport(
        per_window=tuple(assess(windows, rules, counters)),
        recorded_windows=tuple(recorded_windows(windows)),
        window_ids=window_ids(windows),
        quality=None if counters is None else total(counter.quality for counter in counters.values()),
        rejected=dict(rejected),
        rejected_in=None if rejected_in is None else str(rejected_in),
        outside_lookback=outside_lookback,
    )
