"""A program for tests: mmo-rl commands one after the other, some of which meet with an accident at a named moment.

    python killed_runs.py '[{"environment": {...}, "arguments": [...], "accident": null}, {"shell": "rm ..."}, ...]'

An accident is ``WHAT:module:Class.method:N`` and happens at the Nth call there. WHAT is ``before`` or ``after``, when
the process ends by SIGKILL, or ``full``: during the call no file can grow large. ``rewards:equal``, ``rewards:nan``
and ``rewards:one`` have the judge answer so. What takes long to import is imported once; every command is a fork of
this process. Prints how each ended, a line each.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any


def arrange(accident: str) -> None:
    what, _, where = accident.partition(":")
    if what == "rewards":
        judge_so(where)
        return
    module, path, number = where.split(":")
    holder: Any = importlib.import_module(module)
    *owners, name = path.split(".")
    for owner in owners:
        holder = getattr(holder, owner)
    original, calls = getattr(holder, name), 0

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        nonlocal calls
        calls += 1
        now = calls == int(number)
        if now and what == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        if now and what == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        if now and what == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(original)
    async def awaited(*arguments: Any, **named: Any) -> Any:
        with around():
            return await original(*arguments, **named)

    @functools.wraps(original)
    def called(*arguments: Any, **named: Any) -> Any:
        with around():
            return original(*arguments, **named)

    setattr(holder, name, awaited if inspect.iscoroutinefunction(original) else called)


def judge_so(how: str) -> None:
    from mmo_rl.judge.oracle import OracleJudge
    from mmo_rl.types import Group, Judgment, Score, Trajectory, Unscored

    def judge(self: OracleJudge, trajectory: Trajectory, group: Group) -> Judgment:
        if how == "one" and trajectory is not group.members[0]:
            return Unscored(trajectory.trajectory_id, "not today")
        return Score(trajectory.trajectory_id, float("nan") if how == "nan" else 0.5)

    OracleJudge._judge = judge  # type: ignore[method-assign]


def run(environment: dict[str, str], arguments: list[str], accident: str | None = None) -> int:
    """Exit status, or minus the signal that ended it."""
    if (pid := os.fork()) == 0:
        status = 70
        try:
            os.environ.update(environment)
            if accident is not None:
                arrange(accident)
            from mmo_rl.__main__ import main

            sys.argv = ["mmo-rl", *arguments]
            status = main() or 0
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    for heavy in ("torch", "transformers", "peft", "asyncpg", "art.preprocessing.tokenize", "mmo_rl.trainer.local"):
        importlib.import_module(heavy)
    for command in json.loads(sys.argv[1]):
        if "shell" in command:
            subprocess.run(command["shell"], shell=True, check=True)
        else:
            print(f"ended: {run(**command)}", flush=True)
