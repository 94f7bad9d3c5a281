"""Copying recorded play into a database: once, whole, and in few transactions."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmo_rl.database.base import Database as AnyDatabase
from mmo_rl.database.database import Database
from mmo_rl.database.play_copy import Copied, PlayCopy
from mmo_rl.source.base import Play, SourceParts
from mmo_rl.source.jsonl import JsonlSource
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import Trajectory

BABYLON = Path(__file__).parents[1] / "data" / "babylon"


def row(identity: str, **more: Any) -> dict[str, Any]:
    start = "2025-06-01T10:20:00.000Z"
    calls = [{"model": "m", "userPrompt": "u", "response": "r", "temperature": 0.7}]
    step = {"stepNumber": 0, "timestamp": start, "llmCalls": calls, "action": {"actionType": "HOLD"}, "reward": 0.0}
    return {"trajectoryId": identity, "agentId": "a", "startTime": start, "steps": [step], "finalPnL": 0.0, **more}


async def copy(play: Play, database: AnyDatabase) -> Copied:
    return await PlayCopy(play, database, advance=lambda count: None).run()


async def copied(database: AnyDatabase, path: Path) -> tuple[Copied, dict[str, int]]:
    """The counts of what was copied from a file, and of its rejections."""
    source = JsonlSource(path=str(path), parts=SourceParts())
    try:
        return await copy(source, database), dict(source.rejected)
    finally:
        await source.aclose()


async def stored(database: Database) -> dict[str, Trajectory]:
    play = PostgresSource(dsn_env=None, parts=SourceParts(pool=database.read_only()))
    found = [item async for item in play.stream()]
    assert not play.rejections.counts
    return {item.trajectory_id: item for item in found if isinstance(item, Trajectory)}


async def test_a_game_s_rows_are_stored_once_and_read_back_the_same(database: Database) -> None:
    path = BABYLON / "trajectory_rows.jsonl.gz"
    assert await copied(database, path) == (Copied(imported=19), {})
    reader = JsonlSource(path=str(path), parts=SourceParts())
    expected = {item.trajectory_id: item async for item in reader.stream() if isinstance(item, Trajectory)}
    await reader.aclose()
    assert await stored(database) == expected
    assert await copied(database, path) == (Copied(already_there=19), {})
    assert (await stored(database)).keys() == expected.keys()


async def test_what_cannot_be_stored_is_counted_and_the_rest_goes_on(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    bad = [row("long", scenarioId="s" * 101), row("none", steps=[])]
    bad += [row("nul\0"), row("a", agentId="a\0"), row("half", agentId="\ud800"), row("s", scenarioId="s\0")]
    bad += [row("r", archetype="\0"), row("ages", endTime="2028-06-01T10:00:00.000Z")]
    path.write_text("\n".join(map(json.dumps, [row("first"), *bad, row("last"), 7])) + "\n{broken")
    counts, rejected = await copied(database, path)
    assert (await stored(database)).keys() == {"first", "last"}
    assert (counts.imported, counts.already_there) == (2, 0)
    assert str(counts.refusal).startswith("the trajectory long does not fit")
    assert rejected == {
        "refused by the database": 1,
        "no steps": 1,
        "a character that no database holds": 5,
        "more than 366 days after its start": 1,
        "not JSON": 1,
        "not an object": 1,
    }


async def test_many_share_a_transaction_and_one_that_is_refused_costs_no_other(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [row(f"t{n}") for n in range(250)]
    path.write_text("\n".join(map(json.dumps, rows)))
    await copied(database, path)
    async with database.read_only().acquire() as connection:
        assert await connection.fetchval("select count(distinct xmin::text) from trajectories") == 3
    again = [row(f"u{n}", scenarioId="s" * 101 if n == 7 else None) for n in range(30)]
    path.write_text("\n".join(map(json.dumps, [*rows, *again])))
    counts, rejected = await copied(database, path)
    assert (counts.imported, counts.already_there, rejected) == (29, 250, {"refused by the database": 1})


async def outcomes(database: Database) -> list[asyncpg.Record]:
    async with database.read_only().acquire() as connection:
        return list(await connection.fetch("select * from market_outcomes order by id"))


async def test_outcomes_come_along_and_are_corrected(database: Database, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row("t")))
    ticker = {"windowId": "2025-06-01T10:00", "stockTicker": "X", "startPrice": "100", "endPrice": "90.123"}
    question = {"windowId": "2025-06-01T10:00", "predictionMarketId": "q", "question": "Will it?", "outcome": None}
    beside = tmp_path / "market-outcomes.jsonl"
    beside.write_text(json.dumps(ticker) + "\n" + json.dumps(question))
    assert await copied(database, tmp_path / "rows.jsonl") == (Copied(imported=1, outcomes=1), {})
    first = await outcomes(database)
    assert [(r["stockTicker"], r["endPrice"], r["outcome"]) for r in first] == [
        (None, None, "UNRESOLVED"),
        ("X", Decimal("90.12"), None),
    ]
    assert await copied(database, tmp_path / "rows.jsonl") == (Copied(already_there=1, outcomes_already_there=1), {})
    assert await outcomes(database) == first
    beside.write_text(json.dumps(ticker) + "\n" + json.dumps({**question, "outcome": "YES"}))
    await copied(database, tmp_path / "rows.jsonl")
    assert [r["outcome"] for r in await outcomes(database)] == ["YES", None]


async def test_a_game_s_own_outcomes_are_left_alone(database: Database, tmp_path: Path) -> None:
    async with database.acquire() as connection:
        await connection.execute(
            "insert into market_outcomes (id, \"windowId\", \"stockTicker\") values ('own', '2025-06-01T10:00', 'X')"
        )
    (tmp_path / "rows.jsonl").write_text(json.dumps(row("t")))
    outcome = {"windowId": "2025-06-01T10:00", "stockTicker": "X", "startPrice": 1, "endPrice": 2}
    (tmp_path / "market-outcomes.jsonl").write_text(json.dumps(outcome))
    await copied(database, tmp_path / "rows.jsonl")
    assert [r["id"] for r in await outcomes(database)] == ["own"]


async def test_a_game_s_database_into_ours(
    database: Database, babylon_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GAME_URL", babylon_url)
    async with Database(dsn_env="GAME_URL", home=tmp_path) as game:
        for expected in (Copied(imported=19), Copied(already_there=19)):
            source = PostgresSource(dsn_env="GAME_URL", parts=SourceParts(pool=game.read_only()))
            assert await copy(source, database) == expected
        ours = await stored(database)
        assert ours == await stored(game)
        assert all("@" not in identity for identity in ours), "whole, not in slices"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=3)
STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "timestamp": st.integers(1_700_000_000_000, 1_720_000_000_000),
            "environmentState": OBJECTS,
            "action": st.fixed_dictionaries({"actionType": st.text(max_size=5), "parameters": OBJECTS}),
            "llmCalls": st.lists(
                st.fixed_dictionaries({"userPrompt": st.text(min_size=1), "response": st.text()}), max_size=2
            ),
        }
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, metadata=OBJECTS, pnl=st.none() | st.floats(allow_nan=False, allow_infinity=False))
async def test_what_is_copied_reads_back_as_the_source_reads_it(
    database: Database, tmp_path: Path, steps: Any, metadata: Any, pnl: float | None
) -> None:
    async with database.acquire() as connection:
        await connection.execute("delete from trajectories; delete from llm_call_logs")
    path = tmp_path / "any.jsonl"
    path.write_text(json.dumps(row("t", steps=steps, metadata=metadata, finalPnL=pnl)))
    reader = JsonlSource(path=str(path), parts=SourceParts())
    (expected,) = [item async for item in reader.stream()]
    await copied(database, path)
    assert await stored(database) == {"t": expected}


def grown(steps: int, **changes: Any) -> dict[str, Any]:
    found = row("t", **changes)
    return {**found, "steps": [{**found["steps"][0], "stepNumber": number} for number in range(steps)]}


async def test_a_trajectory_that_was_half_over_is_replaced_by_the_whole_one(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for content, expected in (
        ([grown(1, finalPnL=None)], Copied(imported=1)),
        ([grown(3, finalPnL=None)], Copied(replaced=1)),
        ([grown(2)], Copied(already_there=1)),  # over, and yet less than what is there
        ([grown(3, finalPnL=7.0)], Copied(replaced=1)),  # as long, and over now
        ([grown(3, finalPnL=8.0)], Copied(already_there=1)),
    ):
        path.write_text("\n".join(map(json.dumps, content)), "utf-8")
        assert (await copied(database, path))[0] == expected
    kept = (await stored(database))["t"]
    assert (len(kept.steps), kept.final_pnl) == (3, 7.0)
    async with database.acquire() as connection:
        logged = await connection.fetchval("select count(*) from llm_call_logs")
    assert logged == sum(len(step.llm_calls) for step in kept.steps)


async def test_rows_that_a_game_wrote_are_kept_and_said(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(grown(1)), "utf-8")
    await copied(database, path)
    async with database.acquire() as connection:
        await connection.execute("update trajectories set id = 'a-games-own'")
    path.write_text(json.dumps(grown(3)), "utf-8")
    assert (await copied(database, path))[0] == Copied(already_there=1, kept_shorter=1)
    assert len((await stored(database))["t"].steps) == 1
