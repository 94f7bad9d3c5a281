"""A program for tests: mmo-rl commands one after the other, some of them killed at a moment that is named.

    python killed_runs.py '[{"environment": {...}, "arguments": [...], "moment": null}, ...]'

A moment is ``before:module:Class.method:N`` or ``after:...``: the process ends by SIGKILL at the Nth call there. What
takes long to import is imported once; every command is a fork of this process. Prints how each ended, a line each.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import signal
import sys
from typing import Any


def kill_at(moment: str) -> None:
    when, module, path, number = moment.split(":")
    holder: Any = importlib.import_module(module)
    *owners, name = path.split(".")
    for owner in owners:
        holder = getattr(holder, owner)
    original, calls = getattr(holder, name), 0

    def die(at: str) -> None:
        nonlocal calls
        calls += at == "before"
        if at == when and calls == int(number):
            os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(original)
    async def awaited(*arguments: Any, **named: Any) -> Any:
        die("before")
        result = await original(*arguments, **named)
        die("after")
        return result

    @functools.wraps(original)
    def called(*arguments: Any, **named: Any) -> Any:
        die("before")
        result = original(*arguments, **named)
        die("after")
        return result

    setattr(holder, name, awaited if inspect.iscoroutinefunction(original) else called)


def run(environment: dict[str, str], arguments: list[str], moment: str | None = None) -> int:
    """Exit status, or minus the signal that ended it."""
    if (pid := os.fork()) == 0:
        status = 70
        try:
            os.environ.update(environment)
            if moment is not None:
                kill_at(moment)
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
        print(f"ended: {run(**command)}", flush=True)
