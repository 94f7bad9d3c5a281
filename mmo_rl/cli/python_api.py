"""Python API: runs a job in this process, as from a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.version import VersionBase, setbase

from mmo_rl.cli.job import Outcome, job, outcome
from mmo_rl.command_line import search_path_arguments, set_search_path_arguments
from mmo_rl.config.latest import with_latest
from mmo_rl.config.project import shipped
from mmo_rl.errors import ConfigError

if TYPE_CHECKING:
    from mmo_rl.report.frames import LoadedRun


_OF_A_RUN = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)
"""Hydra's state of one run; its registries of plugins and configs are the same for all."""


@dataclass(frozen=True)
class Finished:
    """A job that was run: its ``folder`` (None for tasks that leave none) and the ``value`` that its task returned."""

    folder: Path | None
    value: object

    @property
    def summary(self) -> Mapping[str, object]:
        """The numbers of summary.json; empty for a task that leaves none."""
        from mmo_rl.report.run_folder import RunFolder

        return {} if self.folder is None else RunFolder(self.folder).summary() or {}

    def load(self) -> LoadedRun:
        """Loads the run's results as tables. Raises `ConfigError` for a task that leaves no run folder."""
        from mmo_rl.report.frames import load_run

        if self.folder is None:
            raise ConfigError("this task leaves no run folder")
        return load_run(self.folder)


def run(overrides: Sequence[str] = (), *, config_dir: str | Path | None = None) -> Finished:
    """Composes, validates and runs one job in this process, as ``mmo-rl`` does with these overrides.

    The same overrides find the same run folder: a finished run is not repeated. Works below a running event loop, and
    leaves no state of Hydra. Raises `MmoRlError` with the message that the command line prints (`ConfigError` where the
    configuration is wrong: nothing was started).
    """
    from mmo_rl.config.explain import explain
    from mmo_rl.config.settings import refuse_secrets

    if isinstance(overrides, str) or any(text.startswith("-") for text in overrides):
        raise ConfigError(
            f"found {overrides!r}, expected a list of overrides without flags",
            hint="mmo_rl.run(['judge=oracle', 'seed=1']); a sweep is a command: mmo-rl -m seed=0,1",
        )
    refuse_secrets(list(overrides))
    directory = None if config_dir is None else Path(config_dir).resolve()
    vars(outcome).update(vars(Outcome()))
    try:
        with _composer(directory) as hydra:
            hydra.run("config", job, with_latest(overrides), with_log_configuration=False)
        if outcome.error is not None:
            raise outcome.error
    except Exception as error:
        arguments = [*(["--config-dir", str(directory)] if directory is not None else []), *overrides]
        told = explain(error, arguments)
        if told is error:
            raise
        raise told from error
    finished = Finished(outcome.folder, outcome.result)
    vars(outcome).update(vars(Outcome()))
    return finished


@contextmanager
def _composer(config_dir: Path | None) -> Iterator[Hydra]:
    """Makes a Hydra of its own; afterwards the state of Hydra in this process is what it was."""
    instances = Singleton._instances
    before, arguments = dict(instances), search_path_arguments()
    for kind in _OF_A_RUN:
        instances.pop(kind, None)
    try:
        setbase("1.3")
        search_path = create_config_search_path(f"file://{shipped('conf')}")
        if config_dir is not None:
            if not config_dir.is_dir():
                raise ConfigError(f"config_dir={config_dir} is no folder")
            anchor = SearchPathQuery(provider="schema")
            search_path.prepend(provider="command-line", path=f"file://{config_dir}", anchor=anchor)
        yield Hydra.create_main_hydra2(task_name="mmo_rl", config_search_path=search_path)
    finally:
        for kind in _OF_A_RUN:
            instances.pop(kind, None)
        instances.update(before)
        set_search_path_arguments(arguments)
