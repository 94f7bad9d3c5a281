"""Batches, models and which trajectories were used: together or not at all, and again on resume."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mmo_rl.database.database import Database
from mmo_rl.database.registry import Registry
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


async def start(registry: Registry) -> None:
    await registry.start_batch("b-0003", "tiny", "2", ["t1", "t2"], {"t1": 0.25, "t2": 0.75})


async def publish(registry: Registry) -> str:
    metrics = {"reward": 0.5, "loss": float("nan")}
    return await registry.publish("b-0003", POLICY, metrics, ["t1@2025-11-14T10:00", "t2"], "run-1")


async def test_a_published_batch_is_complete_its_model_ready_its_trajectories_used(recorded: Database) -> None:
    registry = Registry(database=recorded)
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
    registry = Registry(database=recorded)
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
    registry = Registry(database=recorded)
    await start(registry)
    await publish(registry)
    async with recorded.acquire() as connection:
        await connection.execute("update trained_models set status = 'deployed'")
    await publish(registry)
    (model,) = await rows(recorded, "select status from trained_models")
    assert model["status"] == "deployed"


async def test_a_failed_batch_says_why_and_may_begin_again(recorded: Database) -> None:
    registry = Registry(database=recorded)
    await start(registry)
    await registry.fail_batch("b-0003", "no gradient\x00 step")
    (batch,) = await rows(recorded, "select status, error from training_batches")
    assert batch == {"status": "failed", "error": "no gradient step"}
    await start(registry)
    (batch,) = await rows(recorded, "select status, error from training_batches")
    assert batch == {"status": "training", "error": None}


async def test_what_was_never_started_is_not_published(recorded: Database) -> None:
    with pytest.raises(DatabaseError, match="never started"):
        await publish(Registry(database=recorded))
    assert await rows(recorded, "select * from trained_models") == []
    assert await rows(recorded, 'select from trajectories where "usedInTraining"') == []
