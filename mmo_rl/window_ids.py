"""Rules for the ids of windows and slices: formats that name a start, and the id of a trajectory's part in a window."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from mmo_rl.clock import parse_window_id

SEPARATOR = "@"
ID_PATTERN = (
    r"^([12]\d{3})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[T -]([01]\d|2[0-3])"
    r"(:([0-5]\d)(:[0-5]\d(\.\d+)?)?)?(Z|\+00:?00)?$"
)
"""Window ids that name a start: ``YYYY-MM-DDTHH:MM``, and what is written for it elsewhere (``2025-01-13-14``,
``2025-01-13T14:00:00.000Z``), in the part of the language of patterns that PostgreSQL shares."""
_ID = re.compile(ID_PATTERN, re.ASCII)


def named_start(window_id: str | None) -> datetime | None:
    """Reads the UTC start from a recorded window id in any known format; None where it names none (``default``,
    ``window-test-1``, ``benchmark-7``, 30 February)."""
    match = _ID.fullmatch(window_id or "")
    if match is None:
        return None
    year, month, day, hour = (int(match[group]) for group in (1, 2, 3, 4))
    try:
        return datetime(year, month, day, hour, int(match[6] or 0), tzinfo=UTC)
    except ValueError:
        return None


def is_odd(window_id: str | None) -> bool:
    """Tells if a recorded window id is not in the format of the game, so that it was mapped or re-derived."""
    return window_id is None or parse_window_id(window_id) is None


def slice_id(trajectory_id: str, window_id: str) -> str:
    """Builds the id of a trajectory's part in a window."""
    return f"{trajectory_id}{SEPARATOR}{window_id}"


def split_id(identity: str) -> tuple[str, str | None]:
    """Splits the id of a slice into trajectory id and window id; (identity, None) where it is not the id of a slice."""
    origin, _, named = identity.rpartition(SEPARATOR)
    return (origin, named) if origin and parse_window_id(named) is not None else (identity, None)
