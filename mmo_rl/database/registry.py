"""Registry of training batches and trained models in the game's tables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from mmo_rl.clock import utc_now
from mmo_rl.database.base import Database
from mmo_rl.database.rows import naive_utc, to_json
from mmo_rl.errors import DatabaseError
from mmo_rl.milestones import reached
from mmo_rl.numbers import finite_number
from mmo_rl.types import PolicyVersion
from mmo_rl.window_ids import split_id


class ModelRegistry:
    """Implements `mmo_rl.database.base.Registry` in the tables ``training_batches`` and ``trained_models``."""

    def __init__(self, *, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    async def start_batch(
        self,
        batch_id: str,
        base_model: str,
        model_version: str,
        trajectory_ids: Sequence[str],
        rewards: Mapping[str, float],
    ) -> None:
        """Notes that a batch is being trained on; ``rewards`` by trajectory id. A completed batch stays completed."""
        now = naive_utc(self._now())
        async with self._database.acquire() as connection:
            await connection.execute(
                'insert into training_batches (id, "batchId", "baseModel", "modelVersion", "trajectoryIds",'
                ' "rewardsJson", status, "createdAt", "startedAt")'
                " values ($1, $1, $2, $3, $4, $5, 'training', $6, $6)"
                ' on conflict ("batchId") do update set "baseModel" = excluded."baseModel",'
                ' "modelVersion" = excluded."modelVersion", "trajectoryIds" = excluded."trajectoryIds",'
                ' "rewardsJson" = excluded."rewardsJson", status = excluded.status, error = null,'
                ' "startedAt" = excluded."startedAt", "completedAt" = null'
                " where training_batches.status <> 'completed'",
                batch_id,
                base_model,
                model_version,
                to_json(list(trajectory_ids)),
                to_json(dict(rewards)),
                now,
            )

    async def publish(
        self,
        batch_id: str,
        policy: PolicyVersion,
        metrics: Mapping[str, float],
        trajectory_ids: Sequence[str],
        wandb_run_id: str | None = None,
    ) -> str:
        """Completes the batch, enters its policy as a model that is ready, and marks the trajectories as used: all
        three or none. Returns the model's id. Raises `DatabaseError` where the batch was never started."""
        now = naive_utc(self._now())
        model_id = f"{policy.name}-{batch_id}"  # a name and version occur in many runs, a batch in one
        async with self._database.acquire() as connection:
            base_model = await connection.fetchval(
                "update training_batches set status = 'completed', error = null,"
                ' "completedAt" = coalesce("completedAt", $2),'
                ' "trainingLoss" = $3 where "batchId" = $1 returning "baseModel"',
                batch_id,
                now,
                finite_number(metrics.get("loss")),
            )
            if base_model is None:
                raise DatabaseError(
                    f"the batch {batch_id} was never started, so its policy cannot be published",
                    hint="run the same command again: the iteration is trained again from its last checkpoint",
                )
            await connection.execute(
                'insert into trained_models (id, "modelId", version, "baseModel", "trainingBatch", status,'
                ' "storagePath", "avgReward", "evalMetrics", "wandbRunId", "createdAt", "updatedAt")'
                " values ($1, $1, $2, $3, $4, 'ready', $5, $6, $7, $8, $9, $9)"
                ' on conflict ("modelId") do update set "baseModel" = excluded."baseModel",'
                ' "trainingBatch" = excluded."trainingBatch", "storagePath" = excluded."storagePath",'
                ' "avgReward" = excluded."avgReward", "evalMetrics" = excluded."evalMetrics",'
                ' "wandbRunId" = excluded."wandbRunId", "updatedAt" = excluded."updatedAt",'
                " status = case when trained_models.status in ('training', 'failed') then 'ready'"
                " else trained_models.status end",
                model_id,
                str(policy.version),
                base_model,
                batch_id,
                policy.path,
                finite_number(metrics.get("reward")),
                to_json(dict(metrics)),
                wandb_run_id,
                now,
            )
            await connection.execute(
                # In the order of ids, as every writer of trajectories does: no two wait for each other.
                'with shared as materialized (select "trajectoryId" from trajectories'
                ' where "trajectoryId" = any($3::text[]) order by "trajectoryId" for no key update)'
                ' update trajectories t set "usedInTraining" = true, "trainedInBatch" = $1, "updatedAt" = $2'
                ' from shared where t."trajectoryId" = shared."trajectoryId"',
                batch_id,
                now,
                [split_id(trajectory_id)[0] for trajectory_id in trajectory_ids],
            )
        reached("registry committed", "trained_models")
        return model_id

    async def fail_batch(self, batch_id: str, error: str) -> None:
        """Notes why a batch failed; a completed batch stays completed."""
        async with self._database.acquire() as connection:
            await connection.execute(
                "update training_batches set status = 'failed', error = $2, \"completedAt\" = $3"
                " where \"batchId\" = $1 and status <> 'completed'",
                batch_id,
                error.replace("\x00", ""),
                naive_utc(self._now()),
            )

    async def note_measured(self, batch_id: str, score: float | None, metrics: Mapping[str, float | None]) -> None:
        """Adds the results on held-out markets to the metrics of a batch's model; ``score`` is its P&L."""
        async with self._database.acquire() as connection:
            await connection.execute(
                'update trained_models set "benchmarkScore" = $2, "updatedAt" = $4,'
                ' "evalMetrics" = coalesce("evalMetrics"::jsonb, \'{}\') || $3::jsonb'
                ' where "trainingBatch" = $1',
                batch_id,
                finite_number(score),
                to_json(dict(metrics)),
                naive_utc(self._now()),
            )

    async def archive(self, batch_ids: Collection[str]) -> set[str]:
        """Enters these batches' models as archived, before their weights are removed; returns the archived batches.

        A model that is deployed, or that agents use, is left as it is.
        """
        now = naive_utc(self._now())
        async with self._database.acquire() as connection:
            rows = await connection.fetch(
                'update trained_models set status = \'archived\', "archivedAt" = coalesce("archivedAt", $2),'
                ' "updatedAt" = $2 where "trainingBatch" = any($1::text[]) and status <> \'deployed\''
                ' and "agentsUsing" = 0 returning "trainingBatch" as batch',
                list(batch_ids),
                now,
            )
        reached("registry committed", "archive")
        return {row["batch"] for row in rows}
