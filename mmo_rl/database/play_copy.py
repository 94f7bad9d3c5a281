"""Copy of a source's recorded play into a database, some trajectories in each transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from mmo_rl.database.base import Database
from mmo_rl.database.outcomes import outcome_rows
from mmo_rl.database.recorder import TrajectoryRecorder
from mmo_rl.errors import ConnectionLost, DatabaseError, MmoRlError
from mmo_rl.source.base import IMPORTED, Play, RecordedOutcomes
from mmo_rl.types import Rejection, Trajectory

REFUSED = "refused by the database"
MAX_BATCH = 100
MAX_BATCH_STEPS = 5_000
"""Trajectories, and steps, in one transaction at most."""
MAX_WAIT_S = 0.5
"""The longest that an item waits for others that arrive later."""


@dataclass
class Copied:
    """Counts of trajectories, and of windows with outcomes; ``refusal`` is the database's first message. ``replaced``
    were there with fewer steps, or before they were over; ``kept_shorter`` too, in rows that a game wrote itself."""

    imported: int = 0
    already_there: int = 0
    replaced: int = 0
    kept_shorter: int = 0
    outcomes: int = 0
    outcomes_already_there: int = 0
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class _Stored:
    """A stored trajectory: its steps, whether it has a final P&L, and whether a recorder of ours wrote it."""

    steps: int
    over: bool
    ours: bool

    def is_part_of(self, trajectory: Trajectory) -> bool:
        """Tells if ``trajectory`` goes on where this one ended, or says how it ended."""
        steps, over = len(trajectory.steps), trajectory.final_pnl is not None
        return self.steps < steps or (self.steps == steps and over and not self.over)


class PlayCopy:
    """Copy of ``play`` into ``database``: trajectories that are not there yet, by id, those that were there when they
    were half over, and outcomes.

    A transaction that is refused is repeated trajectory by trajectory, so that only those at fault are left out; they
    are added to the play's rejections. ``advance`` is called with the number of trajectories that are done.
    """

    def __init__(self, play: Play, database: Database, *, advance: Callable[[int], None]) -> None:
        self._play = play
        self._database = database
        self._recorder = TrajectoryRecorder(database=database)
        self._advance = advance
        self._copied = Copied()

    async def run(self) -> Copied:
        """Copies everything. Raises `DatabaseError` where the connection is lost."""
        known = await self._stored_ids()
        async for items in batches(self._play.stream()):
            new: list[Trajectory] = []
            for item in items:
                if not isinstance(item, Trajectory):
                    continue
                stored = known.get(item.trajectory_id)
                if stored is None:
                    new.append(item)
                elif stored.is_part_of(item) and stored.ours:
                    await self._copy_trajectories(new)  # it may be among these
                    self._advance(len(new))
                    new = []
                    await self._replace(item)
                else:
                    self._copied.already_there += 1
                    self._copied.kept_shorter += stored.is_part_of(item)
                    self._advance(1)
                    continue
                known[item.trajectory_id] = _Stored(len(item.steps), item.final_pnl is not None, ours=True)
            await self._copy_trajectories(new)
            self._advance(len(new))
            for item in items:
                if not isinstance(item, Trajectory):
                    await self._copy_outcomes(item)
        return self._copied

    async def _replace(self, trajectory: Trajectory) -> None:
        try:
            await self._recorder.replace(trajectory)
        except ConnectionLost:
            raise
        except (DatabaseError, RecursionError) as error:
            self._refuse(trajectory, error)
        else:
            self._copied.replaced += 1
        self._advance(1)

    async def _copy_trajectories(self, trajectories: Sequence[Trajectory]) -> None:
        if len(trajectories) > 1:
            try:
                await self._recorder.record_all(trajectories)
            except ConnectionLost:
                raise
            except (DatabaseError, RecursionError):
                pass  # each by itself shows which is at fault
            else:
                self._copied.imported += len(trajectories)
                return
        for trajectory in trajectories:
            await self._copy_trajectory(trajectory)

    async def _copy_trajectory(self, trajectory: Trajectory) -> None:
        try:
            await self._recorder.record(trajectory)
        except ConnectionLost:
            raise
        except (DatabaseError, RecursionError) as error:
            if trajectory.trajectory_id in await self._stored_ids(trajectory.trajectory_id):
                self._copied.already_there += 1  # another import was faster
                return
            self._refuse(trajectory, error)
        else:
            self._copied.imported += 1

    def _refuse(self, trajectory: Trajectory, error: Exception) -> None:
        message = error.message if isinstance(error, MmoRlError) else "nested too deeply"
        self._copied.refusal = self._copied.refusal or message
        self._play.rejections.add(Rejection(trajectory.trajectory_id, "trajectories", message, REFUSED))

    async def _copy_outcomes(self, recorded: RecordedOutcomes) -> None:
        """Copies outcomes; those of no simulated world are left out where the database has its own of that window."""
        truth, scenario_id = recorded.truth, recorded.scenario_id
        wanted = {row["id"]: row for row in outcome_rows(truth, origin=scenario_id)}
        async with self._database.read_only().acquire() as connection:
            rows = await connection.fetch('select * from market_outcomes where "windowId" = $1', truth.window_id)
        own = {row["id"]: row for row in rows if row["id"].startswith(f"{scenario_id}/{truth.window_id}/")}
        same = own.keys() == wanted.keys() and all(
            own[identity][column] == value for identity, row in wanted.items() for column, value in row.items()
        )
        if same or (scenario_id == IMPORTED and len(own) < len(rows)):
            self._copied.outcomes_already_there += 1
            return
        await self._recorder.record_outcomes(truth, scenario_id=scenario_id)
        self._copied.outcomes += 1

    async def _stored_ids(self, identity: str | None = None) -> dict[str, _Stored]:
        """Reads all stored trajectories by id; ``identity`` alone where it is given."""
        async with self._database.read_only().acquire() as connection:
            rows = await connection.fetch(
                'select "trajectoryId" as id, "episodeLength" as steps, "finalPnL" is not null as over,'
                ' id = "trajectoryId" as ours from trajectories where $1::text is null or "trajectoryId" = $1',
                identity,
            )
        return {row["id"]: _Stored(row["steps"], row["over"], row["ours"]) for row in rows}


async def batches(
    items: AsyncIterator[Trajectory | RecordedOutcomes],
) -> AsyncIterator[list[Trajectory | RecordedOutcomes]]:
    """Groups items as they arrive, at most `MAX_BATCH` and `MAX_BATCH_STEPS`; none waits longer than `MAX_WAIT_S`."""
    clock = asyncio.get_running_loop()
    batch: list[Trajectory | RecordedOutcomes] = []
    steps, deadline = 0, 0.0
    coming: asyncio.Task[Trajectory | RecordedOutcomes | None] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(_next(items))
            await asyncio.wait([coming], timeout=deadline - clock.time() if batch else None)
            if coming.done():
                finished, coming = coming, None
                item = finished.result()
                if item is None:
                    break
                deadline = deadline if batch else clock.time() + MAX_WAIT_S
                batch.append(item)
                steps += len(item.steps) if isinstance(item, Trajectory) else 1
            if len(batch) >= MAX_BATCH or steps >= MAX_BATCH_STEPS or (batch and clock.time() >= deadline):
                yield batch
                batch, steps = [], 0
        if batch:
            yield batch
    finally:
        if coming is not None:
            coming.cancel()


async def _next(items: AsyncIterator[Trajectory | RecordedOutcomes]) -> Trajectory | RecordedOutcomes | None:
    return await anext(items, None)
