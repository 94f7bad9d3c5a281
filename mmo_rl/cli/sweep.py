"""Sweep as a whole: checks every job before the first starts, finds finished ones, and prints one table at the end."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmo_rl.config.project import project_root
from mmo_rl.config.renamed import renamed_overrides
from mmo_rl.errors import ConfigError, MmoRlError, NotReady
from mmo_rl.wording import counted, part

if TYPE_CHECKING:
    from mmo_rl.config.fingerprint import Identity
    from mmo_rl.report.run_folder import RunFolder
    from mmo_rl.terminal import Terminal

BAR_FROM = 20
"""Least number of jobs whose check shows a progress bar."""

RESULTS = {"train": "P&L gain $", "evaluate": "P&L B-A $", "judge": "oracle tau"}
"""Heads of the column of results, with their unit, by task."""
Overrides = list[str]
Before = Literal["new", "done", "failed", "interrupted", "changed", "running"]
"""State of a job's folder before this sweep; ``changed`` is a run of another config, ``running`` one at work now."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep, valid. ``name`` is what sets it apart from the others; ``folder`` is None for tasks that
    leave none."""

    name: str
    overrides: Overrides
    config: DictConfig
    sha256: str
    identity: Identity
    task: str
    iterations: int
    folder: RunFolder | None
    before: Before

    @property
    def key(self) -> str:
        """Key of the job within the sweep: its folder, or its overrides."""
        return " ".join(self.overrides) if self.folder is None else str(self.folder.path)

    def stored(self) -> Ended | None:
        """Reads the recorded end of the run of this very config and its inputs; None where there is none."""
        status = None if self.folder is None else self.folder.status()
        if self.folder is None or status is None or not self.identity.held_by(self.folder, status):
            return None
        if status["status"] == "done":
            return Ended("done", status.get("result"))
        if status["status"] in ("failed", "interrupted"):
            return Ended(status["status"], error=MmoRlError(status.get("error") or status["status"]))
        return None

    def is_running(self) -> bool:
        """Checks that some process works in the folder."""
        return self.folder is not None and (self.folder.status() or {}).get("status") == "running"


@dataclass(frozen=True)
class Ended:
    """End of a job of this sweep; ``skipped`` is one that was done before."""

    status: Literal["done", "skipped", "failed", "not ready", "interrupted", "not started"]
    value: Any = None
    error: BaseException | None = None

    @property
    def failed(self) -> bool:
        return self.status in ("failed", "not ready")

    @property
    def told(self) -> str:
        """Result, or the reason in one line and without secrets: an endpoint may quote the key that it refuses."""
        if self.error is not None:
            from mmo_rl.report.mask import mask

            return mask(str(self.error) or type(self.error).__name__).splitlines()[0]
        number = isinstance(self.value, (int, float)) and not isinstance(self.value, bool)
        return f"{self.value:.4g}" if number else ""


def checked(sweep: Sequence[Overrides], compose: Callable[[Overrides], DictConfig]) -> list[Job]:
    """Composes and validates every job, once; two that are the same become one. Raises one `ConfigError` that names
    each bad job by its overrides."""
    from mmo_rl.terminal import Terminal, progress_bars

    jobs: dict[str, Job] = {}
    wrong: list[str] = []
    everywhere = set.intersection(*map(set, sweep)) if len(sweep) > 1 else set()
    few = len(sweep) < BAR_FROM or not sys.stdout.isatty()
    with progress_bars(Terminal(quiet=few)) as bars:
        for overrides in bars.track(sweep, description="checking the jobs"):
            name = " ".join(o for o in overrides if o not in everywhere) or "(defaults)"
            try:
                job = checked_job(name, overrides, compose)
            except ConfigError as error:
                wrong.append(f"{' '.join(overrides)}\n    {error.message}")
            else:
                jobs.setdefault(job.key, job)
    if wrong:
        listed = "\n  ".join([*wrong[:10], *([f"... and {len(wrong) - 10} more"] if len(wrong) > 10 else [])])
        raise ConfigError(
            f"{part(len(wrong), len(sweep), 'job')} of this sweep cannot run; nothing was started\n  {listed}"
        )
    return list(jobs.values())


def checked_job(name: str, overrides: Overrides, compose: Callable[[Overrides], DictConfig]) -> Job:
    """Composes and validates one job. Raises `ConfigError` with the reasons where it cannot run."""
    try:
        return _checked(name, overrides, compose)
    except (MmoRlError, HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explained(error, overrides)) from None


def expanded(
    sweep: Sequence[Overrides],
    compose: Callable[[Overrides], DictConfig],
    split: Callable[[Mapping[str, str], Overrides], list[Overrides]],
    params: Mapping[str, str],
) -> list[Overrides]:
    """Replaces each job whose config is a sweep of its own (``hydra.sweeper.params`` of a swept experiment) by the jobs
    of that one. ``params`` are those that the sweep has itself; ``split`` makes jobs of params and overrides.

    A job that cannot be composed stays as it is: its check says what is wrong with it.
    """
    jobs: list[Overrides] = []
    for overrides in sweep:
        try:
            config, _ = _composed(overrides, compose)
        except (HydraException, OmegaConfBaseException):
            jobs.append(overrides)
            continue
        own = params_of(config)
        jobs += [overrides] if own == params else expanded(split(own, overrides), compose, split, own)
    return jobs


def params_of(config: DictConfig) -> dict[str, str]:
    """Returns the keys that a composed config sweeps over, with their values as on the command line."""
    return {str(key): str(value) for key, value in (config.hydra.sweeper.get("params") or {}).items()}


def announce(jobs: Sequence[Job], console: Terminal) -> None:
    """Prints the number of jobs by the state that an earlier sweep left; nothing where all are new."""
    counts = Counter(job.before for job in jobs)
    told = {
        "done": "done before, skipped",
        "failed": "failed before, run again",
        "interrupted": "stopped half way, continued",
        "changed": "of another configuration or other inputs than now, run anew (the old folders are kept)",
        "running": "at work in another process, waited for",
        "new": "new",
    }
    if set(counts) != {"new"} and any(job.folder is not None for job in jobs):
        console.print(f"{counted(len(jobs), 'job')}, of which")
        for state, words in told.items():
            if counts[state]:  # type: ignore[index]
                console.print(f"  {counts[state]:>3} {words}")  # type: ignore[index]


def report(jobs: Sequence[Job], ended: Sequence[Ended], console: Terminal) -> None:
    """Prints the table; raises `MmoRlError` where a job failed (`NotReady` where readiness is all that did)."""
    if not _tell_together(jobs, ended, console):
        print_table(jobs, ended, console)
        tell_next(jobs, ended, console)
    raise_failures(ended)


def tell_next(jobs: Sequence[Job], ended: Sequence[Ended], console: Terminal) -> None:
    """Prints the commands that compare the finished jobs, and use the checkpoint of the best training."""
    from mmo_rl.command_line import command_line, override
    from mmo_rl.loop.results import tell_checkpoint_of

    done = [
        (job, end.value, job.folder)
        for job, end in zip(jobs, ended, strict=True)
        if end.status in ("done", "skipped") and job.folder is not None and job.task in RESULTS
    ]
    if not done:
        return
    if len(done) > 1:
        sweeps = dict.fromkeys(place(folder.path.parent, Ended("done")) for _, _, folder in done)
        runs = next(iter(sweeps)) if len(sweeps) == 1 else list(sweeps)
        line = command_line("task=compare", override("compare.runs", runs))
        console.say(f"  compare  {line}")
    measured = [(value, job, folder) for job, value, folder in done if isinstance(value, float) and job.task == "train"]
    if measured:
        value, job, folder = max(measured, key=lambda one: one[0])
        console.say(f"Best: {job.name}, {value:+.4g} $")
        tell_checkpoint_of(console, job.overrides, folder)


def print_table(jobs: Sequence[Job], ended: Sequence[Ended], console: Terminal) -> None:
    rows = []
    for job, end in zip(jobs, ended, strict=True):
        status = "skipped (was done)" if end.status == "skipped" else end.status
        started = job.folder is not None and end.status != "not started" and job.folder.path.exists()
        rows.append((job.name, status, end.told, place(job.folder.path, end) if started and job.folder else ""))
    tasks = {job.task for job in jobs}
    result = RESULTS.get(tasks.pop(), "result") if len(tasks) == 1 else "result"
    print_rows(("job", "status", result, "run folder"), rows, console)
    counts = Counter(end.status for end in ended)
    console.print(", ".join(f"{n} {status}" for status, n in counts.items()))


def print_rows(heads: Sequence[str], rows: Sequence[Sequence[str]], console: Terminal) -> None:
    """Prints a table: each row one line, so that a file of it can be searched; on a terminal long cells are folded."""
    from rich.table import Table

    from mmo_rl.plain_text import one_line
    from mmo_rl.terminal import ONE_LINE

    table = Table(*heads, box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*map(one_line, row))
    (console if console.is_terminal else console.widened(ONE_LINE)).print(table)


def place(folder: Path, end: Ended) -> str:
    """Returns the path to look into: the run folder, or the log of a failed job; relative where it lies below here."""
    log = folder / "log.txt"
    path = (log if end.failed and log.exists() else folder).absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def raise_failures(ended: Sequence[Ended]) -> None:
    """Raises where a job failed: exit code 3 where all that failed is readiness, 2 where no job could start, else 1."""
    failures = [end for end in ended if end.failed]
    if not failures:
        return
    if all(end.status == "not ready" for end in failures):
        raise NotReady(f"{part(len(failures), len(ended), 'job')} {'is' if len(failures) == 1 else 'are'} not ready")
    reasons = [end.error for end in failures if isinstance(end.error, ConfigError)]
    if len(reasons) == len(ended):
        which = "the job could not" if len(ended) == 1 else f"none of the {len(ended)} jobs could"
        raise ConfigError(f"{which} start: {reasons[0].message}", hint=reasons[0].hint)
    raise MmoRlError(
        f"{part(len(failures), len(ended), 'job')} failed",
        hint="the log.txt in their folders says why; the same command repeats only those",
    )


def _tell_together(jobs: Sequence[Job], ended: Sequence[Ended], console: Terminal) -> bool:
    """Lets the task print the results of all jobs at once; returns False where it does not, or where a job failed."""
    from mmo_rl.commands import command_of

    tasks = {job.task for job in jobs}
    tell = command_of(tasks.pop()).tell if len(tasks) == 1 else None
    if tell is None or any(end.status not in ("done", "skipped") for end in ended):
        return False
    tell([(job.name, end.value) for job, end in zip(jobs, ended, strict=True)], console)
    return True


def _checked(name: str, overrides: Overrides, compose: Callable[[Overrides], DictConfig]) -> Job:
    from mmo_rl.cli.job import check_task
    from mmo_rl.config.fingerprint import Identity
    from mmo_rl.config.settings import config_sha256, validate
    from mmo_rl.report.run_folder import RunFolder

    config, overrides = _composed(overrides, compose)
    path = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
    settings = validate(OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"]))
    folder = None if path.resolve() == project_root() else RunFolder(path)
    sha256 = config_sha256(settings)
    identity = Identity.of(folder, settings)
    before = _before(folder, identity)
    if before != "done":
        check_task(settings, tuple(overrides))
    return Job(name, overrides, config, sha256, identity, settings.task, settings.iterations, folder, before)


def _composed(overrides: Overrides, compose: Callable[[Overrides], DictConfig]) -> tuple[DictConfig, Overrides]:
    """Composes a job's config; overrides that use former names are tried under the present ones."""
    try:
        return compose(overrides), overrides
    except HydraException:
        renamed = renamed_overrides(overrides)
        if renamed == overrides:
            raise
        return compose(renamed), renamed


def _before(folder: RunFolder | None, identity: Identity) -> Before:
    """Reads the state that an earlier sweep left. Raises `ConfigError` where an unfinished run would go on with other
    inputs."""
    from mmo_rl.config.inputs import refuse_mixture

    status = None if folder is None else folder.status()
    if folder is None or status is None:
        return "new"
    state: Before = status["status"]
    if state == "running":
        return state
    if not identity.same_config(status):
        return "changed"
    changed = identity.changed_inputs(folder)
    if state != "done":
        refuse_mixture(folder, changed)
    return "changed" if changed and state == "done" else state


def _explained(error: Exception, overrides: Overrides) -> str:
    from mmo_rl.config.explain import explain

    return explain(error, overrides).message.replace("\n", "\n    ")
