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


def part(count: int, total: int, noun: str, plural: str | None = None) -> str:
    """Writes a part of several: ``the job`` where there is one, ``all 3 jobs``, ``1 of the 3 jobs``."""
    if total == 1:
        return f"the {noun}"
    return (
        f"all {counted(total, noun, plural)}" if count == total else f"{count:,} of the {counted(total, noun, plural)}"
    )


def duration(seconds: float) -> str:
    """Writes a duration as people say it: ``under 1 s``, ``8 s``, ``12 min``, ``3.2 h``, ``140 h``."""
    if seconds < 1:
        return "under 1 s" if seconds > 0 else "0 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36000 else f"{seconds / 3600:,.0f} h"
