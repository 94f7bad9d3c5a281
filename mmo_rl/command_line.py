"""Commands for people to type next: quoted for a shell, with the search path that this process was started with."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

_PLAIN = re.compile(r"(?:[A-Za-z_/]|\.{1,2}/)[A-Za-z0-9_/.+@%:-]*")
"""Texts that Hydra reads as themselves without quotes, but for `_WORDS`."""
_WORDS = frozenset({"true", "false", "null", "inf", "nan"})
_search_path: tuple[str, ...] = ()


def command_line(*arguments: str) -> str:
    """Returns ``mmo-rl`` with these arguments as a line for a shell; ``--config-dir`` and ``hydra.searchpath`` of this
    process are repeated in it."""
    return shlex.join(["mmo-rl", *_search_path, *arguments])


def override(key: str, value: str | Sequence[str]) -> str:
    """Returns the override that sets a key to a text, or to a list of texts, whatever characters they have: a path may
    hold ``=``, accents, brackets or ``#``, which Hydra reads between quotes only."""
    if isinstance(value, str):
        return f"{key}={_text(value)}"
    return f"{key}=[{','.join(map(_text, value))}]"


def _text(value: str) -> str:
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    # Backslashes count only before a quote, before an interpolation, and at the end: there each is written twice.
    escaped = re.sub(r"(\\*)('|\$\{)", lambda found: found[1] * 2 + "\\" + found[2], value)
    escaped = re.sub(r"(\\+)$", lambda found: found[1] * 2, escaped)
    return f"'{escaped}'"


def search_path_arguments() -> tuple[str, ...]:
    """Returns the arguments of this process that add to the search path."""
    return _search_path


def set_search_path_arguments(arguments: Sequence[str]) -> None:
    """Sets the arguments that every later `command_line` repeats."""
    global _search_path
    _search_path = tuple(arguments)
