"""Stream of a PostgreSQL database's recorded play, to be copied into another database."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mmo_rl.origins import EVERYTHING, Where
from mmo_rl.source.base import RecordedOutcomes
from mmo_rl.source.chosen import Chosen
from mmo_rl.source.play import Covered, recorded_outcomes
from mmo_rl.source.reader import TableReader
from mmo_rl.types import Trajectory

BATCH = 50


class StoredPlay:
    """Stream of the trajectories that ``where`` chooses in the order of their ids, then of the outcomes of their
    windows."""

    def __init__(self, *, reader: TableReader, where: Where = EVERYTHING) -> None:
        self._reader = reader
        self._where = where
        self._ids: list[str] | None = None

    async def total(self) -> int:
        """Counts the trajectories."""
        return len(await self._list_ids())

    async def stream(self) -> AsyncIterator[Trajectory | RecordedOutcomes]:
        """Yields every trajectory whole, then the outcomes."""
        ids = await self._list_ids()
        covered = Covered(self._where)
        for first in range(0, len(ids), BATCH):
            batch = ids[first : first + BATCH]
            _, found = await self._reader.trajectories(batch)
            for identity in batch:
                if identity in found:
                    covered.add(found[identity])
                    yield found[identity]
        table = (await self._reader.tables())["market_outcomes"]
        if table.has("windowId"):
            rows = await self._reader.fetch(f"select {table.everything()} from market_outcomes")
            for recorded in recorded_outcomes([dict(row) for row in rows]):
                if covered.has(recorded):
                    yield recorded

    async def _list_ids(self) -> list[str]:
        if self._ids is None:
            tables = await self._reader.tables()
            table, chosen = tables["trajectories"], Chosen(where=self._where, logs=tables["llm_call_logs"])
            identity = table.text("trajectoryId")
            sql = f"select {identity} as id from trajectories where {chosen.sql(table, '$1')} order by 1"
            rows = await self._reader.fetch(sql, chosen.argument)
            self._ids = [row["id"] for row in rows]
        return self._ids
