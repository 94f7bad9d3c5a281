"""Recorded play in PostgreSQL: the embedded server, or a game's own database."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Annotated

from pydantic import Field

from mmo_rl.origins import EVERYTHING, Origin, Where, is_simulated
from mmo_rl.source.base import RecordedOutcomes, SourceParts, source_overrides
from mmo_rl.source.chosen import origins_sql
from mmo_rl.source.joined import assemble
from mmo_rl.source.reader import TableReader
from mmo_rl.source.rejections import Rejections
from mmo_rl.source.slices import part
from mmo_rl.source.statistics import Statistics
from mmo_rl.source.stored import StoredPlay
from mmo_rl.source.truth import ground_truth
from mmo_rl.types import (
    Group,
    GroupCounts,
    Rejection,
    SelectedWindow,
    Selection,
    Trajectory,
    Window,
    WindowQuery,
    WindowStats,
)
from mmo_rl.window_ids import split_id

ORIGINS_BATCH = 1_000
"""Trajectories whose origin is read in one statement at most."""


class PostgresSource:
    """Implements `mmo_rl.source.base.Source` and `Play` over the game's tables, in the variants that `columns` knows.

    ``dsn_env`` names the environment variable that the pool's server came from (None: the embedded server).
    ``batch_size`` trajectories are in memory at a time, or one window where that is larger. A window is complete
    ``settle_minutes`` after its end. A server that goes away in the middle of a read is waited for ``reconnect_s``
    seconds, with longer and longer pauses; then `ConnectionLost` is raised. ``where`` chooses the play that is read.
    Every rejection is written to ``rejected_to``, once however often its row is read.
    """

    def __init__(
        self,
        *,
        dsn_env: str | None,
        batch_size: Annotated[int, Field(ge=1, le=10_000)] = 100,
        settle_minutes: Annotated[float, Field(ge=0)] = 5.0,
        reconnect_s: Annotated[float, Field(ge=0)] = 60.0,
        where: Where = EVERYTHING,
        parts: SourceParts,
    ) -> None:
        self.dsn_env = dsn_env
        self.rejections = Rejections(parts.rejected_to)
        self._batch_size = batch_size
        self._reader = TableReader(parts.pool, dsn_env=dsn_env, reconnect_s=reconnect_s, rejections=self.rejections)
        self.where = where
        self._play = StoredPlay(reader=self._reader, where=where)
        self._statistics = Statistics(
            reader=self._reader,
            batch_size=batch_size,
            settle=timedelta(minutes=settle_minutes),
            now=parts.now,
            command=f"mmo-rl task=migrate{source_overrides(dsn_env)}{' migrate.index=true' if dsn_env else ''}",
            where=where,
        )

    @property
    def rejected(self) -> Mapping[str, int]:
        return self.rejections.counts

    async def counts(self, query: WindowQuery) -> list[GroupCounts]:
        return await self._statistics.counts(query)

    async def windows(self, query: WindowQuery) -> list[WindowStats]:
        return await self._statistics.windows(query)

    async def groups(self, selection: Selection) -> AsyncGenerator[Group, None]:
        for chunk in self._chunks(selection.windows):
            wanted = [(identity, selected.window) for selected in chunk for identity in selected.recorded_ids]
            trajectories: dict[str, Trajectory] = {}
            for first in range(0, len(wanted), self._batch_size):
                await self._read(wanted[first : first + self._batch_size], trajectories)
            outcomes = await self._reader.outcomes([selected.window for selected in chunk])
            for selected in chunk:
                read = {i: trajectories.pop(i) for i in selected.recorded_ids if i in trajectories}
                members, incomplete = assemble(selected, read)
                for rejection in incomplete:
                    self.rejections.add_once(rejection)
                if not members:
                    continue
                scenarios = {member.scenario_id for member in members}
                scenario_id = scenarios.pop() if len(scenarios) == 1 else None
                truth = ground_truth(selected.window, outcomes, scenario_id=scenario_id)
                yield Group(selected.group_id, selected.window, members, truth)

    async def origins(self, ids: Sequence[str]) -> dict[str, Origin]:
        """Reads scenario and models of trajectories, by id."""
        tables = await self._reader.tables()
        sql = origins_sql(tables["trajectories"], tables["llm_call_logs"])
        found: dict[str, Origin] = {}
        for first in range(0, len(ids), ORIGINS_BATCH):
            for row in await self._reader.fetch(sql, list(ids[first : first + ORIGINS_BATCH])):
                simulated = is_simulated(row["id"], row["scenario"])
                found[row["id"]] = Origin(row["scenario"], tuple(row["models"] or ()), simulated)
        return found

    async def total(self) -> int | None:
        """Counts the trajectories that are chosen."""
        return await self._play.total()

    def stream(self) -> AsyncIterator[Trajectory | RecordedOutcomes]:
        """Yields every trajectory whole, then the outcomes."""
        return self._play.stream()

    async def aclose(self) -> None:
        """Does nothing: the pool is closed by its owner."""

    # --- inside -----------------------------------------------------------------------------------------------------

    def _chunks(self, windows: Sequence[SelectedWindow]) -> Iterator[list[SelectedWindow]]:
        """Yields runs of windows of about ``batch_size`` trajectories."""
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
        """Reads trajectories and slices of trajectories, by id."""
        ids = {split_id(identity)[0] for identity, _ in wanted}
        if (await self._reader.tables())["trajectories"].is_text("trajectoryId"):
            ids |= {identity for identity, _ in wanted}  # a whole trajectory may be called like a slice
        existing, whole = await self._reader.trajectories(sorted(ids))
        for identity, window in wanted:
            origin = identity if identity in existing else split_id(identity)[0]
            if origin not in existing:
                self.rejections.add_once(Rejection(identity, "trajectoryId", identity, "no longer in the database"))
            elif origin in whole:
                found = whole[origin] if origin == identity else part(whole[origin], window)
                if found is None:
                    self.rejections.add_once(
                        Rejection(identity, "stepsJson", window.id, "no step in the window any more")
                    )
                else:
                    into[identity] = found
