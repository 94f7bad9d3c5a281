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
from mmo_rl.commands.check import assess, next_command, run, summary, verdict
from mmo_rl.database.database import Database
from mmo_rl.database.recorder import TrajectoryRecorder
from mmo_rl.errors import NotReady
from mmo_rl.report.readiness_table import MAX_ROWS, show
from mmo_rl.sampler.quality import Quality, total
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import Action, LLMCall, Member, Step, Trajectory, WindowStats

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


def test_where_roles_are_compared_one_of_them_must_be_large_enough() -> None:
    mixed = window(*agents(3, role="bull"), *[Member(f"b{n}", f"b{n}", 5 + n, role="bear") for n in range(4)])
    (whole,) = assess([mixed], min_agents=4, min_actions=5)
    assert (whole.reason, whole.active_agents, whole.usable, whole.roles) == (None, 7, 7, None)
    (by_role,) = assess([mixed], min_agents=4, min_actions=5, by_role=True)
    assert (by_role.reason, by_role.active_agents, by_role.usable) == (None, 4, 4)
    assert by_role.roles == {"bull": 3, "bear": 4}
    for least, reason in ((5, "4 of 5 agents of one role"), (4, "2 of 4 agents of one role with 7 steps")):
        (found,) = assess([mixed], min_agents=least, min_actions=7, by_role=True)
        assert (found.reason, found.usable) == (reason, 0)


def test_counts_are_of_play_that_may_be_trained_on() -> None:
    members = [*agents(5), Member("e", "e", 50, -900.0, is_evaluation=True), Member("n", "n", 7)]
    (found,) = assess([window(*members, outcomes=True)], min_agents=5, min_actions=5)
    assert (found.agents, found.trajectories, found.steps) == (6, 6, 32)
    assert (found.pnl_low, found.pnl_high, found.has_outcomes) == (0.0, 4.0, True)


def printed(checked: list[Any], rejected: Mapping[str, int] | None = None) -> str:
    output = io.StringIO()
    report = summary(checked, rejected=rejected or {}) | {"next": "mmo-rl collect=none"}
    show(checked, report, Console(file=output, width=80))
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


def refused(*windows: WindowStats, overrides: tuple[str, ...] = ("task=check",)) -> NotReady:
    report = summary(assess(windows, min_agents=5, min_actions=5), rejected={})
    report["next"] = next_command(report, overrides, 5)
    with pytest.raises(NotReady) as caught:
        verdict(report, min_agents=5, min_actions=5)
    return caught.value


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


def test_ready_windows_at_each_threshold() -> None:
    windows = [window(*agents(count), hour=hour) for hour, count in enumerate((1, 2, 4, 5, 9))]
    windows.append(window(*agents(9), hour=9, complete=False))
    report = summary(assess(windows, min_agents=5, min_actions=5), rejected={})
    assert report["at_least_agents"] == {"2": 4, "3": 3, "5": 2, "8": 1}


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
    quality = Quality()
    now = START + timedelta(hours=2)
    quality.add(recorded("fine", 0, 59, calls=(good, empty)), now=now)
    quality.add(recorded("again", 0, 59, agent="fine"), now=now)
    quality.add(recorded("outside", 0, 61), now=now)
    quality.add(recorded("back", 5, 4), now=now)
    quality.add(recorded("reversed", 0, start=START + timedelta(minutes=1), end=START), now=now)
    quality.add(recorded("future", 0, 1, end=now + timedelta(minutes=1)), now=now)
    found = total([quality, Quality()])
    assert (found["trajectories"], found["steps"], found["steps_with_calls"], found["calls"]) == (6, 11, 2, 4)
    assert (found["trainable_calls"], found["with_logprobs"], found["duplicates"]) == (2, 2, 1)
    assert found["share_of_calls_with_prompt"] == 0.5
    assert found["share_of_actions_with_result"] == 0.0
    assert found["clock"] == {
        "ends_before_it_starts": 1, "outside_its_span": 2, "out_of_order": 1, "in_the_future": 1,
    }  # fmt: skip
    assert total([])["share_of_steps_with_calls"] is None


def test_windows_that_cannot_be_read_or_hold_no_call_are_not_ready() -> None:
    quality = Quality()
    for number in range(5):
        quality.add(recorded(f"t{number}", 0), now=START)
    (silent,) = assess([window(*agents(5))], min_agents=5, min_actions=5, qualities={window().window.id: quality})
    assert silent.reason == "no LLM calls"
    quality.readable.remove("t3")
    (broken,) = assess([window(*agents(5))], min_agents=5, min_actions=5, qualities={window().window.id: quality})
    assert broken.reason == "4 of 5 agents readable"


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
        self.min_agents, self.min_actions = min_agents, 1
        self.lookback_hours = lookback_hours
        self._database = database

    async def source(self) -> PostgresSource:
        return PostgresSource(dsn_env=None, pool=self._database.read_only())

    def sampler(self) -> Context:
        return self

    def query(self, scenario_id: str | None) -> Any:
        from mmo_rl.types import WindowQuery

        return WindowQuery(scenario_id=scenario_id, lookback_hours=self.lookback_hours)


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
    report = json.loads(capsys.readouterr().out)
    assert (report["ready"], report["windows_ready"], report["trajectories_ready"]) == (True, 1, 2)
    assert report["per_window"] == [
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
        report = json.loads(capsys.readouterr().out)
        await run(context)
        await run(context, format="json", steps=False)
        assert json.loads(capsys.readouterr().out)["quality"] is None
    assert [(w["window_id"], w["agents"], w["crossing"]) for w in report["recorded_windows"]] == [
        ("2025-11-14T08:00", 5, 0),
        ("2025-11-14T09:00", 5, 5),
        ("2025-11-14T11:00", 8, 0),
        ("2025-11-14T13:00", 1, 0),
    ]
    assert report["at_least_agents"] == {"2": 4, "3": 4, "5": 4, "8": 1}
    assert report["window_ids"] == {
        "recorded": 16, "mapped": 1, "derived": 2, "examples": {"2025-11-14-11": 1, "default": 1, "(none)": 1},
    }  # fmt: skip
    assert (report["windows_ready"], report["windows_ready_with_outcomes"]) == (4, 0)
    assert report["quality"]["share_of_steps_with_calls"] == 1.0
    assert (report["quality"]["calls"], report["steps"]) == (2894, 2894)
    assert report["quality"]["with_logprobs"] == report["quality"]["duplicates"] == 0
    assert not any(report["quality"]["clock"].values())
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
        report = json.loads(capsys.readouterr().out)
        assert report["windows"] == 1
        assert report["outside_lookback"] == {
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
