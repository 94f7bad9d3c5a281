"""Judgments in the game's tables: what stands for what was sliced, joined or unscored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mmo_rl.clock import window_at
from mmo_rl.database.base import Written
from mmo_rl.database.database import Database
from mmo_rl.database.recorder import TrajectoryRecorder
from mmo_rl.database.write_back import ScoreWriter
from mmo_rl.errors import DatabaseError
from mmo_rl.types import Action, Group, Judgment, Score, ScoredGroup, Step, Trajectory, Unscored

START = datetime(2025, 1, 13, 14, tzinfo=UTC)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def played(identity: str, *, steps: int = 2, hour: int = 0) -> Trajectory:
    window = window_at(START + timedelta(hours=hour), 1)
    taken = tuple(
        Step(n, (window.start + timedelta(minutes=n)).timestamp() * 1000, {}, Action("HOLD", {}, True))
        for n in range(steps)
    )
    return Trajectory(identity, f"agent-{identity}", window.id, window.start, window.end, taken, 1.0)


def judged(hour: int, members: Sequence[tuple[Trajectory, float | None]]) -> ScoredGroup:
    window = window_at(START + timedelta(hours=hour), 1)
    judgments: dict[str, Judgment] = {
        m.trajectory_id: Unscored(m.trajectory_id, "timeout")
        if v is None
        else Score(m.trajectory_id, v, f"said {v}\x00")
        for m, v in members
    }
    return ScoredGroup(Group(window.id, window, tuple(m for m, _ in members), None), judgments, "trajectory")


async def stored(database: Database) -> dict[str, dict[str, Any]]:
    async with database.acquire() as connection:
        rows = await connection.fetch(
            'select t."trajectoryId", "aiJudgeReward", "aiJudgeReasoning", t."judgedAt", rank, "normalizedScore",'
            ' "componentScoresJson", "groupId", "judgeModel" from trajectories t'
            ' left join reward_judgments j using ("trajectoryId")'
        )
    return {row["trajectoryId"]: dict(row) for row in rows}


async def writer(database: Database, *, model: str = "m", now: datetime = NOON, replace: bool = False) -> ScoreWriter:
    made = ScoreWriter(
        database=database,
        judge_model=model,
        judge_version="mmo-rl 1",
        criteria={"x": 1},
        replace=replace,
        now=lambda: now,
    )
    await made.require()
    return made


@pytest.fixture
async def recorded(database: Database) -> Database:
    recorder = TrajectoryRecorder(database=database)
    for identity in ("a", "b", "c"):
        await recorder.record(played(identity))
    return database


async def test_scores_ranks_and_what_is_unscored(recorded: Database) -> None:
    writing = await writer(recorded)
    group = judged(0, [(played("a"), 0.2), (played("b"), 0.8), (played("c"), None)])
    assert await writing.write(group, {}) == Written(2)
    found = await stored(recorded)
    assert (found["a"]["aiJudgeReward"], found["a"]["rank"], found["a"]["normalizedScore"]) == (0.2, 2, 0.0)
    assert (found["b"]["aiJudgeReward"], found["b"]["rank"], found["b"]["normalizedScore"]) == (0.8, 1, 1.0)
    assert found["b"]["aiJudgeReasoning"] == "said 0.8\ufffd" and found["b"]["groupId"] == "2025-01-13T14:00"
    assert found["c"]["aiJudgeReward"] is found["c"]["judgedAt"] is found["c"]["judgeModel"] is None
    later = await writer(recorded, now=NOON + timedelta(days=1))
    await later.write(group, {})
    assert await stored(recorded) == found, "the same judgments again change nothing, not even their time"
    other = await writer(recorded, model="other", now=NOON + timedelta(days=1))
    await other.write(judged(0, [(played("a"), 0.5), (played("b"), 0.5)]), {})
    changed = await stored(recorded)
    assert changed["a"]["aiJudgeReward"] == 0.5 and changed["a"]["normalizedScore"] is None
    assert changed["a"]["judgeModel"] == "other" and changed["a"]["judgedAt"] > found["a"]["judgedAt"]


async def test_a_sliced_trajectory_has_the_mean_of_its_slices_by_their_steps(recorded: Database) -> None:
    writing = await writer(recorded)
    first = replace(played("a", steps=3), trajectory_id="a@2025-01-13T14:00")
    second = replace(played("a", steps=1, hour=1), trajectory_id="a@2025-01-13T15:00")
    one, two = judged(0, [(first, 0.4), (played("b"), 0.9)]), judged(1, [(second, 0.8), (played("c"), 0.1)])
    await writing.write(one, {})
    assert (await stored(recorded))["a"]["aiJudgeReward"] == 0.4
    await writing.write(two, {})
    await writing.write(two, {})  # as a resumed run does
    found = (await stored(recorded))["a"]
    assert found["aiJudgeReward"] == pytest.approx((3 * 0.4 + 0.8) / 4)
    assert {w: part["score"] for w, part in json.loads(found["componentScoresJson"]).items()} == {
        "2025-01-13T14:00": 0.4,
        "2025-01-13T15:00": 0.8,
    }
    assert found["rank"] is found["groupId"] is None
    assert found["aiJudgeReasoning"].splitlines()[1].startswith("2025-01-13T15:00: said 0.8")


async def test_what_was_joined_gives_its_score_to_each_part(recorded: Database) -> None:
    joined = replace(played("a", steps=4), trajectory_id="a+1")
    await (await writer(recorded)).write(
        judged(0, [(joined, 0.7), (played("c"), 0.1)]), {"a+1": ("a", "b@2025-01-13T14:00")}
    )
    found = await stored(recorded)
    assert found["a"]["aiJudgeReward"] == found["b"]["aiJudgeReward"] == 0.7
    assert found["c"]["aiJudgeReward"] == 0.1


async def test_a_trajectory_that_has_gone_is_not_judged(recorded: Database) -> None:
    await (await writer(recorded)).write(judged(0, [(played("gone"), 0.7), (played("c"), 0.1)]), {})
    assert (await stored(recorded))["c"]["aiJudgeReward"] == 0.1


@pytest.mark.parametrize("place", ["reward_judgments", "aiJudgeReward alone"])
async def test_judgments_of_others_are_replaced_only_when_asked(recorded: Database, place: str) -> None:
    async with recorded.acquire() as connection:
        await connection.execute("""update trajectories set "aiJudgeReward" = 0.9 where "trajectoryId" = 'a'""")
        if place == "reward_judgments":
            await connection.execute(
                """insert into reward_judgments (id, "trajectoryId", "judgeModel", "judgeVersion", "overallScore",
                    reasoning, "criteriaJson", "judgedAt")
                    values ('r', 'a', 'deterministic', '1', 0.9, 'the game', '{}', now())"""
            )
    careful, asked = await writer(recorded), await writer(recorded, replace=True)
    judge = "deterministic" if place == "reward_judgments" else place
    with pytest.raises(DatabaseError, match=rf"1 of 2 trajectories have one \({judge}: 1\)") as refused:
        await careful.require_free(["a", "b@2025-01-13T14:00"])
    assert "judge.write_back=replace" in str(refused.value.hint)
    await careful.require_free(["b", "c"])
    await asked.require_free(["a", "b"])
    group = judged(0, [(played("a"), 0.2), (played("b"), 0.8)])
    assert await careful.write(group, {}) == Written(1, left=1)
    found = await stored(recorded)
    assert (found["a"]["aiJudgeReward"], found["b"]["aiJudgeReward"]) == (0.9, 0.8)
    assert await asked.write(group, {}) == Written(2, replaced=1)
    assert (await stored(recorded))["a"]["aiJudgeReward"] == 0.2
    await careful.require_free(["a", "b"])  # they are ours now, and a second run changes nothing
    assert await careful.write(group, {}) == Written(2)
    async with recorded.acquire() as connection:
        await connection.execute("""update trajectories set "aiJudgeReward" = 0.7 where "trajectoryId" = 'a'""")
    with pytest.raises(DatabaseError, match="1 of 1"):
        await careful.require_free(["a"])
