"""Databases in other words: snake_case, jsonb, other types of time, missing columns, other schemas and time zones."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from mmo_rl.database.database import Database
from mmo_rl.errors import SourceError
from mmo_rl.source.base import SourceParts
from mmo_rl.source.jsonl import JsonlSource
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.source.reader import TableReader
from mmo_rl.types import Group, SelectedWindow, Selection, Span, WindowQuery, WindowStats

BABYLON = Path(__file__).parents[1] / "data" / "babylon"
VARIABLE = "MMO_RL_TEST_DATABASE_URL"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = [
    {"stepNumber": 0, "timestamp": 1748774940000, "environmentState": {"agentPnL": 1.5}, "action": "HOLD"},
    {"stepNumber": 1, "timestamp": 1748775660000, "environmentState": {"agentPnL": 4.0}, "action": "HOLD"},
]  # at 10:49 and 11:01


@pytest.fixture
def clock_of_the_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the time zone of this process."""

    def set_to(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield set_to
    monkeypatch.undo()
    time.tzset()


@asynccontextmanager
async def opened(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PostgresSource]:
    monkeypatch.setenv(VARIABLE, url)
    async with Database(dsn_env=VARIABLE, home=home) as database:
        yield PostgresSource(dsn_env=VARIABLE, parts=SourceParts(pool=database.read_only(), now=lambda: NOW))


async def execute(url: str, sql: str, *arguments: Any) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql, *arguments)
    finally:
        await connection.close()


async def everything(reader: PostgresSource, **query: Any) -> tuple[list[WindowStats], list[Group]]:
    windows = await reader.windows(WindowQuery(**query))
    chosen = tuple(SelectedWindow(w.window, tuple(m.trajectory_id for m in w.members)) for w in windows)
    return windows, [group async for group in reader.groups(Selection(0, chosen, len(windows), 0, 0.0, 0, {}))]


MINIMAL = """
    create table trajectories (trajectory_id bigint primary key, agent_id uuid, start_time timestamptz,
        end_time timestamptz, steps jsonb, episode_length bigint, final_pnl numeric, role varchar(20));
    create table llm_call_logs (trajectory_id bigint, step_id text, call_id text, "timestamp" timestamptz,
        system_prompt text, user_prompt text, response text, model text);
    create table market_outcomes (window_id text, stock_ticker text, start_price float8, end_price float8)
"""


async def test_snake_case_with_the_needed_columns_alone(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = "00000000-0000-0000-0000-000000000001"
    await execute(database_url, MINIMAL)
    await execute(
        database_url,
        "insert into trajectories"
        " values (7, $1, '2025-06-01 16:19+05:30', '2025-06-01 16:32+05:30', $2, 2, 9, 'trader')",
        agent,
        json.dumps(STEPS),
    )
    await execute(
        database_url,
        "insert into llm_call_logs values (7, '7-step-1', '7-call-1-0', '2025-06-01 11:01+00', 's', 'u', 'hold', 'm')",
    )
    await execute(database_url, "insert into market_outcomes values ('2025-06-01-11', 'X', 10, 12)")
    async with opened(database_url, tmp_path, monkeypatch) as reader:
        windows, groups = await everything(reader)
    found = [(w.window.id, m.trajectory_id, m.agent_id, m.actions, m.final_pnl) for w in windows for m in w.members]
    assert found == [
        ("2025-06-01T10:00", "7@2025-06-01T10:00", agent, 1, 2.5),
        ("2025-06-01T11:00", "7@2025-06-01T11:00", agent, 1, 5.0),
    ]
    assert [w.members[0].odd_window_id for w in windows] == ["", ""]
    assert [w.members[0].role for w in windows] == ["trader", "trader"]
    assert [w.has_outcomes for w in windows] == [False, True]
    first, second = (group.members[0] for group in groups)
    assert (first.final_pnl, second.final_pnl, second.role) == (2.5, 5.0, "trader")
    assert [step.llm_calls for step in first.steps] == [()]
    assert [call.response for call in second.steps[0].llm_calls] == ["hold"]
    truth = groups[1].truth
    assert truth is not None
    assert truth.tickers[0].end_price == 12.0
    assert not reader.rejected


async def test_calls_in_the_log_are_asked_for_once_a_batch(
    babylon_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await execute(babylon_url, """update trajectories set "stepsJson" = replace("stepsJson", '"llmCalls"', '"was"')""")
    async with opened(babylon_url, tmp_path, monkeypatch) as reader:
        statements: list[str] = []
        fetch = TableReader.fetch

        async def counted(self: TableReader, sql: str, *arguments: Any) -> list[asyncpg.Record]:
            statements.append(sql)
            return await fetch(self, sql, *arguments)

        monkeypatch.setattr(TableReader, "fetch", counted)
        _, groups = await everything(reader)
    assert sum("llm_call_logs" in sql for sql in statements) == 1
    assert all(len(step.llm_calls) == 1 for group in groups for member in group.members for step in member.steps)


async def test_what_a_database_lacks_is_named(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await execute(database_url, "create table trajectories (trajectory_id text, agent_id text, steps_json text)")
    async with opened(database_url, tmp_path, monkeypatch) as reader:
        with pytest.raises(SourceError, match="no column startTime, episodeLength"):
            await reader.windows(WindowQuery())


async def test_tables_in_another_schema_are_pointed_to(
    babylon_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await execute(babylon_url, "alter schema public rename to game; create schema public")
    async with opened(babylon_url, tmp_path, monkeypatch) as reader:
        with pytest.raises(SourceError) as caught:
            await reader.windows(WindowQuery())
        assert "?schema=game" in str(caught.value.hint)
    # Of several schemas, the one that holds play: not the first by name, nor one with another kind of table.
    await execute(
        babylon_url,
        """create schema archive; create table archive.trajectories as select * from game.trajectories limit 1;
           create schema big; create table big.trajectories as
           select g as id, repeat('x', 1000) as path from generate_series(1, 5000) g;""",
    )
    async with opened(babylon_url, tmp_path, monkeypatch) as reader:
        with pytest.raises(SourceError) as caught:
            await reader.windows(WindowQuery())
        assert f"the largest that fits in game: set ?schema=game in {VARIABLE}" in str(caught.value.hint)
        assert "the schemas archive, big, game" in str(caught.value.hint)
    async with opened(f"{babylon_url}&schema=game", tmp_path, monkeypatch) as reader:
        assert len(await reader.windows(WindowQuery())) == 5


async def test_the_five_that_cross_ten_oclock_whatever_the_time_zone(
    babylon_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock_of_the_process: Callable[[str], None],
) -> None:
    expected: tuple[list[WindowStats], list[Group]] | None = None
    for zone in ("UTC", "Asia/Kolkata", "America/New_York"):
        name = babylon_url.rpartition("/")[2].partition("?")[0]
        await execute(babylon_url, f"alter database {name} set timezone to '{zone}'")
        clock_of_the_process(zone)
        async with opened(babylon_url, tmp_path, monkeypatch) as reader:
            found = await everything(reader)
        assert not reader.rejected
        expected = expected or found
        assert found == expected
    assert expected is not None
    windows, groups = expected
    assert [(w.window.id, len({m.agent_id for m in w.members})) for w in windows] == [
        ("2025-11-14T08:00", 5),
        ("2025-11-14T09:00", 5),
        ("2025-11-14T10:00", 5),
        ("2025-11-14T11:00", 8),
        ("2025-11-14T13:00", 1),
    ]
    crossing = {m.trajectory_id for w in windows[1:3] for m in w.members}
    assert len({identity.split("@")[0] for identity in crossing}) == 5
    assert all("@" in identity for identity in crossing)
    for stats, group in zip(windows, groups, strict=True):
        assert [(m.trajectory_id, m.actions, m.final_pnl) for m in stats.members] == [
            (t.trajectory_id, len(t.steps), t.final_pnl) for t in group.members
        ]
        for member in group.members:
            assert all(stats.window.start <= step.timestamp < stats.window.end for step in member.steps)


async def test_slices_outside_a_span_are_left_out_and_those_that_reach_into_it_are_not(
    babylon_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(babylon_url, tmp_path, monkeypatch) as reader:
        for first, past in ((9, 10), (10, 11), (10, 12)):
            span = Span(datetime(2025, 11, 14, first, tzinfo=UTC), datetime(2025, 11, 14, past, tzinfo=UTC))
            windows = await reader.windows(WindowQuery(span=span))
            assert [w.window.start.hour for w in windows] == list(range(first, past))
            assert len(windows[0].members) == 5
        assert [w.window.id for w in await reader.windows(WindowQuery(lookback_hours=3))] == [
            "2025-11-14T11:00",
            "2025-11-14T13:00",
        ]
        longer = await reader.windows(WindowQuery(window_hours=4))
        assert [(w.window.id, len(w.members), sum(max(1, len(m.parts)) for m in w.members)) for w in longer] == [
            ("2025-11-14T08:00", 8, 18),
            ("2025-11-14T12:00", 1, 1),
        ]


@pytest.mark.parametrize("shape", ['{"steps": %s}', "%s"])
async def test_steps_in_other_shapes_are_sliced_too(
    babylon_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """A row whose steps are no JSON keeps the others from nothing; it is counted once it is read."""
    await execute(babylon_url, """update trajectories set "stepsJson" = replace($1, '%s', "stepsJson")""", shape)
    broken = """update trajectories set "stepsJson" = '[{' where "trajectoryId" in
        (select "trajectoryId" from trajectories where "windowId" = '2025-11-14T09:00' limit 1)"""
    await execute(babylon_url, broken)
    async with opened(babylon_url, tmp_path, monkeypatch) as reader:
        windows = await reader.windows(WindowQuery())
    assert {w.window.id: len(w.members) for w in windows} == {
        "2025-11-14T08:00": 5,
        "2025-11-14T09:00": 5,
        "2025-11-14T10:00": 4,
        "2025-11-14T11:00": 8,
        "2025-11-14T13:00": 1,
    }
    assert reader.rejected == {"not JSON": 1}


async def test_window_ids_mapped_and_derived(babylon_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("2025-11-14-08", "window-test-1", "benchmark-7", "default", None)
    for number, name in enumerate(names):
        await execute(
            babylon_url,
            """update trajectories set "windowId" = $1 where "trajectoryId" = (select "trajectoryId" from trajectories
               where "startTime" < '2025-11-14 09:00' order by 1 offset $2 limit 1)""",
            name,
            number,
        )
    async with opened(babylon_url, tmp_path, monkeypatch) as reader:
        windows, groups = await everything(reader)
    assert windows[0].window.id == "2025-11-14T08:00"
    assert sorted(str(m.odd_window_id) for m in windows[0].members) == sorted(name or "" for name in names)
    assert {t.window_id for t in groups[0].members} == {"2025-11-14T08:00"}
    assert all(m.odd_window_id is None for w in windows[1:] for m in w.members)


async def test_a_window_of_several_hours_is_sliced_into_hours(
    babylon_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await execute(babylon_url, """update trajectories set "windowId" = '2025-11-14T08:00', "windowHours" = 4""")
    async with opened(babylon_url, tmp_path, monkeypatch) as reader:
        windows, groups = await everything(reader)
        assert [len(w.members) for w in windows] == [5, 5, 5, 8, 1]
        assert {(g.window.id, m.window_id) for g in groups for m in g.members if "@" not in m.trajectory_id} == {
            (f"2025-11-14T{hour}:00",) * 2 for hour in ("08", "11", "13")
        }


@pytest.mark.parametrize(("hours", "begun"), [(1.0, 10), (2.0, 5), (0.25, 10)])
async def test_windows_are_counted_as_they_are_listed_also_from_files(
    babylon_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: float, begun: int
) -> None:
    later = datetime(2025, 11, 14, 11, tzinfo=UTC)
    query = WindowQuery(window_hours=hours, span=Span(datetime(2000, 1, 1, tzinfo=UTC), later), min_actions=90)
    files = JsonlSource(path=str(BABYLON / "trajectory_rows.jsonl.gz"), parts=SourceParts(now=lambda: NOW))
    try:
        async with opened(babylon_url, tmp_path, monkeypatch) as reader:
            for source in (reader, files):
                expected = [c for w in await source.windows(query) for c in w.counts(min_actions=90)]
                assert expected
                assert await source.counts(query) == expected
            quick = await reader.counts(dataclasses.replace(query, exact=False))
            assert sum(counts.members for counts in quick) == begun, "each where it begins"
    finally:
        await files.aclose()
