"""Dropout rules by name: the shipped ones, and functions in modules of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from mmo_rl.config import extensions
from mmo_rl.config.hints import near, show
from mmo_rl.config.schema import Problem
from mmo_rl.errors import ConfigError
from mmo_rl.sampler.base import Dropout
from mmo_rl.sampler.dropout import STRATEGIES
from mmo_rl.types import Member


def find_rule(name: str) -> Dropout:
    """Finds a dropout rule: a shipped name, or the path of a function of (groups, fractions) in a module of one's own,
    ``my_project.rules.keep_extremes``.

    Raises `ConfigError` where there is none, with the nearest name or what is wrong with the module.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    if "." not in name and ":" not in name:
        raise ConfigError(
            f"found {show(name)}, expected {', '.join(STRATEGIES)}, or a path like my_project.rules.keep_extremes"
            f"{near(name, STRATEGIES)}"
        )
    try:
        found = extensions.find(name)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    try:
        if not callable(found) or isinstance(found, type):
            raise TypeError(f"it is of type {type(found).__name__}")
        inspect.signature(found).bind("groups", "fractions")
    except TypeError as error:
        raise ConfigError(
            f"{name} is no dropout rule: {error}; expected a function of (groups, fractions) that returns a number in "
            "[0, 1) by trajectory id (mmo_rl.sampler.base.Dropout)"
        ) from None
    return _Checked(name, cast(Dropout, found))


def unknown_rule(sampler: Mapping[str, object] | None) -> Iterator[Problem]:
    """Yields a problem where ``sampler.dropout`` names no rule."""
    name = (sampler or {}).get("dropout")
    if isinstance(name, str):
        try:
            find_rule(name)
        except ConfigError as error:
            yield Problem("sampler.dropout", error.message)


class _Checked:
    """A rule of one's own whose answers are checked: a number in [0, 1) for each trajectory, and for no other."""

    def __init__(self, name: str, rule: Dropout) -> None:
        self._name = name
        self._rule = rule

    def __call__(self, groups: Sequence[Sequence[Member]], fractions: Mapping[str, float], /) -> Mapping[str, float]:
        numbers = self._rule(groups, fractions)
        for member in (member for group in groups for member in group):
            number = numbers.get(member.trajectory_id)
            if not isinstance(number, (int, float)) or not 0 <= number < 1:
                raise ConfigError(
                    f"sampler.dropout={self._name} gives {number!r} for trajectory {member.trajectory_id}, expected a "
                    "number in [0, 1)"
                )
        return numbers
