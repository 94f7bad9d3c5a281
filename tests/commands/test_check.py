"""Which windows are ready, why others are not, and what to type next."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from rich.console import Console

from mmo_rl.clock import milliseconds, window_at
from mmo_rl.commands.check import next_command, not_ready, run
from mmo_rl.database.database import Database
from mmo_rl.database.recorder import TrajectoryRecorder
from mmo_rl.errors import NotReady
from mmo_rl.report.readiness_table import MAX_ROWS, show
from mmo_rl.sampler.readiness import report
from mmo_rl.sampler.windows import WindowSampler
from mmo_rl.source.base import SourceParts
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import Action, LLMCall, Member, Step, Trajectory, WindowStats

START = datetime(2025, 6, 1, 10, tzinfo=UTC)


def window(*members: Member, hour: int = 0, complete: bool = True, outcomes: bool = False) -> WindowStats:
    return WindowStats(window_at(START + timedelta(hours=hour), 1.0), members, outcomes, complete)


def agents(count: int, actions: int = 5, **more: Any) -> list[Member]:
    return [Member(f"t{n}", f"a{n}", actions, float(n), **more) for n in range(count)]


RULES = WindowSampler(min_agents=5, min_actions=5, seed=0).rules


def printed(*windows: WindowStats, rejected: Mapping[str, int] | None = None) -> str:
    output = io.StringIO()
    show(report(windows, RULES, rejected=rejected or {}), "mmo-rl collect=none", Console(file=output, width=80))
    return output.getvalue()


def test_the_table_fits_a_terminal() -> None:
    text = printed(window(*agents(5)), window(*agents(3), hour=1), rejected={"not JSON": 2})
    assert "…" not in text
    assert "2025-06-01T10:00" in text
    assert "3 of 5 agents" in text
    assert "1 of 2 windows ready (0 with outcomes), 5 of 8 trajectories, 40 steps" in text
    assert "left out: 2 x not JSON" in text
    assert text.rstrip().endswith("READY. Next: mmo-rl collect=none")


def test_of_many_windows_the_newest_are_shown() -> None:
    text = printed(*[window(*agents(5), hour=h) for h in range(MAX_ROWS + 3)])
    assert "3 older windows are not shown" in text
    assert "2025-06-01T12:00" not in text
    assert "2025-06-01T13:00" in text


def refused(*windows: WindowStats, overrides: tuple[str, ...] = ("task=check",)) -> NotReady:
    checked = report(windows, RULES, rejected={})
    return not_ready(checked, next_command(checked, overrides, RULES), RULES)


def test_not_ready_names_the_next_command() -> None:
    assert "no window is recorded" in refused().message
    assert refused(overrides=("task=check", "seed=1")).hint == (
        "mmo-rl seed=1 task=collect records some in the simulated market"
    )
    few = refused(window(*agents(3)), window(*agents(4), hour=1))
    assert "none of 2 windows is ready (sampler.min_agents=5" in few.message
    assert "1 x 3 of 5 agents" in few.message
    assert str(few.hint).startswith("mmo-rl task=check sampler.min_agents=3,")
    idle = refused(window(*agents(5, actions=1)), overrides=("task=check", "sampler.min_actions=5"))
    assert str(idle.hint).startswith("mmo-rl task=check sampler.min_actions=1,")
    running = refused(window(*agents(5), complete=False), overrides=("task=check", "source=postgres"))
    assert str(running.hint).startswith("mmo-rl task=check source=postgres again when the window is over")
    assert NotReady.exit_code == 3


class Context:
    """What the task asks for: a real source, and a sampler's thresholds."""

    def __init__(
        self,
        database: Database,
        console: Console,
        *,
        min_agents: int = 2,
        judge: str = "x.Ruler",
        lookback_hours: float = 168.0,
    ) -> None:
        self.components = self
        self.settings = self
        self.nodes = {"source": {"dsn_env": None}, "database": {"dsn_env": "ANOTHER"}, "judge": {"_target_": judge}}
        self.overrides = ("task=check", "source.path=my file", "check.format=json")
        self.console = console
        self.min_agents = min_agents
        self.lookback_hours = lookback_hours
        self._database = database

    async def source(self) -> PostgresSource:
        return PostgresSource(dsn_env=None, parts=SourceParts(pool=self._database.read_only()))

    def sampler(self) -> WindowSampler:
        return WindowSampler(min_agents=self.min_agents, min_actions=1, lookback_hours=self.lookback_hours, seed=0)


async def test_next_is_what_the_training_would_ask_for_first(babylon_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready windows are not enough for the oracle, which needs outcomes, and nothing is written without our tables."""
    monkeypatch.setenv("MMO_RL_TEST_DATABASE_URL", babylon_url)
    async with Database(dsn_env="MMO_RL_TEST_DATABASE_URL", home=Path()) as database:
        console = Console(file=io.StringIO(), width=200)
        context: Any = Context(database, console, min_agents=5, judge="mmo_rl.judge.oracle.OracleJudge")
        await run(context, format="table", steps=False)
        assert "READY. Next: mmo-rl 'source.path=my file' task=outcomes" in console.file.getvalue()
        context.nodes["database"]["dsn_env"] = None
        context.database = lambda: asyncio.sleep(0, database)
        await run(context, format="table", steps=False)
        assert console.file.getvalue().rstrip().endswith("READY. Next: mmo-rl 'source.path=my file' task=migrate")
    url = babylon_url.replace("postgres@", "looker@")
    connection = await asyncpg.connect(babylon_url)
    await connection.execute("drop role if exists looker; create role looker login; grant pg_read_all_data to looker")
    monkeypatch.setenv("MMO_RL_TEST_DATABASE_URL", url)
    async with Database(dsn_env="MMO_RL_TEST_DATABASE_URL", home=Path()) as database:
        context = Context(database, console, min_agents=5)
        context.nodes["database"]["dsn_env"] = None
        context.database = lambda: asyncio.sleep(0, database)
        await run(context, format="table", steps=False)
        ending = "READY. Next: mmo-rl 'source.path=my file' task=import database=embedded"
        assert console.file.getvalue().rstrip().endswith(ending)
    await connection.execute("drop owned by looker; drop role looker")
    await connection.close()


async def test_the_task_on_a_database(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    context: Any = Context(database, Console(file=io.StringIO(), width=80))
    with pytest.raises(NotReady):
        await run(context, format="json")
    assert json.loads(capsys.readouterr().out)["windows"] == 0
    recorder = TrajectoryRecorder(database=database)
    at = window_at(START, 1.0)
    call = LLMCall(model="m", user_prompt="u", response="HOLD")
    step = Step(0, milliseconds(START), {}, Action("HOLD", {}, True), (call,))
    for agent in ("a", "b"):
        await recorder.record(Trajectory(f"t-{agent}", agent, at.id, at.start, at.end, (step,), -2.5))
    await run(context, format="json")
    found = json.loads(capsys.readouterr().out)
    assert (found["ready"], found["windows_ready"], found["trajectories_ready"]) == (True, 1, 2)
    assert found["per_window"] == [
        {
            "window_id": at.id,
            "ready": True,
            "reason": None,
            "agents": 2,
            "active_agents": 2,
            "trajectories": 2,
            "slices": 0,
            "steps": 2,
            "pnl_low": -2.5,
            "pnl_high": -2.5,
            "has_outcomes": False,
            "trainable_calls": 2,
            "with_logprobs": 0,
            "complete": True,
            "usable": 2,
            "roles": None,
        }
    ]
    await run(context)
    assert "READY. Next: mmo-rl 'source.path=my file' collect=none" in context.console.file.getvalue()


async def test_the_games_own_database(
    babylon_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", babylon_url)
    connection = await asyncpg.connect(babylon_url)
    for name, number in (("2025-11-14-11", 0), ("default", 1), (None, 2)):
        await connection.execute(
            """update trajectories set "windowId" = $1 where id = (select id from trajectories
               where "startTime"::text like '2025-11-14 11:%' order by id offset $2 limit 1)
            """,
            name,
            number,
        )
    await connection.close()
    async with Database(dsn_env="DATABASE_URL", home=tmp_path) as database:
        context: Any = Context(database, Console(file=io.StringIO(), width=80), min_agents=5)
        await run(context, format="json")
        found = json.loads(capsys.readouterr().out)
        await run(context)
        await run(context, format="json", steps=False)
        assert json.loads(capsys.readouterr().out)["quality"] is None
    assert [(w["window_id"], w["agents"], w["crossing"]) for w in found["recorded_windows"]] == [
        ("2025-11-14T08:00", 5, 0),
        ("2025-11-14T09:00", 5, 5),
        ("2025-11-14T11:00", 8, 0),
        ("2025-11-14T13:00", 1, 0),
    ]
    assert found["at_least_agents"] == {"2": 4, "3": 4, "5": 4, "8": 1}
    assert found["window_ids"] == {
        "recorded": 16, "mapped": 1, "derived": 2, "examples": {"2025-11-14-11": 1, "default": 1, "(none)": 1},
    }  # fmt: skip
    assert (found["windows_ready"], found["windows_ready_with_outcomes"]) == (4, 0)
    assert found["quality"]["share_of_steps_with_calls"] == 1.0
    assert (found["quality"]["calls"], found["steps"]) == (2894, 2894)
    assert found["quality"]["with_logprobs"] == found["quality"]["duplicates"] == 0
    assert not any(found["quality"]["clock"].values())
    text = context.console.file.getvalue()
    assert "before slicing: 4 windows recorded, of 5, 5, 8 and 1 agents" in text
    assert "all 5 trajectories of 2025-11-14T09:00 cross 10:00 and are sliced" in text
    assert "1 in another format were mapped, 2 were re-derived from the start time" in text
    assert "no outcomes" in text
    assert "…" not in text


async def test_windows_that_the_lookback_hides_are_told(
    babylon_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMO_RL_TEST_DATABASE_URL", babylon_url)
    async with Database(dsn_env="MMO_RL_TEST_DATABASE_URL", home=tmp_path) as database:
        context: Any = Context(database, Console(file=io.StringIO(), width=120), min_agents=5, lookback_hours=1.0)
        with pytest.raises(NotReady) as caught:  # the newest window alone, of one agent
            await run(context, format="json", steps=False)
        found = json.loads(capsys.readouterr().out)
        assert found["windows"] == 1
        assert found["outside_lookback"] == {
            "windows": 3, "trajectories": 18, "lookback_hours": 1.0, "override": "sampler.lookback_hours=6",
            "windows_with_agents": 3,
        }  # fmt: skip
        assert "sampler.lookback_hours=6" in str(caught.value.hint)
        with pytest.raises(NotReady):
            await run(context, steps=False)
        said = context.console.file.getvalue()
        assert "3 older windows outside sampler.lookback_hours=1 (sampler.lookback_hours=6 includes them)" in said
        context = Context(database, Console(file=io.StringIO(), width=120), min_agents=5, lookback_hours=6.0)
        await run(context, format="json", steps=False)
        assert json.loads(capsys.readouterr().out)["outside_lookback"] is None
