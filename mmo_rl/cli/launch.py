"""Job runner of a sweep, for any Hydra launcher: skips finished jobs, launches again after a dead worker, and waits for
jobs that another process runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus

from mmo_rl.cli.carried import carrying
from mmo_rl.cli.sweep import Ended, Job
from mmo_rl.errors import MmoRlError, NotReady
from mmo_rl.wording import counted

if TYPE_CHECKING:
    from mmo_rl.terminal import Terminal

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]
"""Method ``launch`` of a launcher: the overrides of jobs, and the number of the first."""

ATTEMPTS = 3
"""Number of launches of a job whose worker died: twice beside the others, once alone, so that a job that kills its
worker is found and stops no other."""
POLL_S = 1.0


class JobRunner:
    """Runner of one sweep's jobs. ``ended`` holds the end of each job that has one, by its number.

    ``one_by_one`` is for a launcher that works in this process: jobs are launched singly and show their own bars.
    """

    def __init__(self, jobs: Sequence[Job], launch: Launch, *, one_by_one: bool, console: Terminal) -> None:
        self._jobs = jobs
        self._launch = launch
        self._one_by_one = one_by_one
        self._console = console
        self.ended: dict[int, Ended] = {
            i: Ended("skipped", end.value)
            for i, job in enumerate(jobs)
            if job.before == "done" and (end := job.stored()) is not None
        }

    def run(self, batch_size: int | None = None) -> list[Ended]:
        """Runs the remaining jobs, at most ``batch_size`` a launch. An interrupt passes through; see `so_far` then."""
        left = [i for i in range(len(self._jobs)) if i not in self.ended]
        with self._watch():
            for batch in _batches(left, 1 if self._one_by_one else batch_size):
                self._run_batch(batch)
            while waiting := [i for i in left if i not in self.ended]:
                ready = [i for i in waiting if not self._jobs[i].is_running()]
                self._run_batch(ready)
                if not ready:
                    time.sleep(POLL_S)
        return self.so_far()

    def so_far(self) -> list[Ended]:
        """Returns the end of each job, or the state that its folder records."""
        missing = Ended("not started")
        return [self.ended.get(i) or _halted(job) or missing for i, job in enumerate(self._jobs)]

    def _watch(self) -> AbstractContextManager[object]:
        if self._one_by_one or all(job.folder is None for job in self._jobs) or len(self.ended) == len(self._jobs):
            return nullcontext()
        from mmo_rl.cli.sweep_progress import Watch

        return Watch([job for i, job in enumerate(self._jobs) if i not in self.ended], self._console, len(self.ended))

    def _run_batch(self, batch: Sequence[int]) -> None:
        left = self._take_finished(batch)
        for attempt in range(ATTEMPTS):
            alone = attempt == ATTEMPTS - 1
            for chunk in _batches(left, 1 if alone else None):
                self._attempt(chunk, last=alone)
            left = self._take_finished([i for i in left if i not in self.ended])
            if not left:
                return

    def _take_finished(self, batch: Sequence[int]) -> list[int]:
        """Returns the jobs of ``batch`` to launch: not those that another sweep has finished or runs now."""
        left = []
        for i in batch:
            end = self._jobs[i].stored()
            if end is not None and end.status == "done":
                self.ended[i] = Ended("skipped", end.value)
            elif not self._jobs[i].is_running():
                left.append(i)
        return left

    def _attempt(self, chunk: Sequence[int], *, last: bool) -> None:
        if self._one_by_one and len(self._jobs) > 1 and self._jobs[chunk[0]].folder is not None:
            told = f"job {chunk[0] + 1}/{len(self._jobs)}  {self._jobs[chunk[0]].name}"
            self._console.say(told, style="bold")
        started = {i: self._started(i) for i in chunk}
        overrides = [carrying(self._jobs[i].overrides, self._jobs[i].config) for i in chunk]
        try:
            returns = self._launch(overrides, chunk[0])
        except Exception as error:  # noqa: BLE001 (launchers raise different types when a worker dies; recorded below)
            self._worker_died(chunk, started, error, last=last)
            return
        for i, returned in zip(chunk, returns, strict=True):
            self._returned(i, returned)

    def _returned(self, i: int, returned: JobReturn) -> None:
        value: object = returned._return_value
        if returned.status == JobStatus.COMPLETED:
            self.ended[i] = Ended("done", value)
            return
        end = self._jobs[i].stored()
        if end is not None and end.status == "done":  # another sweep has finished it meanwhile
            self.ended[i] = Ended("skipped", end.value)
        elif not self._jobs[i].is_running():  # else another process runs it, and `run` waits for that
            self.ended[i] = Ended("not ready" if isinstance(value, NotReady) else "failed", error=_as_error(value))

    def _worker_died(
        self, chunk: Sequence[int], started: dict[int, str | None], error: Exception, *, last: bool
    ) -> None:
        """Reads the ends of a dead worker's jobs from their folders. The others are launched again; after the ``last``
        attempt they have failed."""
        for i in chunk:
            end = self._jobs[i].stored()
            if end is not None and self._started(i) != started[i] and end.status in ("done", "failed"):
                self.ended[i] = end
        lost = [i for i in chunk if i not in self.ended and not self._jobs[i].is_running()]
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if last:
            killed = MmoRlError(
                f"its worker process died, {ATTEMPTS} times (out of memory?): {reason}",
                hint="fewer jobs at a time: hydra.launcher.n_jobs=1; the same command continues",
            )
            self.ended.update({i: Ended("failed", error=killed) for i in lost})
        elif lost:
            self._console.say(
                f"A worker process died (out of memory?): {counted(len(lost), 'job goes', 'jobs go')} on in a new one. "
                f"If it happens again, type hydra.launcher.n_jobs=1. ({reason})"
            )

    def _started(self, i: int) -> str | None:
        folder = self._jobs[i].folder
        return None if folder is None else (folder.status() or {}).get("started")


def _halted(job: Job) -> Ended | None:
    """Returns the recorded state of a job that this sweep did not finish; a worker may still run it."""
    end = job.stored()
    if end is None:
        return Ended("interrupted") if job.is_running() else None
    return Ended("interrupted") if end.status == "interrupted" else end


def _as_error(value: object) -> BaseException:
    return value if isinstance(value, BaseException) else MmoRlError(f"its job returned {value!r} as its failure")


def _batches(items: Sequence[int], size: int | None) -> Iterator[Sequence[int]]:
    size = size or max(1, len(items))
    for start in range(0, len(items), size):
        yield items[start : start + size]
