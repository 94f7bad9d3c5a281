"""Which windows are ready, why others are not, and what to type next."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.clock import milliseconds, window_at
from mmo_rl.commands.check import next_command, not_ready, run
from mmo_rl.config.tasks import CheckOptions
from mmo_rl.database.database import Database
from mmo_rl.database.recorder import TrajectoryRecorder
from mmo_rl.errors import NotReady
from mmo_rl.report.readiness_table import MAX_ROWS, show
from mmo_rl.sampler.readiness import report
from mmo_rl.sampler.windows import WindowSampler
from mmo_rl.source.base import SourceParts
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.terminal import Terminal
from mmo_rl.types import Action, LLMCall, Member, Step, Trajectory, WindowStats
from tests.harness.config import make_context
from tests.harness.config import printed as printed_by
from tests.harness.database import execute
from tests.harness.project import Project

START = datetime(2025, 6, 1, 10, tzinfo=UTC)


def window(*members: Member, hour: int = 0, complete: bool = True, outcomes: bool = False) -> WindowStats:
    return WindowStats(window_at(START + timedelta(hours=hour), 1.0), members, outcomes, complete)


def agents(count: int, actions: int = 5, **more: Any) -> list[Member]:
    return [Member(f"t{n}", f"a{n}", actions, float(n), **more) for n in range(count)]


RULES = WindowSampler(min_agents=5, min_actions=5, seed=0).rules


def printed(*windows: WindowStats, rejected: Mapping[str, int] | None = None) -> str:
    output = io.StringIO()
    show(report(windows, RULES, rejected=rejected or {}), "mmo-rl collect=none", Terminal(file=output, width=80))
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


CHECK = ("task=check", "source=postgres", "sampler.min_actions=1")


@pytest.fixture
def game(projects: Callable[[], Project], babylon_url: str) -> Project:
    """A project that reads a game's own database."""
    return projects().with_variables(DATABASE_URL=babylon_url)


def test_next_is_what_the_training_would_ask_for_first(game: Project, babylon_url: str) -> None:
    """Ready windows are not enough for the oracle, which needs outcomes, and nothing is written without our tables."""
    apart = game.run(*CHECK, "database=embedded", "check.steps=false")
    assert "READY. Next: mmo-rl source=postgres database=embedded task=outcomes" in apart
    assert game.run(*CHECK, "check.steps=false").rstrip().endswith("READY. Next: mmo-rl source=postgres task=migrate")
    role = "drop role if exists looker; create role looker login; grant pg_read_all_data to looker"
    asyncio.run(execute(babylon_url, role))
    try:
        looker = game.with_variables(DATABASE_URL=babylon_url.replace("postgres@", "looker@"))
        told = looker.run(*CHECK, "check.steps=false").rstrip()
        assert told.endswith("READY. Next: mmo-rl source=postgres task=import database=embedded")
    finally:
        asyncio.run(execute(babylon_url, "drop owned by looker; drop role looker"))


async def test_the_task_on_a_database(database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ("source=postgres", "judge=heuristic", "sampler.min_agents=2", "sampler.min_actions=1")
    source = PostgresSource(dsn_env=None, parts=SourceParts(pool=database.read_only()))
    context = make_context(*typed, home=tmp_path, source=source, database=database)
    context = replace(context, overrides=("task=check", "source.path=my file", "check.format=json"))
    with pytest.raises(NotReady):
        await run(context, CheckOptions(format="json"))
    assert json.loads(capsys.readouterr().out)["windows"] == 0
    recorder = TrajectoryRecorder(database=database)
    at = window_at(START, 1.0)
    call = LLMCall(model="m", user_prompt="u", response="HOLD")
    step = Step(0, milliseconds(START), {}, Action("HOLD", {}, True), (call,))
    for agent in ("a", "b"):
        await recorder.record(Trajectory(f"t-{agent}", agent, at.id, at.start, at.end, (step,), -2.5))
    await run(context, CheckOptions(format="json"))
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
            "mixes_insiders": False,
            "failed_share": 0.0,
            "roles": None,
        }
    ]
    await run(context, CheckOptions())
    assert "READY. Next: mmo-rl 'source.path=my file' collect=none" in printed_by(context)


def test_the_games_own_database(game: Project, babylon_url: str) -> None:
    for name, number in (("'2025-11-14-11'", 0), ("'default'", 1), ("null", 2)):
        renamed = f"""update trajectories set "windowId" = {name} where id = (select id from trajectories
            where "startTime"::text like '2025-11-14 11:%' order by id offset {number} limit 1)"""
        asyncio.run(execute(babylon_url, renamed))
    found = json.loads(game.attempt(*CHECK, "check.format=json").out)
    text = game.with_variables(COLUMNS="80").run(*CHECK)
    assert json.loads(game.attempt(*CHECK, "check.format=json", "check.steps=false").out)["quality"] is None
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
    assert "before slicing: 4 windows recorded, of 5, 5, 8 and 1 agents" in text
    assert "all 5 trajectories of 2025-11-14T09:00 cross 10:00 and are sliced" in text
    assert "1 in another format were mapped, 2 were re-derived from the start time" in text
    assert "no outcomes" in text
    assert "…" not in text


def test_windows_that_the_lookback_hides_are_told(game: Project) -> None:
    newest = (*CHECK, "check.steps=false", "sampler.lookback_hours=1")
    ran = game.attempt(*newest, "check.format=json")  # the newest window alone, of one agent
    assert ran.code == 3 and "sampler.lookback_hours=6" in ran.err
    found = json.loads(ran.out)
    assert found["windows"] == 1
    assert found["outside_lookback"] == {
        "windows": 3, "trajectories": 18, "lookback_hours": 1.0, "override": "sampler.lookback_hours=6",
        "windows_with_agents": 3,
    }  # fmt: skip
    told = game.run(*newest, code=3)
    assert "3 older windows outside sampler.lookback_hours=1 (sampler.lookback_hours=6 includes them)" in told
    wide = game.attempt(*CHECK, "check.steps=false", "sampler.lookback_hours=6", "check.format=json")
    assert json.loads(wide.out)["outside_lookback"] is None


async def test_trades_in_words_that_the_oracle_does_not_know_are_told_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    calls = [{"userPrompt": "u", "response": "r"}]

    def row(agent: int) -> dict[str, Any]:
        names = ["BUY", "SWAP", "SWAP" if agent else "FLIP", "FOLLOW"]
        steps = [
            {
                "stepNumber": number,
                "timestamp": milliseconds(START) + number * 1000,
                "llmCalls": calls,
                "action": {
                    "actionType": name,
                    "parameters": {"ticker": "NOVA"} if name != "FOLLOW" else {},
                    "success": True,
                },
            }
            for number, name in enumerate(names)
        ]
        times = {"startTime": START.isoformat(), "endTime": (START + timedelta(minutes=5)).isoformat()}
        return {"trajectoryId": f"t{agent}", "agentId": f"a{agent}", **times, "stepsJson": json.dumps(steps)}

    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row(agent)) + "\n" for agent in range(5)))
    command = ("task=check", "source=jsonl", f"source.path={path}", "sampler.min_actions=1", "sampler.min_agents=2")
    context = make_context(*command, home=tmp_path, width=200)
    await run(context, CheckOptions())
    told = printed_by(context)
    assert "67% of the trades are in words that the oracle does not know: SWAP (9), FLIP (1)" in told
    assert "'+vocabulary.actions.SWAP=open'" in told
    taught = make_context(
        *command, "+vocabulary.actions.SWAP=open", "+vocabulary.actions.flip=close", home=tmp_path, width=200
    )
    await run(taught, CheckOptions())
    assert "does not know" not in printed_by(taught)
