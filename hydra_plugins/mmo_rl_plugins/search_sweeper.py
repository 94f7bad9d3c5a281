"""Optuna sweeper (``hydra/sweeper=optuna``): a search over the command line's keys that continues where it stopped."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.mmo_rl_plugins.sweeper import CheckedSweeper
from mmo_rl.cli.launch import JobRunner
from mmo_rl.cli.search import (
    Direction,
    Sampler,
    Search,
    Space,
    ended_of,
    folder_of,
    named,
    opened,
    other_studies,
)
from mmo_rl.cli.sweep import Ended, Job, Overrides, params_of, place, print_rows, raise_failures
from mmo_rl.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console


class SearchSweeper(CheckedSweeper):
    """Sweeper that runs trials until ``n_trials`` in all have finished, ``n_jobs`` of them a batch through any
    launcher; every job of a batch is checked before it starts. A trial's value is the number that its job returns.

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
        from rich.console import Console

        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        space = Space.of(parser.parse_overrides([*self._parse_config(), *arguments]))
        points = math.prod(map(len, space.grid().values())) if self._sampler == "grid" else 0
        (first,) = self._checked_first(space)
        measures = (first.config.get("evaluate") or {}).get("_target_")
        if first.folder is None or (first.task == "train" and not measures):
            raise ConfigError(
                f"a search needs a number from every job, and this one (task={first.task}) measures nothing",
                hint="task=train with evaluate=market",
            )
        console = Console()
        with opened(first.folder.path.parent / "optuna.db", job=first, space=space, direction=self._direction) as study:
            search = Search(
                study, space, n_trials=self._n_trials, sampler=self._sampler, seed=self._seed, n_jobs=self._n_jobs
            )
            if search.finished or search.again:
                console.print(
                    f"This search goes on: {search.finished} of {self._n_trials} trials are finished, {search.again} "
                    "failed or were killed before and run again",
                    highlight=False,
                    soft_wrap=True,
                )
            elif other_studies(study):
                console.print(
                    "The command or its configuration is another than before: a new search begins", soft_wrap=True
                )
            if points > self._n_trials:
                console.print(
                    f"The grid has {points} points, of which hydra.sweeper.n_trials={self._n_trials} are tried; "
                    f"all of them: hydra.sweeper.n_trials={points}",
                    highlight=False,
                    soft_wrap=True,
                )
            return self._run(search, space, console)

    def _run(self, search: Search, space: Space, console: Console) -> float | None:
        ends: list[Ended] = []
        while trials := search.ask():
            told: set[int] = set()
            commands = {trial.number: space.overrides(trial.params) for trial in trials}
            try:
                jobs = self.checked(list({tuple(c): c for c in commands.values()}.values()))
                runner: JobRunner = self.runner(jobs, console)
                numbers = {tuple(job.overrides): i for i, job in enumerate(jobs)}
                results = runner.run()
                for trial in trials:
                    i = numbers[tuple(commands[trial.number])]
                    folder = jobs[i].folder
                    search.tell(trial, results[i], None if folder is None else folder.path)
                    told.add(trial.number)
                ends += results
            except BaseException as error:
                for trial in trials:
                    if trial.number not in told:
                        search.tell(trial, Ended("interrupted", error=_in_a_line(error)), None)
                _print(search, space, console)
                raise
        _print(search, space, console)
        raise_failures(ends)
        best = search.best()
        return None if best is None else best.value

    def checked(self, overrides: Sequence[Overrides]) -> list[Job]:
        """Composes and validates jobs. Raises `ConfigError` naming the bad ones, and those that are sweeps."""
        jobs = super().checked(overrides)
        own = {str(key): str(value) for key, value in self.params.items()}
        for job in jobs:
            if (swept := params_of(job.config)) != own:
                listed = " ".join(f"{key}={value}" for key, value in swept.items())
                raise ConfigError(
                    f"{job.name} is a sweep of its own ({listed}), and a search has one space",
                    hint=f"leave it out of the search and type what it sweeps: {listed}; or search it alone",
                )
        return jobs

    def _checked_first(self, space: Space) -> list[Job]:
        try:
            return self.checked([space.overrides(space.first())])
        except ConfigError as error:
            if "expected a whole number" in error.message and error.hint is None:
                raise ConfigError(
                    error.message, hint="whole numbers between two are KEY='int(interval(1,9))'"
                ) from None
            raise


def _print(search: Search, space: Space, console: Console) -> None:
    """Prints the table of all trials, and the best."""
    rows = []
    for trial in search.trials():
        end, folder = ended_of(trial), folder_of(trial)
        parameters = " ".join(named(trial.params, space.searched))
        rows.append((str(trial.number), parameters, end.status, end.told, "" if folder is None else place(folder, end)))
    print_rows(("trial", "parameters", "status", "result", "run folder"), rows, console)
    best = search.best()
    if best is not None:
        parameters = " ".join(named(best.params, space.searched))
        told = f"best: trial {best.number}, {parameters}: {best.value:.4g}"
        console.print(told, highlight=False, markup=False, soft_wrap=True)


def _in_a_line(error: BaseException) -> ConfigError:
    text = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
    return ConfigError(text.splitlines()[0])
