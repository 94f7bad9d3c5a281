"""Commands for people to type next: quoted for a shell, with the search path that this process was started with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

_search_path: tuple[str, ...] = ()


def command_line(*arguments: str) -> str:
    """Returns ``mmo-rl`` with these arguments as a line for a shell; ``--config-dir`` and ``hydra.searchpath`` of this
    process are repeated in it."""
    return shlex.join(["mmo-rl", *_search_path, *arguments])


def search_path_arguments() -> tuple[str, ...]:
    """Returns the arguments of this process that add to the search path."""
    return _search_path


def set_search_path_arguments(arguments: Sequence[str]) -> None:
    """Sets the arguments that every later `command_line` repeats."""
    global _search_path
    _search_path = tuple(arguments)
