"""The parts that every command works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from mmo_rl.config.composition import Components, Session
from mmo_rl.config.settings import Settings
from mmo_rl.config.tasks import Options
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.terminal import Terminal

O = TypeVar("O", bound=Options, contravariant=True)  # noqa: E741
R = TypeVar("R", covariant=True)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One start of a command: its validated ``settings``, the ``session`` of its components, and the ``console`` that
    people watch. ``folder`` is None for tasks that leave none; ``overrides`` are those of the command as typed."""

    settings: Settings
    session: Session
    console: Terminal
    folder: RunFolder | None
    overrides: tuple[str, ...]

    @property
    def components(self) -> Components:
        return self.session.components

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def run_folder(self) -> RunFolder:
        """The folder of the run. Raises `TypeError` for a task that leaves none."""
        if self.folder is None:
            raise TypeError(f"task={self.settings.task} has no run folder")
        return self.folder

    async def opened(self, component: T) -> T:
        """Opens a component that has to be opened; see `Session.opened`."""
        return await self.session.opened(component)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Generic[O, R]):
    """A task: ``run`` does it, and returns a number that sweepers optimise, an exit code, or nothing.

    ``check`` raises `ConfigError` for mistakes in the config that only the task can see, before anything starts;
    ``tell`` prints the results of all jobs of a sweep (name and result of each) where ``run`` prints nothing.
    """

    run: Callable[[Context, O], Awaitable[R]]
    check: Callable[[Settings, Sequence[str]], None] | None = None
    tell: Callable[[Sequence[tuple[str, R]], Terminal], None] | None = None
