"""Windows with seeded dropout: the sampler of every preset in conf/sampler."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Annotated

from pydantic import Field

from mmo_rl.types import Member, SelectedWindow, Selection, WindowQuery, WindowStats


def keeps(trajectory_id: str, *, rate: float, seed: int) -> bool:
    """Whether a trajectory survives dropout at ``rate`` in [0, 1].

    A larger rate only removes more, and the same seed keeps the same ids on any machine, in any order: the first 8 hex
    digits of md5("id:seed"), as a fraction of 2^32, must reach the rate. (The same expression exists in SQL.)
    """
    return _fraction(trajectory_id, seed) >= rate


def _fraction(trajectory_id: str, seed: int) -> float:
    digest = hashlib.md5(f"{trajectory_id}:{seed}".encode(), usedforsecurity=False).hexdigest()
    return int(digest[:8], 16) / 2**32


class WindowSampler:
    """Takes complete windows with enough agents, newest ``holdout`` share kept apart, then drops trajectories.

    ``rate = clip(1 - target_trajectories / available, 0, max_dropout)``; no window falls below ``min_agents``: where
    it would, the dropped trajectories closest to surviving come back. Agents are counted after the ``min_actions``
    filter. ``window_hours`` and ``lookback_hours`` in hours; ``max_windows`` an iteration, oldest unused first;
    ``max_per_window`` is for the judge, which compares so many at once.
    """

    def __init__(
        self,
        *,
        window_hours: Annotated[float, Field(ge=0.25, le=24 * 30)] = 1.0,
        lookback_hours: Annotated[float, Field(gt=0)] = 168.0,
        min_agents: Annotated[int, Field(ge=2)] = 5,
        min_actions: Annotated[int, Field(ge=0)] = 5,
        max_windows: Annotated[int, Field(ge=1)] = 20,
        max_per_window: Annotated[int, Field(ge=2)] = 8,
        target_trajectories: Annotated[int, Field(ge=1)] = 1000,
        max_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3,
        holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        seed: int,
    ) -> None:
        self.window_hours = window_hours
        self.lookback_hours = lookback_hours
        self.min_agents = min_agents
        self.min_actions = min_actions
        self.max_windows = max_windows
        self.max_per_window = max_per_window
        self.target_trajectories = target_trajectories
        self.max_dropout = max_dropout
        self.holdout = holdout
        self.seed = seed

    def query(self, scenario_id: str | None) -> WindowQuery:
        """The windows worth asking a source for."""
        return WindowQuery(window_hours=self.window_hours, lookback_hours=self.lookback_hours, scenario_id=scenario_id)

    def select(
        self, windows: Sequence[WindowStats], iteration: int, used_windows: Collection[str] = (), *, prefix: str = ""
    ) -> Selection:
        """Which trajectories iteration ``iteration`` trains on, and the reasons for the rest."""
        excluded: Counter[str] = Counter()
        ready: list[tuple[WindowStats, list[Member]]] = []
        for stats in sorted(windows, key=lambda w: w.window.start):
            usable, reasons = self._usable(stats)
            excluded.update(reasons)
            if usable:
                ready.append((stats, usable))
        kept_apart = int(len(ready) * self.holdout)
        for _, members in ready[len(ready) - kept_apart :]:
            excluded["held_out"] += len(members)
        ready = ready[: len(ready) - kept_apart]
        fresh = []
        for stats, members in ready:
            if stats.window.id in used_windows:
                excluded["already_used"] += len(members)
            else:
                fresh.append((stats, members))
        for _, members in fresh[self.max_windows :]:
            excluded["max_windows"] += len(members)
        fresh = fresh[: self.max_windows]
        available = sum(len(members) for _, members in fresh)
        rate = min(max(1.0 - self.target_trajectories / available, 0.0), self.max_dropout) if available else 0.0
        chosen = tuple(SelectedWindow(stats.window, self._drop(members, rate, prefix)) for stats, members in fresh)
        return Selection(
            iteration=iteration,
            windows=chosen,
            windows_available=len(windows),
            available=available,
            dropout_rate=rate,
            dropped=available - sum(len(w.trajectory_ids) for w in chosen),
            excluded=dict(excluded),
        )

    def _usable(self, stats: WindowStats) -> tuple[list[Member], Counter[str]]:
        reasons: Counter[str] = Counter()
        if not stats.complete:
            reasons["unfinished"] = len(stats.members)
            return [], reasons
        members = []
        for member in stats.members:
            if member.is_evaluation or not member.is_training_data:
                reasons["evaluation"] += 1
            elif member.actions < self.min_actions:
                reasons["too_few_actions"] += 1
            else:
                members.append(member)
        if len({m.agent_id for m in members}) < self.min_agents:
            reasons["too_few_agents"] += len(members)
            return [], reasons
        return members, reasons

    def _drop(self, members: list[Member], rate: float, prefix: str) -> tuple[str, ...]:
        """The ids that stay, in id order; at least ``min_agents`` different agents among them."""
        own = {m.trajectory_id: m.trajectory_id.removeprefix(prefix) for m in members}
        ranked = sorted(members, key=lambda m: (-_fraction(own[m.trajectory_id], self.seed), m.trajectory_id))
        agents: set[str] = set()
        kept = []
        for member in ranked:
            needed = len(agents) < self.min_agents and member.agent_id not in agents
            if needed or keeps(own[member.trajectory_id], rate=rate, seed=self.seed):
                kept.append(member.trajectory_id)
                agents.add(member.agent_id)
        return tuple(sorted(kept))
