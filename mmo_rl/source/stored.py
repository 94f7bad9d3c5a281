"""Stream of a PostgreSQL database's recorded play, to be copied into another database."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mmo_rl.source.base import RecordedOutcomes
from mmo_rl.source.play import recorded_outcomes
from mmo_rl.source.reader import TableReader
from mmo_rl.types import Trajectory

BATCH = 50


class StoredPlay:
    """Stream of the trajectories of a database in the order of their ids, then of its outcomes."""

    def __init__(self, *, reader: TableReader) -> None:
        self._reader = reader
        self._ids: list[str] | None = None

    async def total(self) -> int:
        """Counts the trajectories."""
        return len(await self._list_ids())

    async def stream(self) -> AsyncIterator[Trajectory | RecordedOutcomes]:
        """Yields every trajectory whole, then the outcomes."""
        ids = await self._list_ids()
        for first in range(0, len(ids), BATCH):
            batch = ids[first : first + BATCH]
            _, found = await self._reader.trajectories(batch)
            for identity in batch:
                if identity in found:
                    yield found[identity]
        table = (await self._reader.tables())["market_outcomes"]
        if table.has("windowId"):
            rows = await self._reader.fetch(f"select {table.everything()} from market_outcomes")
            for recorded in recorded_outcomes([dict(row) for row in rows]):
                yield recorded

    async def _list_ids(self) -> list[str]:
        if self._ids is None:
            identity = (await self._reader.tables())["trajectories"].text("trajectoryId")
            rows = await self._reader.fetch(f"select {identity} as id from trajectories order by 1")
            self._ids = [row["id"] for row in rows]
        return self._ids
