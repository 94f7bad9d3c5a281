"""Choosing an iteration's data at the size of a live game: one statement for the windows, one for their members.

    python benchmarks/selection.py [--rows 1000000] [--repetitions 3] [--json]

A server of its own is started in a temporary folder and filled with windows of 50 agents. The bare aggregate is the
same numbers by recorded window id in plain SQL; a selection takes its windows from the last 168 hours of all that there
are (the default), or from all. They are measured in turn in one run, with the index that
`mmo-rl task=migrate` makes and with a game's own indexes alone. Ratios are those of the medians.

Goals: a selection <= 1.5x the bare aggregate with our index, <= 3x with a game's own indexes; the process that selects
peaks below 300 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg

from mmo_rl.database.database import Database
from mmo_rl.database.embedded import EmbeddedServer
from mmo_rl.database.migrate import migrate
from mmo_rl.sampler.select import select
from mmo_rl.sampler.windows import WindowSampler
from mmo_rl.source.base import WINDOWS_INDEX, SourceParts
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import Selection

VARIABLE = "MMO_RL_BENCHMARK_URL"
ALL = 1e6
"""Hours that reach back to the first window."""
GOALS = {"indexed": 1.5, "plain": 3.0, "peak_mb": 300.0}
AGGREGATE = """
    select "windowId", count(*), count(*) filter (where "isTrainingData" and not "isEvaluation"),
           count(*) filter (where "isTrainingData" and not "isEvaluation" and "episodeLength" >= 5),
           count(distinct "agentId") filter (where "isTrainingData" and not "isEvaluation" and "episodeLength" >= 5),
           sum("episodeLength"), min("finalPnL"), max("finalPnL"), max("endTime")
    from trajectories group by "windowId"
"""
FILL = """
    insert into trajectories (id, "trajectoryId", "agentId", "startTime", "endTime", "durationMs", "windowId",
        "stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson", "totalReward", "episodeLength",
        "finalStatus", "finalPnL", "updatedAt")
    select 't' || n, 't' || n, 'a' || n % 50, at, at + interval '30 minutes', 0, to_char(at, 'YYYY-MM-DD"T"HH24:00'),
           repeat(md5(n::text), 20), '{}', '{}', '{}', 0, n % 20 + 1, 'completed', n % 100 - 50, at
    from (select n, timestamp '2020-01-01' + (n / 50) * interval '1 hour' as at from generate_series(0, $1 - 1) n) s
"""


async def choose(database: Database, lookback_hours: float = 168.0) -> Selection:
    """One iteration's selection, from the windows of so many hours."""
    reader = PostgresSource(dsn_env=VARIABLE, parts=SourceParts(pool=database.read_only()))
    sampler = WindowSampler(lookback_hours=lookback_hours, target_trajectories=500, seed=0)
    return await select(reader, sampler, iteration=0, used_windows=(), scenario_id=None)


async def in_turn(ways: dict[str, Callable[[], Awaitable[Any]]], repetitions: int) -> dict[str, float]:
    """The median seconds of each way; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repetitions + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            await way()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(measured) for name, measured in seconds.items()}


async def child() -> None:
    """Selects in a process of its own, and prints its peak memory in MB."""
    async with Database(dsn_env=VARIABLE, home=Path()) as database:
        await choose(database, ALL)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / (1024 if sys.platform == "linux" else 1024**2))


def peak_mb() -> float:
    ran = subprocess.run([sys.executable, __file__, "--child"], check=True, capture_output=True, text=True)
    return float(ran.stdout)


async def measure(server: EmbeddedServer, arguments: argparse.Namespace) -> dict[str, Any]:
    admin = await asyncpg.connect(server.dsn("postgres"))
    await admin.execute("alter system set synchronous_commit = off")
    await admin.execute("alter system set max_wal_size = '8GB'")
    await admin.execute("select pg_reload_conf()")
    await admin.execute("create database play")
    await admin.close()
    os.environ[VARIABLE] = server.dsn("play")
    result: dict[str, Any] = {"rows": arguments.rows, "goals": GOALS}
    async with Database(dsn_env=VARIABLE, home=Path()) as database:
        await migrate(database)
        connection = await database.connect()
        await connection.execute("set statement_timeout = 0")
        kept = await connection.fetch(
            "select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as made from pg_index"
            " where indrelid = 'trajectories'::regclass and not indisunique"
        )
        for index in kept:  # made anew when the rows are there: that is faster
            await connection.execute(f"drop index {index['name']}")
        await connection.execute(FILL, arguments.rows)
        for index in kept:
            await connection.execute(index["made"])
        await connection.execute("vacuum analyze trajectories")
        for name in ("indexed", "plain"):
            if name == "plain":
                await connection.execute(f"drop index {WINDOWS_INDEX}")
            selection = await choose(database, ALL)
            assert len(selection.windows) == min(20, arguments.rows // 50), "a batch of windows was chosen"
            seconds = await in_turn(
                {
                    "aggregate": lambda: connection.fetch(AGGREGATE),
                    "selection": lambda: choose(database),
                    "all": lambda: choose(database, ALL),
                },
                arguments.repetitions,
            )
            result[f"{name}_s"] = seconds
            result[name] = seconds["selection"] / seconds["aggregate"]
            result[f"{name}_all"] = seconds["all"] / seconds["aggregate"]
            result[f"{name}_peak_mb"] = peak_mb()
        result["windows_available"] = selection.windows_available
        await connection.close()
    result["peak_mb"] = max(result["indexed_peak_mb"], result["plain_peak_mb"])
    result["reached"] = all(result[name] <= goal for name, goal in GOALS.items())
    return result


def table(result: dict[str, Any]) -> str:
    rows = [(f"{result['rows']:,} trajectories, {result['windows_available']:,} windows", "", "", "")]
    for name, label in (("indexed", "our index"), ("plain", "a game's own indexes")):
        seconds = result[f"{name}_s"]
        rows += [
            (f"bare aggregate, {label}", f"{seconds['aggregate']:.2f} s", "1", ""),
            (f"a selection, {label}", f"{seconds['selection']:.2f} s", f"{result[name]:.2f}x", f"<= {GOALS[name]}x"),
            (
                "  of all windows, not the last 168 hours",
                f"{seconds['all']:.2f} s",
                f"{result[f'{name}_all']:.2f}x",
                "",
            ),
        ]
    rows.append(("peak memory", f"{result['peak_mb']:.0f} MB", "", f"< {GOALS['peak_mb']:.0f} MB"))
    return "\n".join(f"{name:42} {value:>10} {ratio:>8}   {goal}".rstrip() for name, value, ratio, goal in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000, help="trajectories, 50 a window")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        asyncio.run(child())
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
