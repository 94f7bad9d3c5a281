"""Windows with seeded dropout: the sampler of every preset in conf/sampler."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field

from mmo_rl.errors import ConfigError
from mmo_rl.sampler.dropout import STRATEGIES, Strategy
from mmo_rl.types import (
    Choice,
    Draw,
    GroupCounts,
    Member,
    SelectedWindow,
    Selection,
    Span,
    Window,
    WindowQuery,
    WindowStats,
)


def fraction(identity: str, *, seed: int) -> float:
    """A number in [0, 1) that an id has on any machine: the first 8 hex digits of md5("id:seed"), divided by 2^32.
    (The same expression exists in SQL.)"""
    digest = hashlib.md5(f"{identity}:{seed}".encode(), usedforsecurity=False).hexdigest()
    return int(digest[:8], 16) / 2**32


class WindowSampler:
    """Takes complete windows with enough agents, the newest ``holdout`` share kept apart, then drops trajectories.

    ``rate = clip(1 - target_trajectories / available, 0, max_dropout)``, by the strategy ``dropout`` (see
    `mmo_rl.sampler.dropout`); no group falls below ``min_agents`` different agents: where one would, the best of the
    dropped come back. Agents are counted after the ``min_actions`` filter. ``window_hours`` and ``lookback_hours`` in
    hours, these counted back from the newest recorded window, or from the time ``until`` (UTC), after which nothing is
    looked at; a run that plays has all of its own play. Those who are compared with each other, a group, share a
    window, or a role in a window too (``group_by``). ``max_windows`` an iteration, in ``order`` of their time or by
    chance, each once unless ``reuse``: then those used least come first. ``max_per_window`` is for the judge, which
    compares so many at once.
    """

    def __init__(
        self,
        *,
        window_hours: Annotated[float, Field(ge=0.25, le=24 * 30)] = 1.0,
        lookback_hours: Annotated[float, Field(gt=0, le=1e6)] = 168.0,
        until: str | None = None,
        group_by: Literal["window", "window_role"] = "window",
        min_agents: Annotated[int, Field(ge=2)] = 5,
        min_actions: Annotated[int, Field(ge=0)] = 5,
        max_windows: Annotated[int, Field(ge=1)] = 20,
        max_per_window: Annotated[int, Field(ge=2)] = 8,
        order: Literal["oldest", "recent", "random"] = "oldest",
        reuse: bool = False,
        target_trajectories: Annotated[int, Field(ge=1)] = 1000,
        max_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3,
        dropout: Strategy = "random",
        holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        seed: int,
    ) -> None:
        self.window_hours = window_hours
        self.lookback_hours = lookback_hours
        self.until = None if until is None else _moment(until)
        self.group_by = group_by
        self.min_agents = min_agents
        self.min_actions = min_actions
        self.max_windows = max_windows
        self.max_per_window = max_per_window
        self.order = order
        self.reuse = reuse
        self.target_trajectories = target_trajectories
        self.max_dropout = max_dropout
        self.dropout = dropout
        self.holdout = holdout
        self.seed = seed

    @property
    def _by_role(self) -> bool:
        return self.group_by == "window_role"

    def query(self, scenario_id: str | None) -> WindowQuery:
        """The windows worth asking a source for. A run that plays asks for those of its own world, whenever."""
        span = None
        if self.until is not None and scenario_id is None:
            # As far as from the newest window, were it the last before ``until``.
            hours = self.window_hours * math.ceil(self.lookback_hours / self.window_hours)
            span = Span(self.until - timedelta(hours=hours), self.until)
        return WindowQuery(
            window_hours=self.window_hours,
            lookback_hours=self.lookback_hours,
            scenario_id=scenario_id,
            span=span,
            min_actions=self.min_actions,
            by_role=self._by_role,
        )

    def choose(self, counts: Sequence[GroupCounts], iteration: int, used_windows: Collection[str] = ()) -> Choice:
        """The windows of iteration ``iteration`` and the dropout rate, from numbers alone; the reasons for the rest."""
        excluded: Counter[str] = Counter()
        ready: dict[str, list[GroupCounts]] = {}
        for group in sorted(counts, key=lambda g: (g.window.start, g.role or "")):
            if not group.complete:
                excluded["unfinished"] += group.members
                continue
            excluded["evaluation"] += group.evaluation
            excluded["too_few_actions"] += group.too_few_actions
            if group.agents < self.min_agents:
                excluded["too_few_agents"] += group.available
            else:
                ready.setdefault(group.window.id, []).append(group)
        windows = [groups[0].window for groups in ready.values()]
        in_time = len(windows) - int(len(windows) * self.holdout)
        waiting = windows[:in_time]
        _count(excluded, "held_out", windows[in_time:], ready)
        used = Counter(used_windows)
        if not self.reuse:
            _count(excluded, "already_used", [window for window in waiting if used[window.id]], ready)
            waiting = [window for window in waiting if not used[window.id]]
        waiting = self._in_order(waiting)
        if self.reuse:
            waiting.sort(key=lambda window: used[window.id])
        left = waiting[self.max_windows :]
        _count(excluded, "max_windows", [window for window in left if not used[window.id]], ready)
        _count(excluded, "already_used", [window for window in left if used[window.id]], ready)
        taken = waiting[: self.max_windows]
        groups = [group for window in taken for group in ready[window.id]]
        available = sum(group.available for group in groups)
        rate = min(max(1.0 - self.target_trajectories / available, 0.0), self.max_dropout) if available else 0.0
        return Choice(
            iteration=iteration,
            windows=tuple(taken),
            groups=frozenset((group.window.id, group.role) for group in groups),
            windows_available=len({group.window.id for group in counts}),
            available=available,
            dropout_rate=rate,
            excluded={reason: count for reason, count in excluded.items() if count},
        )

    def members_query(self, query: WindowQuery, choice: Choice, *, prefix: str = "") -> WindowQuery:
        """Asks for the members of the chosen windows. What random dropout takes need not come: that is known of each
        row by itself; the other strategies compare all of them."""
        draw = None
        if self.dropout == "random" and choice.dropout_rate > 0:
            draw = Draw(seed=self.seed, rate=choice.dropout_rate, min_agents=self.min_agents, prefix=prefix)
        return replace(query, only=choice.windows, draw=draw)

    def draw(self, choice: Choice, windows: Sequence[WindowStats], *, prefix: str = "") -> Selection:
        """Which trajectories of the chosen windows stay. What was recorded since they were chosen counts too."""
        members: dict[tuple[str, str | None], list[Member]] = {key: [] for key in choice.groups}
        before: Counter[str] = Counter()
        after: Counter[str] = Counter()
        for stats in windows:
            name = stats.window.id
            before.update(agent for agent, role in stats.left_out if self._group(name, role) in members)
            for member in stats.members:
                key = self._group(name, member.role)
                if key in members and member.trainable and member.actions >= self.min_actions:
                    members[key].append(member)
                    before[member.agent_id] += 1
        fractions = {
            m.trajectory_id: fraction(m.trajectory_id.removeprefix(prefix), seed=self.seed)
            for group in members.values()
            for m in group
        }
        survival = STRATEGIES[self.dropout](list(members.values()), fractions)
        place = {window.id: number for number, window in enumerate(choice.windows)}
        chosen = []
        for name, role in sorted(members, key=lambda key: (place[key[0]], key[1] or "")):
            kept = self._kept(members[name, role], survival, choice.dropout_rate)
            if kept:
                after.update(member.agent_id for member in kept)
                ids = tuple(member.trajectory_id for member in kept)
                parts = {member.trajectory_id: member.parts for member in kept if member.parts}
                chosen.append(SelectedWindow(choice.windows[place[name]], ids, role, parts))
        return Selection(
            iteration=choice.iteration,
            windows=tuple(chosen),
            windows_available=choice.windows_available,
            available=before.total(),
            dropout_rate=choice.dropout_rate,
            dropped=before.total() - after.total(),
            excluded=choice.excluded,
            agents={agent: (before[agent], after[agent]) for agent in sorted(before)},
        )

    def select(
        self, windows: Sequence[WindowStats], iteration: int, used_windows: Collection[str] = (), *, prefix: str = ""
    ) -> Selection:
        """Which trajectories iteration ``iteration`` trains on, where all members are at hand."""
        counts = [c for w in windows for c in w.counts(min_actions=self.min_actions, by_role=self._by_role)]
        return self.draw(self.choose(counts, iteration, used_windows), windows, prefix=prefix)

    def _group(self, window_id: str, role: str | None) -> tuple[str, str | None]:
        return window_id, role if self._by_role else None

    def _in_order(self, windows: list[Window]) -> list[Window]:
        """``windows`` are sorted by time."""
        if self.order == "random":
            return sorted(windows, key=lambda window: (fraction(window.id, seed=self.seed), window.id))
        return windows if self.order == "oldest" else windows[::-1]

    def _kept(self, members: Sequence[Member], survival: Mapping[str, float], rate: float) -> list[Member]:
        """Those that stay, in id order; at least ``min_agents`` different agents among them."""
        agents: set[str] = set()
        kept = []
        for member in sorted(members, key=lambda m: (-survival[m.trajectory_id], m.trajectory_id)):
            needed = len(agents) < self.min_agents and member.agent_id not in agents
            if needed or survival[member.trajectory_id] >= rate:
                kept.append(member)
                agents.add(member.agent_id)
        return sorted(kept, key=lambda member: member.trajectory_id)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if moment.year < 1970:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"sampler.until: found {text!r}, expected a time in UTC", hint="for example sampler.until=2026-01-31T18:00"
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _count(
    excluded: Counter[str], reason: str, windows: Sequence[Window], ready: Mapping[str, Sequence[GroupCounts]]
) -> None:
    excluded[reason] += sum(group.available for window in windows for group in ready[window.id])
