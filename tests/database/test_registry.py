"""Batches, models and which trajectories were used: together or not at all, and again on resume."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from mmo_rl.database.database import Database
from mmo_rl.database.registry import ModelRegistry
from mmo_rl.errors import DatabaseError
from mmo_rl.types import PolicyVersion

POLICY = PolicyVersion("tiny", 3, "/weights/0003")


@pytest.fixture
async def recorded(database: Database) -> Database:
    async with database.acquire() as connection:
        await connection.execute(
            'insert into trajectories (id, "trajectoryId", "agentId", "startTime", "endTime", "durationMs",'
            ' "stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson", "totalReward", "episodeLength",'
            ' "finalStatus", "updatedAt")'
            " select n, n, 'a', now(), now(), 0, '[]', '{}', '{}', '{}', 0, 0, 'completed', '2020-01-01'"
            " from unnest(array['t1', 't2', 't3']) n"
        )
    return database


async def rows(database: Database, sql: str) -> list[dict[str, Any]]:
    async with database.read_only().acquire() as connection:
        return [dict(row) for row in await connection.fetch(sql)]


async def start(registry: ModelRegistry) -> None:
    await registry.start_batch("b-0003", "tiny", "2", ["t1", "t2"], {"t1": 0.25, "t2": 0.75})


async def publish(registry: ModelRegistry) -> str:
    metrics = {"reward": 0.5, "loss": float("nan")}
    return await registry.publish("b-0003", POLICY, metrics, ["t1@2025-11-14T10:00", "t2"], "run-1")


async def test_a_published_batch_is_complete_its_model_ready_its_trajectories_used(recorded: Database) -> None:
    registry = ModelRegistry(database=recorded)
    await start(registry)
    (batch,) = await rows(recorded, "select * from training_batches")
    assert (batch["status"], batch["completedAt"]) == ("training", None)
    model_id = await publish(registry)
    (batch,) = await rows(recorded, "select * from training_batches")
    assert (batch["status"], batch["baseModel"], batch["modelVersion"]) == ("completed", "tiny", "2")
    assert json.loads(batch["trajectoryIds"]) == ["t1", "t2"]
    assert json.loads(batch["rewardsJson"]) == {"t1": 0.25, "t2": 0.75}
    assert batch["completedAt"] is not None
    (model,) = await rows(recorded, "select * from trained_models")
    assert model["modelId"] == model_id
    assert (model["version"], model["status"], model["storagePath"]) == ("3", "ready", "/weights/0003")
    assert (model["trainingBatch"], model["wandbRunId"], model["avgReward"]) == ("b-0003", "run-1", 0.5)
    assert json.loads(model["evalMetrics"]) == {"reward": 0.5, "loss": None}
    used = await rows(
        recorded,
        'select "trajectoryId" as id, "trainedInBatch" as batch from trajectories'
        ' where "usedInTraining" and "updatedAt" > \'2021-01-01\' order by 1',
    )
    assert used == [{"id": "t1", "batch": "b-0003"}, {"id": "t2", "batch": "b-0003"}]


async def test_a_resumed_run_ends_with_the_same_rows(recorded: Database) -> None:
    registry = ModelRegistry(database=recorded)
    await start(registry)
    await publish(registry)
    everything = 'select "batchId", status, "completedAt", error from training_batches'
    before = await rows(recorded, everything)
    await start(registry)
    await publish(registry)
    await registry.fail_batch("b-0003", "too late")
    assert await rows(recorded, everything) == before
    assert len(await rows(recorded, "select * from trained_models")) == 1


async def test_a_deployed_model_stays_deployed(recorded: Database) -> None:
    registry = ModelRegistry(database=recorded)
    await start(registry)
    await publish(registry)
    async with recorded.acquire() as connection:
        await connection.execute("update trained_models set status = 'deployed'")
    await publish(registry)
    (model,) = await rows(recorded, "select status from trained_models")
    assert model["status"] == "deployed"


async def test_a_failed_batch_says_why_and_may_begin_again(recorded: Database) -> None:
    registry = ModelRegistry(database=recorded)
    await start(registry)
    await registry.fail_batch("b-0003", "no gradient\x00 step")
    (batch,) = await rows(recorded, "select status, error from training_batches")
    assert batch == {"status": "failed", "error": "no gradient step"}
    await start(registry)
    (batch,) = await rows(recorded, "select status, error from training_batches")
    assert batch == {"status": "training", "error": None}


async def test_what_was_never_started_is_not_published(recorded: Database) -> None:
    with pytest.raises(DatabaseError, match="never started"):
        await publish(ModelRegistry(database=recorded))
    assert await rows(recorded, "select * from trained_models") == []
    assert await rows(recorded, 'select from trajectories where "usedInTraining"') == []


async def test_publishing_is_all_or_nothing(recorded: Database) -> None:
    """The last of its statements fails, as on a lost connection or a full disk of the server."""
    registry = ModelRegistry(database=recorded)
    await start(registry)
    async with recorded.acquire() as connection:
        await connection.execute(
            "create function refuse() returns trigger language plpgsql as"
            " $$ begin raise exception 'no space left' using errcode = 'disk_full'; end $$"
        )
        await connection.execute(
            "create trigger refuse before update on trajectories for each row"
            " when (new.\"trajectoryId\" = 't2') execute function refuse()"
        )
    with pytest.raises(asyncpg.DiskFullError):
        await publish(registry)
    assert await rows(recorded, 'select status, "completedAt" as at from training_batches') == [
        {"status": "training", "at": None}
    ]
    assert await rows(recorded, "select from trained_models") == []
    assert await rows(recorded, 'select from trajectories where "usedInTraining"') == []
    async with recorded.acquire() as connection:
        await connection.execute("drop trigger refuse on trajectories")
    await publish(registry)
    assert len(await rows(recorded, 'select from trajectories where "usedInTraining"')) == 2


async def test_runs_that_share_trajectories_do_not_wait_for_each_other(recorded: Database) -> None:
    """Somebody else locks the same trajectories in the order of their ids, of which the rows lie in another."""
    registry = ModelRegistry(database=recorded)
    await start(registry)
    async with recorded.acquire() as connection:
        await connection.execute("update trajectories set \"trajectoryId\" = 't9' where id = 't1'")
        await connection.execute(
            'insert into trajectories select (jsonb_populate_record(t, \'{"id": "new",'
            ' "trajectoryId": "t1"}\')).* from trajectories t where id = \'t1\''
        )
    lock = 'update trajectories set "updatedAt" = now() where "trajectoryId" = $1'
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    async with recorded.acquire() as other:
        await other.execute(lock, "t1")
        publishing = asyncio.create_task(publish(registry))
        async with asyncio.timeout(20):
            while not await other.fetchval(waiting):
                await other.execute("select pg_stat_clear_snapshot()")
        await other.execute(lock, "t2")
    await publishing
    used = await rows(recorded, 'select "trajectoryId" as id from trajectories where "usedInTraining" order by 1')
    assert used == [{"id": "t1"}, {"id": "t2"}]


async def test_what_is_removed_is_archived_first_unless_it_is_in_use(recorded: Database) -> None:
    registry = ModelRegistry(database=recorded)
    batches = ["b-0001", "b-0002", "b-0003", "b-0004"]
    for batch in batches:
        await registry.start_batch(batch, "tiny", "0", [], {})
        await registry.publish(batch, POLICY, {}, [])
    async with recorded.acquire() as connection:
        await connection.execute("update trained_models set status = 'deployed' where \"trainingBatch\" = 'b-0001'")
        await connection.execute('update trained_models set "agentsUsing" = 2 where "trainingBatch" = \'b-0002\'')
    assert await registry.archive(["b-0001", "b-0002", "b-0003", "unknown"]) == {"b-0003"}
    states = 'select "trainingBatch" as batch, status, "archivedAt" as at from trained_models order by 1'
    before = await rows(recorded, states)
    assert [row["status"] for row in before] == ["deployed", "ready", "archived", "ready"]
    assert before[2]["at"] is not None and before[3]["at"] is None
    assert await registry.archive(["b-0003"]) == {"b-0003"}  # as often as a killed run asks
    assert await rows(recorded, states) == before


async def test_what_was_measured_joins_the_model_s_own_numbers(recorded: Database) -> None:
    registry = ModelRegistry(database=recorded)
    await start(registry)
    await registry.publish("b-0003", POLICY, {"loss": 0.25, "reward": 0.5}, ["t1"])
    await registry.note_measured("b-0003", 120.5, {"eval/pnl_trained": 120.5, "eval/pnl_base": None})
    (model,) = await rows(recorded, 'select "benchmarkScore" as score, "evalMetrics" as metrics from trained_models')
    assert model["score"] == 120.5
    assert json.loads(model["metrics"]) == {
        "loss": 0.25,
        "reward": 0.5,
        "eval/pnl_trained": 120.5,
        "eval/pnl_base": None,
    }
    (batch,) = await rows(recorded, 'select "trainingLoss" as loss from training_batches')
    assert batch["loss"] == 0.25
