"""Progress display of a sweep whose jobs run in other processes: finished jobs, and the iteration of each running one.

It is read from the run folders, so it is the same for every launcher, on this machine or on others that share the disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self

from mmo_rl.clock import utc_now
from mmo_rl.errors import MmoRlError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mmo_rl.cli.sweep import Job
    from mmo_rl.terminal import Terminal

POLL_S = 1.0


@dataclass(frozen=True)
class Seen:
    """Observed state of a job's folder. ``since`` is its last start, ``iterations`` the number of finished ones."""

    status: str
    since: datetime | None = None
    iterations: int = 0
    told: str = ""


def look(job: Job) -> Seen:
    """Reads the state of a job from its folder; ``waiting`` where it has not started."""
    from mmo_rl.report.run_folder import RunFolder

    folder = job.folder
    assert isinstance(folder, RunFolder)
    status = folder.status()
    if status is None or not job.identity.held_by(folder, status):
        return Seen("waiting")
    started = status.get("started")
    since = datetime.fromisoformat(started) if started else None
    if status["status"] == "running":
        return Seen("running", since, len(folder.read("metrics")))
    end = job.stored()
    return Seen(status["status"], since, told=end.told if end is not None else "")


class Watch:
    """Progress display that reads the folders of ``jobs`` every `POLL_S` seconds while it is entered: a live table on a
    terminal, elsewhere a line when a job starts or ends. ``done`` jobs were done before."""

    def __init__(self, jobs: Sequence[Job], console: Terminal, done: int) -> None:
        self._jobs = [job for job in jobs if job.folder is not None]
        self._console = console
        self._skipped = done
        now = utc_now()
        self._began = now.replace(microsecond=now.microsecond // 1000 * 1000)  # folders record milliseconds
        self._seen: dict[str, Seen] = {}
        self._told: dict[str, tuple[str, datetime | None]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sweep-progress", daemon=True)
        self._clock = time.perf_counter()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        from rich.live import Live

        if not self._console.is_terminal:
            while not self._stop.wait(POLL_S):
                self._look()
            self._look()
            return
        with Live(self._table(), console=self._console, auto_refresh=False, transient=True) as live:
            while not self._stop.wait(POLL_S):
                self._look()
                live.update(self._table(), refresh=True)
            self._look()

    def _look(self) -> None:
        for job in self._jobs:
            known = self._seen.get(job.key)
            if known is not None and known.status == "done":
                continue
            try:
                seen = look(job)
            except (OSError, MmoRlError):  # the folder is being moved, or its disk does not answer just now
                continue
            self._seen[job.key] = seen
            self._tell(job, seen)

    def _tell(self, job: Job, seen: Seen) -> None:
        """Prints a line where the job's state has changed since this sweep began."""
        state = (seen.status, seen.since)
        if seen.since is None or seen.since < self._began or self._told.get(job.key) == state:
            return
        self._told[job.key] = state
        if seen.status != "running" or not self._console.is_terminal:
            line = f"{seen.status:<11} {job.name}  {seen.told}".rstrip()
            self._console.say(line)

    def _table(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        seen = {key: s for key, s in self._seen.items() if s.since is not None and s.since >= self._began}
        states = [s.status for s in seen.values()]
        done, failed, running = (states.count(s) for s in ("done", "failed", "running"))
        total = len(self._jobs) + self._skipped
        whole = Table.grid(padding=(0, 2))
        whole.add_row(
            f"jobs {done + self._skipped}/{total}",
            ProgressBar(total=total, completed=done + self._skipped + failed, width=30),
            f"{running} running, {failed} failed",
            _elapsed(time.perf_counter() - self._clock),
        )
        rows = Table.grid(padding=(0, 2))
        for job in self._jobs:
            now = self._seen.get(job.key)
            if now is not None and now.status == "running" and now.since is not None:
                elapsed = _elapsed((utc_now() - now.since).total_seconds())
                rows.add_row(f"  {job.name}", f"iteration {now.iterations} of {job.iterations}", elapsed)
        return Group(whole, rows)


def _elapsed(seconds: float) -> str:
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
