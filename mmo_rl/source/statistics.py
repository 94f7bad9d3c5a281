"""Windows of a PostgreSQL database: how much each holds, and who is in it; no step is read, except of trajectories that
cross the end of a window."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from mmo_rl.source import statements, window_sql
from mmo_rl.source.base import WINDOWS_INDEX
from mmo_rl.source.columns import Table
from mmo_rl.source.joined import joined_members, joins
from mmo_rl.source.slices import Slice, is_odd, named_start, slice_id, slices, slices_of, step_times
from mmo_rl.source.values import as_number
from mmo_rl.types import GroupCounts, Member, Trajectory, Window, WindowQuery, WindowStats

log = logging.getLogger(__name__)
ANNOUNCED_FROM = 10_000
"""Rows from which on a missing index is felt."""

Fetch = Callable[..., Awaitable[list[asyncpg.Record]]]
Counted = list[tuple[datetime, asyncpg.Record]]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the windows of a database lie: those from which trajectories reach into later ones, with the latest end;
    and all recorded ids by the start that they name, or None where ids do not tell where a trajectory belongs."""

    reaching: Sequence[tuple[datetime, datetime]]
    names: Mapping[datetime, str] | None


class Statistics:
    """Counts and members of windows. ``fetch`` asks the database, ``known`` its tables; ``whole`` reads trajectories
    of which only the steps tell where they belong, ``batch_size`` at a time. A window is complete ``settle`` after its
    end. ``command`` is what makes the index that helps."""

    def __init__(
        self,
        *,
        fetch: Fetch,
        known: Callable[[], Awaitable[dict[str, Table]]],
        whole: Callable[[Sequence[str]], Awaitable[Mapping[str, Trajectory]]],
        batch_size: int,
        settle: timedelta,
        now: Callable[[], datetime],
        command: str,
    ) -> None:
        self._fetch = fetch
        self._known = known
        self._whole = whole
        self._batch_size = batch_size
        self._settle = settle
        self._now = now
        self._command = command
        self._announced = False
        self._layouts: dict[tuple[float, str | None], Layout] = {}

    async def counts(self, query: WindowQuery) -> list[GroupCounts]:
        """One statement over all rows; a second one lists the members of the windows that something reaches into from
        the one before, because how its slices count is known only when they are made."""
        await self._announce()
        length = timedelta(hours=query.window_hours)
        counted = await self._counted(query)
        latest = max([start for start, _ in counted], default=None)
        reaching = self._layouts[query.window_hours, query.scenario_id].reaching if query.exact else ()
        touched = {start for start in self._touched(reaching, length) if _asked(start, length, query, latest)}
        recounted: dict[datetime, list[GroupCounts]] = {}
        if touched:
            only = tuple(self._window(start, length) for start in touched)
            for stats in await self.windows(replace(query, span=None, only=only, draw=None)):
                numbers = stats.counts(min_actions=query.min_actions, by_role=query.by_role)
                recounted[stats.window.start.replace(tzinfo=None)] = numbers
        newest = max([start for start, _ in counted if start not in touched] + list(recounted), default=None)
        over = (self._now() - self._settle - length).replace(tzinfo=None)
        found = [counts for start in recounted for counts in recounted[start]]
        found += [
            self._numbers(row, self._window(start, length), complete=start < over)
            for start, row in counted
            if start not in touched and _asked(start, length, query, newest)
        ]
        found = [c for c in found if not touched or _asked(c.window.start.replace(tzinfo=None), length, query, newest)]
        return sorted(found, key=lambda c: (c.window.start, c.role is not None, c.role or ""))

    async def windows(self, query: WindowQuery) -> list[WindowStats]:
        """The members of the windows asked for; without those that ``query.draw`` takes."""
        length, hourly = timedelta(hours=query.window_hours), query.window_hours == 1
        members: dict[datetime, list[tuple[datetime, Member]]] = {}
        left_out: dict[datetime, list[tuple[str, str | None]]] = {}
        rows = []
        for row in await self._rows(query, length):
            if row[0] is None:
                left_out[row["start"]] = list(zip(row["agents"], row["roles"], strict=True))
                members.setdefault(row["start"], [])
            else:
                rows.append(row)
        sliced = await self._slices([row for row in rows if row["crosses"]], hours=query.window_hours)
        odd: dict[str | None, str | None] = {}
        for row in rows:
            identity, agent, steps, pnl, role, training, evaluation, name, began, _, start, _ = row[:12]
            if name not in odd:
                odd[name] = (name or "") if is_odd(name) else None
            more = (role, training, evaluation, odd[name])
            parts = sliced.get(identity)
            if parts is None or len(parts) == 1:
                own = start if parts is None else parts[0].window.start.replace(tzinfo=None)
                members.setdefault(own, []).append((began, Member(identity, agent, steps, pnl, *more)))
            else:
                for piece in parts:
                    own = piece.window.start.replace(tzinfo=None)
                    member = Member(slice_id(identity, piece.window.id), agent, len(piece.steps), piece.pnl, *more)
                    members.setdefault(own, []).append((max(began, own), member))
        outcomes = await self._outcome_starts(length, hourly=hourly)
        newest = max(members, default=None)
        only = frozenset(query.only)
        found = []
        for naive in sorted(members):
            window = self._window(naive, length)
            if window not in only if only else not _asked(naive, length, query, newest):
                continue
            together = [member for _, member in members[naive]]
            if joins(query.window_hours):
                together = joined_members(members[naive], by_role=query.by_role)
            together.sort(key=lambda member: member.trajectory_id)
            gone = tuple(left_out.get(naive, ()))
            found.append(WindowStats(window, tuple(together), naive in outcomes, self._complete(window), gone))
        return found

    # --- inside -----------------------------------------------------------------------------------------------------

    def _window(self, naive: datetime, length: timedelta) -> Window:
        start = naive.replace(tzinfo=UTC)
        return Window(naive.isoformat(timespec="minutes"), start, start + length)

    def _complete(self, window: Window) -> bool:
        return window.end + self._settle < self._now()

    def _numbers(self, row: Mapping[str, Any], window: Window, *, complete: bool) -> GroupCounts:
        available, trainable = row["available"], row["trainable"]
        apart, few, steps = row["members"] - trainable, trainable - available, row["steps"] or 0
        pnl = row["pnl_low"], row["pnl_high"]
        return GroupCounts(window, row["role"], available, row["agents"], apart, few, steps, *pnl, complete)

    async def _counted(self, query: WindowQuery) -> Counted:
        """The numbers by start of the window; notes how the windows lie."""
        table = (await self._known())["trajectories"]
        length, hourly = timedelta(hours=query.window_hours), query.window_hours == 1
        arguments = (query.scenario_id, query.min_actions)
        key = (query.window_hours, query.scenario_id)
        if hourly and table.has("windowId"):
            named = await self._fetch(window_sql.named_counts_sql(table, by_role=query.by_role), *arguments)
            counted = _by_start(named)
            if counted is not None:
                reaching = [(start, row["ended"]) for start, row in counted if row["ended"] > start + length]
                self._layouts[key] = Layout(reaching, {start: row["name"] for start, row in counted})
                return counted
        sql = window_sql.counts_sql(table, hourly=hourly, joined=joins(query.window_hours), by_role=query.by_role)
        counted = [(row["start"], row) for row in await self._fetch(sql, length, *arguments)]
        reaching = [(start, row["reach"]) for start, row in counted if row["reach"] is not None]
        self._layouts[key] = Layout(reaching, None)
        return counted

    async def _rows(self, query: WindowQuery, length: timedelta) -> list[asyncpg.Record]:
        table = (await self._known())["trajectories"]
        span, hourly = query.span, query.window_hours == 1
        if not query.only:
            return await self._fetch(
                window_sql.windows_sql(table, hourly=hourly),
                length,
                query.scenario_id,
                span.start.astimezone(UTC).replace(tzinfo=None) if span is not None else None,
                span.end.astimezone(UTC).replace(tzinfo=None) if span is not None else None,
                timedelta(hours=query.lookback_hours) if span is None else None,
            )
        key = (query.window_hours, query.scenario_id)
        if key not in self._layouts:
            await self._counted(query)
        layout = self._layouts[key]
        starts = {window.start.astimezone(UTC).replace(tzinfo=None) for window in query.only}
        starts |= {
            start for start, reach in layout.reaching if not starts.isdisjoint(self._touched([(start, reach)], length))
        }
        arguments: list[Any] = [length, query.scenario_id, sorted(starts)]
        named = layout.names is not None
        if query.draw is not None:
            joined = joins(query.window_hours)
            sql = window_sql.drawn_sql(table, hourly=hourly, joined=joined, by_role=query.by_role, named=named)
            draw = query.draw
            arguments += [draw.rate, str(draw.seed), draw.prefix, draw.min_agents, query.min_actions]
        else:
            sql = window_sql.members_sql(table, hourly=hourly, named=named)
        if layout.names is not None:
            arguments.append([layout.names[start] for start in sorted(starts) if start in layout.names])
        return await self._fetch(sql, *arguments)

    def _touched(self, reaching: Sequence[tuple[datetime, datetime]], length: timedelta) -> set[datetime]:
        """The starts of the windows that trajectories which cross the end of theirs may have a part in. An end in the
        future is a wrong clock."""
        latest = self._now().replace(tzinfo=None) + timedelta(days=1)
        touched = set()
        for start, reach in reaching:
            while start <= min(reach, latest):
                touched.add(start)
                start += length
        return touched

    async def _announce(self) -> None:
        """Says once that an index would help where there are many rows and it is not there."""
        if self._announced:
            return
        self._announced = True
        (row,) = await self._fetch(window_sql.INDEX_SQL)
        if not row["indexed"] and (row["rows"] or 0) >= ANNOUNCED_FROM:
            log.warning(
                "about %s trajectories without the index %s: windows are counted the slower way (%s makes it, where"
                " the database is yours to change)",
                f"{row['rows']:,.0f}",
                WINDOWS_INDEX,
                self._command,
            )

    async def _slices(self, rows: Sequence[asyncpg.Record], *, hours: float) -> dict[str, list[Slice]]:
        """The slices of trajectories that cross windows; those whose steps cannot be read are left out."""
        found: dict[str, list[Slice]] = {}
        table = (await self._known())["trajectories"]
        for first in range(0, len(rows), self._batch_size):
            batch = {row["id"]: row for row in rows[first : first + self._batch_size]}
            try:
                listed = await self._fetch(statements.steps_sql(table), list(batch))
            except asyncpg.DataError:  # steps in one of the other shapes, or no JSON at all
                listed = []
            for identity, times, pnls in listed:
                row = batch[identity]
                if times and None not in times:
                    del batch[identity]
                    start = row["startTime"].replace(tzinfo=UTC)
                    found[identity] = slices(
                        step_times(times, start),
                        [as_number(pnl) for pnl in pnls],
                        final_pnl=row["pnl"],
                        start=start,
                        end=row["endTime"].replace(tzinfo=UTC),
                        hours=hours,
                    )
            if batch:
                whole = await self._whole(list(batch))
                found |= {identity: slices_of(read, hours=hours) for identity, read in whole.items()}
        return found

    async def _outcome_starts(self, length: timedelta, *, hourly: bool) -> set[datetime]:
        table = (await self._known())["market_outcomes"]
        if not table.has("windowId"):
            return set()
        rows = await self._fetch(statements.outcome_starts_sql(table, hourly=hourly), length)
        return {row["start"] for row in rows}


def _by_start(rows: Sequence[asyncpg.Record]) -> Counted | None:
    """Rows by recorded window id, by the start that it names; None where an id names none, two name the same, or one
    stands for several hours: then rows must be placed one by one."""
    names: dict[datetime, str] = {}
    found = []
    for row in rows:
        name, hours = row["name"], row["hours"]
        start = _usual_start(name)
        if start is None or (hours is not None and hours > 1):
            return None
        if names.setdefault(start, name) != name:
            return None
        found.append((start, row))
    return found


def _usual_start(name: str | None) -> datetime | None:
    """`named_start` without a zone; fast for ids as the game writes them."""
    if name is not None and len(name) == 16 and name[0] in "12":
        try:
            start: datetime | None = datetime.fromisoformat(name)
        except ValueError:
            start = None
        if start is not None and start.isoformat(timespec="minutes") == name:
            return start
    named = named_start(name)
    return None if named is None else named.replace(tzinfo=None)


def _asked(start: datetime, length: timedelta, query: WindowQuery, newest: datetime | None) -> bool:
    if query.span is not None:
        return query.span.start <= start.replace(tzinfo=UTC) and (start + length).replace(tzinfo=UTC) <= query.span.end
    return newest is None or start > newest - timedelta(hours=query.lookback_hours)
