"""A program for tests: mmo-rl commands, some of which meet with an accident at a milestone.

    python accidents.py killed:"checkpoint written":1 iterations=3 seed=1
    python accidents.py '[{"environment": {...}, "arguments": [...], "accident": null}, {"shell": "rm ..."}, ...]'

An accident is ``WHAT:MILESTONE:N`` and happens at the Nth time that the command reaches the milestone of
`mmo_rl.milestones`; ``MILESTONE/DETAIL`` counts only those with that detail. WHAT is ``killed``, when the process ends
by SIGKILL, or ``full``: from then on no file can grow large. ``rewards:equal``, ``rewards:nan`` and ``rewards:one``
have the judge answer so. Of a list, what takes long to import is imported once, every command is a fork of this
process, and it is printed how each ended, a line each.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import get_args

from mmo_rl.milestones import Listener, Milestone, listen


def arrange(accident: str) -> contextlib.AbstractContextManager[None]:
    what, _, where = accident.partition(":")
    if what == "rewards":
        judge_so(where)
        return contextlib.nullcontext()
    place, _, number = where.rpartition(":")
    return listen(at(*place.split("/"), number=int(number), act={"killed": kill, "full": fill_disk}[what]))


def at(name: str, detail: str | None = None, *, number: int, act: Callable[[], None]) -> Listener:
    """A listener that acts at the ``number``-th time that a milestone is reached."""
    assert name in get_args(Milestone), f"{name!r} is no milestone"
    times = itertools.count(1)

    def hear(milestone: Milestone, about: str) -> None:
        if milestone == name and detail in (None, about) and next(times) == number:
            act()

    return hear


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def judge_so(how: str) -> None:
    from mmo_rl.judge.oracle import OracleJudge
    from mmo_rl.types import Group, Judgment, Score, Unscored

    def judgments(self: OracleJudge, group: Group) -> dict[str, Judgment]:
        judged: dict[str, Judgment] = {}
        for number, member in enumerate(group.members):
            judged[member.trajectory_id] = (
                Unscored(member.trajectory_id, "not today")
                if how == "one" and number
                else Score(member.trajectory_id, float("nan") if how == "nan" else 0.5)
            )
        return judged

    OracleJudge.judgments = judgments  # type: ignore[method-assign]


def call(arguments: list[str], accident: str | None) -> int:
    """Calls the entry point in this process; its exit status."""
    from mmo_rl.__main__ import main

    sys.argv = ["mmo-rl", *arguments]
    try:
        with contextlib.nullcontext() if accident is None else arrange(accident):
            return main() or 0
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1


def run(environment: dict[str, str], arguments: list[str], accident: str | None = None) -> int:
    """Exit status, or minus the signal that ended it."""
    if (pid := os.fork()) == 0:
        status = 70
        try:
            os.environ.update(environment)
            status = call(arguments, accident)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    if not sys.argv[1].startswith("["):
        sys.exit(call(sys.argv[2:], sys.argv[1]))
    for heavy in ("torch", "transformers", "peft", "asyncpg", "art.preprocessing.tokenize", "mmo_rl.trainer.local"):
        importlib.import_module(heavy)
    for command in json.loads(sys.argv[1]):
        if "shell" in command:
            subprocess.run(command["shell"], shell=True, check=True)
        else:
            print(f"ended: {run(**command)}", flush=True)
