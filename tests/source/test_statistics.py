"""Counting and drawing in SQL, against the same in Python."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from mmo_rl.sampler.windows import WindowSampler
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import Choice, Selection, Span, WindowQuery, WindowStats
from tests.source.test_postgres import NOW, Connections, source

COLUMNS = (
    "id", "trajectoryId", "agentId", "startTime", "endTime", "durationMs", "windowId", "windowHours", "scenarioId",
    "archetype", "stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson", "totalReward", "episodeLength",
    "finalStatus", "finalPnL", "isTrainingData", "isEvaluation", "updatedAt",
)  # fmt: skip


@pytest.fixture
async def ours(migrated_url: str) -> AsyncIterator[Connections]:
    connection = await asyncpg.connect(migrated_url)
    yield Connections(connection)
    await connection.close()


def steps_of(start: datetime, end: datetime, count: int, pnl: float) -> str:
    gap = (end - start) / count
    return json.dumps(
        [
            {
                "stepNumber": number,
                "timestamp": int((start + number * gap).replace(tzinfo=UTC).timestamp() * 1000),
                "environmentState": {"agentPnL": pnl * number / count, "agentBalance": 100.0 + number},
                "llmCalls": [{"userPrompt": f"p{number}", "response": "r"}],
                "action": {"actionType": "HOLD", "success": True},
            }
            for number in range(count)
        ]
    )


async def fill(pool: Connections, *, rows: int, seed: int, plain: bool, odd: bool = True) -> None:
    """Play of twelve agents in six hours; not ``plain``: with trajectories that cross, and, where ``odd``, ids in other
    formats."""
    rng = random.Random(seed)
    records = []
    for number in range(rows):
        start = datetime(2025, 6, 1, rng.randrange(6), rng.randrange(50))
        end = start + timedelta(minutes=rng.choice([3, 9]) if plain else rng.choice([3, 9, 9, 80, 150]))
        name: str | None = f"{start:%Y-%m-%dT%H}:00"
        if not plain and odd:
            name = rng.choice([name, name, name, f"{start:%Y-%m-%d-%H}", "default", None])
        count, pnl = rng.randrange(1, 9), rng.choice([None, -5.0, 0.0, 7.5, 12.0])
        recorded = {
            "id": str(number), "trajectoryId": f"run-t{number}", "agentId": f"a{rng.randrange(12)}", "startTime": start,
            "endTime": end, "durationMs": 0, "windowId": name, "windowHours": 1, "scenarioId": rng.choice([None, "r"]),
            "archetype": rng.choice([None, "bull", "bear"]), "stepsJson": steps_of(start, end, count, pnl or 1.0),
            "rewardComponentsJson": "{}", "metricsJson": "{}", "metadataJson": "{}", "totalReward": 0.0,
            "episodeLength": count, "finalStatus": "completed", "finalPnL": pnl,
            "isTrainingData": rng.random() > 0.1, "isEvaluation": rng.random() < 0.1, "updatedAt": start,
        }  # fmt: skip
        records.append([recorded[column] for column in COLUMNS])
    await pool.connection.copy_records_to_table("trajectories", records=records, columns=list(COLUMNS))


async def everything(reader: PostgresSource, query: WindowQuery) -> list[WindowStats]:
    return await reader.windows(replace(query, only=(), draw=None))


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("hours", [0.25, 1.0, 2.0, 24.0])
async def test_counts_are_those_of_the_members(ours: Connections, hours: float, plain: bool) -> None:
    await fill(ours, rows=250, seed=int(hours * 4) + plain, plain=plain)
    for by_role in (False, True):
        for more in ({}, {"lookback_hours": 2.0}, {"scenario_id": "r"}, {"span": Span(NOW - timedelta(300), NOW)}):
            query = WindowQuery(window_hours=hours, min_actions=4, by_role=by_role, **more)  # type: ignore[arg-type]
            expected = [
                c for w in await everything(source(ours), query) for c in w.counts(min_actions=4, by_role=by_role)
            ]
            assert await source(ours).counts(query) == expected
            assert expected


@pytest.mark.parametrize("hours", [1.0, 2.0])
async def test_windows_that_something_reaches_into_are_counted_however_little_is_asked_for(
    ours: Connections, hours: float
) -> None:
    await fill(ours, rows=250, seed=7, plain=False, odd=False)
    for back in (1.0, 2.0, 3.0, 5.0, 1e7):
        query = WindowQuery(window_hours=hours, min_actions=4, lookback_hours=back)
        reader = source(ours)
        windows = await everything(reader, query)
        assert await reader.counts(query) == [c for w in windows for c in w.counts(min_actions=4)]
        # The reader knows the layout of what was counted; of older windows the members are the same.
        older = await everything(source(ours), replace(query, lookback_hours=168.0))
        for stats in older:
            assert await reader.windows(replace(query, only=(stats.window,))) == [stats]


@pytest.mark.parametrize("last", ["2025-06-01T05:00", "2025-02-30T05:00", "default", "2025-06-01-05", None])
async def test_only_the_numbers_asked_for_are_sent(ours: Connections, last: str | None) -> None:
    """Of ids as the game writes them; one in another format may stand for any hour."""
    await fill(ours, rows=200, seed=3, plain=True)
    await ours.connection.execute(
        'update trajectories set "windowId" = $1, "startTime" = $2, "endTime" = $2 where "trajectoryId" = $3',
        last, datetime(2025, 6, 1, 5, 3), "run-t0",
    )  # fmt: skip
    query = WindowQuery(lookback_hours=2.0)
    expected = [c for w in await everything(source(ours), query) for c in w.counts()]
    assert await source(ours).counts(query) == expected
    assert [c.window.id for c in expected] == ["2025-06-01T04:00", "2025-06-01T05:00"]


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("hours", [0.25, 1.0, 2.0])
async def test_members_of_some_windows_are_the_same_as_among_all(ours: Connections, hours: float, plain: bool) -> None:
    await fill(ours, rows=120, seed=int(hours * 4) + plain, plain=plain)
    query = WindowQuery(window_hours=hours, by_role=True)
    windows = await everything(source(ours), query)
    for some in (windows[:1], windows[-1:], windows[::2]):
        only = tuple(stats.window for stats in some)
        assert await source(ours).windows(replace(query, only=only)) == some


async def in_two_steps(reader: PostgresSource, sampler: WindowSampler, prefix: str) -> tuple[Choice, Selection, int]:
    query = sampler.query(None)
    choice = sampler.choose(await reader.counts(query), 0)
    windows = await reader.windows(sampler.members_query(query, choice, prefix=prefix))
    return choice, sampler.draw(choice, windows, prefix=prefix), sum(len(w.members) for w in windows)


@pytest.mark.parametrize("prefix", ["", "run-"])
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("hours", [0.25, 1.0, 2.0])
async def test_the_database_leaves_out_only_what_dropout_takes(
    ours: Connections, hours: float, plain: bool, prefix: str
) -> None:
    await fill(ours, rows=300, seed=int(hours * 4) + plain, plain=plain)
    for group_by in ("window", "window_role"):
        for order, strategy in (("oldest", "random"), ("recent", "spread"), ("random", "stratified")):
            options: dict[str, Any] = {"group_by": group_by, "order": order, "dropout": strategy, "window_hours": hours}
            sampler = WindowSampler(
                min_agents=2, min_actions=3, max_windows=3, target_trajectories=5, max_dropout=0.7, seed=1, **options
            )
            reader = source(ours)
            expected = sampler.select(await everything(reader, sampler.query(None)), 0, prefix=prefix)
            choice, selection, sent = await in_two_steps(reader, sampler, prefix)
            assert selection == expected
            assert choice.dropout_rate > 0.2
            if strategy == "random" and plain and hours >= 1:  # nothing crosses
                assert sent < selection.available


async def test_no_step_is_read_where_nothing_crosses(ours: Connections) -> None:
    await fill(ours, rows=200, seed=0, plain=True)
    ours.statements.clear()
    await in_two_steps(source(ours), WindowSampler(min_agents=2, min_actions=1, seed=0), "")
    assert [statement for statement in ours.statements if "stepsJson" in statement] == []
    assert sum("from trajectories" in statement for statement in ours.statements) == 2


async def test_python_and_sql_pick_the_same_of_100_000(ours: Connections) -> None:
    """In one hour: 100,000 trajectories of 20,000 agents, in both directions of the floor."""
    await ours.connection.execute(
        """
        insert into trajectories (id, "trajectoryId", "agentId", "startTime", "endTime", "durationMs", "windowId",
            "stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson", "totalReward", "episodeLength",
            "finalStatus", "finalPnL", "updatedAt")
        select 't' || n, 'täglich-' || n, 'a' || n % 20000, at, at, 0, to_char(at, 'YYYY-MM-DD"T"HH24:00'),
               '[]', '{}', '{}', '{}', 0, 20, 'completed', 1, at
        from (select n, timestamp '2025-06-01' + n / 10000 * interval '1 hour' as at
              from generate_series(0, 99999) n) s
        """
    )
    reader = source(ours)
    windows = await everything(reader, WindowQuery())
    for target, least in ((30_000, 2), (100, 7000)):
        sampler = WindowSampler(target_trajectories=target, max_dropout=0.9, min_agents=least, seed=11)
        choice = sampler.choose(await reader.counts(sampler.query(None)), 0)
        sent = await reader.windows(sampler.members_query(sampler.query(None), choice))
        selection = sampler.draw(choice, sent)
        assert choice.available == 100_000
        # What the database sent is exactly what stays: the rule is the same in both.
        assert {m.trajectory_id for w in sent for m in w.members} == set(selection.trajectory_ids)
        assert selection == sampler.select(windows, 0)
        assert all(len(w.trajectory_ids) >= least for w in selection.windows)


async def test_a_missing_index_is_announced_once_where_it_is_felt(
    ours: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    reader = source(ours)
    await reader.counts(WindowQuery())
    assert caplog.messages == []
    await ours.connection.execute("drop index if exists mmo_rl_windows_idx")
    await ours.connection.execute("update pg_class set reltuples = 25000 where oid = 'trajectories'::regclass")
    for _ in range(2):
        await source(ours).counts(WindowQuery())
    reader = source(ours)
    caplog.clear()
    await reader.counts(WindowQuery())
    await reader.counts(WindowQuery())
    assert [message for message in caplog.messages if "mmo_rl_windows_idx" in message and "task=migrate" in message]
    assert len(caplog.messages) == 1
