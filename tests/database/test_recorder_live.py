"""A game's own code records trajectories while they are played."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import textwrap
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from mmo_rl.clock import window_at
from mmo_rl.database.database import Database
from mmo_rl.database.live import LiveTrajectory
from mmo_rl.database.recorder import TrajectoryRecorder
from mmo_rl.errors import ConnectionLost, DatabaseError
from mmo_rl.source.parse import parse_trajectory
from mmo_rl.types import Trajectory

START = datetime(2025, 6, 1, 10, 59, 0, 123_456, tzinfo=UTC)
PAGE = Path(__file__).parents[2] / "docs" / "data.md"
PROMPT = [{"role": "system", "content": "trade"}, {"role": "user", "content": "X 100"}]


def ticking() -> Callable[[], datetime]:
    """A clock that goes on by a bit less than a millisecond whenever it is read."""
    reads = itertools.count()
    return lambda: START + timedelta(microseconds=999 * next(reads))


async def play_step(played: LiveTrajectory, *, success: bool = True) -> None:
    async with played.step(environment_state={"agentBalance": Decimal("10.5"), "agentPnL": 0.0}) as step:
        step.provider("market", {"ticker": "X", "price": 100.0})
        step.llm_call(
            model="m", messages=PROMPT, response="BUY", temperature=1.0, token_ids=[4, 5], logprobs=[-0.5, -0.25]
        )
        step.llm_call(model="m", messages=PROMPT, response="because", purpose="reasoning")
        step.action("BUY_SHARES", {"ticker": "X", "shares": 2}, success=success, result={"price": 100.0}, reward=0.5)


async def stored(database: Database) -> dict[str, asyncpg.Record]:
    async with database.read_only().acquire() as connection:
        rows = await connection.fetch("select * from trajectories")
    return {row["trajectoryId"]: row for row in rows}


async def test_what_is_read_back_is_what_was_played(database: Database) -> None:
    recorder = TrajectoryRecorder(database=database, now=ticking(), new_id=lambda: "1")
    async with recorder.trajectory(agent_id="alice", role="trader", scenario_id="live") as played:
        await play_step(played)
        await play_step(played, success=False)
        played.finish(final_pnl=12.5, final_balance=Decimal("1012.5"), metadata={"seen": {"b", "a"}})
    (row,) = (await stored(database)).values()
    back = parse_trajectory(dict(row))
    assert isinstance(back, Trajectory)
    assert (back.trajectory_id, back.window_id, back.role) == ("alice-1", "2025-06-01T10:00", "trader")
    assert (back.final_status, back.final_pnl, back.final_balance) == ("completed_with_errors", 12.5, 1012.5)
    assert back.metrics == {"errorCount": 1}
    assert back.metadata == {"seen": ["a", "b"]}
    assert START.replace(microsecond=123_000) <= back.start <= back.steps[0].timestamp <= back.steps[1].timestamp
    assert back.steps[1].timestamp <= back.end
    first = back.steps[0]
    assert first.environment_state == {"agentBalance": 10.5, "agentPnL": 0.0}
    assert first.provider_accesses[0]["data"] == {"ticker": "X", "price": 100.0}
    assert (first.action.parameters, first.reward) == ({"ticker": "X", "shares": 2}, 0.5)
    assert [c.call_id for c in first.llm_calls] == ["alice-1-call-0-0", "alice-1-call-0-1"]
    assert (first.llm_calls[0].token_ids, first.llm_calls[0].logprobs) == ((4, 5), (-0.5, -0.25))
    # Recorded as a whole, the same trajectory makes the same row.
    async with database.acquire() as connection:
        await connection.execute("delete from trajectories; delete from llm_call_logs")
    await recorder.record(back)
    (again,) = (await stored(database)).values()
    times = ("createdAt", "updatedAt")
    assert {k: v for k, v in again.items() if k not in times} == {k: v for k, v in row.items() if k not in times}


async def test_fifty_agents_at_once_one_cancelled_and_one_raising(database: Database) -> None:
    transactions = 0

    class Counted(TrajectoryRecorder):
        async def _insert(self, trajectories: Sequence[Trajectory], now: datetime) -> None:
            nonlocal transactions
            transactions += 1
            await super()._insert(trajectories, now)

    recorder = Counted(database=database)
    ready, go, waiting = asyncio.Event(), asyncio.Event(), 0

    async def play(number: int) -> None:
        async with recorder.trajectory(agent_id=f"a{number}", trajectory_id=f"t{number:02d}") as played:
            await play_step(played)
            nonlocal waiting
            waiting += 1
            if waiting == 50:
                ready.set()
            await go.wait()
            if number == 7:
                raise LookupError("the game broke")
            await play_step(played)
            played.finish(final_pnl=float(number))

    tasks = [asyncio.create_task(play(number)) for number in range(50)]
    await ready.wait()
    tasks[3].cancel()
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[3], asyncio.CancelledError)
    assert isinstance(results[7], LookupError)
    assert [r for n, r in enumerate(results) if n not in (3, 7)] == [None] * 48
    rows = await stored(database)
    assert sorted(rows) == [f"t{n:02d}" for n in range(50)]
    status = {n: rows[f"t{n:02d}"]["finalStatus"] for n in range(50)}
    assert (status.pop(3), status.pop(7)) == ("terminated", "error")
    assert set(status.values()) == {"completed"}
    assert rows["t07"]["episodeLength"] == 1 and rows["t08"]["episodeLength"] == 2
    assert (rows["t07"]["finalPnL"], rows["t08"]["finalPnL"]) == (None, 8.0)
    async with database.read_only().acquire() as connection:
        logs = await connection.fetch('select "trajectoryId" as id, count(*) as n from llm_call_logs group by 1')
    assert {row["id"]: row["n"] for row in logs} == {i: 2 * row["episodeLength"] for i, row in rows.items()}
    assert transactions < 10, "many agents share few transactions"


async def test_one_that_cannot_be_stored_harms_no_other(database: Database) -> None:
    recorder = TrajectoryRecorder(database=database)

    async def play(identity: str, error: Exception | None = None) -> None:
        async with recorder.trajectory(agent_id="a", trajectory_id=identity) as played:
            await play_step(played)
            if error is not None:
                raise error

    async def play_unwritable() -> None:
        async with recorder.trajectory(agent_id="\ud800", trajectory_id="odd") as played:
            await play_step(played)

    await play("taken")
    results = await asyncio.gather(
        play("one"),
        play("taken"),
        play("two"),
        play("taken", KeyError("game")),
        play_unwritable(),
        return_exceptions=True,
    )
    assert results[0] is None and results[2] is None
    assert isinstance(results[1], DatabaseError) and "already recorded" in str(results[1])
    assert isinstance(results[4], DatabaseError) and "does not fit" in str(results[4])
    assert isinstance(results[3], KeyError), "the game's own error goes on"
    assert "already recorded" in results[3].__notes__[0]
    assert sorted(await stored(database)) == ["one", "taken", "two"]


CUT_ONCE = """
    create sequence cuts;
    create function cut() returns trigger language plpgsql as $$
    begin
        if nextval('cuts') = 1 then perform pg_terminate_backend(pg_backend_pid()); end if;
        return new;
    end $$;
    create trigger cut before insert on trajectories for each row execute function cut();
"""


async def test_a_connection_that_breaks_while_storing_loses_nothing(database: Database) -> None:
    recorder = TrajectoryRecorder(database=database, now=lambda: START)
    async with recorder.trajectory(agent_id="a", trajectory_id="committed") as played:
        await play_step(played)
    async with database.acquire() as connection:
        await connection.execute(CUT_ONCE)

    async def play(identity: str) -> None:
        async with recorder.trajectory(agent_id="a", trajectory_id=identity) as played:
            await play_step(played)

    # The first looks as one does whose commit went through although the answer was lost: stored at this very moment.
    await asyncio.gather(play("committed"), play("new"))
    assert sorted(await stored(database)) == ["committed", "new"]
    async with database.read_only().acquire() as connection:
        assert await connection.fetchval("select count(*) from llm_call_logs") == 4
        assert await connection.fetchval("select last_value from cuts") >= 2, "it did break"


async def test_patience_ends(database: Database) -> None:
    async with database.acquire() as connection:
        await connection.execute(CUT_ONCE.replace("nextval('cuts') = 1", "true"))
    recorder = TrajectoryRecorder(database=database, patience_s=0.0)
    with pytest.raises(ConnectionLost):
        async with recorder.trajectory(agent_id="a", trajectory_id="t") as played:
            await play_step(played)
    assert await stored(database) == {}


async def test_a_defect_reaches_whoever_waits(database: Database) -> None:
    class Defective(TrajectoryRecorder):
        async def _insert(self, trajectories: Sequence[Trajectory], now: datetime) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with Defective(database=database).trajectory(agent_id="a") as played:
            await play_step(played)


async def test_a_timeout_is_its_own_status_and_a_step_without_action_is_left_out(database: Database) -> None:
    recorder = TrajectoryRecorder(database=database)

    async def play() -> None:
        async with recorder.trajectory(agent_id="a", trajectory_id="late") as played:
            await play_step(played)
            async with played.step(environment_state={}) as step:
                step.llm_call(model="m", messages=PROMPT, response="...")
                raise TimeoutError

    with pytest.raises(TimeoutError):
        await play()
    async with recorder.trajectory(agent_id="a", trajectory_id="empty"):
        pass
    (row,) = (await stored(database)).values()
    assert (row["trajectoryId"], row["finalStatus"], row["episodeLength"]) == ("late", "timeout", 1)


async def test_what_could_not_be_read_back_is_refused_where_it_is_handed_over(database: Database) -> None:
    recorder = TrajectoryRecorder(database=database)
    state: dict[str, Any] = {"positions": [1]}
    async with recorder.trajectory(agent_id="a", trajectory_id="t") as played:
        async with played.step(environment_state=state) as step:
            state["positions"].append(2)
            with pytest.raises(ValueError, match="one or more"):
                step.llm_call(model="m", messages=[], response="x")
            with pytest.raises(ValueError, match="1 logprobs for 2 tokens"):
                step.llm_call(model="m", messages=PROMPT, response="x", token_ids=[1, 2], logprobs=[-0.5])
            with pytest.raises(RuntimeError, match="open step"):
                await played.step(environment_state={}).__aenter__()
            step.action("HOLD", result={"spread": float("nan"), "at": START})
        with pytest.raises(ValueError, match=r"ends without step\.action"):
            async with played.step(environment_state={}):
                pass
    (row,) = (await stored(database)).values()
    (only,) = json.loads(row["stepsJson"])
    assert only["environmentState"] == {"positions": [1]}, "as it was when it was handed over"
    assert only["action"]["result"] == {"spread": None, "at": START.isoformat()}


async def test_the_window_follows_from_the_start_unless_told(database: Database) -> None:
    recorder = TrajectoryRecorder(database=database, now=lambda: START)
    for identity, more in (("own", {"window_id": "2025-01-01T00:00"}), ("long", {"window_hours": 4.0})):
        async with recorder.trajectory(agent_id="a", trajectory_id=identity, **more) as played:
            await play_step(played)
    rows = await stored(database)
    assert rows["own"]["windowId"] == "2025-01-01T00:00"
    assert (rows["long"]["windowId"], rows["long"]["windowHours"]) == (window_at(START, 4.0).id, 4)


async def test_the_documented_example_records(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, migrated_url: str
) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (example,) = (text for text in examples if "TrajectoryRecorder" in text)
    monkeypatch.setenv("DATABASE_URL", migrated_url)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec("async def example():\n" + textwrap.indent(example, "    "), scope)
    await scope["example"]()
    (row,) = (await stored(database)).values()
    assert (row["agentId"], row["finalStatus"], row["finalPnL"]) == ("alice", "completed", 12.5)
