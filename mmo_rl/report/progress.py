"""Progress bars of a run, one for its iterations and one for the current stage, and the wall time of each stage."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from rich.progress import TaskID

    from mmo_rl.terminal import Terminal

log = logging.getLogger(__name__)


class Advance(Protocol):
    """Called with (done, total) as a stage goes on, and with a few words to show beside its name."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@dataclass(slots=True)
class _Part:
    """Bar over several stages, and the number of those that are finished."""

    task: TaskID
    finished: int = 0


class Stages:
    """Names and times the stages of a run; ``seconds`` holds the wall seconds of each so far."""

    def __init__(self, *, console: Terminal, iterations: int, done: int = 0, label: str = "iterations") -> None:
        from mmo_rl.terminal import progress_bars

        self.seconds: dict[str, float] = {}
        self._console = console
        self._progress = progress_bars(console, remaining=True)
        self._whole = self._progress.add_task(label, total=iterations, completed=done)
        self._part: _Part | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def stage(self, name: str, label: str | None = None) -> Iterator[Advance]:
        """Shows a bar for one stage and adds its wall time to ``seconds[name]``."""
        title = f"  {label or name}"
        task = self._progress.add_task(title, total=None)
        started = time.perf_counter()

        def advance(done: int, total: int, note: str = "") -> None:
            self._progress.update(task, completed=done, total=total, description=f"{title} {note}".rstrip())
            if self._part is not None:
                self._progress.update(self._part.task, completed=self._part.finished + done / max(total, 1))

        try:
            yield advance
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
            self._progress.remove_task(task)
            if self._part is not None:
                self._part.finished += 1
                self._progress.update(self._part.task, completed=self._part.finished)

    @contextmanager
    def part(self, label: str, *, stages: int) -> Iterator[None]:
        """Shows a bar over ``stages`` stages that belong together, beside each stage's own: it knows the time left."""
        self._part = _Part(self._progress.add_task(label, total=stages))
        try:
            yield
        finally:
            self._progress.remove_task(self._part.task)
            self._part = None

    def reached(self) -> float | None:
        """The number of stages of the present part that are done, a stage under way by its share; None outside one."""
        if self._part is None:
            return None
        return next(task.completed for task in self._progress.tasks if task.id == self._part.task)

    def advance_to(self, done: int) -> None:
        """Sets the number of iterations that are done."""
        self._progress.update(self._whole, completed=done)

    def next_iteration(self, line: str) -> None:
        """Counts an iteration as done and prints a line about it above the bars."""
        self._progress.advance(self._whole)
        log.info("%s", line)
        self._console.say(line)

    def say(self, line: str) -> None:
        """Prints a line above the bars and logs it."""
        log.info("%s", line)
        self._console.say(line)
