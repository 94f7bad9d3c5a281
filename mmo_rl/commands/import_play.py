"""Copies recorded play from a source into the database: files, standard input as it comes, or another database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmo_rl.errors import ConfigError, ConnectionLost, DatabaseError, MmoRlError, SourceError
from mmo_rl.types import Rejection, Trajectory

if TYPE_CHECKING:
    from rich.console import Console

    from mmo_rl.config.components import Context
    from mmo_rl.database.database import Database
    from mmo_rl.database.recorder import TrajectoryRecorder
    from mmo_rl.source.play import Play, RecordedOutcomes

REFUSED = "refused by the database"
MAX_BATCH = 100
MAX_BATCH_STEPS = 5_000
MAX_WAIT_S = 0.5
"""A transaction holds so many trajectories, or steps, at most; what comes slowly waits so long for more to come."""


@dataclass
class Copied:
    """Counts of trajectories, and of windows with outcomes; ``refusal`` is what the database said first."""

    imported: int = 0
    already_there: int = 0
    outcomes: int = 0
    outcomes_already_there: int = 0
    refusal: str | None = None


async def run(context: Context) -> int | None:
    """Stores every trajectory that the database does not have yet, by its id.

    Raises `SourceError` where nothing could be read; returns 1 where the database refused all that could.
    """
    play = await _play(context)
    total = await play.total()
    database = await context.components.database()
    await database.require_tables()
    copied = await copy(play, database, total=total, console=context.console)
    if not copied.imported and not copied.already_there and copied.refusal is None:
        why = play.rejections.summary() if play.rejections.counts else "it is empty"
        raise SourceError(
            f"no trajectory could be read from the source: {why}",
            hint="source=jsonl source.path=... takes a file, a folder of .json and .jsonl files, or - (standard input)",
        )
    show(copied, play, database, context.console)
    return None if copied.imported or copied.already_there else 1


async def copy(play: Play, database: Database, *, total: int | None, console: Console) -> Copied:
    """Copies trajectories and outcomes as they come, some in each transaction. Where that is refused, each of them has
    one of its own, so that only what is at fault is left out."""
    from mmo_rl.database.recorder import TrajectoryRecorder

    recorder = TrajectoryRecorder(database=database)
    known = await _stored_ids(database)
    copied = Copied()
    with _progress(console, total) as advance:
        async for items in batches(play.stream()):
            fresh = []
            for item in items:
                if not isinstance(item, Trajectory):
                    continue
                if item.trajectory_id in known:
                    copied.already_there += 1
                    advance(1)
                else:
                    known.add(item.trajectory_id)
                    fresh.append(item)
            await _copy_trajectories(fresh, recorder, database, play, copied)
            advance(len(fresh))
            for item in items:
                if not isinstance(item, Trajectory):
                    await _copy_outcomes(item, recorder, database, copied)
    return copied


async def batches(
    items: AsyncIterator[Trajectory | RecordedOutcomes],
) -> AsyncIterator[list[Trajectory | RecordedOutcomes]]:
    """Items together, ``MAX_BATCH`` at most; what is there is not kept waiting longer than ``MAX_WAIT_S``."""
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


def show(copied: Copied, play: Play, database: Database, console: Console) -> None:
    """What was done, the reasons of what could not be, and what to type next."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("trajectories imported", f"{copied.imported:,}")
    table.add_row("already there", f"{copied.already_there:,}")
    for reason, count in sorted(play.rejections.counts.items()):
        table.add_row(f"rejected: {reason}", f"{count:,}")
    if copied.outcomes or copied.outcomes_already_there:
        table.add_row("outcomes of windows imported", f"{copied.outcomes:,}")
        table.add_row("outcomes already there", f"{copied.outcomes_already_there:,}")
    console.print(table)
    if not copied.imported and not copied.outcomes and copied.refusal is None:
        console.print("Nothing to do: all of it is already there")
    if copied.refusal is not None:
        console.print(f"{REFUSED}, the first time: {copied.refusal}", soft_wrap=True, markup=False, highlight=False)
    if play.rejections.counts and play.rejections.path is not None:
        console.print(f"Each rejection is in {play.rejections.path}", soft_wrap=True, markup=False, highlight=False)
    if copied.refusal is not None and not copied.imported and not copied.already_there:
        if not database.embedded:
            console.print("database=embedded stores it on this machine, where any agent is welcome")
        return
    where = "" if database.embedded else " source=postgres"
    named = "" if database.dsn_env in (None, "DATABASE_URL") else f" source.dsn_env={database.dsn_env}"
    console.print(f"Stored in {database.name}. Next: mmo-rl task=check{where}{named}", soft_wrap=True, markup=False)


# --- inside ---------------------------------------------------------------------------------------------------------


async def _play(context: Context) -> Play:
    """What is copied. Raises `ConfigError` where it would be copied into itself."""
    from mmo_rl.source.postgres import PostgresSource
    from mmo_rl.source.stored import StoredPlay

    nodes = context.settings.nodes
    target = (nodes["database"] or {}).get("dsn_env")
    if "dsn_env" in (nodes["source"] or {}) and (nodes["source"] or {})["dsn_env"] == target:
        raise ConfigError(
            "task=import copies from a source into the database, and both are the same here",
            hint="from files: source=jsonl source.path=...; from a server into the embedded database: source=postgres"
            " database=embedded; into a server: add database=postgres",
        )
    source = await context.components.source()
    if isinstance(source, PostgresSource):
        return StoredPlay(source=source)
    play: Play = source
    return play


async def _next(items: AsyncIterator[Trajectory | RecordedOutcomes]) -> Trajectory | RecordedOutcomes | None:
    return await anext(items, None)


async def _copy_trajectories(
    trajectories: Sequence[Trajectory],
    recorder: TrajectoryRecorder,
    database: Database,
    play: Play,
    copied: Copied,
) -> None:
    if len(trajectories) > 1:
        try:
            await recorder.record_all(trajectories)
        except ConnectionLost:
            raise
        except (DatabaseError, RecursionError):
            pass  # each by itself tells which is at fault
        else:
            copied.imported += len(trajectories)
            return
    for trajectory in trajectories:
        await _copy_trajectory(trajectory, recorder, database, play, copied)


async def _copy_trajectory(
    trajectory: Trajectory, recorder: TrajectoryRecorder, database: Database, play: Play, copied: Copied
) -> None:
    try:
        await recorder.record(trajectory)
    except ConnectionLost:
        raise
    except (DatabaseError, RecursionError) as error:
        if trajectory.trajectory_id in await _stored_ids(database, trajectory.trajectory_id):
            copied.already_there += 1  # another import was faster
            return
        message = error.message if isinstance(error, MmoRlError) else "nested too deeply"
        copied.refusal = copied.refusal or message
        play.rejections.add(Rejection(trajectory.trajectory_id, "trajectories", message, REFUSED))
    else:
        copied.imported += 1


async def _copy_outcomes(
    recorded: RecordedOutcomes, recorder: TrajectoryRecorder, database: Database, copied: Copied
) -> None:
    """Outcomes of no simulated world are left out where the database has its own of that window."""
    from mmo_rl.database.outcomes import outcome_rows
    from mmo_rl.source.play import IMPORTED

    truth, scenario_id = recorded.truth, recorded.scenario_id
    async with database.read_only().acquire() as connection:
        rows = await connection.fetch('select * from market_outcomes where "windowId" = $1', truth.window_id)
    own = {row["id"]: dict(row) for row in rows if row["id"].startswith(f"{scenario_id}/{truth.window_id}/")}
    wanted = {row["id"]: row for row in outcome_rows(truth, origin=scenario_id)}
    same = {i: {key: row[key] for key in wanted[i]} if i in wanted else row for i, row in own.items()} == wanted
    if same or (scenario_id == IMPORTED and len(own) < len(rows)):
        copied.outcomes_already_there += 1
        return
    await recorder.record_outcomes(truth, scenario_id=scenario_id)
    copied.outcomes += 1


async def _stored_ids(database: Database, identity: str | None = None) -> set[str]:
    """The ids of all trajectories in the database, or that one where it is there."""
    async with database.read_only().acquire() as connection:
        rows = await connection.fetch(
            'select "trajectoryId" as id from trajectories where $1::text is null or "trajectoryId" = $1', identity
        )
    return {row["id"] for row in rows}


@contextmanager
def _progress(console: Console, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar, or where nobody knows how many will come, a count."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("import"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("import", total=total)
        yield lambda count: progress.advance(task, count)
