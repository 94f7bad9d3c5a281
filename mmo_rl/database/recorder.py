"""Recorder of play in the game's own tables."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime

import asyncpg

from mmo_rl.clock import utc_now, window_at
from mmo_rl.concurrency import Backoff, retry
from mmo_rl.database.base import Connection, Database, Stay
from mmo_rl.database.live import LiveTrajectory
from mmo_rl.database.outcomes import delete_outcomes, outcome_rows
from mmo_rl.database.rows import call_row, insert_rows, naive_utc, to_json, trajectory_row
from mmo_rl.errors import ConnectionLost, DatabaseError, is_lost
from mmo_rl.milestones import reached
from mmo_rl.types import GroundTruth, Trajectory, Window
from mmo_rl.wording import counted

MAX_BATCH = 50
"""Trajectories in one transaction at most."""


class TrajectoryRecorder:
    """Recorder of any number of simultaneous agents of one event loop, with every step and every LLM call.

    Implements `mmo_rl.database.base.Recorder` (``record`` takes whole trajectories), and for a game's own code
    `trajectory` records them as they are played, waiting ``patience_s`` seconds for a server that went away. All raise
    `DatabaseError` where a trajectory id is already stored, or the database is a game's own and does not know the
    agent.
    """

    def __init__(
        self,
        *,
        database: Database,
        now: Callable[[], datetime] = utc_now,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        patience_s: float = 60.0,
    ) -> None:
        self._database = database
        self._now = now
        self._new_id = new_id
        self._patience_s = patience_s
        self._hours: dict[str, int] = {}
        self._has_role: bool | None = None
        self._waiting: deque[tuple[Trajectory, asyncio.Future[None]]] = deque()
        self._writer: asyncio.Task[None] | None = None

    def trajectory(
        self,
        *,
        agent_id: str,
        window_id: str | None = None,
        window_hours: float = 1.0,
        trajectory_id: str | None = None,
        scenario_id: str | None = None,
        role: str | None = None,
        is_training_data: bool = True,
        is_evaluation: bool = False,
    ) -> LiveTrajectory:
        """Begins one agent's trajectory: ``async with recorder.trajectory(agent_id="alice") as played``.

        It is stored, whole, when the block ends, together with others that end at the same time, and the block ends
        when it is stored. An exception in the block stores the steps so far with the status ``error`` (``timeout`` for
        a `TimeoutError`, ``terminated`` where the task is cancelled) and goes on. A process that dies stores nothing
        of a trajectory that is not over. Without a single step there is nothing to store. ``window_id`` follows from
        the start where it is not given.
        """

        def window_of(start: datetime) -> str:
            name = window_id or window_at(start, window_hours).id
            self._hours.setdefault(name, max(1, round(window_hours)))
            return name

        return LiveTrajectory(
            trajectory_id=trajectory_id or f"{agent_id}-{self._new_id()}",
            agent_id=agent_id,
            window_of=window_of,
            scenario_id=scenario_id,
            role=role,
            is_training_data=is_training_data,
            is_evaluation=is_evaluation,
            now=self._now,
            store=self._store,
        )

    async def begin_window(self, window: Window, *, scenario_id: str) -> None:
        """Removes the rows that an interrupted run of this scenario stored of this window, and no others."""
        hours = (window.end - window.start).total_seconds() / 3600
        self._hours[window.id] = max(1, round(hours))
        async with self._database.acquire() as connection:
            await connection.execute(
                'delete from llm_call_logs where "trajectoryId" in'
                ' (select "trajectoryId" from trajectories where "windowId" = $1 and "scenarioId" = $2)',
                window.id,
                scenario_id,
            )
            await connection.execute(
                'delete from trajectories where "windowId" = $1 and "scenarioId" = $2', window.id, scenario_id
            )
            await delete_outcomes(connection, window.id, scenario_id)

    async def record_all(self, trajectories: Sequence[Trajectory]) -> None:
        """Stores finished trajectories in one transaction: all, or none where one of them is refused.

        The error does not name that one; `record` does.
        """
        try:
            await self._insert(trajectories, self._now())
        except asyncpg.PostgresError as error:
            raise DatabaseError(
                f"none of {counted(len(trajectories), 'trajectory', 'trajectories')} was stored: {error}"
            ) from None

    async def record(self, trajectory: Trajectory) -> None:
        """Stores a finished trajectory, in a transaction of its own."""
        try:
            await self._insert([trajectory], self._now())
        except asyncpg.UniqueViolationError:
            raise DatabaseError(
                f"the trajectory {trajectory.trajectory_id} is already recorded",
                hint="give the experiment another name (name=...) or another seed",
            ) from None
        except asyncpg.ForeignKeyViolationError:
            raise DatabaseError(
                f"{self._database.name} is a game's own database and has no agent {trajectory.agent_id}",
                hint="collect=none trains on what is there; database=embedded records on this machine",
            ) from None
        except (asyncpg.DataError, asyncpg.ProgramLimitExceededError) as error:
            raise DatabaseError(
                f"the trajectory {trajectory.trajectory_id} does not fit the tables: {error}",
                hint="a shorter experiment name (name=...) makes shorter ids",
            ) from None
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.RaiseError) as error:
            raise DatabaseError(
                f"{self._database.name} refuses the trajectory {trajectory.trajectory_id}: {error}",
                hint="collect=none trains on what is there; database=embedded records on this machine",
            ) from None

    async def replace(self, trajectory: Trajectory) -> None:
        """Stores a finished trajectory in the place of one with the same id that a recorder wrote, in one transaction.
        What a game wrote itself stays, and is an error as in `record`."""
        identity = trajectory.trajectory_id
        try:
            async with self._database.acquire() as connection:
                removed = await connection.fetchval(
                    'delete from trajectories where "trajectoryId" = $1 and id = "trajectoryId" returning id', identity
                )
                if removed is not None:
                    await connection.execute('delete from llm_call_logs where "trajectoryId" = $1', identity)
                    await self._insert_into(connection, [trajectory], self._now())
                    return
        except asyncpg.PostgresError as error:
            raise DatabaseError(f"the trajectory {identity} could not be replaced: {error}") from None
        await self.record(trajectory)

    async def record_outcomes(self, truth: GroundTruth, *, scenario_id: str) -> None:
        """Replaces the outcomes that this scenario stored of the window.

        Prices are kept to the cent; a number that the table's columns cannot hold is stored as null.
        """
        now = naive_utc(self._now())
        rows = [row | {"createdAt": now} for row in outcome_rows(truth, origin=scenario_id)]
        async with self._database.acquire() as connection:
            await delete_outcomes(connection, truth.window_id, scenario_id)
            await insert_rows(connection, "market_outcomes", rows)

    async def stays(self, *, scenario_id: str) -> list[Stay]:
        """Reads the stays of this scenario's whole windows, by window and agent."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(
                'select "windowId" as window_id, "agentId" as agent_id, "finalPnL" as pnl, "episodeLength" as steps,'
                """ coalesce(("metricsJson"::json ->> 'errorCount')::int, 0) as errors from trajectories"""
                ' where "scenarioId" = $1 and "finalPnL" is not null and "windowId" in'
                " (select \"windowId\" from market_outcomes where starts_with(id, $2 || '/' || \"windowId\" || '/'))"
                ' order by "windowId", "trajectoryId"',
                scenario_id,
                scenario_id,
            )
        return [Stay(r["window_id"], r["agent_id"], r["pnl"], r["steps"], r["errors"]) for r in rows]

    async def answers(self, *, scenario_id: str) -> dict[str, dict[str, list[str]]]:
        """Reads the answer of every step of this scenario's whole windows, by window and agent."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(
                'select "windowId" as window_id, "agentId" as agent_id, "stepsJson" as steps from trajectories'
                ' where "scenarioId" = $1 and "windowId" in'
                " (select \"windowId\" from market_outcomes where starts_with(id, $2 || '/' || \"windowId\" || '/'))",
                scenario_id,
                scenario_id,
            )
        found: dict[str, dict[str, list[str]]] = {}
        for row in rows:
            steps = json.loads(row["steps"])
            found.setdefault(row["window_id"], {})[row["agent_id"]] = [s["llmCalls"][0]["response"] for s in steps]
        return found

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _store(self, trajectory: Trajectory) -> None:
        """Stores a trajectory; returns when it is committed.

        Trajectories that arrive while a transaction is under way share the next one: none waits for a timer, and many
        agents share few transactions.
        """
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((trajectory, stored))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        # A waiter that is cancelled must not cancel what it shares with others.
        await asyncio.shield(stored)

    async def _write(self) -> None:
        batch: list[tuple[Trajectory, asyncio.Future[None]]] = []
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
                await self._write_batch(batch)
        except BaseException as error:
            # The waiters get the error: no one else awaits this task.
            for _, stored in (*batch, *self._waiting):
                if stored.done():
                    continue
                if isinstance(error, Exception):
                    stored.set_exception(error)
                else:
                    stored.cancel()
            self._waiting.clear()
            if not isinstance(error, Exception):
                raise

    async def _write_batch(self, batch: Sequence[tuple[Trajectory, asyncio.Future[None]]]) -> None:
        failure: Exception | None = None
        try:
            await self._insert_patiently([trajectory for trajectory, _ in batch])
        except (asyncpg.PostgresError, DatabaseError) as error:
            failure = error
        for trajectory, stored in batch:
            own = failure
            if failure is not None and not isinstance(failure, ConnectionLost):
                own = None  # one of them is at fault: a transaction for each shows which
                try:
                    await self.record(trajectory)
                except (asyncpg.PostgresError, DatabaseError) as error:
                    own = error
            if stored.done():
                continue
            if own is None:
                stored.set_result(None)
            else:
                stored.set_exception(own)

    async def _insert_patiently(self, trajectories: Sequence[Trajectory]) -> None:
        """Inserts them, again while the connection is lost: play survives a restart of the server."""
        now, attempts = self._now(), 0

        async def insert() -> None:
            nonlocal trajectories, attempts
            attempts += 1
            if attempts > 1:
                trajectories = await self._not_stored(trajectories, now)
            await self._insert(trajectories, now)

        backoff = Backoff(first_s=0.05, longest_s=5.0, patience_s=self._patience_s)
        await retry(insert, backoff, transient=is_lost)

    async def _not_stored(self, trajectories: Sequence[Trajectory], now: datetime) -> list[Trajectory]:
        """Filters out trajectories that were committed just before the connection broke."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(
                'select "trajectoryId" as id from trajectories where "trajectoryId" = any($1::text[])'
                ' and "createdAt" = $2',
                [trajectory.trajectory_id for trajectory in trajectories],
                naive_utc(now),
            )
        stored = {row["id"] for row in rows}
        return [trajectory for trajectory in trajectories if trajectory.trajectory_id not in stored]

    async def _insert(self, trajectories: Sequence[Trajectory], now: datetime) -> None:
        async with self._database.acquire() as connection:
            await self._insert_into(connection, trajectories, now)
        reached("trajectories recorded", str(len(trajectories)))

    async def _insert_into(self, connection: Connection, trajectories: Sequence[Trajectory], now: datetime) -> None:
        rows, calls = [], []
        for trajectory in trajectories:
            row = trajectory_row(trajectory, window_hours=self._hours.get(trajectory.window_id, 1), now=now)
            rows.append(row)
            calls += [
                call_row(trajectory.trajectory_id, step, index, call, now=now)
                for step in trajectory.steps
                for index, call in enumerate(step.llm_calls)
            ]
        for trajectory, row in zip(trajectories, rows, strict=True):
            if trajectory.role is not None:
                if await self._role_column(connection):
                    row["archetype"] = trajectory.role
                else:
                    row["metadataJson"] = to_json(trajectory.metadata | {"archetype": trajectory.role})
        await insert_rows(connection, "trajectories", rows)
        await insert_rows(connection, "llm_call_logs", calls)

    async def _role_column(self, connection: Connection) -> bool:
        if self._has_role is None:
            self._has_role = await connection.fetchval(
                "select exists(select from pg_attribute where attrelid = to_regclass('trajectories')"
                " and attname = 'archetype' and not attisdropped)"
            )
        return bool(self._has_role)
