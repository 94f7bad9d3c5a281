"""Reading recorded play against the plain way: a query a window, json.loads, nested constructors.

    python benchmarks/read_path.py [--rows 600] [--statistics-rows 100000] [--repetitions 3] [--json]

A server of its own is started in a temporary folder and filled with trajectories of about 60 KB. All ways are measured
in turn in one run; ratios are those of the medians. ``--statistics-rows 1000000`` measures window statistics at the
size of a live game (20,000 windows of 50 agents).

Goals: streaming everything >= 2.5x the plain way, a selection of 25 % >= 10x, streaming <= 2x the raw fetch, peak
memory the same for 1x and 4x the data, window statistics <= 1.3x the bare SQL aggregate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from pydantic import BaseModel

from mmo_rl.database.database import Database
from mmo_rl.database.embedded import EmbeddedServer
from mmo_rl.database.migrate import migrate
from mmo_rl.source.base import SourceParts
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import SelectedWindow, Selection, Span, WindowQuery, WindowStats

VARIABLE = "MMO_RL_BENCHMARK_URL"
AGENTS = 10
STEPS = 75  # of about 800 bytes, written as the game's own test agents were recorded
TICKERS = ("$WIF", "$PEPE", "$DOGE", "$BONK", "$SHIB")
FIRST = datetime(2025, 1, 1, tzinfo=UTC)
GOALS = {"stream": 2.5, "quarter": 10.0, "floor": 2.0, "memory": 1.1, "statistics": 1.3}


# --- the plain way --------------------------------------------------------------------------------------------------


class PlainCall(BaseModel):
    model: str
    systemPrompt: str
    userPrompt: str
    response: str
    purpose: str
    temperature: float
    maxTokens: int
    reasoning: str
    actionType: str


class PlainAction(BaseModel):
    actionType: str
    parameters: dict[str, Any]
    success: bool
    result: dict[str, Any] | None = None


class PlainStep(BaseModel):
    stepNumber: int
    timestamp: int
    environmentState: dict[str, Any]
    providerAccesses: list[dict[str, Any]]
    llmCalls: list[PlainCall]
    action: PlainAction
    reward: float


class PlainTrajectory(BaseModel):
    trajectory_id: str
    agent_id: str
    steps: list[PlainStep]
    metrics: dict[str, Any]
    metadata: dict[str, Any]


async def plain(connection: asyncpg.Connection[Any]) -> int:
    count = 0
    for window in await connection.fetch('select distinct "windowId" as id from trajectories order by 1'):
        for row in await connection.fetch('select * from trajectories where "windowId" = $1', window["id"]):
            steps = [
                PlainStep(
                    **(
                        step
                        | {
                            "llmCalls": [PlainCall(**call) for call in step["llmCalls"]],
                            "action": PlainAction(**step["action"]),
                        }
                    )
                )
                for step in json.loads(row["stepsJson"])
            ]
            PlainTrajectory(
                trajectory_id=row["trajectoryId"],
                agent_id=row["agentId"],
                steps=steps,
                metrics=json.loads(row["metricsJson"]),
                metadata=json.loads(row["metadataJson"]),
            )
            count += 1
    return count


# --- what is read ---------------------------------------------------------------------------------------------------


async def fill(connection: asyncpg.Connection[Any], rows: int, rng: random.Random) -> None:
    insert = """
        insert into trajectories (id, "trajectoryId", "agentId", "startTime", "endTime", "durationMs", "windowId",
            "stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson", "totalReward", "episodeLength",
            "finalStatus", "finalPnL", "updatedAt")
        values ($1, $1, $2, $3, $4, 0, $5, $6, '{}', '{"finalPnL": 1}', '{}', 0, $7, 'completed', 1, $3)
    """
    for number in range(rows):
        start = FIRST + timedelta(hours=number // AGENTS)
        milliseconds = int(start.timestamp() * 1000)
        quotes = [(rng.choice(TICKERS), 100 + 50 * rng.random()) for _ in range(STEPS)]
        steps = [
            {
                "stepNumber": step,
                "timestamp": milliseconds + step * 1000,
                "environmentState": {"agentBalance": 1e4, "agentPnL": 0.0, "openPositions": 3, "activeMarkets": 11},
                "providerAccesses": [
                    {
                        "providerName": "market_data",
                        "data": {
                            "ticker": ticker,
                            "price": price,
                            "volume": 1e6 * rng.random(),
                            "sentiment": "BULLISH",
                        },
                        "purpose": "get_market_data",
                    }
                ],
                "llmCalls": [
                    {
                        "model": "gpt-4o-mini",
                        "systemPrompt": "You are a momentum trading agent with risk tolerance 0.7",
                        "userPrompt": f"Current price: {ticker} at ${price:.2f}. Should you trade?",
                        "response": "HOLD",
                        "reasoning": "Market sentiment and my momentum strategy suggests: HOLD",
                        "temperature": 0.7,
                        "maxTokens": 150,
                        "purpose": "action",
                        "actionType": "HOLD",
                    }
                ],
                "action": {"actionType": "HOLD", "parameters": {}, "success": True, "result": {"held": True}},
                "reward": 0,
            }
            for step, (ticker, price) in enumerate(quotes)
        ]
        naive = start.replace(tzinfo=None)
        await connection.execute(
            insert,
            f"t{number}",
            f"a{number % AGENTS}",
            naive,
            naive + timedelta(minutes=30),
            f"{start:%Y-%m-%dT%H:%M}",
            json.dumps(steps),
            STEPS,
        )
    await connection.execute("vacuum analyze trajectories")


async def fill_statistics(connection: asyncpg.Connection[Any], rows: int) -> None:
    await connection.execute(
        """
        insert into trajectories (id, "trajectoryId", "agentId", "startTime", "endTime", "durationMs", "windowId",
            "stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson", "totalReward", "episodeLength",
            "finalStatus", "finalPnL", "updatedAt")
        select 't' || n, 't' || n, 'a' || n % 50, at, at + interval '30 minutes', 0,
               to_char(at, 'YYYY-MM-DD"T"HH24:00'),
               '[]', '{}', '{}', '{}', 0, 20, 'completed', 1, at
        from (select n, timestamp '2020-01-01' + (n / 50) * interval '1 hour' as at from generate_series(0, $1 - 1) n) s
        """,
        rows,
    )
    await connection.execute("vacuum analyze trajectories")


def chosen(windows: list[WindowStats], *, every: int = 1) -> Selection:
    listed = tuple(
        SelectedWindow(w.window, tuple(m.trajectory_id for n, m in enumerate(w.members) if n % every == 0))
        for w in windows
    )
    return Selection(0, listed, len(listed), 0, 0.0, 0, {})


WHOLE = WindowQuery(span=Span(datetime(2000, 1, 1, tzinfo=UTC), datetime(2300, 1, 1, tzinfo=UTC)))


async def stream(reader: PostgresSource, selection: Selection) -> int:
    return sum([len(group.members) async for group in reader.groups(selection)])


# --- measuring ------------------------------------------------------------------------------------------------------


async def in_turn(
    ways: dict[str, Callable[[], Awaitable[Any]]], repetitions: int, *, warm: bool = True
) -> dict[str, float]:
    """The median seconds of each way; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repetitions + warm):
        for name, way in ways.items():
            started = time.perf_counter()
            await way()
            if turn or not warm:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(measured) for name, measured in seconds.items()}


async def child(share: float) -> None:
    """Streams a share of the windows in a process of its own, and prints its peak memory in MB."""
    async with Database(dsn_env=VARIABLE, home=Path()) as database:
        reader = PostgresSource(dsn_env=VARIABLE, parts=SourceParts(pool=database.read_only()))
        windows = await reader.windows(WHOLE)
        await stream(reader, chosen(windows[: max(1, int(len(windows) * share))]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / (1024 if sys.platform == "linux" else 1024**2))


def peak_mb(share: float) -> float:
    ran = subprocess.run([sys.executable, __file__, "--child", str(share)], check=True, capture_output=True, text=True)
    return float(ran.stdout)


async def measure(server: EmbeddedServer, arguments: argparse.Namespace) -> dict[str, Any]:
    admin = await asyncpg.connect(server.dsn("postgres"))
    await admin.execute("alter system set synchronous_commit = off")
    await admin.execute("select pg_reload_conf()")
    for name in ("play", "statistics"):
        await admin.execute(f"create database {name}")
    await admin.close()
    result: dict[str, Any] = {"rows": arguments.rows, "statistics_rows": arguments.statistics_rows, "goals": GOALS}

    os.environ[VARIABLE] = server.dsn("play")
    async with Database(dsn_env=VARIABLE, home=Path()) as database:
        await migrate(database)
        connection = await database.connect()
        await fill(connection, arguments.rows, random.Random(0))
        reader = PostgresSource(dsn_env=VARIABLE, parts=SourceParts(pool=database.read_only()))
        windows = await reader.windows(WHOLE)
        everything, quarter = chosen(windows), chosen(windows, every=4)
        ids = list(everything.trajectory_ids)

        async def floor() -> None:
            for first in range(0, len(ids), 100):
                await connection.fetch(
                    'select * from trajectories where "trajectoryId" = any($1)', ids[first : first + 100]
                )

        seconds = await in_turn(
            {
                "plain": lambda: plain(connection),
                "floor": floor,
                "stream": lambda: stream(reader, everything),
                "quarter": lambda: stream(reader, quarter),
            },
            arguments.repetitions,
        )
        assert await stream(reader, everything) == arguments.rows, "everything is read once"
        await connection.close()
    result["read_s"] = seconds
    result["stream"] = seconds["plain"] / seconds["stream"]
    result["quarter"] = seconds["plain"] / seconds["quarter"]
    result["floor"] = seconds["stream"] / seconds["floor"]
    result["peak_mb"] = {"1x": peak_mb(0.25), "4x": peak_mb(1.0)}
    result["memory"] = result["peak_mb"]["4x"] / result["peak_mb"]["1x"]

    os.environ[VARIABLE] = server.dsn("statistics")
    async with Database(dsn_env=VARIABLE, home=Path()) as database:
        await migrate(database)
        connection = await database.connect()
        await fill_statistics(connection, arguments.statistics_rows)
        reader = PostgresSource(dsn_env=VARIABLE, parts=SourceParts(pool=database.read_only()))
        aggregate = """
            select "windowId", count(*), count(distinct "agentId"), sum("episodeLength"), min("finalPnL"),
                   max("finalPnL"), bool_or("isEvaluation"), max("endTime")
            from trajectories where "isTrainingData" group by "windowId" order by "windowId"
        """
        seconds = await in_turn(
            {
                "aggregate": lambda: connection.fetch(aggregate),
                "lookback": lambda: reader.windows(WindowQuery()),
                "all": lambda: reader.windows(WHOLE),
            },
            arguments.repetitions,
        )
        await connection.close()
    result["statistics_s"] = seconds
    result["statistics"] = seconds["lookback"] / seconds["aggregate"]
    result["statistics_all"] = seconds["all"] / seconds["aggregate"]
    return result


def table(result: dict[str, Any]) -> str:
    read, peak, stats = result["read_s"], result["peak_mb"], result["statistics_s"]
    rows = [
        ("the plain way, everything", f"{read['plain']:.2f} s", "1", ""),
        ("raw fetch, everything", f"{read['floor']:.2f} s", "", ""),
        ("streaming everything", f"{read['stream']:.2f} s", f"{result['stream']:.1f}x faster", ">= 2.5x"),
        ("  against the raw fetch", "", f"{result['floor']:.2f}x its time", "<= 2x"),
        ("a selection of 25 %", f"{read['quarter']:.2f} s", f"{result['quarter']:.1f}x faster", ">= 10x"),
        ("peak memory, 1x the data", f"{peak['1x']:.0f} MB", "1", ""),
        ("peak memory, 4x the data", f"{peak['4x']:.0f} MB", f"{result['memory']:.2f}x", "<= 1.1x"),
        ("bare SQL aggregate of all windows", f"{stats['aggregate']:.2f} s", "1", ""),
        ("windows of the last 168 hours", f"{stats['lookback']:.2f} s", f"{result['statistics']:.2f}x", "<= 1.3x"),
        ("every window, every member", f"{stats['all']:.2f} s", f"{result['statistics_all']:.2f}x", ""),
    ]
    return "\n".join(f"{name:36} {value:>10} {ratio:>16}   {goal}" for name, value, ratio, goal in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=600, help="trajectories of about 60 KB")
    parser.add_argument("--statistics-rows", type=int, default=100_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        asyncio.run(child(arguments.child))
        return
    with tempfile.TemporaryDirectory(prefix="mmo_rl-") as name:
        Path(name).chmod(0o755)
        server = EmbeddedServer(data_dir=Path(name) / "postgres")
        server.start()
        try:
            result = asyncio.run(measure(server, arguments))
        finally:
            server.stop()
    print(json.dumps(result) if arguments.json else table(result))


if __name__ == "__main__":
    main()
