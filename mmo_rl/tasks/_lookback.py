"""Windows that ``sampler.lookback_hours`` leaves out of sight: how many, and what to type to see them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mmo_rl.types import Span, WindowQuery, WindowStats

BEGINNING = datetime(1, 1, 2, tzinfo=UTC)


async def older_windows(source: Any, query: WindowQuery, shown: Sequence[WindowStats]) -> list[WindowStats]:
    """The windows before those that a query found; it looked back from the newest."""
    if not shown or query.span is not None:
        return []
    older: list[WindowStats] = await source.windows(replace(query, span=Span(BEGINNING, shown[0].window.start)))
    return older


def outside(older: Sequence[WindowStats], shown: Sequence[WindowStats], query: WindowQuery) -> dict[str, Any] | None:
    """Older windows as plain values, with the override that includes all of them; None where there are none."""
    if not older:
        return None
    hours = math.ceil((shown[-1].window.start - older[0].window.start) / timedelta(hours=1)) + 1
    return {
        "windows": len(older),
        "trajectories": sum(len(stats.members) for stats in older),
        "lookback_hours": query.lookback_hours,
        "override": f"sampler.lookback_hours={hours}",
    }


def told(found: Mapping[str, Any]) -> str:
    """What people read of `outside`."""
    count = found["windows"]
    return (
        f"{count:,} older window{'s' * (count != 1)} outside sampler.lookback_hours={found['lookback_hours']:g}"
        f" ({found['override']} includes {'them' if count != 1 else 'it'})"
    )
