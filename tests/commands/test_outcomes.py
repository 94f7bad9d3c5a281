"""From recorded prices to outcomes that a judge can use, on a game's own database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from mmo_rl.database.database import Database
from mmo_rl.judge.oracle import OracleJudge
from mmo_rl.source.base import SourceParts
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import Group, Score, SelectedWindow, Selection, WindowQuery

RECORDED = ("2025-11-14T08:00", "2025-11-14T09:00", "2025-11-14T11:00", "2025-11-14T13:00")
Run = Callable[..., str]


@pytest.fixture
def run(babylon_url: str, tmp_path: Path) -> Run:
    """The command line, its DATABASE_URL a game's own database; another zone must change nothing."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MMO_RL_", "DATABASE_"))}
    environment = kept | {
        "MMO_RL_ROOT": str(tmp_path),
        "MMO_RL_HOME": str(tmp_path / "home"),
        "DATABASE_URL": babylon_url,
        "COLUMNS": "160",
        "TZ": "Asia/Kolkata",
    }

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "mmo_rl", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


async def rows(url: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        found: list[asyncpg.Record] = await connection.fetch(
            'select * from market_outcomes order by "windowId", "stockTicker"'
        )
        return found
    finally:
        await connection.close()


async def groups(source: PostgresSource) -> AsyncIterator[Group]:
    windows = await source.windows(WindowQuery())
    chosen = tuple(SelectedWindow(w.window, tuple(m.trajectory_id for m in w.members)) for w in windows)
    async for group in source.groups(Selection(0, chosen, len(chosen), 0, 0.0, 0, {})):
        yield group


async def test_recorded_prices_become_outcomes_that_the_oracle_scores_with(
    run: Run, babylon_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = run("task=outcomes", "source=postgres")
    assert "outcomes of 5 windows stored" in out and "mmo-rl task=check source=postgres" in out
    first = await rows(babylon_url)
    assert {r["windowId"] for r in first} == {*RECORDED, "2025-11-14T10:00"}
    assert {"$WIF", "$PEPE", "$TRUMP"} <= {r["stockTicker"] for r in first}
    last = [r for r in first if r["windowId"] == "2025-11-14T13:00"]
    for row in last:  # one agent was there: its first quote and its last
        quotes = await quoted_prices(babylon_url, "2025-11-14T13:00", row["stockTicker"])
        assert (float(row["startPrice"]), float(row["endPrice"])) == (round(quotes[0], 2), round(quotes[-1], 2))
        assert row["sentiment"] == ("BULLISH" if row["endPrice"] > row["startPrice"] else "BEARISH")
        change_pct = float(row["endPrice"] / row["startPrice"] - 1) * 100
        assert float(row["changePercent"]) == pytest.approx(change_pct, abs=0.005)

    again = run("task=outcomes", "source=postgres")
    assert "5 final windows kept" in again
    assert await rows(babylon_url) == first
    recomputed = run("task=outcomes", "source=postgres", "outcomes.recompute=true")
    assert "outcomes of 5 windows stored" in recomputed
    assert [{**r, "createdAt": None} for r in await rows(babylon_url)] == [{**r, "createdAt": None} for r in first]

    monkeypatch.setenv("MMO_RL_TEST_DATABASE_URL", babylon_url)
    async with Database(dsn_env="MMO_RL_TEST_DATABASE_URL", home=tmp_path) as database:
        source = PostgresSource(dsn_env="DATABASE_URL", parts=SourceParts(pool=database.read_only()))
        judged = [j async for g in OracleJudge().score(groups(source)) for j in g.judgments.values()]
    assert len(judged) == 24 and all(isinstance(j, Score) for j in judged)


async def quoted_prices(url: str, window: str, ticker: str) -> list[float]:
    connection = await asyncpg.connect(url)
    try:
        found: list[Any] = await connection.fetch(
            "select (access->'data'->>'price')::float8 as price from trajectories,"
            " json_array_elements(\"stepsJson\"::json) step, json_array_elements(step->'providerAccesses') access"
            " where \"windowId\" = $1 and access->'data'->>'ticker' = $2 order by (step->>'timestamp')::int8",
            window,
            ticker,
        )
        return [row["price"] for row in found]
    finally:
        await connection.close()


async def test_what_would_never_be_read_is_not_written(run: Run, babylon_url: str, tmp_path: Path) -> None:
    out = run("task=outcomes", "source=postgres", "database=embedded", code=2)
    assert "another database" in out and "task=import source=postgres database=embedded" in out
    out = run("task=outcomes", "source=jsonl", f"source.path={tmp_path}", code=2)
    assert "task=import source=jsonl" in out
    assert await rows(babylon_url) == []


async def test_rows_of_the_games_own_stay(run: Run, babylon_url: str) -> None:
    connection = await asyncpg.connect(babylon_url)
    await connection.execute(
        'insert into market_outcomes (id, "windowId", "stockTicker", "startPrice", "endPrice", "createdAt")'
        " values ('game-1', '2025-11-14T08:00', '$WIF', 1, 2, $1)",
        datetime(2025, 11, 14, 9, tzinfo=UTC).replace(tzinfo=None),
    )
    await connection.close()
    run("task=outcomes", "source=postgres", "sampler=four_hour")
    found = [r for r in await rows(babylon_url) if r["windowId"] == "2025-11-14T08:00"]
    assert {"$WIF", "$PEPE", "$TRUMP"} <= {r["stockTicker"] for r in found}
    (wif,) = [r for r in found if r["stockTicker"] == "$WIF"]
    assert (wif["id"], float(wif["startPrice"]), float(wif["endPrice"])) == ("game-1", 1.0, 2.0)
