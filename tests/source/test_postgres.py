"""The PostgreSQL source, on the game's own tables and on ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from mmo_rl.errors import SourceError
from mmo_rl.origins import Where
from mmo_rl.source.base import SourceParts
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import Group, SelectedWindow, Selection, Span, WindowQuery, WindowStats

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Connections:
    """Read-only transactions on one connection; remembers what was asked."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self.connection = connection
        self.statements: list[str] = []

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        async with self.connection.transaction(readonly=True):
            with self.connection.query_logger(lambda record: self.statements.append(record.query)):
                yield self.connection


@pytest.fixture
async def babylon(babylon_url: str) -> AsyncIterator[Connections]:
    connection = await asyncpg.connect(babylon_url)
    yield Connections(connection)
    await connection.close()


@pytest.fixture
async def ours(migrated_url: str) -> AsyncIterator[Connections]:
    connection = await asyncpg.connect(migrated_url)
    yield Connections(connection)
    await connection.close()


def source(
    pool: Connections, *, now: datetime = NOW, rejected_to: Path | None = None, **options: Any
) -> PostgresSource:
    parts = SourceParts(pool=pool, rejected_to=rejected_to, now=lambda: now)
    return PostgresSource(dsn_env=None, **options, parts=parts)


async def add(pool: Connections, identity: str, start: str, **columns: Any) -> None:
    steps = [{"timestamp": 1763108400000, "action": {"actionType": "HOLD"}, "llmCalls": [{"prompt": "p", "text": "t"}]}]
    row = {
        "id": identity,
        "trajectoryId": identity,
        "agentId": identity,
        "startTime": datetime.fromisoformat(start),
        "endTime": datetime.fromisoformat(start),
        "durationMs": 0,
        "stepsJson": json.dumps(steps),
        "rewardComponentsJson": "{}",
        "metricsJson": "{}",
        "metadataJson": "{}",
        "totalReward": 0.0,
        "episodeLength": 1,
        "finalStatus": "completed",
        "updatedAt": datetime.fromisoformat(start),
        **columns,
    }
    await insert(pool, "trajectories", row)


async def insert(pool: Connections, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(f'"{name}"' for name in row)
    places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await pool.connection.execute(f"insert into {table} ({names}) values ({places})", *row.values())


def ids(windows: list[WindowStats]) -> dict[str, list[str]]:
    return {stats.window.id: [member.trajectory_id for member in stats.members] for stats in windows}


def choose(windows: list[WindowStats]) -> Selection:
    chosen = tuple(SelectedWindow(w.window, tuple(m.trajectory_id for m in w.members)) for w in windows)
    return Selection(0, chosen, len(windows), 0, 0.0, 0, {})


async def read(reader: PostgresSource, selection: Selection) -> list[Group]:
    return [group async for group in reader.groups(selection)]


async def test_the_games_own_database(babylon: Connections) -> None:
    reader = source(babylon)
    windows = await reader.windows(WindowQuery())
    assert {stats.window.id: len(stats.members) for stats in windows} == {
        "2025-11-14T08:00": 5,
        "2025-11-14T09:00": 5,
        "2025-11-14T10:00": 5,
        "2025-11-14T11:00": 8,
        "2025-11-14T13:00": 1,
    }
    assert all(stats.complete and not stats.has_outcomes for stats in windows)
    groups = await read(reader, choose(windows))
    assert not reader.rejected
    assert [group.group_id for group in groups] == [stats.window.id for stats in windows]
    for stats, group in zip(windows, groups, strict=True):
        assert group.truth is None
        for member, trajectory in zip(stats.members, group.members, strict=True):
            assert trajectory.trajectory_id == member.trajectory_id
            assert (len(trajectory.steps), trajectory.final_pnl) == (member.actions, member.final_pnl)
            assert trajectory.window_id == stats.window.id


async def test_statistics_read_no_step(ours: Connections) -> None:
    await add(ours, "t", "2025-06-01 10:20", endTime=datetime.fromisoformat("2025-06-01 11:00"))
    reader = source(ours)
    await reader.windows(WindowQuery())
    ours.statements.clear()
    assert ids(await reader.windows(WindowQuery())) == {"2025-06-01T10:00": ["t"]}
    assert len(ours.statements) == 2
    assert not any("Json" in statement for statement in ours.statements)


async def test_windows_are_named_by_a_well_formed_id_else_by_the_start(ours: Connections) -> None:
    for number, name in enumerate(
        [
            "2025-06-01T12:00",
            "2025-06-01T12:30",
            "default",
            "2025-06-01-12",
            "2025-02-30T12:00",
            "2025-13-01T12:00",
            None,
        ]
    ):
        await add(ours, str(number), "2025-06-01 10:59:59.999", windowId=name)
    assert ids(await source(ours).windows(WindowQuery())) == {
        "2025-06-01T10:00": ["2", "4", "5", "6"],
        "2025-06-01T12:00": ["0", "3"],
        "2025-06-01T12:30": ["1"],
    }


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        (0.25, {"01T01:45": ["a"], "01T02:00": ["b"], "01T03:30": ["c"], "02T00:00": ["d"]}),
        (2.0, {"01T00:00": ["a"], "01T02:00": ["b", "c"], "02T00:00": ["d"]}),
        (24.0, {"01T00:00": ["a", "b", "c"], "02T00:00": ["d"]}),
    ],
)  # fmt: skip
async def test_windows_of_other_lengths(ours: Connections, hours: float, expected: dict[str, list[str]]) -> None:
    starts = {"a": "2025-06-01 01:59", "b": "2025-06-01 02:00", "c": "2025-06-01 03:40", "d": "2025-06-02 00:10"}
    for identity, start in starts.items():
        await add(ours, identity, start, windowId=start[:13].replace(" ", "T") + ":00")
    windows = await source(ours).windows(WindowQuery(window_hours=hours))
    assert ids(windows) == {f"2025-06-{name}": members for name, members in expected.items()}
    assert all(stats.window.end - stats.window.start == timedelta(hours=hours) for stats in windows)


async def test_the_lookback_counts_from_the_newest_window_of_the_scenario(ours: Connections) -> None:
    for identity, start, scenario in (
        ("old", "2001-01-01 00:00", "sim"),
        ("edge", "2001-01-01 01:00", "sim"),
        ("new", "2001-01-01 02:00", "sim"),
        ("live", "2025-06-01 00:00", None),
    ):
        await add(ours, identity, start, scenarioId=scenario)
    reader = source(ours)
    assert ids(await reader.windows(WindowQuery(lookback_hours=2, scenario_id="sim"))) == {
        "2001-01-01T01:00": ["edge"],
        "2001-01-01T02:00": ["new"],
    }
    assert list(ids(await reader.windows(WindowQuery(lookback_hours=2)))) == ["2025-06-01T00:00"]
    assert await reader.windows(WindowQuery(scenario_id="none")) == []


@pytest.mark.parametrize("named", ["usual", "odd", "none"])
@pytest.mark.parametrize("hours", [1.0, 2.0])
async def test_a_clock_of_years_ahead_hides_no_window(ours: Connections, named: str, hours: float) -> None:
    for identity, start in (("old", "2025-06-01 00:00"), ("new", "2025-06-02 00:00"), ("ahead", "2099-01-01 00:00")):
        name = {"usual": start.replace(" ", "T"), "odd": start.replace(" ", "-")[:13], "none": None}[named]
        await add(ours, identity, start, windowId=name)
    reader = source(ours)
    query = WindowQuery(lookback_hours=6, window_hours=hours)
    expected = ["2025-06-02T00:00", "2099-01-01T00:00"]
    assert list(ids(await reader.windows(query))) == [c.window.id for c in await reader.counts(query)] == expected
    await ours.connection.execute("delete from trajectories where id <> 'ahead'")
    assert [c.window.id for c in await source(ours).counts(query)] == expected[1:]


async def test_a_span_is_half_open(ours: Connections) -> None:
    for hour in range(4):
        await add(ours, str(hour), f"2025-06-01 0{hour}:00")
    span = Span(datetime(2025, 6, 1, 1, tzinfo=UTC), datetime(2025, 6, 1, 3, tzinfo=UTC))
    assert list(ids(await source(ours).windows(WindowQuery(lookback_hours=1, span=span)))) == [
        "2025-06-01T01:00",
        "2025-06-01T02:00",
    ]


async def test_a_window_is_complete_when_it_is_over_and_settled(ours: Connections) -> None:
    await add(ours, "t", "2025-06-01 10:20")
    end = datetime(2025, 6, 1, 11, tzinfo=UTC)
    complete = []
    for minutes in (-30, 4, 5, 6):
        reader = source(ours, now=end + timedelta(minutes=minutes), settle_minutes=5)
        (stats,) = await reader.windows(WindowQuery())
        complete.append(stats.complete)
    assert complete == [False, False, False, True]


async def test_members_carry_what_the_sampler_needs(ours: Connections) -> None:
    columns = {
        "archetype": "trader",
        "isTrainingData": False,
        "isEvaluation": True,
        "finalPnL": -3.5,
        "episodeLength": 7,
    }
    await add(ours, "t", "2025-06-01 10:20", **columns)
    (stats,) = await source(ours).windows(WindowQuery())
    (member,) = stats.members
    assert (member.role, member.is_training_data, member.is_evaluation) == ("trader", False, True)
    assert (member.final_pnl, member.actions, member.agent_id) == (-3.5, 7, "t")


async def outcome(pool: Connections, window: str, **columns: Any) -> None:
    count = await pool.connection.fetchval("select count(*) from market_outcomes")
    await insert(pool, "market_outcomes", {"id": f"o{count}", "windowId": window, **columns})


async def test_outcomes_are_joined_by_window(ours: Connections) -> None:
    for hour in (10, 11, 12):
        await add(ours, str(hour), f"2025-06-01 {hour}:20")
    for window, start, end in (("2025-06-01T11:00", 100, 120), ("2025-06-01T10:00", 90, 100), ("default", 1, 2)):
        await outcome(ours, window, stockTicker="X", startPrice=start, endPrice=end)
    reader = source(ours)
    windows = await reader.windows(WindowQuery())
    assert [stats.has_outcomes for stats in windows] == [True, True, False]
    truths = [group.truth for group in await read(reader, choose(windows))]
    assert [None if t is None else (t.tickers[0].start_price, t.tickers[0].end_price) for t in truths] == [
        (90.0, 100.0),
        (100.0, 120.0),
        None,
    ]
    longer = await reader.windows(WindowQuery(window_hours=2))
    assert [stats.has_outcomes for stats in longer] == [True, False]
    (first, second) = await read(reader, choose(longer))
    assert first.truth is not None
    assert (first.truth.tickers[0].start_price, first.truth.tickers[0].end_price) == (90.0, 120.0)
    assert second.truth is None


async def test_rows_that_cannot_be_read_are_left_out_and_counted(ours: Connections, tmp_path: Path) -> None:
    await add(ours, "good", "2025-06-01 10:20")
    await add(ours, "broken", "2025-06-01 10:21", stepsJson="[{")
    await add(ours, "empty", "2025-06-01 11:21", stepsJson="[]")
    reader = source(ours, rejected_to=tmp_path / "rejected.jsonl")
    selection = choose(await reader.windows(WindowQuery()))
    gone = SelectedWindow(selection.windows[0].window, ("gone",))
    chosen = Selection(0, (*selection.windows, gone), 3, 4, 0.0, 0, {})
    (group,) = await read(reader, chosen)
    assert [member.trajectory_id for member in group.members] == ["good"]
    assert reader.rejected == {"not JSON": 1, "no steps": 1, "no longer in the database": 1}
    await read(reader, chosen)
    assert sum(reader.rejected.values()) == 3, "once each, however often they are read"
    written = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert {"trajectory_id": "broken", "field": "stepsJson", "found": "[{", "reason": "not JSON"} in written
    assert {line["trajectory_id"] for line in written} == {"broken", "empty", "gone"} and len(written) == 3


def reads(pool: Connections) -> int:
    """How often trajectories were read so far."""
    return sum('"stepsJson"' in statement for statement in pool.statements)


async def test_memory_is_bounded_by_the_batch(ours: Connections) -> None:
    for hour in range(5):
        for agent in "abc":
            await add(ours, f"{hour}{agent}", f"2025-06-01 0{hour}:00")
    reader = source(ours, batch_size=6)
    selection = choose(await reader.windows(WindowQuery()))
    ours.statements.clear()
    asked = [(group.group_id, reads(ours)) async for group in reader.groups(selection)]
    assert [count for _, count in asked] == [1, 1, 2, 2, 3]
    assert [name for name, _ in asked] == [w.window.id for w in selection.windows]


async def test_a_window_larger_than_a_batch_is_read_in_parts(ours: Connections) -> None:
    for agent in "abcdefg":
        await add(ours, agent, "2025-06-01 00:00")
    reader = source(ours, batch_size=3)
    (group,) = await read(reader, choose(await reader.windows(WindowQuery())))
    assert [member.trajectory_id for member in group.members] == list("abcdefg")


async def test_calls_that_are_in_the_log_alone(ours: Connections) -> None:
    await add(ours, "t", "2025-06-01 10:20", stepsJson='[{"stepNumber": 0, "timestamp": 1748773200000}]')
    for number in (10, 2, 0):
        log = {
            "id": str(number), "trajectoryId": "t", "stepId": "t-step-0", "callId": f"t-call-0-{number}",
            "timestamp": datetime.fromisoformat("2025-06-01"), "model": "m", "purpose": "action", "systemPrompt": "s",
            "userPrompt": "u", "response": f"answer {number}", "temperature": 0.7, "maxTokens": 9,
        }  # fmt: skip
        await insert(ours, "llm_call_logs", log)
    reader = source(ours)
    (group,) = await read(reader, choose(await reader.windows(WindowQuery())))
    (step,) = group.members[0].steps
    assert [call.response for call in step.llm_calls] == ["answer 0", "answer 2", "answer 10"]


async def test_a_database_without_the_tables_names_the_next_command(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        reader = PostgresSource(dsn_env="DATABASE_URL", parts=SourceParts(pool=Connections(connection)))
        with pytest.raises(SourceError, match="trajectories") as caught:
            await reader.windows(WindowQuery())
        assert caught.value.hint == "mmo-rl task=migrate source=postgres"
    finally:
        await connection.close()


async def test_what_an_agent_knew_is_part_of_its_role(ours: Connections) -> None:
    await ours.connection.execute('alter table trajectories add "npcRole" text')
    for identity, more in (
        ("a", {"archetype": "trader", "npcRole": "insider"}),
        ("b", {"archetype": "trader", "npcRole": "observer"}),
        ("c", {"archetype": "", "npcRole": "observer"}),
        ("d", {"archetype": "trader"}),
        ("e", {"npcRole": ""}),
    ):
        await add(ours, identity, "2025-06-01 10:20", **more)
    roles = {"a": "trader/insider", "b": "trader/observer", "c": "observer", "d": "trader", "e": None}
    reader = source(ours)
    (stats,) = await reader.windows(WindowQuery())
    assert {member.trajectory_id: member.role for member in stats.members} == roles
    (group,) = await read(reader, choose([stats]))
    assert {member.trajectory_id: member.role for member in group.members} == roles
    counted = await reader.counts(WindowQuery(by_role=True))
    assert sorted(count.role or "" for count in counted) == sorted(role or "" for role in roles.values())
    for role, chosen in (("insider", "a"), ("observer", "bc"), ("trader", "abd"), ("trader/*", "ab")):
        (stats,) = await source(ours, where=Where(role=role)).windows(WindowQuery())
        assert "".join(sorted(member.trajectory_id for member in stats.members)) == chosen
    await ours.connection.execute("alter table trajectories drop archetype")
    (stats,) = await source(ours).windows(WindowQuery())
    assert [member.role for member in stats.members] == ["insider", "observer", "observer", None, None]
