"""A sweep of real training runs that is killed again and again, against the same sweep left in peace.

    python benchmarks/killed_sweep.py [--kills 3] [--seed 0] [--quick] [--launcher joblib] [--json]

Twelve jobs (3 window lengths x 2 dropouts x 2 seeds) train the shipped model on the same recorded play, judged over
HTTP by a judge on loopback that counts. One sweep runs undisturbed; the other is killed with its whole process tree
(SIGKILL) at seeded random moments, and started again with the same command. Exit code 1
unless all of this holds:

- both end with the same numbers in every job (times, costs and cache hits aside);
- no job that was done is begun again;
- no judgment is paid twice, but those whose answer was on its way when the kill came.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SMALL = ("market.ticks=4", "model.threads=1", "model.max_completion_tokens=16")
ANSWER_S = 0.05
ON_ITS_WAY_S = 3.0
"""An answer given so shortly before a kill may not have reached the database."""
INCOMPARABLE = re.compile(r"^(time/|judge/(calls|cache_hits|cost|.*tokens|waited)|.*(folder|started|ended))")


@dataclass
class Judge:
    """Answers on loopback with scores that follow from the text alone, and counts what it was asked."""

    asked: list[tuple[str, float]] = field(default_factory=list)
    url: str = ""

    def start(self) -> ThreadingHTTPServer:
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                time.sleep(ANSWER_S)
                answer = json.dumps(judge.answer(body["messages"][-1]["content"])).encode()
                judge.asked.append((hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest(), time.time()))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    @staticmethod
    def answer(prompt: str) -> dict[str, Any]:
        members = re.findall(r'<trajectory-(\w+) id="(\d+)">\n(.*?)\n</trajectory-\1>', prompt, re.DOTALL)
        scores = [
            {"trajectory_id": i, "explanation": "by its text", "score": int(_hash(text)[:6], 16) / 0xFFFFFF}
            for _, i, text in members
        ]
        message = {"role": "assistant", "content": json.dumps({"scores": scores})}
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        answer = {"id": "c", "object": "chat.completion", "created": 0, "model": "loopback"}
        return answer | {"choices": [choice], "usage": usage}

    def paid_twice(self, kills: list[float]) -> tuple[int, int]:
        """How many questions were answered more than once, and how many of those though no kill explains it."""
        times: dict[str, list[float]] = collections.defaultdict(list)
        for question, at in self.asked:
            times[question].append(at)
        again = [sorted(t) for t in times.values() if len(t) > 1]
        lost = [all(any(0 <= kill - t <= ON_ITS_WAY_S for kill in kills) for t in answers[:-1]) for answers in again]
        return len(again), lost.count(False)


@dataclass
class Project:
    """One folder with runs and a home of its own."""

    root: Path
    judge_url: str
    launcher: str

    def command(self, *overrides: str) -> list[str]:
        return [sys.executable, "-m", "mmo_rl", *overrides]

    def environment(self) -> dict[str, str]:
        mine = {"MMO_RL_ROOT": str(self.root), "MMO_RL_HOME": str(self.root / "home"), "LOOPBACK_KEY": "none"}
        return os.environ | mine | {"COLUMNS": "200"}

    def record(self) -> None:
        subprocess.run(
            self.command("task=collect", "name=play", "collect.windows=8", "collect.agents=6", *SMALL),
            cwd=self.root, env=self.environment(), check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def sweep(self, quick: bool) -> list[str]:
        grid = ["sampler.window_hours=1,2,4", "sampler.max_dropout=0,0.3"]
        if quick:
            grid = ["sampler.window_hours=1,2", "sampler.max_dropout=0.3"]
        return self.command(
            "-m", f"hydra/launcher={self.launcher}", "name=sweep", *grid, "seed=0" if quick else "seed=0,1",
            "iterations=2", "sampler.max_windows=1", "sampler.holdout=0", "sampler.target_trajectories=4",
            "sampler.min_agents=2", "sampler.min_actions=1", "collect=none", "evaluate=none", "report=local", *SMALL,
            "judge=ruler", "judge.model=loopback", f"judge.endpoint.base_url={self.judge_url}",
            "judge.endpoint.api_key_env=LOOPBACK_KEY",
        )  # fmt: skip

    def start(self, quick: bool) -> subprocess.Popen[bytes]:
        with open(self.root / "told.txt", "wb") as told:
            return subprocess.Popen(
                self.sweep(quick), cwd=self.root, env=self.environment(), start_new_session=True,
                stdout=told, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def finish(self, quick: bool) -> str:
        """Starts the sweep, waits for its end, and gives what it told."""
        self.start(quick).wait()
        return (self.root / "told.txt").read_text()

    def statuses(self) -> dict[str, dict[str, Any]]:
        return {p.parent.name: json.loads(p.read_text()) for p in self.root.glob("runs/sweep/*/status.json")}

    def done(self) -> dict[str, str]:
        """Of each finished job, when its run to the end was begun."""
        return {name: s["started"] for name, s in self.statuses().items() if s["status"] == "done"}

    def worked_s(self) -> float:
        """From the first start of a job to the last end."""
        times = [
            (datetime.fromisoformat(s["started"]), datetime.fromisoformat(s["ended"])) for s in self.statuses().values()
        ]
        return (max(end for _, end in times) - min(start for start, _ in times)).total_seconds() if times else 0.0

    def wait_for_work(self, process: subprocess.Popen[bytes]) -> None:
        """Until a job of this start is at work, or the sweep is over."""
        before = {name: s["started"] for name, s in self.statuses().items()}
        while process.poll() is None:
            if any(s["started"] != before.get(name) for name, s in self.statuses().items()):
                return
            time.sleep(0.1)

    def numbers(self) -> dict[str, dict[str, Any]]:
        summaries = {p.parent.name: json.loads(p.read_text()) for p in self.root.glob("runs/sweep/*/summary.json")}
        return {n: {k: v for k, v in s.items() if not INCOMPARABLE.search(k)} for n, s in summaries.items()}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def jobs_of(arguments: argparse.Namespace) -> int:
    return 2 if arguments.quick else 12


def kill_tree(root: int) -> int:
    """SIGKILL to a process and all its descendants; how many there were."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    for pid in tree:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(tree)


def disturbed(project: Project, arguments: argparse.Namespace, worked_s: float) -> tuple[str, list[float], int]:
    """Kills and restarts the sweep; gives its last output, the times of the kills, and how many jobs ran again.

    A kill comes when the jobs have been at work for a random share of what is left of ``worked_s``, which an
    undisturbed sweep takes, or before that when all but two (of two: but one) are done.
    """
    chance = random.Random(arguments.seed)
    jobs = jobs_of(arguments)
    kills: list[float] = []
    finished: dict[str, str] = {}
    for _ in range(arguments.kills):
        process = project.start(arguments.quick)
        project.wait_for_work(process)
        left = worked_s * (1 - len(finished) / jobs)
        deadline = time.monotonic() + chance.uniform(0.2, 1.0) * left
        while process.poll() is None and time.monotonic() < deadline and len(project.done()) < jobs - 1 - (jobs > 2):
            time.sleep(0.05)
        if process.poll() is None:
            count = kill_tree(process.pid)
            kills.append(time.time())
            process.wait()
            finished |= project.done()
            print(f"killed {count} processes; {len(finished)} jobs were done", file=sys.stderr)
    output = project.finish(arguments.quick)
    now = project.done()
    return output, kills, sum(now.get(name) != started for name, started in finished.items())


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    judge = Judge()
    judge.start()
    # One address for both: it is a part of a job's key.
    peaceful, killed = (Project(folder / name, judge.url, arguments.launcher) for name in ("peaceful", "killed"))
    folder.chmod(0o755)  # a server that root starts runs as somebody else, who has to get at its data here
    peaceful.root.mkdir()
    peaceful.record()
    # Owners are kept: a server that root started owns its files as somebody else, and would not start on copies.
    subprocess.run(["cp", "-a", str(peaceful.root), str(killed.root)], check=True)
    began = time.perf_counter()
    peaceful_output = peaceful.finish(arguments.quick)
    peaceful_s = time.perf_counter() - began
    asked_in_peace = len(judge.asked)
    judge.asked.clear()
    output, kills, run_again = disturbed(killed, arguments, peaceful.worked_s())
    again, unexplained = judge.paid_twice(kills)
    before, after = peaceful.numbers(), killed.numbers()
    differing = [n for n in before if before[n] != after.get(n)]
    jobs = jobs_of(arguments)
    result = {
        "jobs": jobs,
        "kills": len(kills),
        "done_undisturbed": len(peaceful.done()),
        "done_killed": len(killed.done()),
        "jobs_whose_numbers_differ": len(differing),
        "done_jobs_run_again": run_again,
        "judgments": len({question for question, _ in judge.asked}),
        "judgments_undisturbed": asked_in_peace,
        "answered_twice": again,
        "answered_twice_unexplained": unexplained,
        "undisturbed_s": round(peaceful_s, 1),
    }
    result["passed"] = (
        result["done_undisturbed"] == result["done_killed"] == jobs
        and not (differing or run_again or unexplained)
        and result["judgments"] == asked_in_peace
        and len(kills) == arguments.kills
    )
    if not result["passed"]:
        print(peaceful_output, output, sep="\n", file=sys.stderr)
        for name in differing[:1]:
            keys = [k for k in before[name] if before[name][k] != after.get(name, {}).get(k)]
            print(name, {k: (before[name][k], after.get(name, {}).get(k)) for k in keys}, file=sys.stderr)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="2 jobs instead of 12")
    parser.add_argument("--launcher", default="joblib")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        result = measure(arguments, Path(name))
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{key:<28} {value}" for key, value in result.items()))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
