"""Submitit launchers in which a dead job stops no other; the local one runs at most ``n_jobs`` at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus

from mmo_rl.cli.submitit_controller import MODULE, SUBMITITS
from mmo_rl.errors import MmoRlError

if TYPE_CHECKING:
    from submitit import AutoExecutor
    from submitit import Job as SubmititJob

    SubmittedJob = SubmititJob[JobReturn]

POLL_S = 0.2
CANCEL_S = 10.0
"""Time that jobs on this machine have to record an interrupt, in seconds."""

try:
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf  # type: ignore[import-untyped]
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import (  # type: ignore[import-untyped]
        BaseSubmititLauncher,
    )
except ImportError:  # the extra `slurm` brings it
    pass
else:

    class IndependentJobs(BaseSubmititLauncher):
        """Launcher that submits jobs, at most ``n_jobs`` at a time (None: all, the queue decides), and waits for them.

        A job whose process died, was killed or ran out of time is a failed `JobReturn` and stops no other; an interrupt
        cancels those that have not ended.
        """

        def __init__(self, n_jobs: int | None = None, **params: object) -> None:
            super().__init__(**params)
            self._n_jobs = n_jobs

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            executor = self._executor()
            calls = [
                (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
                for number, overrides in enumerate(job_overrides, start=initial_job_idx)
            ]
            jobs: list[SubmittedJob] = []
            try:
                while len(jobs) < len(calls):
                    working = sum(not job.done() for job in jobs)
                    free = len(calls) if self._n_jobs is None else self._n_jobs - working
                    if more := calls[len(jobs) : len(jobs) + max(0, free)]:
                        with self._starting():
                            jobs += executor.map_array(self, *zip(*more, strict=True))
                    else:
                        time.sleep(POLL_S)
                while not all(job.done() for job in jobs):
                    time.sleep(POLL_S)
            except BaseException:
                self._cancel(jobs)
                raise
            return [_returned(job, call[0]) for job, call in zip(jobs, calls, strict=True)]

        def _starting(self) -> AbstractContextManager[None]:
            return nullcontext()

        def _cancel(self, jobs: Sequence[SubmittedJob]) -> None:
            for job in jobs:
                job.cancel(check=False)

        def _executor(self) -> AutoExecutor:
            import submitit
            from omegaconf import OmegaConf

            params = dict(self.params)
            folder = params.pop("submitit_folder")
            timeouts = {f"{self._EXECUTOR}_{k}": params.pop(k) for k in ("max_num_timeout",) if k in params}
            executor = submitit.AutoExecutor(cluster=self._EXECUTOR, folder=folder, **timeouts)
            common = set(OmegaConf.structured(BaseQueueConf).keys())
            executor.update_parameters(
                **{k if k in common else f"{self._EXECUTOR}_{k}": value for k, value in params.items()}
            )
            return executor

    class SubmititLocal(IndependentJobs):
        """Launcher of jobs on this machine. Ctrl-C reaches the sweep alone, which interrupts each job once: submitit's
        own process of a job dies when it is interrupted twice, and the job goes on without it."""

        _EXECUTOR = "local"

        def _starting(self) -> AbstractContextManager[None]:
            return _in_sessions_of_their_own()

        def _cancel(self, jobs: Sequence[SubmittedJob]) -> None:
            """Interrupts jobs and returns when none is left; a second interrupt kills them."""
            working = [job for job in jobs if not job.done()]
            try:
                super()._cancel(working)
                patience = time.monotonic() + CANCEL_S
                while not all(job.done() for job in working) and time.monotonic() < patience:
                    time.sleep(POLL_S)
            finally:
                for job in working:
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(int(job.job_id), signal.SIGKILL)

    class SubmititSlurm(IndependentJobs):
        _EXECUTOR = "slurm"


@contextmanager
def _in_sessions_of_their_own() -> Iterator[None]:
    """Starts submitit's processes as leaders of process groups, numbered by job id, with a controller that says nothing
    when it is interrupted; submitit has no option for either."""
    from submitit.local import local

    local.subprocess = SimpleNamespace(Popen=_started)  # type: ignore[assignment]
    try:
        yield
    finally:
        local.subprocess = subprocess


def _started(command: str | list[str], *, shell: bool, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Starts the controller of a job; ``command`` is submitit's, a line for a shell where the launcher has a setup."""
    ours = (
        command.replace(SUBMITITS, MODULE)
        if isinstance(command, str)
        else [MODULE if part == SUBMITITS else part for part in command]
    )
    return subprocess.Popen(ours, shell=shell, env=env, start_new_session=True)


def _returned(job: SubmittedJob, overrides: list[str]) -> JobReturn:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        returned: JobReturn = job.results()[0]
    except (FailedJobError, UncompletedJobError):
        error = MmoRlError(
            f"its process died (killed, out of memory or out of time), state {job.state}",
            hint=f"its output: {job.paths.stderr}; the same command continues",
        )
        returned = JobReturn(overrides=overrides, status=JobStatus.FAILED)
        returned.return_value = error
    return returned
