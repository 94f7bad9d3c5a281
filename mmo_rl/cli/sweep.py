"""A sweep as a whole: every job checked before the first starts, and told of in one table at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmo_rl.cli.project import project_root
from mmo_rl.errors import ConfigError, MmoRlError, NotReady

Overrides = list[str]


@dataclass(frozen=True)
class Job:
    """One job of a sweep before it runs. ``folder`` is None for tasks that leave none; ``finished`` says that a run of
    this very config has been done before."""

    overrides: Overrides
    folder: Path | None
    finished: bool
    task: str = "train"


class Sweep:
    """The jobs of a sweep, all of them valid."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        everywhere = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
        self._names = [" ".join(o for o in job.overrides if o not in everywhere) or "(defaults)" for job in jobs]

    @classmethod
    def checked(cls, sweep: Sequence[Overrides], compose: Callable[[Overrides], DictConfig]) -> Sweep:
        """Composes and validates every job. Raises one `ConfigError` that names each bad job by its overrides."""
        jobs: list[Job] = []
        wrong: list[str] = []
        for overrides in sweep:
            try:
                jobs.append(_checked(overrides, compose))
            except (MmoRlError, HydraException, OmegaConfBaseException) as error:
                wrong.append(f"{' '.join(overrides)}\n    {_told(error, overrides)}")
        if wrong:
            listed = "\n  ".join([*wrong[:10], *([f"... and {len(wrong) - 10} more"] if len(wrong) > 10 else [])])
            raise ConfigError(
                f"{len(wrong)} of the {len(sweep)} jobs of this sweep cannot run; nothing was started\n  {listed}"
            )
        return cls(jobs)

    def report(self, results: Sequence[JobReturn]) -> None:
        """Prints a line a job; raises `MmoRlError` where one failed."""
        from rich.console import Console
        from rich.table import Table

        if self._tell_together(results):
            return
        table = Table("job", "status", "result", "run folder", box=None, pad_edge=False, title_justify="left")
        for column in table.columns:
            column.overflow = "fold"
        failed = 0
        for job, name, result in zip(self._jobs, self._names, results, strict=True):
            status, shown = "done", ""
            if result.status == JobStatus.FAILED:
                failed += 1
                error = _error_of(result)
                status = "not ready" if isinstance(error, NotReady) else "failed"
                shown = (str(error) or type(error).__name__).splitlines()[0]
            elif job.finished:
                status = "skipped (was done)"
            if result.status == JobStatus.COMPLETED and isinstance(result.return_value, (int, float)):
                shown = f"{result.return_value:.4g}"
            table.add_row(name, status, shown, "" if job.folder is None else str(job.folder))
        Console(soft_wrap=True).print(table)
        if failed:
            raise _failure([_error_of(r) for r in results if r.status == JobStatus.FAILED], len(results))

    def _tell_together(self, results: Sequence[JobReturn]) -> bool:
        """Whether the task prints the results of all jobs at once, and did; not where one failed."""
        from rich.console import Console

        from mmo_rl.cli.settings import task_module

        tasks = {job.task for job in self._jobs}
        tell = getattr(task_module(tasks.pop()), "tell", None) if len(tasks) == 1 else None
        if tell is None or any(result.status == JobStatus.FAILED for result in results):
            return False
        tell([(name, r.return_value) for name, r in zip(self._names, results, strict=True)], Console())
        return True


def _failure(errors: Sequence[BaseException], jobs: int) -> MmoRlError:
    """What a sweep with failed jobs ends with: exit code 3 where all that failed is readiness, else 1."""
    if all(isinstance(error, NotReady) for error in errors):
        return NotReady(f"{len(errors)} of the {jobs} jobs are not ready")
    return MmoRlError(
        f"{len(errors)} of the {jobs} jobs failed",
        hint="the log.txt in their folders says why; the same command repeats only those",
    )


def _checked(overrides: Overrides, compose: Callable[[Overrides], DictConfig]) -> Job:
    from mmo_rl.cli.job import same_config
    from mmo_rl.cli.settings import check_task, config_sha256, validate

    config = compose(overrides)
    folder = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
    task_config = OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"])
    settings = validate(task_config)
    if folder.resolve() == project_root():
        check_task(settings, overrides)
        return Job(overrides, None, finished=False, task=settings.task)

    from mmo_rl.report.run_folder import RunFolder

    status = RunFolder(folder).status()
    finished = status is not None and status["status"] == "done" and same_config(status, config_sha256(settings))
    if not finished:
        check_task(settings, overrides)
    return Job(overrides, folder, finished, settings.task)


def _told(error: Exception, overrides: Overrides) -> str:
    from mmo_rl.cli.explain import explain

    return explain(error, overrides).message.replace("\n", "\n    ")


def _error_of(result: JobReturn) -> Any:
    return result._return_value
