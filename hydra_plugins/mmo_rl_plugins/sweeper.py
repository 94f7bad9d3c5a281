"""Default sweeper: checks the whole sweep before its first job, skips finished jobs, goes on after failed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from mmo_rl.cli.carried import CarriedConfigs
from mmo_rl.cli.launch import JobRunner
from mmo_rl.cli.launchers import launcher_missing, require_counts, require_one_controller, require_shared_database
from mmo_rl.cli.sweep import Job, Overrides, announce, checked, expanded, print_table, report
from mmo_rl.config.extensions import Source, use_search_path
from mmo_rl.config.project import hidden_choices, project_root

if TYPE_CHECKING:
    from mmo_rl.terminal import Terminal


class CheckedSweeper(BasicSweeper):
    """Sweeper that composes and validates every job first (raises `ConfigError` naming the bad ones), then launches
    those that are not done. Raises `MmoRlError` at the end where a job failed, after all of them were run and the table
    was printed.

    The same command again continues: finished jobs are skipped with their stored result, the rest runs.
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size, params)
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        require_counts(config)
        sources = config.hydra.runtime.config_sources
        use_search_path(Source(source.provider, source.schema, source.path) for source in sources)
        carried = HydraContext(
            config_loader=CarriedConfigs(hydra_context.config_loader.get_search_path()),
            callbacks=hydra_context.callbacks,
        )
        try:
            super().setup(hydra_context=carried, task_function=task_function, config=config)
        except (ImportError, RuntimeError) as error:
            raise launcher_missing(config, error) from None

    def sweep(self, arguments: list[str]) -> object:
        """Runs the jobs of a command line's overrides; returns their results."""
        from mmo_rl.terminal import Terminal

        assert self.hydra_context is not None
        assert self.config is not None
        overrides = expanded(
            self._split(self.params, arguments), self._compose, self._split, {k: str(v) for k, v in self.params.items()}
        )
        console = Terminal()
        for line in hidden_choices(self.config.hydra.runtime.choices):
            console.say(line)
        jobs = self.checked(overrides)
        announce(jobs, console)
        runner = self.runner(jobs, console)
        try:
            ended = runner.run(self.max_batch_size)
        except KeyboardInterrupt:
            print_table(jobs, runner.so_far(), console)
            raise
        finally:
            folder = Path(self.config.hydra.sweep.dir)
            if folder.is_relative_to(project_root() / "runs"):  # what lies elsewhere may be somebody's
                with suppress(OSError):  # launchers make the sweep's folder, and no job may be in it
                    folder.rmdir()
        report(jobs, ended, console)
        return [end.value for end in ended]

    def checked(self, overrides: Sequence[Overrides]) -> list[Job]:
        """Composes and validates jobs. Raises `ConfigError` naming the bad ones."""
        assert self.config is not None
        jobs = checked(overrides, compose=self._compose)
        require_one_controller(self.config, {job.name: job.config for job in jobs})
        require_shared_database(self.config, [job.config for job in jobs])
        return jobs

    def _compose(self, overrides: Overrides) -> DictConfig:
        """Composes the config of one job; each once."""
        assert self.hydra_context is not None
        assert self.config is not None
        key = tuple(overrides)
        if key not in self._composed:
            self._composed[key] = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        return self._composed[key]

    def _split(self, params: Mapping[str, str], arguments: Sequence[str]) -> list[Overrides]:
        """Lists the jobs of swept keys and overrides; of one key the override counts."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *arguments])
        ((*overrides,),) = self.split_arguments(parsed, None)
        return overrides

    def runner(self, jobs: Sequence[Job], console: Terminal) -> JobRunner:
        """Makes the runner of these jobs with Hydra's launcher."""
        assert self.launcher is not None
        one_by_one = isinstance(self.launcher, BasicLauncher)
        launch = self.launcher.launch
        return JobRunner(
            jobs,
            lambda batch, first: launch(batch, initial_job_idx=first),
            one_by_one=one_by_one,
            console=console,
        )


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="mmo_rl",
    node={
        "_target_": "hydra_plugins.mmo_rl_plugins.sweeper.CheckedSweeper",
        "max_batch_size": None,
        "params": None,
    },
    provider="mmo_rl",
)
