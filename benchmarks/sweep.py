"""What a sweep costs beyond its jobs: a job against one of a bare Hydra app, and jobs side by side against one by one.

    python benchmarks/sweep.py [--jobs 8] [--seconds 8] [--repetitions 3] [--json]

Overhead: the wall time that one more job adds to a sweep whose jobs do nothing, ours less that of a bare Hydra app with
the same tree of groups, measured in turn; the goal is at most 0.5 s. Side by side: `jobs` jobs that compute for
`seconds`, with hydra/launcher=joblib on 2 processors against the basic launcher; the goal is at least 1.7 times as
fast, which a machine that does other things cannot show. Starting the workers takes about two seconds, which jobs of
a few seconds feel (of 2 s: 1.56x) and real ones, of a minute and more, don't (of 8 s: 1.84x).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from startup import bare_app  # benchmarks/startup.py

OVERHEAD_GOAL_S, FASTER_GOAL = 0.5, 1.7
# Stands in the place of training, in workers too: Python runs it at start-up where it lies on PYTHONPATH.
STAND_IN = """
import time
import mmo_rl.commands.train as train

async def run(context):
    end = time.process_time() + {seconds}
    while time.process_time() < end:
        sum(range(10_000))
    return 0.0

train.run = run
"""


def wall_s(command: list[str], cwd: Path, stand_in: Path | None = None) -> float:
    environment = dict(os.environ)
    if stand_in is not None:
        environment |= {"PYTHONPATH": str(stand_in), "MMO_RL_ROOT": tempfile.mkdtemp(dir=cwd)}
    began = time.perf_counter()
    subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def stand_in(folder: Path, name: str, seconds: float) -> Path:
    (folder / name).mkdir()
    (folder / name / "sitecustomize.py").write_text(STAND_IN.format(seconds=seconds), "utf-8")
    return folder / name


def seeds(count: int) -> str:
    return "seed=" + ",".join(map(str, range(count)))


def overhead_s(folder: Path, jobs: int) -> tuple[float, float]:
    """Seconds that a job adds to our sweep and to a bare one."""
    app, nothing = bare_app(folder), folder / "nothing"
    ours, bare = [sys.executable, "-m", "mmo_rl", "-m"], [sys.executable, str(app), "-m"]
    bare += ["hydra.sweep.dir=bare", "hydra.output_subdir=null"]
    ours_1, bare_1 = wall_s([*ours, seeds(1)], folder, nothing), wall_s([*bare, seeds(1)], folder)
    ours_n, bare_n = wall_s([*ours, seeds(1 + jobs)], folder, nothing), wall_s([*bare, seeds(1 + jobs)], folder)
    return (ours_n - ours_1) / jobs, (bare_n - bare_1) / jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0, help="of CPU that a job of the second part takes")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    pairs, faster = [], []
    for _ in range(arguments.repetitions):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            stand_in(folder, "nothing", 0)
            pairs.append(overhead_s(folder, arguments.jobs))
            busy = stand_in(folder, "busy", arguments.seconds)
            command = [sys.executable, "-m", "mmo_rl", "-m", seeds(arguments.jobs)]
            side_by_side = [*command, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
            faster.append(wall_s(command, folder, busy) / wall_s(side_by_side, folder, busy))
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    result = {
        "job_s": ours,
        "bare_job_s": bare,
        "overhead_s": ours - bare,
        "overhead_goal_s": OVERHEAD_GOAL_S,
        "joblib_times_faster": statistics.median(faster),
        "faster_goal": FASTER_GOAL,
        "jobs": arguments.jobs,
        "seconds": arguments.seconds,
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"a job costs {ours:.3f} s, a bare Hydra job {bare:.3f} s: {ours - bare:+.3f} s (goal: {OVERHEAD_GOAL_S} s)")
    print(f"{arguments.jobs} jobs with joblib: {result['joblib_times_faster']:.2f} x as fast (goal: {FASTER_GOAL})")


if __name__ == "__main__":
    main()
