"""Counts and members of the windows of a PostgreSQL database; steps are read only of trajectories that cross the end of
a window."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import asyncpg

from mmo_rl.clock import newest_begun
from mmo_rl.origins import EVERYTHING, Where
from mmo_rl.source import statements, window_sql
from mmo_rl.source.base import WINDOWS_INDEX
from mmo_rl.source.chosen import Chosen
from mmo_rl.source.columns import Table
from mmo_rl.source.joined import joined_members, joins
from mmo_rl.source.memory import no_collection
from mmo_rl.source.reader import TableReader
from mmo_rl.source.slices import Slice, slices, slices_of, step_times
from mmo_rl.source.values import as_number
from mmo_rl.types import GroupCounts, Member, Window, WindowQuery, WindowStats
from mmo_rl.window_ids import is_odd, named_start, slice_id

log = logging.getLogger(__name__)
ANNOUNCED_FROM = 10_000
"""Number of rows from which a missing index costs noticeable time."""

BEGINNING = datetime(1, 1, 1)  # noqa: DTZ001
"""Of time without a zone."""

Counted = list[tuple[datetime, asyncpg.Record]]
Key = tuple[float, str | None, bool]


@dataclass(frozen=True, slots=True)
class Layout:
    """Map of a database's windows.

    ``reaching``: windows from which trajectories reach into later ones, with the latest end. ``name_of`` gives the
    recorded id of a start; None where ids do not tell a trajectory's window. Windows that end before ``since`` are not
    in it (None: all are).
    """

    reaching: Sequence[tuple[datetime, datetime]]
    name_of: Callable[[datetime], str | None] | None
    since: datetime | None


class Statistics:
    """Counts and members of windows. Trajectories that cross the end of their window are read by ``reader``,
    ``batch_size`` at a time. A window is complete ``settle`` after its end. ``command`` makes the index of windows.
    ``where`` chooses the play that is counted, but where a query asks for one scenario."""

    def __init__(
        self,
        *,
        reader: TableReader,
        batch_size: int,
        settle: timedelta,
        now: Callable[[], datetime],
        command: str,
        where: Where = EVERYTHING,
    ) -> None:
        self._reader = reader
        self._batch_size = batch_size
        self._settle = settle
        self._now = now
        self._command = command
        self._where = where
        self._announced = False
        self._layouts: dict[Key, Layout] = {}

    async def counts(self, query: WindowQuery) -> list[GroupCounts]:
        """Counts the members of the windows asked for.

        One statement counts over all rows; a second one lists the members of windows that trajectories reach into from
        the window before, because those are sliced before they can be counted.
        """
        await self._announce()
        length = timedelta(hours=query.window_hours)
        counted = await self._count(query)
        latest = self._newest(start for start, _ in counted)
        reaching = self._layouts[_key(query)].reaching if query.exact else ()
        asked = _query_test(length, query, latest)
        touched = {start for start in self._starts_in_reach(reaching, length) if asked(start)}
        recounted: list[GroupCounts] = []
        if touched:
            only = tuple(self._window(start, length) for start in touched)
            for stats in await self.windows(replace(query, span=None, only=only, draw=None)):
                recounted += stats.counts(min_actions=query.min_actions, by_role=query.by_role)
            counted = [(start, row) for start, row in counted if start not in touched]
            starts = [start for start, _ in counted] + [_naive(c.window.start) for c in recounted]
            asked = _query_test(length, query, self._newest(starts))  # the latest window may have no slice in it
        over = (self._now() - self._settle - length).replace(tzinfo=None)
        with no_collection():
            found = [c for c in recounted if asked(_naive(c.window.start))]
            found += [
                _numbers(row, self._window(start, length), complete=start < over)
                for start, row in counted
                if asked(start)
            ]
            return sorted(found, key=lambda c: (c.window.id, c.role is not None, c.role or ""))

    async def windows(self, query: WindowQuery) -> list[WindowStats]:
        """Lists the members of the windows asked for, without those that ``query.draw`` drops."""
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
        asked = _query_test(length, query, self._newest(members))
        only = frozenset(query.only)
        found = []
        for naive in sorted(members):
            window = self._window(naive, length)
            if window not in only if only else not asked(naive):
                continue
            together = [member for _, member in members[naive]]
            if joins(query.window_hours):
                together = joined_members(members[naive], by_role=query.by_role)
            together.sort(key=lambda member: member.trajectory_id)
            gone = tuple(left_out.get(naive, ()))
            found.append(WindowStats(window, tuple(together), naive in outcomes, self._complete(window), gone))
        return found

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _chosen(self, query: WindowQuery) -> tuple[Table, Chosen]:
        """Returns the table of trajectories and the choice of its rows."""
        tables = await self._reader.tables()
        return tables["trajectories"], Chosen.by(query, self._where, tables["llm_call_logs"])

    def _window(self, naive: datetime, length: timedelta) -> Window:
        start = naive.replace(tzinfo=UTC)
        return Window(naive.isoformat(timespec="minutes"), start, start + length)

    def _complete(self, window: Window) -> bool:
        return window.end + self._settle < self._now()

    def _newest(self, starts: Iterable[datetime]) -> datetime | None:
        return newest_begun(starts, _naive(self._now()))

    def _since(self, first: datetime | None, back: timedelta | None, counted: Counted) -> datetime | None:
        """Returns the earliest start of the counted windows."""
        newest = self._newest(start for start, _ in counted)
        if back is None or newest is None:
            return first
        return newest - back if back < newest - BEGINNING else BEGINNING

    async def _count(self, query: WindowQuery, *, whole: bool = False) -> Counted:
        """Counts by start of the window, for at least the windows asked for, ``whole`` for all; keeps the `Layout`."""
        table, chosen = await self._chosen(query)
        length, hourly = timedelta(hours=query.window_hours), query.window_hours == 1
        first, back = _reach(query)
        arguments = (chosen.argument, query.min_actions, *((None, None) if whole else (first, back)))
        key = _key(query)
        if hourly and table.has("windowId"):
            named = await self._reader.fetch(
                window_sql.named_counts_sql(table, chosen, by_role=query.by_role), *arguments
            )
            if usual := bool(named) and named[0]["usual"]:
                counted: Counted | None = [(datetime.fromisoformat(row["name"]), row) for row in named]
            else:
                counted = _by_start(named)
            if counted is not None:
                reaching = [(start, row["ended"]) for start, row in counted if row["ended"] > start + length]
                names = {} if usual else {start: row["name"] for start, row in counted}
                since = self._since(first, back, counted) if usual and not whole else None
                self._layouts[key] = Layout(reaching, _usual_name if usual else names.get, since)
                return counted
        sql = window_sql.counts_sql(
            table, chosen, hourly=hourly, joined=joins(query.window_hours), by_role=query.by_role
        )
        counted = [(row["start"], row) for row in await self._reader.fetch(sql, length, *arguments)]
        reaching = [(start, row["reach"]) for start, row in counted if row["reach"] is not None]
        self._layouts[key] = Layout(reaching, None, None if whole else self._since(first, back, counted))
        return counted

    async def _rows(self, query: WindowQuery, length: timedelta) -> list[asyncpg.Record]:
        table, chosen = await self._chosen(query)
        span, hourly = query.span, query.window_hours == 1
        if not query.only:
            return await self._reader.fetch(
                window_sql.windows_sql(table, chosen, hourly=hourly),
                length,
                chosen.argument,
                _naive(span.start) if span is not None else None,
                _naive(span.end) if span is not None else None,
                timedelta(hours=query.lookback_hours) if span is None else None,
            )
        key = _key(query)
        starts = {_naive(window.start) for window in query.only}
        layout = self._layouts.get(key)
        if layout is None or (layout.since is not None and min(starts) < layout.since):
            await self._count(query, whole=True)
            layout = self._layouts[key]
        starts |= {
            start
            for start, reach in layout.reaching
            if not starts.isdisjoint(self._starts_in_reach([(start, reach)], length))
        }
        arguments: list[object] = [length, chosen.argument, sorted(starts)]
        named = layout.name_of is not None
        if query.draw is not None:
            joined = joins(query.window_hours)
            sql = window_sql.drawn_sql(table, chosen, hourly=hourly, joined=joined, by_role=query.by_role, named=named)
            draw = query.draw
            arguments += [draw.rate, str(draw.seed), draw.prefix, draw.min_agents, query.min_actions]
        else:
            sql = window_sql.members_sql(table, chosen, hourly=hourly, named=named)
        if layout.name_of is not None:
            arguments.append([name for name in map(layout.name_of, sorted(starts)) if name is not None])
        return await self._reader.fetch(sql, *arguments)

    def _starts_in_reach(self, reaching: Sequence[tuple[datetime, datetime]], length: timedelta) -> set[datetime]:
        """Returns the starts of windows in which trajectories that cross the end of theirs may have a slice.

        An end in the future is a wrong clock.
        """
        latest = self._now().replace(tzinfo=None) + timedelta(days=1)
        touched = set()
        for start, reach in reaching:
            while start <= min(reach, latest):
                touched.add(start)
                start += length
        return touched

    async def _announce(self) -> None:
        """Logs once that the index of windows is missing, where there are many rows."""
        if self._announced:
            return
        self._announced = True
        (row,) = await self._reader.fetch(window_sql.INDEX_SQL)
        if not row["indexed"] and (row["rows"] or 0) >= ANNOUNCED_FROM:
            log.warning(
                "about %s trajectories without the index %s: windows are counted the slower way (%s makes it, where"
                " the database is yours to change)",
                f"{row['rows']:,.0f}",
                WINDOWS_INDEX,
                self._command,
            )

    async def _slices(self, rows: Sequence[asyncpg.Record], *, hours: float) -> dict[str, list[Slice]]:
        """Slices trajectories that cross windows, without those whose steps cannot be read."""
        found: dict[str, list[Slice]] = {}
        table = (await self._reader.tables())["trajectories"]
        for first in range(0, len(rows), self._batch_size):
            batch = {row["id"]: row for row in rows[first : first + self._batch_size]}
            try:
                listed = await self._reader.fetch(statements.steps_sql(table), list(batch))
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
                _, whole = await self._reader.trajectories(list(batch))
                found |= {identity: slices_of(read, hours=hours) for identity, read in whole.items()}
        return found

    async def _outcome_starts(self, length: timedelta, *, hourly: bool) -> set[datetime]:
        table = (await self._reader.tables())["market_outcomes"]
        if not table.has("windowId"):
            return set()
        rows = await self._reader.fetch(statements.outcome_starts_sql(table, hourly=hourly), length)
        return {row["start"] for row in rows}


def _key(query: WindowQuery) -> Key:
    return query.window_hours, query.scenario_id, query.simulated


def _numbers(row: asyncpg.Record, window: Window, *, complete: bool) -> GroupCounts:
    """Reads counts from the first columns of a statement of `window_sql`."""
    role, members, trainable, available, agents, steps, low, high = row[1:9]
    return GroupCounts(
        window, role, available, agents, members - trainable, trainable - available, steps or 0, low, high, complete
    )


def _by_start(rows: Sequence[asyncpg.Record]) -> Counted | None:
    """Pairs rows, one a recorded window id, with the start that the id names.

    None where an id names none, two name the same, or one stands for several hours: rows are then placed one by one.
    """
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
    """Reads `named_start` without a zone; fast for ids as the game writes them."""
    if name is not None and len(name) == 16 and name[0] in "12":
        try:
            start: datetime | None = datetime.fromisoformat(name)
        except ValueError:
            start = None
        if start is not None and start.isoformat(timespec="minutes") == name:
            return start
    named = named_start(name)
    return None if named is None else named.replace(tzinfo=None)


def _usual_name(start: datetime) -> str:
    return start.isoformat(timespec="minutes")


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def _reach(query: WindowQuery) -> tuple[datetime | None, timedelta | None]:
    """Returns the earliest start asked for, or its distance to the newest window."""
    if query.span is not None:
        return _naive(query.span.start), None
    return None, timedelta(hours=query.lookback_hours)


def _query_test(length: timedelta, query: WindowQuery, newest: datetime | None) -> Callable[[datetime], bool]:
    """Makes a test of a window's start: the query asks for that window."""
    if query.span is not None:
        first, last = _naive(query.span.start), _naive(query.span.end) - length
        return lambda start: first <= start <= last
    back = timedelta(hours=query.lookback_hours)
    if newest is None or back > newest - BEGINNING:
        return lambda start: True
    before = newest - back
    return lambda start: start > before
