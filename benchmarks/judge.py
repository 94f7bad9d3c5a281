"""The LLM judge against a judge that answers after 200 ms: wall time, calls of a sweep, calls after a kill.

    python benchmarks/judge.py [--windows 200] [--jobs 8] [--json]

A loopback endpoint and every judging job run in processes of their own; jobs share one database, on a server that is
started in a temporary folder. The endpoint counts what it answered.

- throughput: one job, 16 requests at once. Ideal is windows / 16, rounded up, times the latency.
- sweep: jobs that differ in nothing that a judgment depends on, as those of a sweep over the learning rate, started
  together; ``plain`` is the same without the shared cache.
- restart: a job is killed between two rounds of answers, and the same job started again; an answer that is on its way
  into the database at that very moment is lost.

Goals: at most 1.15x the ideal time; exactly 1x the calls of one job; no call that had been answered is repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from mmo_rl.chat.endpoint import Endpoint as JudgeEndpoint
from mmo_rl.clock import milliseconds
from mmo_rl.database.database import Database
from mmo_rl.database.embedded import EmbeddedServer
from mmo_rl.database.judgments import StoredJudgments
from mmo_rl.database.migrate import migrate
from mmo_rl.judge.base import JudgeParts
from mmo_rl.judge.ruler import RulerJudge
from mmo_rl.judge.template import Template
from mmo_rl.types import Action, GroundTruth, Group, LLMCall, Score, Step, TickerOutcome, Trajectory, Window

VARIABLE = "MMO_RL_BENCHMARK_URL"
TEMPLATE = Path(__file__).parents[1] / "conf" / "judge" / "template" / "context_rich.yaml"
LATENCY_S = 0.2
CONCURRENCY = 16
AGENTS = 8
STEPS = 8
FIRST = datetime(2025, 1, 1, tzinfo=UTC)
GOALS = {"throughput": 1.15, "sweep": 1.0, "restart": 0}


# --- the endpoint ---------------------------------------------------------------------------------------------------


class Endpoint:
    """Answers each chat completion after the latency with a score for each id; ``GET /stats`` says what it did."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.last_answer = time.monotonic()

    async def serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1024)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"(?i)content-length: (\d+)", head)
                body = await reader.readexactly(int(length.group(1))) if length else b""
                answer = await self._completion(body, reader) if head.startswith("POST") else self._stats()
                payload = json.dumps(answer).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n" % len(payload) + payload)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _completion(self, body: bytes, reader: asyncio.StreamReader) -> dict[str, Any]:
        await asyncio.sleep(LATENCY_S)
        if reader.at_eof() or reader.exception() is not None:
            raise ConnectionResetError("nobody is there to take the answer")
        self.answered[hashlib.sha256(body).hexdigest()] += 1
        self.last_answer = time.monotonic()
        ids = re.findall(rb'<trajectory-\w+ id=\\"(\d+)\\">', body)
        scores = [{"trajectory_id": i.decode(), "explanation": "", "score": int(i) / len(ids)} for i in ids]
        return {
            "choices": [{"finish_reason": "stop", "message": {"content": json.dumps({"scores": scores})}}],
            "usage": {"prompt_tokens": len(body) // 4, "completion_tokens": 40 * len(ids)},
        }

    def _stats(self) -> dict[str, Any]:
        return {
            "answered": self.answered.total(),
            "different": len(self.answered),
            "quiet_s": time.monotonic() - self.last_answer,
        }


# --- the job --------------------------------------------------------------------------------------------------------


def make_group(number: int) -> Group:
    start = FIRST + timedelta(hours=number)
    window = Window(start.strftime("%Y-%m-%dT%H:%M"), start, start + timedelta(hours=1))
    truth = GroundTruth(window.id, tuple(TickerOutcome(f"T{n}", 100.0, 100.0 + number + n) for n in range(4)))
    return Group(window.id, window, tuple(_member(window, f"{number}-{agent}") for agent in range(AGENTS)), truth)


def _member(window: Window, name: str) -> Trajectory:
    steps = tuple(
        Step(
            number,
            milliseconds(window.start + timedelta(minutes=7 * number)),
            {"agentBalance": 1000.0, "agentPnL": float(number)},
            Action("BUY", {"ticker": "T1", "size": number}, success=True, result={"price": 100.0 + number}),
            (
                LLMCall(
                    call_id=f"{name}-{number}",
                    model="policy",
                    user_prompt=f"{name}: T1 is at {100 + number}. " + "news " * 50,
                    response='{"ticker": "T1", "action": "BUY", "size": 2}',
                ),
            ),
        )
        for number in range(STEPS)
    )
    return Trajectory(name, name, window.id, window.start, window.end, steps, final_pnl=float(len(name)))


async def judge(url: str, windows: int, *, cached: bool, prefix: int, concurrency: int) -> dict[str, Any]:
    """Judges ``windows`` windows, the first of which is number ``prefix``."""
    groups = [make_group(prefix + number) for number in range(windows)]

    async def stream() -> AsyncIterator[Group]:
        for group in groups:
            yield group

    values = yaml.safe_load(TEMPLATE.read_text("utf-8"))
    values.pop("_target_")
    async with Database(dsn_env=VARIABLE, home=Path()) as database:
        cache = StoredJudgments(database=database) if cached else None
        judge = RulerJudge(
            model="benchmark",
            template=Template(**values),
            seed=0,
            endpoint=JudgeEndpoint(base_url=url, concurrency=concurrency),
            parts=JudgeParts(cache=cache),
        )
        # What is paid once a process (imports, the first connections) is not what is measured.
        warm_up = RulerJudge(
            model="warm-up",
            template=Template(**values),
            seed=os.getpid(),
            endpoint=JudgeEndpoint(base_url=url),
            parts=JudgeParts(cache=cache),
        )
        async for _ in warm_up.score(_one(groups[0])):
            pass
        await warm_up.aclose()
        started, scored = time.perf_counter(), 0
        async for result in judge.score(stream()):
            scored += all(isinstance(judgment, Score) for judgment in result.judgments.values())
        wall_s = time.perf_counter() - started
        await judge.aclose()
    return {"wall_s": wall_s, "scored": scored, "calls": judge.usage.calls, "hits": judge.usage.cache_hits}


async def _one(group: Group) -> AsyncIterator[Group]:
    yield group


# --- the measurements -----------------------------------------------------------------------------------------------


class Bench:
    def __init__(self, url: str) -> None:
        self._url = url
        self._prefix = 0

    def start(
        self, windows: int, *, cached: bool = True, again: bool = False, concurrency: int = CONCURRENCY
    ) -> subprocess.Popen[str]:
        """A job over windows of its own, or over those of the last one."""
        self._prefix += 0 if again else 100_000
        settings = [str(value) for value in (windows, int(cached), self._prefix, concurrency)]
        command = [sys.executable, __file__, "--job", self._url, *settings]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(self._url.removesuffix("/v1") + "/stats") as response:
            return dict(json.load(response))

    def throughput(self, windows: int) -> dict[str, Any]:
        done = finish(self.start(windows))
        ideal_s = -(-windows // CONCURRENCY) * LATENCY_S
        return {**done, "ideal_s": ideal_s, "ratio": done["wall_s"] / ideal_s}

    def sweep(self, windows: int, jobs: int, *, cached: bool) -> dict[str, Any]:
        running = [self.start(windows, cached=cached, again=number > 0) for number in range(jobs)]
        done = [finish(job) for job in running]
        calls = sum(job["calls"] for job in done)
        return {"jobs": jobs, "scored": [job["scored"] for job in done], "calls": calls, "ratio": calls / windows}

    def restart(self, windows: int) -> dict[str, Any]:
        before, kept_before = self.stats(), asyncio.run(kept())
        job = self.start(windows, concurrency=4)  # few enough for the rounds to be told apart
        while True:
            stats = self.stats()
            answered = stats["answered"] - before["answered"]
            # Between two rounds: an answer on its way into the database at this very moment would be asked for again.
            if answered > windows / 3 and 0.5 * LATENCY_S < stats["quiet_s"] < 0.75 * LATENCY_S:
                break
            time.sleep(0.01)
        job.kill()
        job.wait()
        kept_at_the_kill = asyncio.run(kept()) - kept_before - 1  # one warmed up
        done = finish(self.start(windows, again=True))
        return {
            **done,
            "answered_before_the_kill": answered - 1,
            "kept_at_the_kill": kept_at_the_kill,
            "repeated": done["calls"] - (windows - kept_at_the_kill),
        }


async def kept() -> int:
    """How many judgments the database holds."""
    async with Database(dsn_env=VARIABLE, home=Path()) as database, database.read_only().acquire() as connection:
        return int(await connection.fetchval("select count(*) from mmo_rl.judgments"))


def finish(job: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = job.communicate(timeout=600)
    if job.returncode:
        raise SystemExit(f"a job failed with {job.returncode}")
    return dict(json.loads(out))


async def prepare() -> None:
    async with Database(dsn_env=VARIABLE, home=Path()) as database:
        await migrate(database)


def measure(windows: int, jobs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        server = EmbeddedServer(data_dir=Path(name) / "postgres")
        server.start()
        endpoint = subprocess.Popen([sys.executable, __file__, "--endpoint"], stdout=subprocess.PIPE, text=True)
        try:
            os.environ[VARIABLE] = server.dsn("postgres")
            asyncio.run(prepare())
            assert endpoint.stdout is not None
            bench = Bench(f"http://127.0.0.1:{int(endpoint.stdout.readline())}/v1")
            some = max(CONCURRENCY * 3, windows // 4)
            return {
                "windows": windows,
                "latency_s": LATENCY_S,
                "concurrency": CONCURRENCY,
                "goals": GOALS,
                "throughput": bench.throughput(windows),
                "sweep": bench.sweep(some, jobs, cached=True),
                "plain": bench.sweep(some, jobs, cached=False),
                "restart": bench.restart(max(CONCURRENCY, windows // 4)),
            }
        finally:
            endpoint.kill()
            endpoint.communicate()
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--endpoint", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--job", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.endpoint:
        asyncio.run(Endpoint().serve())
        return
    if arguments.job:
        url, *values = arguments.job
        windows, cached, prefix, concurrency = map(int, values)
        done = judge(url, windows, cached=bool(cached), prefix=prefix, concurrency=concurrency)
        print(json.dumps(asyncio.run(done)))
        return
    result = measure(arguments.windows, arguments.jobs)
    if arguments.json:
        print(json.dumps(result))
        return
    throughput, sweep, plain, restart = (result[key] for key in ("throughput", "sweep", "plain", "restart"))
    print(
        f"throughput  {throughput['scored']} windows in {throughput['wall_s']:.2f} s, ideal "
        f"{throughput['ideal_s']:.2f} s: ratio {throughput['ratio']:.2f} (goal: at most {GOALS['throughput']})\n"
        f"sweep       {sweep['jobs']} jobs made {sweep['ratio']:.2f}x the calls of one (goal: {GOALS['sweep']:g}x), "
        f"without a shared cache {plain['ratio']:.2f}x\n"
        f"restart     killed after {restart['answered_before_the_kill']} answers, of which "
        f"{restart['kept_at_the_kill']} were kept; "
        f"{restart['repeated']} of those asked for again (goal: {GOALS['restart']})"
    )


if __name__ == "__main__":
    main()
