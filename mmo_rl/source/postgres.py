"""Recorded play in PostgreSQL: the embedded server, or a game's own database.

Every query is a short read-only transaction of its own: between two of them nothing is held on the server, however
long a judge takes, because it may be a live game's. A query whose connection is lost is asked again as a whole, and its
rows are bound by id, so that nothing is read twice or left out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any

import asyncpg
from pydantic import Field

from mmo_rl.clock import window_id
from mmo_rl.concurrency import Backoff, retried
from mmo_rl.errors import SourceError, is_lost
from mmo_rl.source import statements
from mmo_rl.source.base import SourceParts
from mmo_rl.source.columns import COLUMNS_SQL, REQUIRED, SCHEMAS_SQL, TABLES, Table, schema_hint, tables
from mmo_rl.source.joined import assemble
from mmo_rl.source.memory import no_collection
from mmo_rl.source.parse import parse_trajectory
from mmo_rl.source.rejections import Rejections
from mmo_rl.source.slices import part
from mmo_rl.source.statistics import Statistics
from mmo_rl.source.truth import ground_truth, other_names
from mmo_rl.types import (
    Group,
    GroupCounts,
    JsonDict,
    Rejection,
    SelectedWindow,
    Selection,
    Trajectory,
    Window,
    WindowQuery,
    WindowStats,
)
from mmo_rl.window_ids import split_id

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


class PostgresSource:
    """Implements `mmo_rl.source.base.Source` over the game's tables, in the variants that `columns` knows.

    ``dsn_env`` names the environment variable that the pool's server came from (None: the embedded server).
    ``batch_size`` trajectories are in memory at a time, or one window where that is larger. A window is complete
    ``settle_minutes`` after its end. A server that goes away in the middle of a read is waited for ``reconnect_s``
    seconds, with longer and longer pauses; then `ConnectionLost` is raised. Every rejection is written to
    ``rejected_to``, once however often its row is read.
    """

    def __init__(
        self,
        *,
        dsn_env: str | None,
        batch_size: Annotated[int, Field(ge=1, le=10_000)] = 100,
        settle_minutes: Annotated[float, Field(ge=0)] = 5.0,
        reconnect_s: Annotated[float, Field(ge=0)] = 60.0,
        parts: SourceParts,
    ) -> None:
        self.dsn_env = dsn_env
        self._pool = parts.pool
        self._batch_size = batch_size
        self._reconnect_s = reconnect_s
        self.rejections = Rejections(parts.rejected_to)
        self._tables: dict[str, Table] | None = None
        self._statistics = Statistics(
            fetch=self._fetch,
            known=self._known,
            whole=self._whole,
            batch_size=batch_size,
            settle=timedelta(minutes=settle_minutes),
            now=parts.now,
            command="mmo-rl task=migrate"
            if dsn_env is None
            else "mmo-rl task=migrate source=postgres migrate.index=true",
        )

    @property
    def rejected(self) -> Mapping[str, int]:
        return self.rejections.counts

    async def counts(self, query: WindowQuery) -> list[GroupCounts]:
        return await self._statistics.counts(query)

    async def windows(self, query: WindowQuery) -> list[WindowStats]:
        return await self._statistics.windows(query)

    async def groups(self, selection: Selection) -> AsyncIterator[Group]:
        for chunk in self._chunks(selection.windows):
            wanted = [(identity, selected.window) for selected in chunk for identity in selected.recorded_ids]
            trajectories: dict[str, Trajectory] = {}
            for first in range(0, len(wanted), self._batch_size):
                await self._read(wanted[first : first + self._batch_size], trajectories)
            outcomes = await self._outcomes([selected.window for selected in chunk])
            for selected in chunk:
                read = {i: trajectories.pop(i) for i in selected.recorded_ids if i in trajectories}
                members, incomplete = assemble(selected, read)
                for rejection in incomplete:
                    self._reject(rejection)
                if not members:
                    continue
                scenarios = {member.scenario_id for member in members}
                scenario_id = scenarios.pop() if len(scenarios) == 1 else None
                truth = ground_truth(selected.window, outcomes, scenario_id=scenario_id)
                yield Group(selected.group_id, selected.window, members, truth)

    async def aclose(self) -> None:
        """The pool belongs to whoever made it."""

    # --- inside -----------------------------------------------------------------------------------------------------

    def _chunks(self, windows: Sequence[SelectedWindow]) -> Iterator[list[SelectedWindow]]:
        """Runs of windows of about ``batch_size`` trajectories."""
        chunk: list[SelectedWindow] = []
        size = 0
        for selected in windows:
            if chunk and size + len(selected.recorded_ids) > self._batch_size:
                yield chunk
                chunk, size = [], 0
            chunk.append(selected)
            size += len(selected.recorded_ids)
        if chunk:
            yield chunk

    async def _read(self, wanted: Sequence[tuple[str, Window]], into: dict[str, Trajectory]) -> None:
        """Trajectories, and slices of trajectories, by id."""
        ids = {split_id(identity)[0] for identity, _ in wanted}
        if (await self._known())["trajectories"].is_text("trajectoryId"):
            ids |= {identity for identity, _ in wanted}  # a whole trajectory may be called like a slice
        rows, whole = await self._parsed(sorted(ids))
        for identity, window in wanted:
            origin = identity if identity in rows else split_id(identity)[0]
            if origin not in rows:
                self._reject(Rejection(identity, "trajectoryId", identity, "no longer in the database"))
            elif origin in whole:
                found = whole[origin] if origin == identity else part(whole[origin], window)
                if found is None:
                    self._reject(Rejection(identity, "stepsJson", window.id, "no step in the window any more"))
                else:
                    into[identity] = found

    async def _whole(self, ids: Sequence[str]) -> Mapping[str, Trajectory]:
        return (await self._parsed(ids))[1]

    async def _parsed(self, ids: Sequence[str]) -> tuple[dict[str, JsonDict], dict[str, Trajectory]]:
        """The rows that are there, and the trajectories that could be read of them."""
        sql = statements.rows_sql((await self._known())["trajectories"])
        rows = {row["trajectoryId"]: dict(row) for row in await self._fetch(sql, ids)}
        found: dict[str, Trajectory] = {}
        with no_collection():
            for row in rows.values():
                self._parse(row, (), found)
        silent = [identity for identity, read in found.items() if not all(step.llm_calls for step in read.steps)]
        for identity, calls in (await self._logged_calls(silent)).items():
            del found[identity]
            self._parse(rows[identity], calls, found)
        return rows, found

    def _parse(self, row: JsonDict, calls: Sequence[JsonDict], into: dict[str, Trajectory]) -> None:
        parsed = parse_trajectory(row, calls=calls)
        if isinstance(parsed, Rejection):
            as_texts = {key: value.decode() if isinstance(value, bytes) else value for key, value in row.items()}
            parsed = parse_trajectory(as_texts, calls=calls)  # a report quotes text
        if isinstance(parsed, Rejection):
            self._reject(parsed)
        else:
            into[parsed.trajectory_id] = parsed

    async def _logged_calls(self, ids: Sequence[str]) -> dict[str, list[JsonDict]]:
        """Some recordings hold their LLM calls in ``llm_call_logs`` only."""
        table = (await self._known())["llm_call_logs"]
        logged: dict[str, list[JsonDict]] = {}
        if ids and not table.missing(("trajectoryId", "callId")):
            for call in await self._fetch(statements.calls_sql(table), ids):
                logged.setdefault(call["of_trajectory"], []).append(dict(call))
        return logged

    async def _outcomes(self, windows: Sequence[Window]) -> list[JsonDict]:
        table = (await self._known())["market_outcomes"]
        if not table.has("windowId"):
            return []
        rows = await self._fetch(
            statements.outcomes_sql(table),
            [window.id for window in windows],
            [window_id(window.end) for window in windows],
            [name for window in windows for name in other_names(window)],
        )
        return [dict(row) for row in rows]

    async def _known(self) -> dict[str, Table]:
        """What the tables hold, asked once."""
        if self._tables is None:
            self.rejections.begin()
            known = tables(await self._fetch(COLUMNS_SQL, list(TABLES)))
            target = "" if self.dsn_env is None else " source=postgres"
            if not known["trajectories"]:
                elsewhere = schema_hint(await self._fetch(SCHEMAS_SQL), dsn_env=self.dsn_env)
                hint = elsewhere or f"mmo-rl task=migrate{target}"
                raise SourceError("the database has no table trajectories: it is not one with recorded play", hint=hint)
            if missing := known["trajectories"].missing(REQUIRED):
                raise SourceError(
                    f"the table trajectories has no column {', '.join(missing)}",
                    hint="camelCase and snake_case names are known; a view named trajectories can rename others",
                )
            self._tables = known
        return self._tables

    async def _fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Asks in a transaction of its own, and again where the connection is lost."""
        backoff = Backoff(first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S, patience_s=self._reconnect_s)
        return await retried(lambda: self._ask(sql, *arguments), backoff, transient=is_lost)

    async def _ask(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        try:
            async with self._pool.acquire() as connection:
                rows: list[asyncpg.Record] = await connection.fetch(sql, *arguments)
                return rows
        except asyncpg.InsufficientPrivilegeError as error:
            raise SourceError(
                f"the database refuses to be read: {error}", hint="grant select on its tables to this user"
            ) from None

    def _reject(self, rejection: Rejection) -> None:
        self.rejections.add_once(rejection)
