"""Reservation of hours for simulated worlds, so that a window id always names one market."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mmo_rl.clock import parse_window_id, window_id
from mmo_rl.database.base import Connection, Database
from mmo_rl.errors import DatabaseError
from mmo_rl.wording import counted

FIRST_HOUR = datetime(1980, 1, 1, tzinfo=UTC)
"""Blocks are given out from here on, in the order in which scenarios ask, each beginning at a midnight (UTC)."""


async def reserve_hours(database: Database, *, scenario_id: str, hours: int, now: datetime) -> datetime:
    """Reserves ``hours`` consecutive hours before ``now`` for this scenario alone; returns their start.

    No other scenario's block and no recorded window overlaps them. The same scenario gets its block back, in any
    process. A block begins at midnight, so that windows of up to a day never mix two worlds. Raises `DatabaseError`
    where a scenario asks for more than it was given, or no hours are left.
    """
    if hours < 1:
        raise ValueError(f"hours must be at least 1, got {hours}")
    length = timedelta(hours=hours)
    async with database.acquire() as connection:
        await connection.execute("lock table mmo_rl.worlds in share row exclusive mode")
        known = await connection.fetchrow(
            'select "start", "end" from mmo_rl.worlds where scenario_id = $1', scenario_id
        )
        if known is not None:
            start: datetime = known["start"]
            if start + length <= known["end"]:
                return start
            given = round((known["end"] - start) / timedelta(hours=1))
            raise DatabaseError(
                f"the simulated world {scenario_id!r} has {counted(given, 'hour')}, this run needs {hours}",
                hint="give the experiment another name (name=...), so that it gets a world of its own",
            )
        last = await connection.fetchval('select max("end") from mmo_rl.worlds')
        start = _midnight(max(last, FIRST_HOUR) if last is not None else FIRST_HOUR)
        while (recorded := await _last_recorded(connection, start, start + length)) is not None:
            start = _midnight(recorded + timedelta(microseconds=1))
        if start + length > now:
            raise DatabaseError(
                f"no {counted(hours, 'simulated hour is', 'simulated hours are')} left before {now:%Y-%m-%d}",
                hint="start with a fresh database: set MMO_RL_HOME to a new folder",
            )
        await connection.execute(
            'insert into mmo_rl.worlds (scenario_id, "start", "end") values ($1, $2, $3)',
            scenario_id,
            start,
            start + length,
        )
        return start


async def _last_recorded(connection: Connection, start: datetime, end: datetime) -> datetime | None:
    """Finds the latest recorded window in the span, by window id or by start time."""
    named = await connection.fetchval(
        'select max("windowId") from trajectories where "windowId" >= $1 and "windowId" < $2 and "windowId" ~ $3',
        window_id(start),
        window_id(end),
        r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}$",
    )
    began = await connection.fetchval(
        'select max("startTime") from trajectories where "startTime" >= $1 and "startTime" < $2',
        start.replace(tzinfo=None),
        end.replace(tzinfo=None),
    )
    moments = [
        parse_window_id(named) if named is not None else None,
        began.replace(tzinfo=UTC) if began is not None else None,
    ]
    return max((moment for moment in moments if moment is not None), default=None)


def _midnight(moment: datetime) -> datetime:
    """Returns the first midnight (UTC) at or after a time."""
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day if day == moment else day + timedelta(days=1)
