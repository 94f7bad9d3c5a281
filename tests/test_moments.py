from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.clock import milliseconds, window_at
from mmo_rl.market import recording
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.spec import MarketSpec
from mmo_rl.moments import MomentRule
from mmo_rl.policy_view import decisions_without_company, training_groups
from mmo_rl.source.base import SourceParts
from mmo_rl.source.jsonl import JsonlSource
from mmo_rl.types import (
    Action,
    Group,
    LLMCall,
    Score,
    ScoredGroup,
    Selection,
    Step,
    TrainingGroup,
    Trajectory,
    WindowQuery,
)

BABYLON = Path(__file__).parent / "data" / "babylon"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = window_at(datetime(2025, 1, 1, 10, tzinfo=UTC), 1.0)


def played(name: str, *steps: tuple[float, dict[str, Any]]) -> Trajectory:
    """A trajectory that decides at these minutes of the window, and sees these states."""
    return Trajectory(
        trajectory_id=name,
        agent_id=name,
        window_id=WINDOW.id,
        start=WINDOW.start,
        end=WINDOW.end,
        steps=tuple(
            Step(
                number,
                milliseconds(WINDOW.start + timedelta(minutes=minute)),
                state,
                Action("HOLD", {}, True),
                llm_calls=(LLMCall(model="m", user_prompt="u", response="HOLD"),),
            )
            for number, (minute, state) in enumerate(steps)
        ),
        final_pnl=None,
    )


def judged(*members: Trajectory) -> ScoredGroup:
    judgments = {
        m.trajectory_id: Score(m.trajectory_id, 0.5, decisions={step.number: 0.5 for step in m.steps}) for m in members
    }
    return ScoredGroup(Group("g", WINDOW, members, None), judgments, "decision")


def named(groups: list[TrainingGroup]) -> dict[str, list[str]]:
    return {group.group_id: [f"{s.trajectory_id}{s.step}" for s in group.samples] for group in groups}


def test_agents_that_act_at_different_times_are_compared_by_time() -> None:
    """The third step of one is at 10:05, of the other at 10:40."""
    early = played("a", (1, {}), (3, {}), (5, {}), (40, {}))
    late = played("b", (7, {}), (30, {}), (41, {}))
    groups = training_groups([judged(early, late)], moments=MomentRule(seconds=300))
    assert named(groups) == {"g#+300s": ["a2", "b0"], "g#+2400s": ["a3", "b2"], "g#window": ["a0", "a1", "b1"]}
    assert decisions_without_company(groups) == 3
    longer = training_groups([judged(early, late)], moments=MomentRule(seconds=1800))
    assert named(longer) == {"g#+0s": ["a0", "a1", "a2", "b0"], "g#+1800s": ["a3", "b1", "b2"]}
    assert decisions_without_company(longer) == 0
    by_step = training_groups([judged(early, late)], moments=MomentRule(by="step"))
    assert named(by_step) == {"g#0": ["a0", "b0"], "g#1": ["a1", "b1"], "g#2": ["a2", "b2"], "g#window": ["a3"]}


@pytest.mark.parametrize("key", ["tick", "tickNumber"])
def test_ticks_come_before_times_where_every_decision_has_one(key: str) -> None:
    early = played("a", (1, {key: 7}), (14, {key: 8}))
    unnumbered = played("b", (5, {key: 8}), (9, {key: "soon"}), (14.5, {key: 7.0}))
    whole = played("b", (5, {key: 8}), (9, {key: 9}), (14.5, {key: 7.0}))
    assert named(training_groups([judged(early, whole)])) == {
        "g#7": ["a0", "b2"],
        "g#8": ["a1", "b0"],
        "g#window": ["b1"],
    }
    by_time = {"g#+840s": ["a1", "b2"], "g#window": ["a0", "b0", "b1"]}
    assert named(training_groups([judged(early, unnumbered)])) == by_time
    assert named(training_groups([judged(early, whole)], moments=MomentRule(by="time"))) == by_time


def test_ticks_that_count_from_0_in_each_recorded_hour_are_told_apart() -> None:
    steps = ((0, {"tick": 0}), (30, {"tick": 1}), (60, {"tick": 0}), (90, {"tick": 1}))
    groups = training_groups([judged(played("a", *steps), played("b", *steps))])
    assert [len(group.samples) for group in groups] == [2, 2, 2, 2]
    assert len({group.group_id for group in groups}) == 4


def test_play_without_times_is_compared_by_step() -> None:
    steps = ((0, {}), (0, {}))
    groups = training_groups([judged(played("a", *steps), played("b", *steps))])
    assert named(groups) == {"g#0": ["a0", "b0"], "g#1": ["a1", "b1"]}


async def test_in_the_simulated_market_a_moment_is_a_step_number() -> None:
    spec = MarketSpec()
    seats = ["random", "informed", "momentum"]
    (episode,) = await MarketArena(spec=spec).play(None, market_seeds=[3], seats=seats, temperature=1.0, seed=0)
    players = [recording.Player.at(seat, None, 1.0) for seat in seats]
    members = [
        recording.trajectory(episode, agent, window=WINDOW, scenario_id="s", index=0, player=player)
        for agent, player in enumerate(players)
    ]
    item = judged(*members)
    groups = training_groups([item])
    assert len(groups) == len(members[0].steps) and decisions_without_company(groups) == 0
    assert groups == training_groups([item], moments=MomentRule(by="step"))


async def test_the_games_real_agents_are_compared_by_time() -> None:
    """Agents of the game's own database act every one to three seconds, some for 60 steps and some for 300."""
    source = JsonlSource(path=str(BABYLON / "trajectory_rows.jsonl.gz"), parts=SourceParts(now=lambda: NOW))
    windows = await source.windows(WindowQuery())
    chosen = tuple(stats.everything for stats in windows)
    read = [group async for group in source.groups(Selection(0, chosen, len(chosen), 0, 0.0, 0, {}))]
    await source.aclose()
    items = [replace(judged(*group.members), group=group) for group in read if len(group.members) > 1]
    by_step, by_time = (training_groups(items, moments=rule) for rule in (MomentRule(by="step"), MomentRule()))
    assert (len(by_step), decisions_without_company(by_step)) == (468, 17)
    assert (len(by_time), decisions_without_company(by_time)) == (15, 0)
    assert sum(len(g.samples) for g in by_step) == sum(len(g.samples) for g in by_time) == 2740
    assert not [group for group in by_step if group.samples in [other.samples for other in by_time]]
