"""What is recorded is what is read back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmo_rl.clock import EPOCH, milliseconds, window_at
from mmo_rl.database.database import Database
from mmo_rl.database.migrate import migrate
from mmo_rl.database.recorder import TrajectoryRecorder
from mmo_rl.database.rows import call_row, trajectory_row
from mmo_rl.errors import DatabaseError
from mmo_rl.source.base import SourceParts
from mmo_rl.source.parse import parse_trajectory
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import (
    Action,
    GroundTruth,
    LLMCall,
    QuestionOutcome,
    SelectedWindow,
    Selection,
    Step,
    TickerOutcome,
    Trajectory,
    Window,
    prompt_fields,
)

START = datetime(1980, 1, 1, 5, tzinfo=UTC)
WINDOW = window_at(START, 1.0)

moments = st.integers(315_532_800_000, 1_893_456_000_000).map(lambda ms: EPOCH + timedelta(milliseconds=ms))
floats = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(0, 2**31 - 1)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=8)
texts = st.text(max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, json_values, max_size=3)
plain_prompts = st.tuples(texts.filter(bool), texts.filter(bool)).map(
    lambda p: ({"role": "system", "content": p[0]}, {"role": "user", "content": p[1]})
)
chats = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts}),
    min_size=1,
    max_size=4,
).map(tuple)


@st.composite
def llm_calls(draw: st.DrawFn) -> LLMCall:
    completion = draw(st.none() | st.lists(st.tuples(integers, floats), max_size=4))
    return LLMCall(
        call_id=draw(names),
        model=draw(texts),
        **prompt_fields(draw(plain_prompts | chats.filter(lambda m: any(x["content"] for x in m)))),
        response=draw(texts),
        purpose=draw(names),
        model_version=draw(st.none() | names),
        action_type=draw(st.none() | texts),
        reasoning=draw(st.none() | texts),
        temperature=draw(st.none() | floats),
        max_tokens=draw(st.none() | integers),
        top_p=draw(st.none() | floats),
        latency_ms=draw(st.none() | integers),
        prompt_tokens=draw(st.none() | st.integers(0, 10**9)),
        completion_tokens=draw(st.none() | st.integers(0, 10**9)),
        total_tokens=draw(st.none() | st.integers(0, 10**9)),
        prompt_token_ids=draw(st.none() | st.lists(integers, max_size=3).map(tuple)),
        token_ids=None if completion is None else tuple(token for token, _ in completion),
        logprobs=None if completion is None else tuple(logprob for _, logprob in completion),
        timestamp_ms=draw(st.none() | moments.map(milliseconds)),
    )


actions = st.builds(
    Action,
    action_type=names,
    parameters=objects,
    success=st.booleans(),
    result=st.none() | objects,
    error=st.none() | texts,
    reasoning=st.none() | texts,
    correctness=st.none() | objects,
)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    start = draw(moments)
    steps = draw(
        st.lists(
            st.builds(
                Step,
                number=st.integers(0, 10**6),
                timestamp_ms=moments.map(milliseconds),
                environment_state=objects,
                action=actions,
                llm_calls=st.lists(llm_calls(), max_size=2).map(tuple),
                provider_accesses=st.lists(objects, max_size=2).map(tuple),
                reward=st.none() | floats,
                step_id=st.none() | names,
                observation=st.none() | objects,
                done=st.none() | st.booleans(),
                metadata=st.none() | objects,
            ),
            min_size=1,
            max_size=3,
            unique_by=lambda step: step.number,
        )
    )
    return Trajectory(
        trajectory_id=draw(names),
        agent_id=draw(names),
        window_id=window_at(start, 1.0).id,
        start=start,
        end=start + timedelta(milliseconds=draw(st.integers(0, 10**7))),
        steps=tuple(steps),
        final_pnl=draw(st.none() | floats),
        final_balance=draw(st.none() | floats),
        final_status=draw(st.sampled_from(["completed", "error", "timeout"])),
        role=draw(st.none() | names),
        scenario_id=draw(st.none() | names),
        is_training_data=draw(st.booleans()),
        is_evaluation=draw(st.booleans()),
        # A P&L that was not recorded may be taken from the metrics, a role from the metadata.
        metrics=draw(objects.filter(lambda o: not o.keys() & {"finalPnL", "finalBalance", "totalReward"})),
        metadata=draw(objects.filter(lambda o: "archetype" not in o)),
        # The table's total cannot be empty: 0 is missing where no step has a reward, and a total where one has.
        rewards={"totalReward": draw(floats)} if any(step.reward is not None for step in steps) else {},
    )


@settings(max_examples=150, deadline=None)
@given(trajectory=trajectories())
def test_row_and_parser_are_inverse(trajectory: Trajectory) -> None:
    row = trajectory_row(trajectory, window_hours=1, now=START) | {"archetype": trajectory.role}
    assert parse_trajectory(row) == trajectory


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trajectory=trajectories())
async def test_read_back_from_the_database_it_equals_what_was_recorded(
    database: Database, trajectory: Trajectory
) -> None:
    recorder = TrajectoryRecorder(database=database)
    window = window_at(trajectory.start, 1.0)
    async with database.acquire() as connection:
        await connection.execute("delete from trajectories; delete from llm_call_logs")
    await recorder.record(trajectory)
    assert await read(database, window, [trajectory.trajectory_id]) == [trajectory]


@settings(max_examples=100, deadline=None)
@given(call=llm_calls())
def test_a_call_in_the_log_alone_says_the_same(call: LLMCall) -> None:
    """But for what the log's columns cannot hold: the character 0, broken Unicode, token ids."""
    step = Step(3, milliseconds(START), {}, Action("HOLD", {}, True))
    row = call_row("t", step, 0, call, now=START)
    trajectory = Trajectory("t", "a", WINDOW.id, START, START, (step,), None)
    parsed = parse_trajectory(trajectory_row(trajectory, window_hours=1, now=START), calls=[row])
    assert isinstance(parsed, Trajectory)
    (logged,) = parsed.steps[0].llm_calls
    assert (logged.temperature, logged.max_tokens, logged.top_p) == (call.temperature, call.max_tokens, call.top_p)
    assert logged.call_id == "t-call-3-0"
    assert logged.model_version == call.model_version
    assert [m["role"] for m in logged.messages] == [m["role"] for m in call.messages]


async def read(database: Database, window: Window, ids: list[str]) -> list[Trajectory]:
    source = PostgresSource(dsn_env=None, parts=SourceParts(pool=database.read_only()))
    chosen = Selection(0, (SelectedWindow(window, tuple(ids)),), 1, len(ids), 0.0, 0, {})
    members = [member for group in [g async for g in source.groups(chosen)] for member in group.members]
    assert not source.rejected, source.rejections.first
    return members


def played(
    identity: str = "w-a", *, scenario: str | None = "world", agent: str = "a", window: Window = WINDOW
) -> Trajectory:
    call = LLMCall(
        call_id=f"{identity}-call-0-0",
        model="tiny",
        system_prompt="trade",
        user_prompt="X 100 up",
        response='{"ticker":"X","action":"BUY","size":2}',
        model_version="tiny@3",
        temperature=1.0,
        max_tokens=32,
        prompt_token_ids=(1, 2, 3),
        token_ids=(4, 5),
        logprobs=(-0.5, -0.25),
    )
    action = Action("BUY_SHARES", {"ticker": "X", "shares": 2}, True, result={"executed": True})
    step = Step(
        0, milliseconds(window.start + timedelta(minutes=7)), {"agentBalance": 10_000.0}, action, (call,), (), 0.5
    )
    return Trajectory(
        identity, agent, window.id, window.start, window.end, (step,), 12.5, 10_012.5, scenario_id=scenario
    )


async def test_rows_are_as_the_game_writes_them(database: Database) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    await TrajectoryRecorder(database=database, now=lambda: now).record(played())
    async with database.read_only().acquire() as connection:
        row = await connection.fetchrow("select * from trajectories")
        log = await connection.fetchrow("select * from llm_call_logs")
    assert row["windowId"] == "1980-01-01T05:00"
    assert row["startTime"].isoformat() == "1980-01-01T05:00:00"
    assert row["durationMs"] == 3_600_000
    assert row["updatedAt"].isoformat() == "2026-01-02T03:04:05.678000"
    assert (row["totalReward"], row["episodeLength"], row["finalPnL"]) == (0.5, 1, 12.5)
    (step,) = json.loads(row["stepsJson"])
    assert step["timestamp"] == 315_551_220_000
    assert step["action"]["actionType"] == "BUY_SHARES"
    (call,) = step["llmCalls"]
    assert (call["systemPrompt"], call["userPrompt"]) == ("trade", "X 100 up")
    assert (call["promptTokenIds"], call["tokenIds"], call["logprobs"]) == ([1, 2, 3], [4, 5], [-0.5, -0.25])
    assert "messages" not in call, "prompts are stored once"
    assert (log["stepId"], log["callId"]) == ("w-a-step-0", "w-a-call-0-0")
    assert (log["promptTokens"], log["completionTokens"], log["totalTokens"]) == (3, 2, 5)
    assert json.loads(log["metadata"]) == {"modelVersion": "tiny@3"}


@pytest.mark.parametrize(("recorded", "stored"), [(1.9, None), (2, 2), (2**31, None), ("3", None), (True, None)])
async def test_a_count_that_is_no_whole_number_is_not_cut(
    database: Database, recorded: Any, stored: int | None
) -> None:
    # asyncpg sends 1.9 for an integer column as 1, without a word.
    await TrajectoryRecorder(database=database).record(replace(played(), metrics={"tradesExecuted": recorded}))
    async with database.read_only().acquire() as connection:
        assert await connection.fetchval('select "tradesExecuted" from trajectories') == stored


async def test_a_trajectory_is_stored_whole_or_not_at_all(database: Database) -> None:
    recorder = TrajectoryRecorder(database=database)
    async with database.acquire() as connection:
        await connection.execute(
            'insert into llm_call_logs (id, "trajectoryId", "stepId", "callId", timestamp, model, purpose,'
            ' "systemPrompt", "userPrompt", response, temperature, "maxTokens")'
            " values ('x', 'other', 's', 'w-a-call-0-0', now(), 'm', 'action', '', '', '', 0, 0)"
        )
    with pytest.raises(DatabaseError, match="already recorded"):
        await recorder.record(played())
    async with database.read_only().acquire() as connection:
        assert await connection.fetchval("select count(*) from trajectories") == 0


async def test_a_window_can_be_played_again(database: Database) -> None:
    recorder = TrajectoryRecorder(database=database)
    later = window_at(WINDOW.end, 1.0)
    for identity, scenario, window in (
        ("again", "world", WINDOW),
        ("other scenario", "another", WINDOW),
        ("no scenario", None, WINDOW),
        ("other window", "world", later),
    ):
        await recorder.record(played(identity, scenario=scenario, window=window))
    with pytest.raises(DatabaseError, match="already recorded"):
        await recorder.record(played("again"))
    await recorder.begin_window(WINDOW, scenario_id="world")
    async with database.read_only().acquire() as connection:
        rows = await connection.fetch('select "trajectoryId" as id from trajectories order by 1')
        logs = await connection.fetch('select distinct "trajectoryId" as id from llm_call_logs order by 1')
    assert [row["id"] for row in rows] == ["no scenario", "other scenario", "other window"]
    assert rows == logs
    await recorder.record(played("again"))


async def outcomes(database: Database) -> list[asyncpg.Record]:
    async with database.read_only().acquire() as connection:
        rows: list[asyncpg.Record] = await connection.fetch("select * from market_outcomes order by id")
    return rows


async def test_outcomes_are_replaced_and_belong_to_their_scenario(database: Database) -> None:
    recorder = TrajectoryRecorder(database=database)
    first = GroundTruth(
        WINDOW.id,
        (TickerOutcome("X", 100.0, 110.0, ("X soars",)), TickerOutcome("OLD", 1.0, 2.0)),
        (QuestionOutcome("q1", "Will it?", "YES", 0.75),),
    )
    await recorder.record_outcomes(first, scenario_id="world")
    await recorder.record_outcomes(GroundTruth(WINDOW.id, (TickerOutcome("X", 5.0, 4.0),)), scenario_id="world 2")
    second = GroundTruth(WINDOW.id, (TickerOutcome("X", 100.0, 120.0, ("X soars",)),), first.questions)
    await recorder.record_outcomes(second, scenario_id="world")
    await recorder.record(played())
    source = PostgresSource(dsn_env=None, parts=SourceParts(pool=database.read_only()))
    selection = Selection(0, (SelectedWindow(WINDOW, ("w-a",)),), 1, 1, 0.0, 0, {})
    (group,) = [group async for group in source.groups(selection)]
    assert group.truth == second
    await recorder.begin_window(WINDOW, scenario_id="world")
    assert [row["id"] for row in await outcomes(database)] == [f"world 2/{WINDOW.id}/stock:X"]


async def test_numbers_that_the_columns_cannot_hold_are_null(database: Database) -> None:
    recorder = TrajectoryRecorder(database=database)
    tickers = (
        TickerOutcome("BIG", 1.0, 50.0),  # + 4,900 %
        TickerOutcome("EDGE", 100.0, 1099.99),  # + 999.99 %
        TickerOutcome("HUGE", 1e8, 1e7),
    )
    question = QuestionOutcome("q", "Will it?", "UNRESOLVED", 0.123456)
    await recorder.record_outcomes(GroundTruth(WINDOW.id, tickers, (question,)), scenario_id="w")
    found = {row["stockTicker"]: row for row in await outcomes(database)}
    assert (found["BIG"]["changePercent"], float(found["BIG"]["endPrice"])) == (None, 50.0)
    assert float(found["EDGE"]["changePercent"]) == 999.99
    assert (found["HUGE"]["startPrice"], float(found["HUGE"]["endPrice"])) == (None, 1e7)
    assert str(found[None]["finalProbability"]) == "0.1235"
    assert found["BIG"]["sentiment"] == "BULLISH"


async def test_a_games_own_database_without_the_agent_is_one_message(
    babylon_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("MMO_RL_TEST_DATABASE_URL", babylon_url)
    async with Database(dsn_env="MMO_RL_TEST_DATABASE_URL", home=tmp_path) as database:
        await migrate(database)
        recorder = TrajectoryRecorder(database=database)
        with pytest.raises(DatabaseError, match="has no agent a") as caught:
            await recorder.record(played())
        assert "collect=none" in str(caught.value.hint)
        known = await agent_of(database)
        await recorder.record(dataclasses.replace(played(agent=known), role="trader"))
        (back,) = await read(database, WINDOW, ["w-a"])
        assert back.role == "trader", "kept in the metadata where the game has no column for it"


async def agent_of(database: Database) -> str:
    async with database.read_only().acquire() as connection:
        return str(await connection.fetchval('select "agentId" from trajectories limit 1'))


async def test_an_id_that_is_too_long_is_one_message(database: Database) -> None:
    with pytest.raises(DatabaseError, match="does not fit"):
        await TrajectoryRecorder(database=database).record(played(scenario="s" * 101))
