"""Copying recorded play into the database: once, whole, as it comes, and from anywhere."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import io
import json
import os
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from mmo_rl.database.database import Database
from mmo_rl.errors import ConfigError, SourceError
from mmo_rl.source.base import SourceParts
from mmo_rl.source.jsonl import JsonlSource
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import Trajectory

task = importlib.import_module("mmo_rl.commands.import_play")
BABYLON = Path(__file__).parents[1] / "data" / "babylon"


def row(identity: str, **more: Any) -> dict[str, Any]:
    start = "2025-06-01T10:20:00.000Z"
    calls = [{"model": "m", "userPrompt": "u", "response": "r", "temperature": 0.7}]
    step = {"stepNumber": 0, "timestamp": start, "llmCalls": calls, "action": {"actionType": "HOLD"}, "reward": 0.0}
    return {"trajectoryId": identity, "agentId": "a", "startTime": start, "steps": [step], "finalPnL": 0.0, **more}


class Context:
    """What the task asks for: a real source, a real database, and the nodes that they came from."""

    def __init__(self, source: Any, database: Database, home: Path) -> None:
        self.components = self
        self.settings = self
        self.nodes = {"source": {"path": "x"}, "database": {"dsn_env": "DATABASE_URL"}}
        self.console = Console(file=io.StringIO(), width=100)
        self.home = home
        self._source, self._database = source, database

    async def source(self) -> Any:
        return self._source

    async def database(self) -> Database:
        return self._database

    @property
    def said(self) -> str:
        return self.console.file.getvalue()  # type: ignore[attr-defined]


async def imported(database: Database, path: Path, **options: Any) -> tuple[int | None, str]:
    source = JsonlSource(path=str(path), **options, parts=SourceParts(rejected_to=path.parent / "rejected.jsonl"))
    context = Context(source, database, path.parent)
    try:
        return await task.run(context), context.said
    finally:
        await source.aclose()


async def stored(database: Database) -> dict[str, Trajectory]:
    play = PostgresSource(dsn_env=None, parts=SourceParts(pool=database.read_only()))
    found = [item async for item in play.stream()]
    assert not play.rejections.counts
    return {item.trajectory_id: item for item in found if isinstance(item, Trajectory)}


async def test_a_game_s_rows_are_stored_once_and_read_back_the_same(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes((BABYLON / "trajectory_rows.jsonl.gz").read_bytes())
    code, said = await imported(database, path)
    assert code is None
    assert "trajectories imported 19" in " ".join(said.split())
    reader = JsonlSource(path=str(path), parts=SourceParts())
    expected = {item.trajectory_id: item async for item in reader.stream() if isinstance(item, Trajectory)}
    await reader.aclose()
    assert await stored(database) == expected
    code, said = await imported(database, path)
    assert code is None
    assert "trajectories imported 0 already there 19" in " ".join(said.split())
    assert "Nothing to do" in said
    assert (await stored(database)).keys() == expected.keys()


async def test_what_cannot_be_stored_is_counted_and_the_rest_goes_on(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    bad = [row("nul", agentId="a\0"), row("long", scenarioId="s" * 101), row("half", agentId="\ud800")]
    bad.append(row("none", steps=[]))
    path.write_text("\n".join(map(json.dumps, [row("first"), *bad, row("last"), 7])) + "\n{broken")
    code, said = await imported(database, path)
    assert code is None
    assert (await stored(database)).keys() == {"first", "last"}
    words = " ".join(said.split())
    assert "trajectories imported 2 already there 0" in words
    assert "rejected: refused by the database 3" in words
    assert "rejected: no steps 1" in words
    assert "rejected: not JSON 1" in words
    assert "refused by the database, the first time: the trajectory nul does not fit" in said
    lines = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert {line["trajectory_id"] for line in lines} == {"nul", "long", "none", "half", None}


async def test_many_share_a_transaction_and_one_that_is_refused_costs_no_other(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [row(f"t{n}") for n in range(250)]
    path.write_text("\n".join(map(json.dumps, rows)))
    await imported(database, path)
    async with database.read_only().acquire() as connection:
        assert await connection.fetchval("select count(distinct xmin::text) from trajectories") == 3
    again = [row(f"u{n}", agentId="a\0" if n == 7 else "a") for n in range(30)]
    path.write_text("\n".join(map(json.dumps, [*rows, *again])))
    _, said = await imported(database, path)
    words = " ".join(said.split())
    assert "trajectories imported 29 already there 250 rejected: refused by the database 1" in words


async def test_refusing_all_is_a_failure(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row("nul", agentId="a\0")))
    assert (await imported(database, path))[0] == 1


async def test_nothing_to_read_is_a_message(database: Database, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n")
    with pytest.raises(SourceError, match="it is empty"):
        await imported(database, tmp_path / "rows.jsonl")


async def test_copying_into_itself_is_refused(database: Database, tmp_path: Path) -> None:
    context = Context(None, database, tmp_path)
    context.nodes["source"] = {"dsn_env": "DATABASE_URL"}
    with pytest.raises(ConfigError, match="both are the same") as caught:
        await task.run(context)
    assert "database=embedded" in str(caught.value.hint)


async def outcomes(database: Database) -> list[asyncpg.Record]:
    async with database.read_only().acquire() as connection:
        return list(await connection.fetch("select * from market_outcomes order by id"))


async def test_outcomes_come_along_and_are_corrected(database: Database, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row("t")))
    ticker = {"windowId": "2025-06-01T10:00", "stockTicker": "X", "startPrice": "100", "endPrice": "90.123"}
    question = {"windowId": "2025-06-01T10:00", "predictionMarketId": "q", "question": "Will it?", "outcome": None}
    beside = tmp_path / "market-outcomes.jsonl"
    beside.write_text(json.dumps(ticker) + "\n" + json.dumps(question))
    _, said = await imported(database, tmp_path / "rows.jsonl")
    assert "outcomes of windows imported 1" in " ".join(said.split())
    first = await outcomes(database)
    assert [(r["stockTicker"], r["endPrice"], r["outcome"]) for r in first] == [
        (None, None, "UNRESOLVED"), ("X", Decimal("90.12"), None),
    ]  # fmt: skip
    _, said = await imported(database, tmp_path / "rows.jsonl")
    assert "outcomes already there 1" in " ".join(said.split()) and "Nothing to do" in said
    assert await outcomes(database) == first
    beside.write_text(json.dumps(ticker) + "\n" + json.dumps({**question, "outcome": "YES"}))
    await imported(database, tmp_path / "rows.jsonl")
    assert [r["outcome"] for r in await outcomes(database)] == ["YES", None]


async def test_a_game_s_own_outcomes_are_left_alone(database: Database, tmp_path: Path) -> None:
    async with database.acquire() as connection:
        await connection.execute(
            "insert into market_outcomes (id, \"windowId\", \"stockTicker\") values ('own', '2025-06-01T10:00', 'X')"
        )
    (tmp_path / "rows.jsonl").write_text(json.dumps(row("t")))
    outcome = {"windowId": "2025-06-01T10:00", "stockTicker": "X", "startPrice": 1, "endPrice": 2}
    (tmp_path / "market-outcomes.jsonl").write_text(json.dumps(outcome))
    await imported(database, tmp_path / "rows.jsonl")
    assert [r["id"] for r in await outcomes(database)] == ["own"]


async def test_a_game_s_database_into_ours(
    database: Database, babylon_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GAME_URL", babylon_url)
    async with Database(dsn_env="GAME_URL", home=tmp_path) as game:
        source = PostgresSource(dsn_env="GAME_URL", parts=SourceParts(pool=game.read_only()))
        for expected in ("trajectories imported 19 already there 0", "trajectories imported 0 already there 19"):
            context = Context(source, database, tmp_path)
            context.nodes["source"] = {"dsn_env": "GAME_URL"}
            assert await task.run(context) is None
            assert expected in " ".join(context.said.split())
        ours = await stored(database)
        assert ours == await stored(game)
        assert all("@" not in identity for identity in ours), "whole, not in slices"


PIPE = [sys.executable, "-m", "mmo_rl", "task=import", "source=jsonl", "source.path=-", "database=postgres"]


async def piped(url: str, folder: Path) -> asyncio.subprocess.Process:
    environment = {**os.environ, "DATABASE_URL": url, "MMO_RL_ROOT": str(folder), "MMO_RL_HOME": str(folder / "home")}
    return await asyncio.create_subprocess_exec(
        *PIPE, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**environment, "COLUMNS": "100"},
    )  # fmt: skip


async def ids_of(url: str, count: int) -> list[str]:
    """The stored ids, as soon as there are so many."""
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(60):
            while True:
                found = await connection.fetch('select "trajectoryId" as id from trajectories order by 1')
                if len(found) >= count:
                    return [r["id"] for r in found]
                await asyncio.sleep(0.02)
    finally:
        await connection.close()


async def test_a_producer_in_any_language_pipes_play_in_as_it_is_made(migrated_url: str, tmp_path: Path) -> None:
    process = await piped(migrated_url, tmp_path)
    assert process.stdin is not None
    bare = row("second", steps=[{"stepNumber": 0}])
    call = {"trajectoryId": "second", "stepId": "second-step-0", "userPrompt": "u", "response": "logged"}
    for lines, expected in (([row("first")], ["first"]), ([call, bare], ["first", "second"])):
        process.stdin.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        await process.stdin.drain()
        assert await ids_of(migrated_url, len(expected)) == expected, "stored while the producer still runs"
    out, err = await process.communicate(b"{broken\n" + json.dumps(row("third")).encode())
    assert process.returncode == 0, err
    words = " ".join(out.decode().split())
    assert "trajectories imported 3 already there 0 rejected: not JSON 1" in words
    assert str(tmp_path / "home" / "rejected.jsonl") in words
    assert await ids_of(migrated_url, 3) == ["first", "second", "third"]
    again = await piped(migrated_url, tmp_path)
    packed = gzip.compress("\n".join(json.dumps(row(i)) for i in ("third", "fourth")).encode())
    out, err = await again.communicate(packed)
    assert "trajectories imported 1 already there 1" in " ".join(out.decode().split()), err


async def test_an_import_that_waits_for_its_producer_can_be_interrupted(migrated_url: str, tmp_path: Path) -> None:
    process = await piped(migrated_url, tmp_path)
    assert process.stdin is not None
    process.stdin.write(json.dumps(row("first")).encode() + b"\n")
    await process.stdin.drain()
    assert await ids_of(migrated_url, 1) == ["first"]
    process.terminate()
    async with asyncio.timeout(20):
        assert await process.wait() == 130
    process.stdin.close()


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
            "timestamp": st.integers(1_700_000_000_000, 1_800_000_000_000),
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
async def test_what_is_imported_reads_back_as_the_source_reads_it(
    database: Database, tmp_path: Path, steps: Any, metadata: Any, pnl: float | None
) -> None:
    async with database.acquire() as connection:
        await connection.execute("delete from trajectories; delete from llm_call_logs")
    path = tmp_path / "any.jsonl"
    path.write_text(json.dumps(row("t", steps=steps, metadata=metadata, finalPnL=pnl)))
    reader = JsonlSource(path=str(path), parts=SourceParts())
    (expected,) = [item async for item in reader.stream()]
    await imported(database, path)
    assert await stored(database) == {"t": expected}
