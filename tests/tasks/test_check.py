"""Which windows are ready, why others are not, and what to type next."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from mmo_rl.clock import window_at
from mmo_rl.database.database import Database
from mmo_rl.database.recorder import TrajectoryRecorder
from mmo_rl.errors import NotReady
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.tasks.check import MAX_ROWS, assess, run, show, summary, verdict
from mmo_rl.types import Action, Member, Step, Trajectory, WindowStats

START = datetime(2025, 6, 1, 10, tzinfo=UTC)


def window(*members: Member, hour: int = 0, complete: bool = True, outcomes: bool = False) -> WindowStats:
    return WindowStats(window_at(START + timedelta(hours=hour), 1.0), members, outcomes, complete)


def agents(count: int, actions: int = 5, **more: Any) -> list[Member]:
    return [Member(f"t{n}", f"a{n}", actions, float(n), **more) for n in range(count)]


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
    (found,) = assess([stats], min_agents=5, min_actions=5)
    assert found.reason == reason


def test_counts_are_of_play_that_may_be_trained_on() -> None:
    members = [*agents(5), Member("e", "e", 50, -900.0, is_evaluation=True), Member("n", "n", 7)]
    (found,) = assess([window(*members, outcomes=True)], min_agents=5, min_actions=5)
    assert (found.agents, found.trajectories, found.steps) == (6, 6, 32)
    assert (found.pnl_low, found.pnl_high, found.has_outcomes) == (0.0, 4.0, True)


def printed(checked: list[Any], rejected: Mapping[str, int] | None = None) -> str:
    output = io.StringIO()
    show(
        checked,
        summary(checked, rejected=rejected or {}),
        Console(file=output, width=80),
        next_command="mmo-rl collect=none",
    )
    return output.getvalue()


def test_the_table_fits_a_terminal() -> None:
    checked = assess([window(*agents(5)), window(*agents(3), hour=1)], min_agents=5, min_actions=5)
    text = printed(checked, {"not JSON": 2})
    assert "…" not in text
    assert "2025-06-01T10:00" in text
    assert "3 of 5 agents" in text
    assert "1 of 2 windows ready (0 with outcomes), 5 of 8 trajectories, 40 steps" in text
    assert "left out: 2 x not JSON" in text
    assert text.rstrip().endswith("READY. Next: mmo-rl collect=none")


def test_of_many_windows_the_newest_are_shown() -> None:
    checked = assess([window(*agents(5), hour=h) for h in range(MAX_ROWS + 3)], min_agents=5, min_actions=5)
    text = printed(checked)
    assert "3 older windows are not shown" in text
    assert "2025-06-01T12:00" not in text
    assert "2025-06-01T13:00" in text


def test_not_ready_names_the_next_command() -> None:
    with pytest.raises(NotReady, match="no window is recorded") as empty:
        verdict(summary([], rejected={}), min_agents=5, min_actions=5)
    assert "mmo-rl task=collect" in str(empty.value.hint)
    report = summary(assess([window(*agents(3))], min_agents=5, min_actions=5), rejected={})
    with pytest.raises(NotReady, match=r"none of 1 windows is ready \(sampler.min_agents=5") as few:
        verdict(report, min_agents=5, min_actions=5)
    assert "sampler.min_agents" in str(few.value.hint)
    assert NotReady.exit_code == 3


class Context:
    """What the task asks for: a real source, and a sampler's thresholds."""

    def __init__(self, database: Database, console: Console) -> None:
        self.components = self
        self.overrides = ("task=check", "source.path=my file", "check.format=json")
        self.console = console
        self.min_agents, self.min_actions = 2, 1
        self._database = database

    async def source(self) -> PostgresSource:
        return PostgresSource(dsn_env=None, pool=self._database.read_only())

    def sampler(self) -> Context:
        return self

    def query(self, scenario_id: str | None) -> Any:
        from mmo_rl.types import WindowQuery

        return WindowQuery(scenario_id=scenario_id)


async def test_the_task_on_a_database(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    context: Any = Context(database, Console(file=io.StringIO(), width=80))
    with pytest.raises(NotReady):
        await run(context, format="json")
    assert json.loads(capsys.readouterr().out)["windows"] == 0
    recorder = TrajectoryRecorder(database=database)
    at = window_at(START, 1.0)
    step = Step(0, START, {}, Action("HOLD", {}, True))
    for agent in ("a", "b"):
        await recorder.record(Trajectory(f"t-{agent}", agent, at.id, at.start, at.end, (step,), -2.5))
    await run(context, format="json")
    report = json.loads(capsys.readouterr().out)
    assert (report["ready"], report["windows_ready"], report["trajectories_ready"]) == (True, 1, 2)
    assert report["per_window"] == [
        {
            "window_id": at.id,
            "ready": True,
            "reason": None,
            "agents": 2,
            "trajectories": 2,
            "steps": 2,
            "pnl_low": -2.5,
            "pnl_high": -2.5,
            "has_outcomes": False,
        }
    ]
    await run(context)
    assert "READY. Next: mmo-rl 'source.path=my file' collect=none" in context.console.file.getvalue()
