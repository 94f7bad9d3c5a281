"""Projects: folders with runs and a home of their own, and the command line in them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pytest

from mmo_rl.__main__ import main
from mmo_rl.cli.job import Outcome, outcome

OURS = ("WANDB_", "MMO_RL_", "DATABASE_", "OPENAI_", "HYDRA_")
"""Prefixes of the variables that a command reads: none of the machine's own reaches a test."""

ACCIDENTS = Path(__file__).with_name("accidents.py")


@dataclass(frozen=True)
class Ran:
    """The end of a command: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Project:
    """A project's root folder, and the environment ``variables`` that a command finds there beside foreign ones.

    `run` and `attempt` execute a command in this process, which saves the imports; `start` and `execute` in one of its
    own, for what is killed or needs an interpreter to itself.
    """

    root: Path
    variables: Mapping[str, str]

    @classmethod
    def at(cls, root: Path, home: Path | None = None, **variables: str) -> Self:
        """A project that is named by its variables, with its home at ``home`` or in the folder ``home`` below it."""
        places = {"MMO_RL_ROOT": str(root), "MMO_RL_HOME": str(home or root / "home")}
        return cls(root, {**places, "COLUMNS": "160", **variables})

    @property
    def home(self) -> Path:
        return Path(self.variables["MMO_RL_HOME"])

    def with_variables(self, **variables: str) -> Self:
        """The same project with other variables."""
        return replace(self, variables={**self.variables, **variables})

    # --- commands ---------------------------------------------------------------------------------------------------

    def run(self, *arguments: str, code: int = 0, cwd: Path | None = None) -> str:
        """Executes ``mmo-rl`` and returns what it printed; the test fails at another exit code."""
        ran = self.attempt(*arguments, cwd=cwd)
        assert ran.code == code, ran.told
        return ran.told

    def attempt(self, *arguments: str, cwd: Path | None = None) -> Ran:
        """Executes ``mmo-rl``, whatever its exit code."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            for name in [name for name in os.environ if name.startswith(OURS)]:
                patch.delenv(name)
            for name, value in {"HYDRA_FULL_ERROR": "0", **self.variables}.items():
                patch.setenv(name, value)
            patch.chdir(cwd or self.root)
            _forget_wandb()
            code = call_main(arguments, patch)
        return Ran(code, out.getvalue(), err.getvalue())

    def start(
        self, *arguments: str, program: Sequence[str] = ("-m", "mmo_rl"), accident: str | None = None
    ) -> subprocess.Popen[str]:
        """Starts ``mmo-rl`` in a process of its own, with pipes for what it prints; an ``accident`` is one of
        `tests.harness.accidents`: ``killed:checkpoint written:1``."""
        if accident is not None:
            program = ("-P", str(ACCIDENTS), accident)  # its folder has modules named like Python's own
        return subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def execute(self, *arguments: str, code: int = 0, timeout: float = 300, **options: Any) -> str:
        """As `run`, in a process of its own; the ``code`` of one that a signal ended is minus its number."""
        with self.start(*arguments, **options) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode == code, out + err
        return out + err

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process of its own."""
        return {k: v for k, v in os.environ.items() if not k.startswith(OURS)} | dict(self.variables)

    # --- run folders ------------------------------------------------------------------------------------------------

    def folder(self, pattern: str = "*/*") -> Path:
        """The only run folder below ``runs/`` that fits."""
        (found,) = self.folders(pattern)
        return found

    def folders(self, pattern: str = "*/*") -> list[Path]:
        return sorted(path.parent for path in self.root.glob(f"runs/{pattern}/status.json"))

    def status(self) -> dict[str, Any]:
        return read_json(self.folder() / "status.json")

    def summary(self) -> dict[str, Any]:
        return read_json(self.folder() / "summary.json")

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of ``<name>.jsonl``."""
        return read_rows(self.folder() / f"{name}.jsonl")


class Output:
    """Lines of a process's standard output, read by a thread of their own.

    ``readline`` and then ``communicate`` on one pipe lose what the former has read ahead.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_for(self, *parts: str, timeout: float = 120) -> str:
        """Waits until each of the texts has stood in some line; returns the line of the last one. The test fails where
        the process ends before."""
        with self._changed:
            came = self._changed.wait_for(lambda: not self._thread.is_alive() or self._has(parts), timeout)
            assert came and self._has(parts), "".join(self._lines)
            return next(line for line in self._lines if parts[-1] in line)

    def rest(self, *, timeout: float = 120) -> tuple[int, str]:
        """Waits for the end of the process; returns its exit code and all that it printed."""
        code = self._process.wait(timeout)
        self._thread.join(timeout)
        return code, "".join(self._lines)

    def _has(self, parts: Sequence[str]) -> bool:
        return all(any(part in line for line in self._lines) for part in parts)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


def committed(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder of the checkout that are under version control; all of them where there is none. What
    somebody is working on there (`task=new_experiment` writes into experiments/) is none of the tests' business."""
    found = sorted(folder.glob(pattern))
    listed = subprocess.run(["git", "ls-files", "-z", "."], cwd=folder, capture_output=True, text=True, check=False)
    names = set(listed.stdout.split("\0")) if listed.returncode == 0 else set()
    return [path for path in found if path.name in names] or found


def call_main(arguments: Sequence[str], patch: pytest.MonkeyPatch) -> int:
    """Calls the entry point with these arguments and returns the exit code; signals stay as they were."""
    patch.setattr(sys, "argv", ["mmo-rl", *arguments])
    vars(outcome).update(vars(Outcome()))
    with _signals_restored():
        try:
            return main()
        except SystemExit as left:
            return left.code if isinstance(left.code, int) else 1


def _forget_wandb() -> None:
    """Ends W&B's service where the last command of this process had other variables: it keeps the address and the key
    of its first use."""
    global _wandb_variables
    variables = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    if _wandb_variables not in (None, variables):
        import wandb

        wandb.teardown()
    _wandb_variables = variables


_wandb_variables: dict[str, str] | None = None


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def untimed(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a run that are equal whenever and wherever it ran: all but durations and speeds."""
    return {k: v for k, v in numbers.items() if not k.startswith("time/") and not k.endswith("_per_s")}


@contextlib.contextmanager
def _signals_restored() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
