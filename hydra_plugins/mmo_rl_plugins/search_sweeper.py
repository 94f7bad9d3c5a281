"""Optuna sweeper (``hydra/sweeper=optuna``): a search over the command line's keys that continues where it stopped."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.mmo_rl_plugins.sweeper import CheckedSweeper
from mmo_rl.cli.launchers import require_one_controller, require_shared_database
from mmo_rl.cli.search import (
    Direction,
    Sampler,
    Search,
    Space,
    ended_of,
    folders_of,
    named,
    opened,
    other_studies,
    tested,
)
from mmo_rl.cli.sweep import Ended, Job, Overrides, checked_job, params_of, place, print_rows, raise_failures
from mmo_rl.errors import ConfigError

if TYPE_CHECKING:
    from optuna.trial import Trial

    from mmo_rl.terminal import Terminal

VALIDATION = "evaluate.validation_markets"


class SearchSweeper(CheckedSweeper):
    """Sweeper that runs trials until ``n_trials`` in all have finished, ``n_jobs`` of them a batch through any
    launcher. A trial's value is the number that its job returns, the mean over seeds where those are several; of a
    training it is that of validation markets, which nothing else is measured by. A combination that cannot run is a
    failed trial with its reasons, and the search goes on.

    Raises `MmoRlError` at the end where a trial of this start failed; the same command runs it again.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        direction: Direction,
        sampler: Sampler,
        seed: int,
        params: dict[str, str] | None = None,
    ) -> None:
        super().__init__(max_batch_size=None, params=params)
        self._n_trials = n_trials
        self._n_jobs = n_jobs
        self._direction = direction
        self._sampler = sampler
        self._seed = seed

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        for key, number, least in (
            ("n_trials", self._n_trials, 1),
            ("n_jobs", self._n_jobs, 1),
            ("seed", self._seed, 0),
        ):
            if not isinstance(number, int) or number < least:
                raise ConfigError(f"hydra.sweeper.{key}: found {number!r}, expected a whole number from {least} on")
        for key, value, choices in (("direction", self._direction, Direction), ("sampler", self._sampler, Sampler)):
            if value not in get_args(choices):
                raise ConfigError(
                    f"hydra.sweeper.{key}: found {value!r}, expected one of {', '.join(get_args(choices))}"
                )
        if importlib.util.find_spec("optuna") is None:
            raise ConfigError(
                "hydra/sweeper=optuna needs a package that is not installed", hint="pip install 'mmo-rl[sweep]'"
            )
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> object:
        """Runs the trials of a command line's overrides; returns the best value."""
        from mmo_rl.terminal import Terminal

        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        space = Space.of(parser.parse_overrides([*self._parse_config(), *arguments]))
        points = math.prod(map(len, space.grid().values())) if self._sampler == "grid" else 0
        first = self._first(space)
        space, first = self._validating(space, first)
        console = Terminal()
        assert first.folder is not None
        with opened(first.folder.path.parent / "optuna.db", job=first, space=space, direction=self._direction) as study:
            search = Search(
                study, space, n_trials=self._n_trials, sampler=self._sampler, seed=self._seed, n_jobs=self._n_jobs
            )
            if search.finished or search.again:
                console.say(
                    f"This search goes on: {search.finished} of {self._n_trials} trials are finished, {search.again} "
                    "failed or were killed before and run again"
                )
            elif other_studies(study):
                console.say("The command or its configuration is another than before: a new search begins")
            if points > self._n_trials:
                console.say(
                    f"The grid has {points} points, of which hydra.sweeper.n_trials={self._n_trials} are tried; "
                    f"all of them: hydra.sweeper.n_trials={points}"
                )
            return self._run(search, space, console)

    def _run(self, search: Search, space: Space, console: Terminal) -> float | None:
        ends: list[Ended] = []
        while trials := search.ask():
            told: set[int] = set()
            try:
                batches = {trial.number: self._jobs_of(search, trial, space) for trial in trials}
                told |= {number for number, jobs in batches.items() if jobs is None}
                jobs = {job.key: job for batch in batches.values() for job in batch or ()}
                results = dict(zip(jobs, self.runner(list(jobs.values()), console).run(), strict=True)) if jobs else {}
                for trial in trials:
                    if (batch := batches[trial.number]) is not None:
                        folders = [job.folder.path for job in batch if job.folder is not None]
                        search.tell(trial, [results[job.key] for job in batch], folders)
                        told.add(trial.number)
                ends += results.values()
            except BaseException as error:
                for trial in trials:
                    if trial.number not in told:
                        search.tell(trial, [Ended("interrupted", error=_in_a_line(error))], [])
                _print(search, space, console)
                raise
        _print(search, space, console)
        raise_failures(ends)
        best = search.best()
        if best is None:
            raise ConfigError(
                "no trial could run: every combination that was tried is impossible; nothing was started",
                hint="the table above has the reasons; change the values of the searched keys",
            )
        return best.value

    def _jobs_of(self, search: Search, trial: Trial, space: Space) -> list[Job] | None:
        """Checks the jobs of a trial, one a seed; a combination that cannot run is recorded as such, and is None."""
        try:
            return [self._job(overrides, space) for overrides in space.overrides(trial.params)]
        except ConfigError as error:
            search.tell_impossible(trial, f"cannot run: {error.message}")
            return None

    def _job(self, overrides: Overrides, space: Space) -> Job:
        """Composes and validates a job. Raises `ConfigError` where it cannot run, or is a sweep itself."""
        assert self.config is not None
        name = " ".join(o for o in overrides if o not in space.fixed)
        job = checked_job(name, overrides, self._compose)
        require_one_controller(self.config, {job.name: job.config})
        require_shared_database(self.config, [job.config])
        if (swept := params_of(job.config)) != {str(key): str(value) for key, value in self.params.items()}:
            listed = " ".join(f"{key}={value}" for key, value in swept.items())
            raise ConfigError(
                f"{name} is a sweep of its own ({listed}), and a search has one space; leave it out and type what it"
                " sweeps, or search it alone"
            )
        return job

    def _first(self, space: Space) -> Job:
        """Returns a job of the space, the first that can run. Raises `ConfigError` where none of the first points can,
        with the reasons of the first, or where its task returns no number."""
        errors: list[ConfigError] = []
        for point in space.points():
            try:
                first = self._job(space.overrides(point)[0], space)
            except ConfigError as error:
                errors.append(error)
            else:
                break
        else:
            if "expected a whole number" in errors[0].message and errors[0].hint is None:
                raise ConfigError(errors[0].message, hint="whole numbers between two are KEY='int(interval(1,9))'")
            raise errors[0]
        measures = (first.config.get("evaluate") or {}).get("_target_")
        if first.folder is None or (first.task == "train" and not measures):
            raise ConfigError(
                f"a search needs a number from every job, and this one (task={first.task}) measures nothing",
                hint="task=train with evaluate=market",
            )
        return first

    def _validating(self, space: Space, first: Job) -> tuple[Space, Job]:
        """Has trials of a training measured on validation markets too, and chosen by those, unless the command says
        how many."""
        markets = (first.config.get("evaluate") or {}).get("validation_markets")
        if (
            first.task != "train"
            or markets != 0
            or any(o.lstrip("+").startswith(f"{VALIDATION}=") for o in space.fixed)
        ):
            return space, first
        space = replace(space, fixed=[*space.fixed, f"{VALIDATION}={first.config.evaluate.markets}"])
        return space, self._first(space)


def _print(search: Search, space: Space, console: Terminal) -> None:
    """Prints the table of all trials, the best, what its runs measured on the held-out markets, and the commands that
    use its checkpoint."""
    from mmo_rl.loop.results import tell_checkpoint_of
    from mmo_rl.report.run_folder import RunFolder

    rows = []
    for trial in search.trials():
        end, folders = ended_of(trial), folders_of(trial)
        parameters = " ".join(named(trial.params, space.searched))
        where = place(folders[0], end) if folders else ""
        rows.append((str(trial.number), parameters, end.status, end.told, where))
    seeds = math.prod(map(len, space.repeated.values()))
    result = "result" if seeds == 1 else f"mean of {seeds}"
    print_rows(("trial", "parameters", "status", result, "run folder"), rows, console)
    best = search.best()
    if best is not None:
        parameters = " ".join(named(best.params, space.searched))
        for line in (f"best: trial {best.number}, {parameters}: {best.value:.4g}", *tested(folders_of(best))):
            console.say(line)
        if folders := folders_of(best):
            tell_checkpoint_of(console, RunFolder(folders[0]).overrides(), RunFolder(folders[0]))


def _in_a_line(error: BaseException) -> ConfigError:
    text = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
    return ConfigError(text.splitlines()[0])
