"""Recorded rewards as scores: cases worked out by hand, and the fields that they are read from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from mmo_rl.database.rows import trajectory_row
from mmo_rl.judge.recorded import RecordedJudge
from mmo_rl.source.parse import parse_trajectory
from mmo_rl.source.shapes import Candidate, parts
from mmo_rl.types import Group, Score, Trajectory, Unscored
from tests.judge.conftest import START, make_group, stream


def rewarded(*rewards: float | None, steps: tuple[float | None, ...] = ()) -> Group:
    """A group with these total rewards; ``steps`` are the rewards of every member's steps."""
    group = make_group([0.1] * len(rewards))
    members = []
    for member, reward in zip(group.members, rewards, strict=True):
        step = member.steps[0]
        own = tuple(structs.replace(step, number=n, reward=r) for n, r in enumerate(steps)) or member.steps
        members.append(replace(member, steps=own, rewards={} if reward is None else {"totalReward": reward}))
    return replace(group, members=tuple(members))


def values(judge: RecordedJudge, group: Group) -> list[float | None]:
    return [j.value if isinstance(j, Score) else None for j in judge.judgments(group).values()]


@pytest.mark.parametrize(
    ("judge", "rewards", "expected"),
    [
        (RecordedJudge(), (5.0, -1.0, 5.0, 100.0), [0.5, 0.0, 0.5, 1.0]),
        (RecordedJudge(), (5.0, None, 7.0), [0.0, None, 1.0]),
        (RecordedJudge(), (2.0, 2.0), [0.5, 0.5]),
        (RecordedJudge(), (2.0,), [0.5]),
        (RecordedJudge(normalise="min_max"), (0.0, 4.0, 1.0), [0.0, 1.0, 0.25]),
        (RecordedJudge(normalise="min_max"), (-1.7e308, 1.7e308, 0.0), [0.0, 1.0, 0.5]),
        (RecordedJudge(normalise="none"), (0.25, 1.5, 0.0), [0.25, None, 0.0]),
    ],
)
def test_rewards_are_normalised_within_the_window(
    judge: RecordedJudge, rewards: tuple[float | None, ...], expected: list[float | None]
) -> None:
    assert values(judge, rewarded(*rewards)) == pytest.approx(expected)


async def test_missing_is_unscored_with_its_reason() -> None:
    [scored] = [s async for s in RecordedJudge(field="ai_judge_reward").score(stream(rewarded(1.0)))]
    assert scored.judgments == {"t0": Unscored("t0", "no aiJudgeReward recorded")}
    unusable = RecordedJudge(normalise="none").judgments(rewarded(3.0))["t0"]
    assert isinstance(unusable, Unscored)
    assert "judge.normalise=rank" in unusable.reason


async def test_credit_by_decision_places_each_step_among_those_of_the_window() -> None:
    judge = RecordedJudge(field="step_rewards", credit="decision")
    [scored] = [s async for s in judge.score(stream(rewarded(None, None, steps=(1.0, None, -1.0))))]
    score = scored.judgments["t0"]
    assert isinstance(score, Score)
    assert score.decisions == pytest.approx({0: 2.5 / 3, 2: 0.5 / 3})
    assert (scored.credit, judge.findings) == ("decision", {"unscored_decisions": 2.0})


def test_rewards_are_read_from_rows_and_art_lines_and_survive_the_tables() -> None:
    step = {"stepNumber": 0, "timestamp": START.timestamp() * 1000, "action": {"actionType": "HOLD"}}
    row = {"trajectoryId": "t", "agentId": "a", "startTime": START.isoformat(), "steps": [step], "totalReward": 0.0}
    bare = parse_trajectory(row)
    assert isinstance(bare, Trajectory)
    assert bare.rewards == {}  # the column cannot be empty
    judged = parse_trajectory(
        row | {"totalReward": 2.5, "aiJudgeReward": "0.7", "rewardJudgment": {"overallScore": 0.4}}
    )
    assert isinstance(judged, Trajectory)
    assert judged.rewards == {"totalReward": 2.5, "aiJudgeReward": 0.7, "rewardJudgment": 0.4}
    assert parse_trajectory(trajectory_row(judged, window_hours=1, now=START)) == judged
    zero = parse_trajectory(row | {"steps": [step | {"reward": 0.0}]})
    assert isinstance(zero, Trajectory)
    assert zero.rewards == {"totalReward": 0.0}
    line = {
        "messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}],
        "reward": -3.0,
        "metadata": {"trajectoryId": "art", "agentId": "a", "timestamp": START.isoformat()},
    }
    (part,) = parts(line, "here")
    assert isinstance(part, Candidate)
    art = parse_trajectory(part.row)
    assert isinstance(art, Trajectory)
    assert art.rewards == {"totalReward": -3.0}
    kept = parse_trajectory(trajectory_row(art, window_hours=1, now=START))
    assert isinstance(kept, Trajectory)
    assert kept.rewards == art.rewards
