"""Recorded play in PostgreSQL: the embedded server, or a game's own database.

Every query is a short read-only transaction of its own: between two of them nothing is held on the server, however
long a judge takes, because it may be a live game's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import asyncpg
from pydantic import Field

from mmo_rl.clock import utc_now, window_id
from mmo_rl.errors import SourceError
from mmo_rl.source.base import ReadPool
from mmo_rl.source.parse import parse_trajectory
from mmo_rl.source.truth import ground_truth
from mmo_rl.types import (
    Group,
    JsonDict,
    Member,
    Rejection,
    SelectedWindow,
    Selection,
    Trajectory,
    Window,
    WindowQuery,
    WindowStats,
)

MAX_REJECTIONS_KEPT = 100
ROW_COLUMNS = (
    '"trajectoryId", "agentId", "startTime", "endTime", "windowId", "scenarioId", "stepsJson", "metricsJson",'
    ' "metadataJson", "finalStatus", "finalBalance", "finalPnL", "isTrainingData", "isEvaluation"'
)


class PostgresSource:
    """Implements `mmo_rl.source.base.Source` over the game's tables.

    ``dsn_env`` names the environment variable that the pool's server came from (None: the embedded server).
    ``batch_size`` trajectories are in memory at a time, or one window where that is larger. A window is complete
    ``settle_minutes`` after its end.
    """

    def __init__(
        self,
        *,
        dsn_env: str | None,
        pool: ReadPool,
        batch_size: Annotated[int, Field(ge=1, le=10_000)] = 100,
        settle_minutes: Annotated[float, Field(ge=0)] = 5.0,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.dsn_env = dsn_env
        self._pool = pool
        self._batch_size = batch_size
        self._settle = timedelta(minutes=settle_minutes)
        self._now = now
        self._rejected: Counter[str] = Counter()
        self._rejections: list[Rejection] = []
        self._role: str | None = None

    @property
    def rejected(self) -> Mapping[str, int]:
        return self._rejected

    @property
    def rejections(self) -> Sequence[Rejection]:
        """The first rows that could not be read, for a report."""
        return self._rejections

    async def windows(self, query: WindowQuery) -> list[WindowStats]:
        length = timedelta(hours=query.window_hours)
        span = query.span
        rows = await self._fetch(
            windows_sql(hourly=query.window_hours == 1, role=await self._role_column()),
            length,
            query.scenario_id,
            span.start.astimezone(UTC).replace(tzinfo=None) if span is not None else None,
            span.end.astimezone(UTC).replace(tzinfo=None) if span is not None else None,
            timedelta(hours=query.lookback_hours) if span is None else None,
        )
        members: dict[datetime, list[Member]] = {}
        with_outcomes = {row["start"] for row in rows if row["has_outcomes"]}
        for row in rows:
            members.setdefault(row["start"], []).append(
                Member(
                    trajectory_id=row["trajectoryId"],
                    agent_id=row["agentId"],
                    actions=row["episodeLength"],
                    final_pnl=row["finalPnL"],
                    role=row["role"],
                    is_training_data=row["isTrainingData"],
                    is_evaluation=row["isEvaluation"],
                )
            )
        now = self._now()
        found = []
        for naive, listed in members.items():
            start = naive.replace(tzinfo=UTC)
            window = Window(window_id(start), start, start + length)
            complete = window.end + self._settle < now
            found.append(WindowStats(window, tuple(listed), naive in with_outcomes, complete))
        return found

    async def groups(self, selection: Selection) -> AsyncIterator[Group]:
        for chunk in self._chunks(selection.windows):
            ids = [identity for selected in chunk for identity in selected.trajectory_ids]
            trajectories: dict[str, Trajectory] = {}
            for first in range(0, len(ids), self._batch_size):
                await self._read(ids[first : first + self._batch_size], trajectories)
            outcomes = await self._outcomes([selected.window for selected in chunk])
            for selected in chunk:
                members = tuple(trajectories.pop(i) for i in selected.trajectory_ids if i in trajectories)
                if not members:
                    continue
                scenarios = {member.scenario_id for member in members}
                scenario_id = scenarios.pop() if len(scenarios) == 1 else None
                truth = ground_truth(selected.window, outcomes, scenario_id=scenario_id)
                yield Group(selected.window.id, selected.window, members, truth)

    async def aclose(self) -> None:
        """The pool belongs to whoever made it."""

    # --- inside -----------------------------------------------------------------------------------------------------

    def _chunks(self, windows: Sequence[SelectedWindow]) -> Iterator[list[SelectedWindow]]:
        """Runs of windows of about ``batch_size`` trajectories."""
        chunk: list[SelectedWindow] = []
        size = 0
        for selected in windows:
            if chunk and size + len(selected.trajectory_ids) > self._batch_size:
                yield chunk
                chunk, size = [], 0
            chunk.append(selected)
            size += len(selected.trajectory_ids)
        if chunk:
            yield chunk

    async def _read(self, ids: Sequence[str], into: dict[str, Trajectory]) -> None:
        role = await self._role_column()
        rows = await self._fetch(
            f'select {ROW_COLUMNS}, {role} as archetype from trajectories where "trajectoryId" = any($1::text[])', ids
        )
        without_calls: dict[str, JsonDict] = {}
        for row in map(dict, rows):
            parsed = parse_trajectory(row)
            if isinstance(parsed, Rejection):
                self._reject(parsed)
                continue
            into[parsed.trajectory_id] = parsed
            if not any(step.llm_calls for step in parsed.steps):
                without_calls[parsed.trajectory_id] = row
        for missing in set(ids) - {row["trajectoryId"] for row in rows}:
            self._reject(Rejection(missing, "trajectoryId", missing, "no longer in the database"))
        if without_calls:
            await self._add_logged_calls(without_calls, into)

    async def _add_logged_calls(self, rows: Mapping[str, JsonDict], into: dict[str, Trajectory]) -> None:
        """Some recordings hold their LLM calls in ``llm_call_logs`` only."""
        logged: dict[str, list[JsonDict]] = {}
        for call in await self._fetch(
            'select * from llm_call_logs where "trajectoryId" = any($1::text[]) order by "timestamp", length("callId"),'
            ' "callId"',
            list(rows),
        ):
            logged.setdefault(call["trajectoryId"], []).append(dict(call))
        for identity, calls in logged.items():
            parsed = parse_trajectory(rows[identity], calls=calls)
            if isinstance(parsed, Rejection):
                del into[identity]
                self._reject(parsed)
            else:
                into[identity] = parsed

    async def _outcomes(self, windows: Sequence[Window]) -> list[JsonDict]:
        rows = await self._fetch(
            "select o.* from market_outcomes o where exists (select from unnest($1::text[], $2::text[]) w(first, past)"
            ' where o."windowId" >= w.first and o."windowId" < w.past) order by o."windowId", o."createdAt", o.id',
            [window.id for window in windows],
            [window_id(window.end) for window in windows],
        )
        return [dict(row) for row in rows]

    async def _role_column(self) -> str:
        """``archetype`` exists in some databases only."""
        if self._role is None:
            rows = await self._fetch(
                "select from pg_attribute where attrelid = to_regclass('trajectories') and attname = 'archetype'"
                " and not attisdropped"
            )
            self._role = "archetype" if rows else "null::text"
        return self._role

    async def _fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        try:
            async with self._pool.acquire() as connection:
                rows: list[asyncpg.Record] = await connection.fetch(sql, *arguments)
                return rows
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
            where = "" if self.dsn_env is None else " source=postgres"
            raise SourceError(
                f"the database is not one with recorded play: {error}", hint=f"mmo-rl task=migrate{where}"
            ) from None
        except asyncpg.InsufficientPrivilegeError as error:
            raise SourceError(
                f"the database refuses to be read: {error}", hint="grant select on its tables to this user"
            ) from None

    def _reject(self, rejection: Rejection) -> None:
        self._rejected[rejection.reason] += 1
        if len(self._rejections) < MAX_REJECTIONS_KEPT:
            self._rejections.append(rejection)


def windows_sql(*, hourly: bool, role: str) -> str:
    """One statement for the statistics of all windows; it never reads a step.

    $1 length of a window, $2 scenario or null, $3 and $4 a span ``[start, end)`` of windows or null, $5 how far to
    look back from the newest window or null. A window is named by ``windowId`` where that is well-formed and windows
    are hourly, else it follows from ``startTime``; windows of other lengths always follow from it.
    """
    started = "date_bin($1, \"startTime\", timestamp '1970-01-01')"
    start = f"coalesce({_named_start(chr(34) + 'windowId' + chr(34))}, {started})" if hourly else started
    outcome_start = _named_start('"windowId"')
    if not hourly:
        outcome_start = f"date_bin($1, {outcome_start}, timestamp '1970-01-01')"
    return f"""
        with recorded as (
            select "trajectoryId", "agentId", "episodeLength", "finalPnL", {role} as role, "isTrainingData",
                   "isEvaluation", {start} as start
            from trajectories
            where $2::text is null or "scenarioId" = $2
        ), outcomes as (
            select distinct {outcome_start} as start from (select distinct "windowId" from market_outcomes) named
        ), newest as (
            select max(start) as start from recorded
        )
        select recorded.*, outcomes.start is not null as has_outcomes
        from recorded cross join newest left join outcomes on outcomes.start = recorded.start
        where ($3::timestamp is null or recorded.start >= $3)
          and ($4::timestamp is null or recorded.start + $1 <= $4)
          and ($5::interval is null or recorded.start > newest.start - $5)
        order by recorded.start, "trajectoryId"
    """


def _named_start(column: str) -> str:
    """The start that a window id names, null where it is in another format or no such day exists (30 February):
    counted on from the first of the month, because a cast would fail the whole statement."""
    pattern = r"^[12]\d{3}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d$"
    counted = (
        f"make_timestamp(substr({column}, 1, 4)::int, substr({column}, 6, 2)::int, 1, substr({column}, 12, 2)::int,"
        f" substr({column}, 15, 2)::int, 0) + (substr({column}, 9, 2)::int - 1) * interval '1 day'"
    )
    same_month = f"to_char({counted}, 'MM') = substr({column}, 6, 2)"
    return f"case when {column} ~ '{pattern}' then case when {same_month} then {counted} end end"
