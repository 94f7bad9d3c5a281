"""Windows that ``sampler.lookback_hours`` leaves out of sight: how many, and what to type to see them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mmo_rl.types import GroupCounts, Span, WindowQuery, WindowStats

BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


async def outside(
    source: Any, query: WindowQuery, shown: Sequence[WindowStats], *, min_agents: int, min_actions: int
) -> dict[str, Any] | None:
    """The windows before those that a query found, which looked back from the newest, as plain values with the
    override that includes all of them; None where there are none. Of ``windows_with_agents`` enough agents took enough
    steps."""
    if not shown or query.span is not None:
        return None
    before = replace(query, span=Span(BEGINNING, shown[0].window.start), min_actions=min_actions, exact=False)
    older: list[GroupCounts] = await source.counts(before)
    if not older:
        return None
    hours = math.ceil((shown[-1].window.start - older[0].window.start) / timedelta(hours=1)) + 1
    return {
        "windows": len({counts.window.id for counts in older}),
        "windows_with_agents": len({counts.window.id for counts in older if counts.agents >= min_agents}),
        "trajectories": sum(counts.members for counts in older),
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
