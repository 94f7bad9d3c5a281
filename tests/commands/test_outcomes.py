"""From recorded prices to outcomes that a judge can use, on a game's own database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.database.database import Database
from mmo_rl.judge.oracle import OracleJudge
from mmo_rl.source.base import SourceParts
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import Group, Judgment, Score, SelectedWindow, Selection, WindowQuery
from tests.harness.database import rows
from tests.harness.project import Project

RECORDED = ("2025-11-14T08:00", "2025-11-14T09:00", "2025-11-14T11:00", "2025-11-14T13:00")


@pytest.fixture
def project(projects: Callable[[], Project], babylon_url: str) -> Iterator[Project]:
    """A project with a game's own database; another zone must change nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        yield projects().with_variables(DATABASE_URL=babylon_url)
    time.tzset()


def outcomes(url: str) -> list[dict[str, Any]]:
    return asyncio.run(rows(url, 'select * from market_outcomes order by "windowId", "stockTicker"'))


async def groups(source: PostgresSource) -> AsyncIterator[Group]:
    windows = await source.windows(WindowQuery())
    chosen = tuple(SelectedWindow(w.window, tuple(m.trajectory_id for m in w.members)) for w in windows)
    async for group in source.groups(Selection(0, chosen, len(chosen), 0, 0.0, 0, {})):
        yield group


def test_recorded_prices_become_outcomes_that_the_oracle_scores_with(
    project: Project, babylon_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = project.run("task=outcomes", "source=postgres")
    assert "outcomes of 5 windows stored" in out and "mmo-rl task=check source=postgres" in out
    first = outcomes(babylon_url)
    assert {r["windowId"] for r in first} == {*RECORDED, "2025-11-14T10:00"}
    assert {"$WIF", "$PEPE", "$TRUMP"} <= {r["stockTicker"] for r in first}
    last = [r for r in first if r["windowId"] == "2025-11-14T13:00"]
    for row in last:  # one agent was there: its first quote and its last
        quotes = quoted_prices(babylon_url, "2025-11-14T13:00", row["stockTicker"])
        assert (float(row["startPrice"]), float(row["endPrice"])) == (round(quotes[0], 2), round(quotes[-1], 2))
        assert row["sentiment"] == ("BULLISH" if row["endPrice"] > row["startPrice"] else "BEARISH")
        change_pct = float(row["endPrice"] / row["startPrice"] - 1) * 100
        assert float(row["changePercent"]) == pytest.approx(change_pct, abs=0.005)

    again = project.run("task=outcomes", "source=postgres")
    assert "5 final windows kept" in again
    assert outcomes(babylon_url) == first
    recomputed = project.run("task=outcomes", "source=postgres", "outcomes.recompute=true")
    assert "outcomes of 5 windows stored" in recomputed
    assert [{**r, "createdAt": None} for r in outcomes(babylon_url)] == [{**r, "createdAt": None} for r in first]

    monkeypatch.setenv("MMO_RL_TEST_DATABASE_URL", babylon_url)

    async def judge() -> list[Judgment]:
        async with Database(dsn_env="MMO_RL_TEST_DATABASE_URL", home=tmp_path) as database:
            source = PostgresSource(dsn_env="DATABASE_URL", parts=SourceParts(pool=database.read_only()))
            return [j async for g in OracleJudge().score(groups(source)) for j in g.judgments.values()]

    judged = asyncio.run(judge())
    assert len(judged) == 24 and all(isinstance(j, Score) for j in judged)


def quoted_prices(url: str, window: str, ticker: str) -> list[float]:
    found = asyncio.run(
        rows(
            url,
            "select (access->'data'->>'price')::float8 as price from trajectories,"
            " json_array_elements(\"stepsJson\"::json) step, json_array_elements(step->'providerAccesses') access"
            " where \"windowId\" = $1 and access->'data'->>'ticker' = $2 order by (step->>'timestamp')::int8",
            window,
            ticker,
        )
    )
    return [row["price"] for row in found]


def test_what_would_never_be_read_is_not_written(project: Project, babylon_url: str, tmp_path: Path) -> None:
    out = project.run("task=outcomes", "source=postgres", "database=embedded", code=2)
    assert "another database" in out and "task=import source=postgres database=embedded" in out
    out = project.run("task=outcomes", "source=jsonl", f"source.path={tmp_path}", code=2)
    assert "task=import source=jsonl" in out
    assert outcomes(babylon_url) == []


def test_rows_of_the_games_own_stay(project: Project, babylon_url: str) -> None:
    inserted = (
        'insert into market_outcomes (id, "windowId", "stockTicker", "startPrice", "endPrice", "createdAt")'
        " values ('game-1', '2025-11-14T08:00', '$WIF', 1, 2, '2025-11-14 09:00')"
    )
    asyncio.run(rows(babylon_url, inserted))
    project.run("task=outcomes", "source=postgres", "sampler=four_hour")
    found = [r for r in outcomes(babylon_url) if r["windowId"] == "2025-11-14T08:00"]
    assert {"$WIF", "$PEPE", "$TRUMP"} <= {r["stockTicker"] for r in found}
    (wif,) = [r for r in found if r["stockTicker"] == "$WIF"]
    assert (wif["id"], float(wif["startPrice"]), float(wif["endPrice"])) == ("game-1", 1.0, 2.0)
