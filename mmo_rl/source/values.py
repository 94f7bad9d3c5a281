"""Reads single values of recordings: numbers, times, texts, truth values. An unreadable one is None, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from mmo_rl.clock import EPOCH, milliseconds
from mmo_rl.numbers import parse_number
from mmo_rl.source.jsontext import excerpt

Fields: TypeAlias = Mapping[str, object]
"""An object of recorded JSON, or a row, by key; its values are read with the functions of this module."""
MILLISECONDS_FROM = 1e11
"""A number of this size or more counts milliseconds since 1970 (from March 1973 on), a smaller one seconds."""


def pick(mapping: Fields, *names: str) -> object:
    """Returns the first of the named values that exists and is not None."""
    for name in names:
        value = mapping.get(name)
        if value is not None:
            return value
    return None


def as_fields(value: object) -> Fields:
    """Returns an object of JSON as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def as_list(value: object) -> list[object]:
    """Returns a list of JSON as it is, and an empty one for anything else."""
    return value if isinstance(value, list) else []


def as_number(*values: object) -> float | None:
    """Returns the first of the values that is a finite number, its text, or a percentage (``"70.0%"`` is 0.7)."""
    for value in values:
        if value is not None and (number := parse_number(value)) is not None:
            return number
    return None


def as_int(value: object) -> int | None:
    """Reads a whole number, also as a float or as text; None where it has a fraction."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = parse_number(value)
    return int(number) if number is not None and number == int(number) else None


def as_bool(value: object, *, default: bool) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and (text := value.strip().lower()) in ("true", "t", "1", "false", "f", "0"):
        return text in ("true", "t", "1")
    return default


def as_text(value: object) -> str | None:
    """Reads a text, also an id or name that was written as a number; None for a structure."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:  # an integer of thousands of digits
            return None
    return None


def as_message(value: object) -> str | None:
    """Reads an error's text, also from an object such as ``{"message": "no balance"}``; None where there is none."""
    if value is None or value is False or value in ([], {}):
        return None
    if isinstance(value, Mapping):
        return as_text(pick(value, "message", "error", "reason")) or excerpt(value)
    return as_text(value) if isinstance(value, str) else excerpt(value)


def as_milliseconds(value: object) -> float | None:
    """Reads a time (`as_time`) as milliseconds since 1970."""
    moment = as_time(value)
    return None if moment is None else milliseconds(moment)


def as_time(value: object) -> datetime | None:
    """Reads a time in UTC: milliseconds or seconds since 1970, ISO 8601 (UTC where it names no zone), or a datetime.

    0 means that it was not recorded.
    """
    number = parse_number(value)
    try:
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        if number is not None:
            if number == 0:
                return None
            if abs(number) < MILLISECONDS_FROM:
                number *= 1000
            return EPOCH + timedelta(microseconds=round(number * 1000))
        if isinstance(value, str):
            moment = datetime.fromisoformat(value.strip())
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (OverflowError, ValueError):
        return None
    return None


def agent_role(archetype: str | None, npc_role: str | None) -> str | None:
    """Joins an agent's archetype with its ``npcRole`` (insider, affiliated, observer): ``trader/insider``; None where
    neither is recorded."""
    if archetype and npc_role in archetype.split("/"):  # joined before it was stored
        return archetype
    return "/".join(filter(None, (archetype, npc_role))) or None
