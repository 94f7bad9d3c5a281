"""Rules of readiness, and the counts over recorded steps, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mmo_rl.clock import milliseconds, window_at
from mmo_rl.report.readiness_table import lines
from mmo_rl.sampler.base import ClockFaults, SamplingRules, StepQuality
from mmo_rl.sampler.quality import QualityCounter, total
from mmo_rl.sampler.readiness import assess, report
from mmo_rl.sampler.windows import WindowSampler
from mmo_rl.types import Action, LLMCall, Member, Step, Trajectory, WindowStats
from mmo_rl.vocabulary import SHIPPED

START = datetime(2025, 6, 1, 10, tzinfo=UTC)


def window(*members: Member, hour: int = 0, complete: bool = True, outcomes: bool = False) -> WindowStats:
    return WindowStats(window_at(START + timedelta(hours=hour), 1.0), members, outcomes, complete)


def agents(count: int, actions: int = 5, **more: Any) -> list[Member]:
    return [Member(f"t{n}", f"a{n}", actions, float(n), **more) for n in range(count)]


def rules(*, min_agents: int = 5, min_actions: int = 5, by_role: bool = False) -> SamplingRules:
    group_by = "window_role" if by_role else "window"
    return WindowSampler(min_agents=min_agents, min_actions=min_actions, group_by=group_by, seed=0).rules


@pytest.mark.parametrize(
    ("stats", "reason"),
    [
        (window(*agents(5)), None),
        (window(*agents(4)), "4 of 5 agents"),
        (window(*agents(5), complete=False), "not over yet"),
        (window(*agents(5, is_evaluation=True)), "for evaluation only"),
        (window(*agents(5, is_training_data=False)), "for evaluation only"),
        (window(*agents(4), Member("x", "x", 4)), "4 of 5 agents with 5 steps"),
        (window(*agents(4), Member("again", "a0", 9)), "4 of 5 agents"),
    ],
)
def test_why_a_window_is_not_ready(stats: WindowStats, reason: str | None) -> None:
    (found,) = assess([stats], rules())
    assert found.reason == reason


def test_where_roles_are_compared_one_of_them_must_be_large_enough() -> None:
    mixed = window(*agents(3, role="bull"), *[Member(f"b{n}", f"b{n}", 5 + n, role="bear") for n in range(4)])
    (whole,) = assess([mixed], rules(min_agents=4))
    assert (whole.reason, whole.active_agents, whole.usable, whole.roles) == (None, 7, 7, None)
    (by_role,) = assess([mixed], rules(min_agents=4, by_role=True))
    assert (by_role.reason, by_role.active_agents, by_role.usable) == (None, 4, 4)
    assert by_role.roles == {"bull": 3, "bear": 4}
    for least, reason in ((5, "4 of 5 agents of one role"), (4, "2 of 4 agents of one role with 7 steps")):
        (found,) = assess([mixed], rules(min_agents=least, min_actions=7, by_role=True))
        assert (found.reason, found.usable) == (reason, 0)


def test_counts_are_of_play_that_may_be_trained_on() -> None:
    members = [*agents(5), Member("e", "e", 50, -900.0, is_evaluation=True), Member("n", "n", 7)]
    (found,) = assess([window(*members, outcomes=True)], rules())
    assert (found.agents, found.trajectories, found.steps) == (6, 6, 32)
    assert (found.pnl_low, found.pnl_high, found.has_outcomes) == (0.0, 4.0, True)


def test_ready_windows_at_each_threshold() -> None:
    windows = [window(*agents(count), hour=hour) for hour, count in enumerate((1, 2, 4, 5, 9))]
    windows.append(window(*agents(9), hour=9, complete=False))
    assert report(windows, rules(), rejected={}).at_least_agents == {2: 4, 3: 3, 5: 2, 8: 1}


def recorded(identity: str, *minutes: float, calls: tuple[LLMCall, ...] = (), **more: Any) -> Trajectory:
    steps = tuple(
        Step(n, milliseconds(START + timedelta(minutes=minute)), {}, Action("HOLD", {}, True), calls)
        for n, minute in enumerate(minutes)
    )
    start, end = more.pop("start", START), more.pop("end", START + timedelta(minutes=59))
    return Trajectory(identity, more.pop("agent", identity), "w", start, end, steps, 1.0)


def test_quality_of_steps_worked_out_by_hand() -> None:
    good = LLMCall(model="m", user_prompt="u", response="HOLD", logprobs=(-0.1,), token_ids=(1,))
    empty = LLMCall(model="m", user_prompt=" ", response="HOLD", purpose="reasoning")
    quality = QualityCounter(SHIPPED)
    now = START + timedelta(hours=2)
    quality.add(recorded("fine", 0, 59, calls=(good, empty)), now=now)
    quality.add(recorded("again", 0, 59, agent="fine"), now=now)
    quality.add(recorded("outside", 0, 61), now=now)
    quality.add(recorded("back", 5, 4), now=now)
    quality.add(recorded("reversed", 0, start=START + timedelta(minutes=1), end=START), now=now)
    quality.add(recorded("future", 0, 1, end=now + timedelta(minutes=1)), now=now)
    found = total([quality.quality, StepQuality()])
    assert (found.trajectories, found.steps, found.steps_with_calls, found.calls) == (6, 11, 2, 4)
    assert (found.trainable_calls, found.with_logprobs, found.duplicates) == (2, 2, 1)
    assert found.share_of_calls_with_prompt == 0.5
    assert found.share_of_actions_with_result == 0.0
    assert found.clock == ClockFaults(ends_before_it_starts=1, outside_its_span=2, out_of_order=1, in_the_future=1)
    assert found.as_json()["clock"] == {
        "ends_before_it_starts": 1, "outside_its_span": 2, "out_of_order": 1, "in_the_future": 1,
    }  # fmt: skip
    assert total([]).share_of_steps_with_calls is None


def test_windows_that_cannot_be_read_or_hold_no_call_are_not_ready() -> None:
    quality = QualityCounter(SHIPPED)
    for number in range(5):
        quality.add(recorded(f"t{number}", 0), now=START)
    (silent,) = assess([window(*agents(5))], rules(), {window().window.id: quality})
    assert silent.reason == "no LLM calls"
    quality.readable.remove("t3")
    (broken,) = assess([window(*agents(5))], rules(), {window().window.id: quality})
    assert broken.reason == "4 of 5 agents readable"


def test_logprobs_count_only_with_the_ids_of_their_tokens() -> None:
    """Without ids training renders the text again, and the logprobs are those of other tokens."""
    call = LLMCall(model="m", user_prompt="u", response="HOLD", logprobs=(-0.1,))
    floor = LLMCall(model="m", user_prompt="u", response="HOLD", logprobs=(-9999.0,), token_ids=(1,))
    quality = QualityCounter(SHIPPED)
    quality.add(recorded("without", 0, calls=(call, call)), now=START)
    quality.add(recorded("floor", 0, calls=(floor,)), now=START)
    found = quality.quality
    assert (found.trainable_calls, found.with_logprobs, found.logprobs_without_ids) == (3, 0, 2)


def test_insiders_that_are_compared_with_others_are_named() -> None:
    members = [
        replace(member, role=role) for member, role in zip(agents(4), ("x/Insider", "insider", "x", None), strict=True)
    ]
    mixed, apart = window(*members), window(*members[:2])
    checked = report([mixed, apart], rules(min_agents=2), rejected={})
    assert [row.mixes_insiders for row in checked.per_window] == [True, False]
    assert any("1 window compares insiders with others" in line for line in lines(checked))
    by_role = report([mixed], rules(min_agents=2, by_role=True), rejected={})
    assert not any("insiders" in line for line in lines(by_role))
