"""Reasons for an iteration without anything to train on."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

from mmo_rl.clock import milliseconds, window_at
from mmo_rl.loop.refusals import no_signal
from mmo_rl.policy_view import training_groups
from mmo_rl.report.readiness_table import show
from mmo_rl.sampler.quality import QualityCounter
from mmo_rl.sampler.readiness import report
from mmo_rl.sampler.windows import WindowSampler
from mmo_rl.terminal import Terminal
from mmo_rl.types import Action, Group, LLMCall, Member, Score, ScoredGroup, Step, Trajectory, WindowStats
from mmo_rl.vocabulary import SHIPPED

WINDOW = window_at(datetime(2025, 1, 1, 10, tzinfo=UTC), 1.0)


def played(name: str, *failed: bool) -> Trajectory:
    steps = tuple(
        Step(
            number,
            milliseconds(WINDOW.start) + number,
            {"tick": number},
            Action("BUY", {}, not fails, error="not an order" if fails else None),
            llm_calls=(LLMCall(model="m", user_prompt="u", response="I would buy NOVA." if fails else "HOLD"),),
        )
        for number, fails in enumerate(failed)
    )
    return Trajectory(name, name, WINDOW.id, WINDOW.start, WINDOW.end, steps, None)


def refused(*failed: bool) -> str:
    members = tuple(played(name, *failed) for name in ("a", "b"))
    judgments = {
        m.trajectory_id: Score(m.trajectory_id, 0.2, decisions=dict.fromkeys(range(len(failed)), 0.2)) for m in members
    }
    scored = [ScoredGroup(Group("g", WINDOW, members, None), judgments, "decision")]
    return str(no_signal(training_groups(scored), scored))


def test_actions_that_fail_are_not_told_as_a_weak_judge() -> None:
    told = refused(True, True, False)
    assert "4 of 6 actions failed" in told and "4 times: not an order" in told and "'I would buy NOVA.'" in told
    assert "trainer.warm_start" in told and "judge" not in told
    assert "choose a judge that tells them apart" in refused(True, False, False)


def test_the_table_of_a_check_has_failed_actions_where_there_are_any() -> None:
    rules = WindowSampler(min_agents=2, min_actions=1, seed=0).rules
    stats = WindowStats(WINDOW, tuple(Member(name, name, 4, 1.0) for name in ("a", "b")), True, True)
    for failed, shown in ((True, "75%"), (False, None)):
        counter = QualityCounter(SHIPPED)
        for name in ("a", "b"):
            counter.add(played(name, failed, failed, failed, False), now=WINDOW.start + timedelta(days=1))
        console = Terminal(width=100, record=True, file=io.StringIO())
        show(report([stats], rules, counters={WINDOW.id: counter}, rejected={}), "next", console)
        text = console.export_text()
        assert ("fail" in text.splitlines()[0]) == (shown is not None) and (shown is None or shown in text)
