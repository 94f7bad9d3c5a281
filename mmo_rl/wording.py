"""Words of counts, lists and durations in messages."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Writes a count with its noun: ``1 step``, ``1,200 steps``, ``0 steps``; ``plural`` where it is irregular."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(parts: Sequence[str], *, most: int = 3) -> str:
    """Writes the first ``most`` of several, and the number of the others."""
    rest = len(parts) - most
    return ", ".join([*parts[:most], *([f"and {rest:,} more"] if rest > 0 else [])])
