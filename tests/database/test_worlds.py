"""Simulated worlds get hours of their own."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest

from mmo_rl.database.database import Database
from mmo_rl.database.worlds import FIRST_HOUR, reserve_hours
from mmo_rl.errors import DatabaseError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def test_the_same_scenario_gets_its_hours_back(database: Database) -> None:
    first = await reserve_hours(database, scenario_id="a", hours=80, now=NOW)
    assert first == FIRST_HOUR
    assert await reserve_hours(database, scenario_id="a", hours=80, now=NOW) == first
    assert await reserve_hours(database, scenario_id="a", hours=3, now=NOW) == first


async def test_scenarios_never_share_a_day(database: Database) -> None:
    first = await reserve_hours(database, scenario_id="a", hours=25, now=NOW)
    second = await reserve_hours(database, scenario_id="b", hours=1, now=NOW)
    third = await reserve_hours(database, scenario_id="c", hours=1, now=NOW)
    assert [t - first for t in (second, third)] == [timedelta(days=2), timedelta(days=3)]


async def test_many_at_once(database: Database) -> None:
    asked = [f"s{n}" for n in range(12)] * 2
    starts = await asyncio.gather(*(reserve_hours(database, scenario_id=s, hours=30, now=NOW) for s in asked))
    assert starts[:12] == starts[12:]
    ordered = sorted(set(starts))
    assert len(ordered) == 12
    assert all(later - earlier >= timedelta(hours=30) for earlier, later in itertools.pairwise(ordered))


@pytest.mark.parametrize(
    ("window_id", "start_time", "expected"),
    [
        ("1980-01-03T07:00", "2025-01-01", "1980-01-04"),  # by its window id
        (None, "1980-01-05 23:30", "1980-01-06"),  # by its start time
        ("default", "1980-01-05 23:30", "1980-01-06"),
        ("1980-01-03T07:00", "1980-02-01", "1980-01-04"),
        ("1979-12-31T23:00", "1979-12-31 23:00", "1980-01-01"),  # outside
    ],
)
async def test_recorded_windows_are_left_alone(
    database: Database, window_id: str | None, start_time: str, expected: str
) -> None:
    async with database.acquire() as connection:
        await connection.execute(
            'insert into trajectories (id, "trajectoryId", "agentId", "startTime", "endTime", "durationMs", "windowId",'
            ' "stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson", "totalReward", "episodeLength",'
            " \"finalStatus\", \"updatedAt\") values ('t', 't', 'a', $1::text::timestamp, $1::text::timestamp, 0, $2,"
            " '[]', '{}', '{}', '{}', 0, 0, 'completed', now())",
            start_time,
            window_id,
        )
    start = await reserve_hours(database, scenario_id="a", hours=24 * 7, now=NOW)
    assert f"{start:%Y-%m-%d}" == expected


async def test_more_than_was_given_is_one_message(database: Database) -> None:
    await reserve_hours(database, scenario_id="a", hours=80, now=NOW)
    with pytest.raises(DatabaseError, match="has 80 hours, this run needs 81") as caught:
        await reserve_hours(database, scenario_id="a", hours=81, now=NOW)
    assert "name=" in str(caught.value.hint)


async def test_hours_lie_in_the_past(database: Database) -> None:
    now = FIRST_HOUR + timedelta(hours=100)
    assert await reserve_hours(database, scenario_id="a", hours=72, now=now) == FIRST_HOUR
    with pytest.raises(DatabaseError, match="no 29 simulated hours are left"):
        await reserve_hours(database, scenario_id="b", hours=29, now=now)
    assert await reserve_hours(database, scenario_id="b", hours=28, now=now) == FIRST_HOUR + timedelta(days=3)
