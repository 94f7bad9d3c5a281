"""``mmo-rl ...`` as it is typed, in this process: what a command prints and its exit code, without its start-up."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mmo_rl.__main__ import main
from mmo_rl.cli.job import Outcome, outcome

OURS = ("WANDB_", "MMO_RL_", "DATABASE_", "OPENAI_", "HYDRA_")
Run = Callable[..., str]


def typed(root: Path, environment: Mapping[str, str] | None = None) -> Run:
    """A function that types ``mmo-rl`` with its arguments in the project ``root``, expects the exit code ``code`` and
    gives what was printed; ``environment`` is set beside what this process has of it that is not ours."""

    def run(*arguments: str, code: int = 0, cwd: Path = root) -> str:
        out = io.StringIO()
        terminate = signal.getsignal(signal.SIGTERM)
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(OURS)]:
                patch.delenv(name)
            given = {"MMO_RL_ROOT": str(root), "MMO_RL_HOME": str(root / "home"), "HYDRA_FULL_ERROR": "0"}
            for name, value in {**given, "COLUMNS": "160", **(environment or {})}.items():
                patch.setenv(name, value)
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["mmo-rl", *arguments])
            vars(outcome).update(vars(Outcome()))
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                found = main()
            signal.signal(signal.SIGTERM, terminate)
        assert found == code, out.getvalue()
        return out.getvalue()

    return run
