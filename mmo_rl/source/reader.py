"""Reader of the game's tables in PostgreSQL, in the variants that `columns` knows.

Every query is a short read-only transaction of its own: between two of them nothing is held on the server, however
long a judge takes, because it may be a live game's. A query whose connection is lost is asked again as a whole, and its
rows are bound by id, so that nothing is read twice or left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg

from mmo_rl.clock import window_id
from mmo_rl.concurrency import Backoff, retry
from mmo_rl.errors import SourceError, is_lost
from mmo_rl.source import statements
from mmo_rl.source.base import ReadPool, source_overrides
from mmo_rl.source.columns import COLUMNS_SQL, REQUIRED, SCHEMAS_SQL, TABLES, Table, schema_hint, tables
from mmo_rl.source.memory import no_collection
from mmo_rl.source.parse import parse_trajectory
from mmo_rl.source.rejections import Rejections
from mmo_rl.source.truth import other_names
from mmo_rl.types import JsonDict, Rejection, Trajectory, Window

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


class TableReader:
    """Reader of the tables behind ``pool``; ``dsn_env`` names the variable of its server (None: the embedded one).

    A server that goes away in the middle of a read is waited for ``reconnect_s`` seconds, with longer and longer
    pauses; then `ConnectionLost` is raised. Rows that cannot be read go to ``rejections``, once however often they are
    read. Raises `SourceError` where the database holds no recorded play, or may not be read.
    """

    def __init__(self, pool: ReadPool, *, dsn_env: str | None, reconnect_s: float, rejections: Rejections) -> None:
        self._pool = pool
        self._dsn_env = dsn_env
        self._backoff = Backoff(first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S, patience_s=reconnect_s)
        self._rejections = rejections
        self._tables: dict[str, Table] | None = None

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Runs a query in a transaction of its own, again where the connection is lost; returns its rows."""
        return await retry(lambda: self._ask(sql, *arguments), self._backoff, transient=is_lost)

    async def tables(self) -> dict[str, Table]:
        """Returns the tables and their columns, asked once."""
        if self._tables is None:
            self._rejections.begin()
            found = tables(await self.fetch(COLUMNS_SQL, list(TABLES)))
            if not found["trajectories"]:
                elsewhere = schema_hint(await self.fetch(SCHEMAS_SQL), dsn_env=self._dsn_env)
                hint = elsewhere or f"mmo-rl task=migrate{source_overrides(self._dsn_env)}"
                raise SourceError("the database has no table trajectories: it is not one with recorded play", hint=hint)
            if missing := found["trajectories"].missing(REQUIRED):
                raise SourceError(
                    f"the table trajectories has no column {', '.join(missing)}",
                    hint="camelCase and snake_case names are known; a view named trajectories can rename others",
                )
            self._tables = found
        return self._tables

    async def trajectories(self, ids: Sequence[str]) -> tuple[set[str], dict[str, Trajectory]]:
        """Reads trajectories; returns the ids whose rows exist, and the readable ones by id."""
        tables = await self.tables()
        sql = statements.rows_sql(tables["trajectories"], tables["reward_judgments"])
        rows = {row["trajectoryId"]: dict(row) for row in await self.fetch(sql, ids)}
        found: dict[str, Trajectory] = {}
        with no_collection():
            for row in rows.values():
                self._parse(row, (), found)
        silent = [identity for identity, read in found.items() if not all(step.llm_calls for step in read.steps)]
        for identity, calls in (await self._logged_calls(silent)).items():
            del found[identity]
            self._parse(rows[identity], calls, found)
        return set(rows), found

    async def outcomes(self, windows: Sequence[Window]) -> list[JsonDict]:
        """Reads the rows of ``market_outcomes`` that belong to these windows."""
        table = (await self.tables())["market_outcomes"]
        if not table.has("windowId"):
            return []
        rows = await self.fetch(
            statements.outcomes_sql(table),
            [window.id for window in windows],
            [window_id(window.end) for window in windows],
            [name for window in windows for name in other_names(window)],
        )
        return [dict(row) for row in rows]

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _ask(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        try:
            async with self._pool.acquire() as connection:
                return await connection.fetch(sql, *arguments)
        except asyncpg.InsufficientPrivilegeError as error:
            raise SourceError(
                f"the database refuses to be read: {error}", hint="grant select on its tables to this user"
            ) from None

    def _parse(self, row: JsonDict, calls: Sequence[JsonDict], into: dict[str, Trajectory]) -> None:
        parsed = parse_trajectory(row, calls=calls)
        if isinstance(parsed, Rejection):
            as_texts = {key: value.decode() if isinstance(value, bytes) else value for key, value in row.items()}
            parsed = parse_trajectory(as_texts, calls=calls)  # a report quotes text
        if isinstance(parsed, Rejection):
            self._rejections.add_once(parsed)
        else:
            into[parsed.trajectory_id] = parsed

    async def _logged_calls(self, ids: Sequence[str]) -> Mapping[str, list[JsonDict]]:
        """Reads the LLM calls of recordings that hold them in ``llm_call_logs`` only, by trajectory id."""
        table = (await self.tables())["llm_call_logs"]
        logged: dict[str, list[JsonDict]] = {}
        if ids and not table.missing(("trajectoryId", "callId")):
            for call in await self.fetch(statements.calls_sql(table), ids):
                logged.setdefault(call["of_trajectory"], []).append(dict(call))
        return logged
