"""Sweeps whose jobs work in processes of their own: failures, kills, interrupts, and what is shown meanwhile."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mmo_rl.cli.sweep import Job
from mmo_rl.cli.sweep_progress import Watch, look
from mmo_rl.config.fingerprint import Identity
from mmo_rl.config.machine import jobs_at_once
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.terminal import Terminal
from tests.harness.project import Output

# In the place of training, in every process: what a job does is told by its seed, and what was done is written down.
STAND_IN = """
import asyncio, json, os, pathlib, signal, sys
from dataclasses import replace
import mmo_rl.commands.train as train

async def run(context, options):
    seed = context.settings.seed
    act = json.loads(os.environ["ACTS"]).get(str(seed), "work")
    context.console.print(f"seed {seed} at work")
    with open(os.environ["DIARY"], "a") as diary:
        diary.write(f"{seed} {act}\\n")
    if act == "fail":
        class Unpicklable(Exception):
            def __init__(self, one, two): super().__init__(one)
        raise Unpicklable("no luck", 2)
    if act == "exit":
        sys.exit(7)
    once = pathlib.Path(os.environ["DIARY"] + ".killed")
    if act == "die" or (act == "die once" and not once.exists()):
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "wait":
        await asyncio.sleep(60)
    return seed + 0.5

train.COMMAND = replace(train.COMMAND, run=run)
"""


class Sweeps:
    """Runs sweeps in a folder; ``acts`` says what a job does by its seed, ``diary`` what jobs have begun to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "stand_in").mkdir()
        (folder / "stand_in" / "sitecustomize.py").write_text(STAND_IN)
        self._diary = folder / "diary"

    def start(self, acts: Mapping[int, str], *arguments: str) -> subprocess.Popen[str]:
        self._diary.unlink(missing_ok=True)
        environment = os.environ | {
            "ACTS": json.dumps(acts),
            "DIARY": str(self._diary),
            "PYTHONPATH": str(self.folder / "stand_in"),
            "MMO_RL_ROOT": str(self.folder),
            "COLUMNS": "200",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "mmo_rl", "-m", *arguments],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # as a shell does: what is typed there reaches the whole group
        )

    def run(self, acts: Mapping[int, str], *arguments: str) -> tuple[int, str, str]:
        process = self.start(acts, *arguments)
        out, err = process.communicate(timeout=180)
        return process.returncode, out, err

    def diary(self) -> list[str]:
        return sorted(self._diary.read_text().splitlines()) if self._diary.exists() else []


@pytest.fixture
def sweeps(tmp_path: Path) -> Sweeps:
    return Sweeps(tmp_path)


def rows(out: str) -> dict[str, str]:
    """The status of each job in the table at the end."""
    table = out[out.index("job ") :].splitlines()[1:]
    return {line.split()[0]: " ".join(line.split()[1:3]) for line in table if line.startswith("seed=")}


def test_a_worker_that_is_killed_costs_no_other_job(sweeps: Sweeps) -> None:
    acts = {0: "fail", 1: "exit", 2: "die"}
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    code, out, err = sweeps.run(acts, *launcher, "seed=0,1,2,3,4")
    assert code == 1, err
    found = rows(out)
    assert found["seed=0"].startswith("failed") and "no luck" in out and "log.txt" in out
    assert found["seed=1"] == "failed its" and "sys.exit(7)" in out
    assert found["seed=2"].startswith("failed") and "out of memory?" in out and "hydra.launcher.n_jobs=1" in out
    assert found["seed=3"] == "done 3.5" and found["seed=4"] == "done 4.5"
    assert "3 of the 5 jobs failed" in err
    assert "at work" not in out  # the jobs' own words are in their logs
    assert sum("at work" in p.read_text() for p in sweeps.folder.glob("runs/default/*/log.txt")) == 5
    code, out, _ = sweeps.run({}, *launcher, "seed=0,1,2,3,4")
    assert code == 0
    assert sweeps.diary() == ["0 work", "1 work", "2 work"]
    assert rows(out)["seed=3"] == "skipped (was"


@pytest.mark.slow
def test_a_killed_submitit_job_fails_alone(sweeps: Sweeps) -> None:
    launcher = ("hydra/launcher=submitit_local", "hydra.launcher.n_jobs=2")
    code, out, err = sweeps.run({0: "die"}, *launcher, "seed=0,1,2")
    assert code == 1, err
    assert rows(out) == {"seed=0": "failed its", "seed=1": "done 1.5", "seed=2": "done 2.5"}
    assert "its process died" in out
    code, out, _ = sweeps.run({}, *launcher, "seed=0,1,2")
    assert (code, sweeps.diary()) == (0, ["0 work"])


@pytest.mark.parametrize("launcher", ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow)])
def test_an_interrupt_leaves_every_job_resumable_and_no_worker(sweeps: Sweeps, launcher: str) -> None:
    command = (f"hydra/launcher={launcher}", "hydra.launcher.n_jobs=2", "seed=0,1,2")
    process = sweeps.start({1: "wait", 2: "wait"}, *command)
    output = Output(process)
    output.wait_for("running     seed=1\n", "running     seed=2\n")
    process.send_signal(signal.SIGINT)
    code, out = output.rest()
    assert code == 130 and process.stderr is not None
    assert "the same command continues" in process.stderr.read()
    process.stderr.close()
    found = rows(out)
    assert found["seed=0"] == "done 0.5"
    assert all(found[f"seed={i}"].startswith("interrupted") for i in (1, 2))
    code, out, _ = sweeps.run({}, *command)
    assert code == 0
    assert sweeps.diary() == ["1 work", "2 work"]


@pytest.mark.slow
def test_ctrl_c_twice_leaves_no_submitit_job_at_work(sweeps: Sweeps) -> None:
    process = sweeps.start({0: "wait", 1: "wait"}, "hydra/launcher=submitit_local", "seed=0,1")
    output = Output(process)
    output.wait_for("running     seed=0\n", "running     seed=1\n")
    os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.15)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    output.rest()
    assert process.stderr is not None and "Traceback" not in process.stderr.read()
    process.stderr.close()
    folders = [RunFolder(path) for path in sweeps.folder.glob("runs/default/*/")]
    states = [status["status"] for folder in folders if (status := folder.status()) is not None]
    assert states == ["interrupted", "interrupted"]  # one that is at work would be running


def test_nothing_left_to_do_starts_no_worker(sweeps: Sweeps) -> None:
    command = ("hydra/launcher=joblib", "seed=0,1")
    assert sweeps.run({}, *command)[0] == 0
    # A backend that joblib does not have: whoever started it would fail.
    code, out, err = sweeps.run({}, *command, "hydra.launcher.backend=nobody")
    assert (code, sweeps.diary()) == (0, []), err
    assert "2 skipped" in out


def test_the_watch_tells_how_far_each_job_is(tmp_path: Path) -> None:
    sha256 = "f" * 64
    first = RunFolder(tmp_path / "0")
    job = Job(
        "seed=0", ["seed=0"], OmegaConf.create(), sha256, Identity(frozenset({sha256}), {}), "train", 3, first, "new"
    )
    other = replace(job, name="seed=1", overrides=["seed=1"], folder=RunFolder(tmp_path / "1"))
    out = io.StringIO()
    watch = Watch([job, other], Terminal(file=out, width=120, force_terminal=False), done=1)
    assert look(job).status == "waiting"
    folder: Any = job.folder
    with folder.locked():
        folder.set_status("running", config_sha256=job.sha256)
        folder.append("metrics", {"iteration": 0}, {"iteration": 1})
        watch._look()
        shown = io.StringIO()
        Terminal(file=shown, width=120).print(watch._table())
        assert "seed=0" in shown.getvalue() and "iteration 2 of 3" in shown.getvalue()
        assert "jobs 1/3" in shown.getvalue() and "1 running, 0 failed" in shown.getvalue()
        folder.set_status("done", result=1.25)
    watch._look()
    watch._look()
    assert out.getvalue() == "running     seed=0\ndone        seed=0  1.25\n"


def test_as_many_jobs_at_once_as_fit() -> None:
    assert jobs_at_once(1e9) == 1
    assert 1 <= jobs_at_once(0.001) <= (os.cpu_count() or 1)
