"""UTC time and arithmetic of windows. Only `utc_now` reads a clock; elsewhere the present is an argument."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from mmo_rl.types import Window

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WINDOW_ID = re.compile(r"(\d{4})-(\d{2})-(\d{2})T(\d{2}):(\d{2})")


def utc_now() -> datetime:
    """Returns the present, aware UTC."""
    return datetime.now(UTC)


def newest_begun(starts: Iterable[datetime], now: datetime) -> datetime | None:
    """Returns the newest start that is not in the future, else the newest; None of none. All are aware, or none is."""
    listed = list(starts)
    return max((start for start in listed if start <= now), default=max(listed, default=None))


def milliseconds(moment: datetime) -> float:
    """Converts a time to milliseconds since 1970, as recordings count it."""
    return (moment - EPOCH) / timedelta(milliseconds=1)


def window_at(moment: datetime, hours: float) -> Window:
    """Returns the window of length ``hours`` that contains ``moment``; windows are aligned to the Unix epoch in UTC."""
    length = timedelta(hours=hours)
    start = EPOCH + (moment.astimezone(UTC) - EPOCH) // length * length
    return Window(window_id(start), start, start + length)


def window_id(start: datetime) -> str:
    """Formats a window's start as its id: ``YYYY-MM-DDTHH:MM`` in UTC, as the game writes it (no Z)."""
    return start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M")


def parse_window_id(text: str) -> datetime | None:
    """Parses a window id to its UTC start; None where it is in another format (``default``, ``window-test-1``)."""
    match = _WINDOW_ID.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute = (int(group) for group in match.groups())
    try:
        return datetime(year, month, day, hour, minute, tzinfo=UTC)
    except ValueError:
        return None
