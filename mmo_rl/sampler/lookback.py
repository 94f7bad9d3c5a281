"""Search for recorded windows that lie before the reach of ``sampler.lookback_hours``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from mmo_rl.sampler.base import OlderWindows, SamplingRules
from mmo_rl.source.base import Source
from mmo_rl.types import Span, WindowQuery, WindowStats

BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


async def older_windows(
    source: Source, query: WindowQuery, shown: Sequence[WindowStats], rules: SamplingRules
) -> OlderWindows | None:
    """Counts the windows before those in ``shown``, which ``query`` found by looking back from the newest; None where
    there are none."""
    if not shown or query.span is not None:
        return None
    before = Span(BEGINNING, shown[0].window.start)
    older = await source.counts(replace(query, span=before, min_actions=rules.min_actions, exact=False))
    if not older:
        return None
    hours = math.ceil((shown[-1].window.start - older[0].window.start) / timedelta(hours=1)) + 1
    return OlderWindows(
        windows=len({counts.window.id for counts in older}),
        windows_with_agents=len({counts.window.id for counts in older if counts.agents >= rules.min_agents}),
        trajectories=sum(counts.members for counts in older),
        lookback_hours=query.lookback_hours,
        override=f"sampler.lookback_hours={hours}",
    )
