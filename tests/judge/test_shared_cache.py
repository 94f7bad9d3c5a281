"""Judgments that several workers want: one of them makes each, a dead one blocks nobody."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest

from mmo_rl.database.database import Database
from mmo_rl.database.judgments import StoredJudgments
from mmo_rl.judge.ruler import RulerJudge
from mmo_rl.types import Score
from tests.harness.endpoint import Endpoint, completion
from tests.judge.conftest import honest, make_group, make_judge, stream

KEPT = (Score("1", 0.25, "why"), Score("2", 0.75, "", {0: 0.5, 3: 1.0}))
VARIABLE = "MMO_RL_TEST_DATABASE_URL"


def worker(database: Database, **changes: Any) -> StoredJudgments:
    return StoredJudgments(database=database, **{"poll_s": 0.02, **changes})


async def claims(database: Database) -> int:
    async with database.read_only().acquire() as connection:
        return int(await connection.fetchval("select count(*) from mmo_rl.judgment_claims"))


class Gate:
    """Somebody is at work, and may go on when told."""

    def __init__(self) -> None:
        self.entered, self.open = asyncio.Event(), asyncio.Event()


async def make(cache: StoredJudgments, key: str, made: list[str], gate: Gate | None = None) -> Any:
    async with cache.hold(key) as kept:
        if kept is not None:
            return kept
        made.append(key)
        if gate is not None:
            gate.entered.set()
            await gate.open.wait()
        await cache.put(key, KEPT)
        return KEPT


async def test_the_second_waits_for_the_first(database: Database) -> None:
    made: list[str] = []
    gate = Gate()
    first = asyncio.create_task(make(worker(database), "k", made, gate))
    await gate.entered.wait()
    others = [asyncio.create_task(make(worker(database), "k", made)) for _ in range(3)]
    assert await make(worker(database), "other", made) == KEPT  # nobody waits for what is not theirs
    assert made == ["k", "other"]
    gate.open.set()
    assert await asyncio.gather(first, *others) == [KEPT] * 4
    assert made == ["k", "other"]
    assert await claims(database) == 0


async def test_many_workers_make_each_judgment_once(database: Database) -> None:
    made: list[str] = []
    workers = [worker(database) for _ in range(8)]
    keys = [f"k{n}" for n in range(12)]
    found = await asyncio.gather(*(make(w, key, made) for w in workers for key in keys))
    assert found == [KEPT] * 96
    assert sorted(made) == sorted(keys)
    assert await claims(database) == 0


async def test_what_one_gives_up_another_makes(database: Database) -> None:
    made: list[str] = []

    async def fail(cache: StoredJudgments) -> None:
        async with cache.hold("k") as kept:
            assert kept is None
            made.append("failed")
            await asyncio.sleep(0)
            raise RuntimeError("no answer")

    with pytest.raises(RuntimeError):
        await fail(worker(database))
    assert await make(worker(database), "k", made) == KEPT
    assert made == ["failed", "k"]


async def test_a_claim_is_renewed_while_its_worker_lives(database: Database) -> None:
    made: list[str] = []
    gate = Gate()
    first = asyncio.create_task(make(worker(database, lease_s=0.6), "k", made, gate))
    await gate.entered.wait()
    second = asyncio.create_task(make(worker(database), "k", made))
    await asyncio.sleep(1.0)
    assert made == ["k"]
    gate.open.set()
    assert await asyncio.gather(first, second) == [KEPT] * 2


async def test_a_killed_workers_claim_runs_out(database: Database, migrated_url: str) -> None:
    """The process is killed between the claim and the answer."""
    code = f"""
import asyncio, pathlib
from mmo_rl.database.database import Database
from mmo_rl.database.judgments import StoredJudgments

async def main():
    async with Database(dsn_env={VARIABLE!r}, home=pathlib.Path(".")) as database:
        async with StoredJudgments(database=database, lease_s=1.0).hold("k"):
            print("held", flush=True)
            await asyncio.sleep(60)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env={**os.environ, VARIABLE: migrated_url}
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"held\n"
    made: list[str] = []
    async with asyncio.timeout(10):
        waiting = asyncio.create_task(make(worker(database), "k", made))
        await asyncio.sleep(0.1)
        assert not made
        process.kill()
        assert await waiting == KEPT
    await process.communicate()
    assert made == ["k"]


async def test_jobs_of_a_sweep_pay_once(endpoint: Endpoint, database: Database) -> None:
    groups = [make_group([0.1, 0.9, n / 100], hour=n) for n in range(12)]
    judges = [make_judge(endpoint, template="blind", cache=worker(database), concurrency=4) for _ in range(4)]

    async def job(judge: RulerJudge) -> list[Any]:
        return [scored async for scored in judge.score(stream(*groups))]

    results = await asyncio.gather(*(job(judge) for judge in judges))
    assert all(result == results[0] for result in results)
    assert len(endpoint.requests) == sum(judge.usage.calls for judge in judges) == 12
    assert sum(judge.usage.cache_hits for judge in judges) == 36
    for judge in judges:
        await judge.aclose()


async def test_an_unusable_answer_leaves_no_claim_and_no_judgment(endpoint: Endpoint, database: Database) -> None:
    endpoint.script = lambda request, number: completion("no")
    judge = make_judge(endpoint, template="blind", cache=worker(database))
    [_] = [scored async for scored in judge.score(stream(make_group([0.1, 0.9])))]
    assert await claims(database) == 0
    endpoint.script = honest
    again = make_judge(endpoint, template="blind", cache=worker(database))
    [scored] = [scored async for scored in again.score(stream(make_group([0.1, 0.9])))]
    assert all(isinstance(j, Score) for j in scored.judgments.values())
    await judge.aclose()
    await again.aclose()


async def test_an_answer_that_was_paid_for_is_kept_when_the_run_is_interrupted(
    endpoint: Endpoint, database: Database
) -> None:
    """The task is cancelled while the judgment is on its way into the database."""
    cache = worker(database)
    put, entered = cache.put, asyncio.Event()

    async def slow_put(*args: Any) -> None:
        entered.set()
        await asyncio.sleep(0.05)
        await put(*args)

    cache.put = slow_put  # type: ignore[method-assign]
    judge = make_judge(endpoint, template="blind", cache=cache)
    group = make_group([0.1, 0.9])

    async def job() -> list[Any]:
        return [scored async for scored in judge.score(stream(group))]

    task = asyncio.create_task(job())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await judge.aclose()
    again = make_judge(endpoint, template="blind", cache=worker(database))
    [_] = [scored async for scored in again.score(stream(group))]
    await again.aclose()
    assert len(endpoint.requests) == 1
