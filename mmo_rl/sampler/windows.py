"""Sampler of windows with seeded dropout, the class of every preset in conf/sampler.

    rate = clip(1 - target_trajectories / available, 0, max_dropout)
    a trajectory stays where number(id) >= rate, or where its group would fall below min_agents without it

With ``dropout=random`` number(id) = md5("id:seed")[:8] / 2^32, which SQL computes as well.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Unpack

from pydantic import Field

from mmo_rl.errors import ConfigError
from mmo_rl.moments import CompareBy, MomentRule
from mmo_rl.sampler.base import RuleChanges, SamplerParts, SamplingRules
from mmo_rl.sampler.dropout import shipped_rule
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
    """Hashes an id to a number in [0, 1), the same on any machine and in SQL: the first 8 hex digits of md5("id:seed"),
    divided by 2^32."""
    digest = hashlib.md5(f"{identity}:{seed}".encode(), usedforsecurity=False).hexdigest()
    return int(digest[:8], 16) / 2**32


SHIPPED_RULES = SamplerParts(find_rule=shipped_rule)
"""Collaborators of a sampler that knows the shipped dropout strategies alone."""


class WindowSampler:
    """Sampler of complete windows with enough agents, without the newest ``holdout`` share, and of their trajectories.

    ``window_hours`` is the length of a window. ``lookback_hours`` count back from the newest recorded window, or from
    the time ``until`` (UTC), after which nothing is looked at; a run that plays has all of its own play. A group shares
    a window, or a role in a window (``group_by``); with credit by decision, decisions of one ``tick`` are compared, by
    ``time`` (``moment_s`` seconds) where a decision of the window has none, or those of one ``step`` number
    (``compare_by``). Agents are counted after the ``min_actions`` filter; a group needs
    ``min_agents`` different ones. ``max_windows`` an iteration, in ``order`` of their time or by chance, each once
    unless ``reuse``: then those used least come first. ``dropout`` names the strategy, a shipped one
    (`mmo_rl.sampler.dropout`) or one of one's own; no group falls below ``min_agents`` by it: the highest numbers of
    the dropped come back. ``max_per_window`` is the most members that a judge compares in one call.
    """

    def __init__(
        self,
        *,
        window_hours: Annotated[float, Field(ge=0.25, le=24 * 30)] = 1.0,
        lookback_hours: Annotated[float, Field(gt=0, le=1e6)] = 168.0,
        until: str | None = None,
        group_by: Literal["window", "window_role"] = "window",
        compare_by: CompareBy = "tick",
        moment_s: Annotated[float, Field(gt=0, le=86400)] = 60.0,
        min_agents: Annotated[int, Field(ge=2)] = 5,
        min_actions: Annotated[int, Field(ge=0)] = 5,
        max_windows: Annotated[int, Field(ge=1)] = 20,
        max_per_window: Annotated[int, Field(ge=2)] = 8,
        order: Literal["oldest", "recent", "random"] = "oldest",
        reuse: bool = False,
        target_trajectories: Annotated[int, Field(ge=1)] = 1000,
        max_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3,
        dropout: str = "random",
        holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        seed: int,
        parts: SamplerParts = SHIPPED_RULES,
    ) -> None:
        self._dropout = parts.find_rule(dropout)
        self.rules = SamplingRules(
            window_hours=window_hours,
            lookback_hours=lookback_hours,
            until=None if until is None else _moment(until),
            by_role=group_by == "window_role",
            min_agents=min_agents,
            min_actions=min_actions,
            max_windows=max_windows,
            max_per_window=max_per_window,
            order=order,
            reuse=reuse,
            target_trajectories=target_trajectories,
            max_dropout=max_dropout,
            dropout=dropout,
            holdout=holdout,
            seed=seed,
            moments=MomentRule(compare_by, moment_s),
        )

    def with_rules(self, **changes: Unpack[RuleChanges]) -> WindowSampler:
        """Returns a sampler that differs from this one in the given rules."""
        variant = copy.copy(self)
        variant.rules = replace(self.rules, **changes)
        return variant

    def query(self, scenario_id: str | None) -> WindowQuery:
        """Builds the query for a source. A run that plays asks for the windows of its own world, of any time."""
        rules = self.rules
        span = None
        if rules.until is not None and scenario_id is None:
            # As far as from the newest window, were it the last before ``until``.
            hours = rules.window_hours * math.ceil(rules.lookback_hours / rules.window_hours)
            span = Span(rules.until - timedelta(hours=hours), rules.until)
        return WindowQuery(
            window_hours=rules.window_hours,
            lookback_hours=rules.lookback_hours,
            scenario_id=scenario_id,
            span=span,
            min_actions=rules.min_actions,
            by_role=rules.by_role,
        )

    def choose(self, counts: Sequence[GroupCounts], iteration: int, used_windows: Collection[str] = ()) -> Choice:
        """Chooses the windows of one iteration and the dropout rate from numbers alone; counts the others by reason."""
        excluded: Counter[str] = Counter()
        ready: dict[str, list[GroupCounts]] = {}
        for group in sorted(counts, key=lambda g: (g.window.start, g.role or "")):
            if not group.complete:
                excluded["unfinished"] += group.members
                continue
            excluded["evaluation"] += group.evaluation
            excluded["too_few_actions"] += group.too_few_actions
            if group.agents < self.rules.min_agents:
                excluded["too_few_agents"] += group.available
            else:
                ready.setdefault(group.window.id, []).append(group)
        windows = [groups[0].window for groups in ready.values()]
        in_time = len(windows) - int(len(windows) * self.rules.holdout)
        waiting = windows[:in_time]
        _count(excluded, "held_out", windows[in_time:], ready)
        used = Counter(used_windows)
        if not self.rules.reuse:
            _count(excluded, "already_used", [window for window in waiting if used[window.id]], ready)
            waiting = [window for window in waiting if not used[window.id]]
        waiting = self._in_order(waiting)
        if self.rules.reuse:
            waiting.sort(key=lambda window: used[window.id])
        left = waiting[self.rules.max_windows :]
        _count(excluded, "max_windows", [window for window in left if not used[window.id]], ready)
        _count(excluded, "already_used", [window for window in left if used[window.id]], ready)
        taken = waiting[: self.rules.max_windows]
        groups = [group for window in taken for group in ready[window.id]]
        available = sum(group.available for group in groups)
        rate = (
            min(max(1.0 - self.rules.target_trajectories / available, 0.0), self.rules.max_dropout)
            if available
            else 0.0
        )
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
        """Builds the query for the members of the chosen windows. With random dropout the source may leave out what it
        takes, since each row's number is known from its id; the other strategies compare all rows."""
        draw = None
        if self.rules.dropout == "random" and choice.dropout_rate > 0:
            draw = Draw(seed=self.rules.seed, rate=choice.dropout_rate, min_agents=self.rules.min_agents, prefix=prefix)
        return replace(query, only=choice.windows, draw=draw)

    def draw(self, choice: Choice, windows: Sequence[WindowStats], *, prefix: str = "") -> Selection:
        """Selects the trajectories of the chosen windows that stay, those recorded since the choice included."""
        members: dict[tuple[str, str | None], list[Member]] = {key: [] for key in choice.groups}
        before: Counter[str] = Counter()
        after: Counter[str] = Counter()
        for stats in windows:
            name = stats.window.id
            before.update(agent for agent, role in stats.left_out if self._group(name, role) in members)
            for member in stats.members:
                key = self._group(name, member.role)
                if key in members and member.trainable and member.actions >= self.rules.min_actions:
                    members[key].append(member)
                    before[member.agent_id] += 1
        fractions = {
            m.trajectory_id: fraction(m.trajectory_id.removeprefix(prefix), seed=self.rules.seed)
            for group in members.values()
            for m in group
        }
        survival = self._dropout(list(members.values()), fractions)
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
        """Chooses and draws for one iteration, where all members are at hand."""
        counts = [c for w in windows for c in w.counts(min_actions=self.rules.min_actions, by_role=self.rules.by_role)]
        return self.draw(self.choose(counts, iteration, used_windows), windows, prefix=prefix)

    def _group(self, window_id: str, role: str | None) -> tuple[str, str | None]:
        """Returns the key of the group that a member of this window and role is compared in."""
        return window_id, role if self.rules.by_role else None

    def _in_order(self, windows: list[Window]) -> list[Window]:
        """Puts windows that are sorted by time into the order in which iterations take them."""
        if self.rules.order == "random":
            return sorted(windows, key=lambda window: (fraction(window.id, seed=self.rules.seed), window.id))
        return windows if self.rules.order == "oldest" else windows[::-1]

    def _kept(self, members: Sequence[Member], survival: Mapping[str, float], rate: float) -> list[Member]:
        """Selects the members that stay, in id order; at least ``min_agents`` different agents among them."""
        agents: set[str] = set()
        kept = []
        for member in sorted(members, key=lambda m: (-survival[m.trajectory_id], m.trajectory_id)):
            needed = len(agents) < self.rules.min_agents and member.agent_id not in agents
            if needed or survival[member.trajectory_id] >= rate:
                kept.append(member)
                agents.add(member.agent_id)
        return sorted(kept, key=lambda member: member.trajectory_id)


def _moment(text: str) -> datetime:
    """Reads ``sampler.until`` as a time in UTC."""
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
    """Adds the available trajectories of ``windows`` to the count of a reason."""
    excluded[reason] += sum(group.available for window in windows for group in ready[window.id])
