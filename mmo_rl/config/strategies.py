"""Scripted players by name: shipped ones, those of installed packages, and strategies in modules of one's own."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint

from mmo_rl.config import extensions
from mmo_rl.config.project import registered
from mmo_rl.config.schema import Problem
from mmo_rl.errors import ConfigError
from mmo_rl.market.base import Scripted
from mmo_rl.market.strategies import SHIPPED, script

POLICY = "policy"
"""Name of the policy's seat in ``collect.strategies``."""


def find_player(name: str) -> Scripted:
    """Finds a scripted player: a shipped name, the name of an entry point, or ``my_project.strategies.Careful`` (also
    ``my_project.strategies:Careful``), which plays under the last part of its path.

    Raises `ConfigError` where there is none, with the nearest name or what the import lacks.
    """
    if name in SHIPPED:
        return SHIPPED[name]
    installed = _installed()
    if name in installed:
        return script(_imported(installed[name].value, name), name=name)
    if not is_dotted(name):
        known = [*SHIPPED, *installed]
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            f"unknown strategy {name!r}",
            hint=(f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}.")
            + " One of your own is named by its path: my_project.strategies.Careful",
        )
    return script(_imported(name, name), name=name.replace(":", ".").rpartition(".")[2])


def _imported(path: str, name: str) -> object:
    try:
        return extensions.find(path)
    except ValueError as error:
        raise ConfigError(f"strategy {name!r}: {error}") from None


def is_dotted(name: str) -> bool:
    """Checks that a name has the form of a path to a class or function."""
    parts = name.replace(":", ".").split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def player_names() -> list[str]:
    """Lists the names of players that need no path."""
    return [*SHIPPED, *_installed()]


def unknown_players(collect: Mapping[str, object] | None) -> Iterator[Problem]:
    """Yields a problem for each name of ``collect.strategies`` that is no player."""
    names = (collect or {}).get("strategies")
    for number, name in enumerate(names if isinstance(names, list | tuple) else ()):
        if name != POLICY:
            try:
                find_player(str(name))
            except ConfigError as error:
                yield Problem(f"collect.strategies.{number}", str(error))


def _installed() -> dict[str, EntryPoint]:
    return dict(registered(extensions.STRATEGIES))
