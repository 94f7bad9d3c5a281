"""What a PostgreSQL database holds of recorded play, streamed whole to be copied into another one."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mmo_rl.source import statements
from mmo_rl.source.parse import parse_trajectory
from mmo_rl.source.play import RecordedOutcomes, recorded_outcomes
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import Rejection, Trajectory

BATCH = 50


class StoredPlay:
    """Implements `mmo_rl.source.play.Play` over the database of a `PostgresSource`."""

    def __init__(self, *, source: PostgresSource) -> None:
        self.rejections = source.rejections
        self._source = source
        self._ids: list[str] | None = None

    async def total(self) -> int | None:
        return len(await self._listed())

    async def stream(self) -> AsyncIterator[Trajectory | RecordedOutcomes]:
        ids = await self._listed()
        for first in range(0, len(ids), BATCH):
            for read in await self._read(ids[first : first + BATCH]):
                if isinstance(read, Rejection):
                    self.rejections.add(read)
                else:
                    yield read
        table = (await self._source._known())["market_outcomes"]
        if table.has("windowId"):
            rows = await self._source._fetch(f"select {table.everything()} from market_outcomes")
            for recorded in recorded_outcomes([dict(row) for row in rows]):
                yield recorded

    async def _listed(self) -> list[str]:
        if self._ids is None:
            identity = (await self._source._known())["trajectories"].text("trajectoryId")
            rows = await self._source._fetch(f"select {identity} as id from trajectories order by 1")
            self._ids = [row["id"] for row in rows]
        return self._ids

    async def _read(self, ids: list[str]) -> list[Trajectory | Rejection]:
        table = (await self._source._known())["trajectories"]
        rows = {row["trajectoryId"]: dict(row) for row in await self._source._fetch(statements.rows_sql(table), ids)}
        found = {identity: parse_trajectory(row) for identity, row in rows.items()}
        silent = [
            identity
            for identity, read in found.items()
            if isinstance(read, Trajectory) and not all(step.llm_calls for step in read.steps)
        ]
        for identity, calls in (await self._source._logged_calls(silent)).items():
            found[identity] = parse_trajectory(rows[identity], calls=calls)
        return [found[identity] for identity in ids if identity in found]
