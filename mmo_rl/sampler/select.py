"""Which trajectories an iteration uses: asked in one place, so that a plan and the run it is for cannot disagree."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from mmo_rl.types import Choice, Selection


async def select(
    source: Any, sampler: Any, *, iteration: int, used_windows: Collection[str], scenario_id: str | None
) -> Selection:
    """The selection of one iteration, from statistics alone: the windows by their numbers, then, of these windows, the
    members. ``used_windows`` has the windows of each earlier iteration (see `used`); ``scenario_id`` names the world of
    a run that plays."""
    query, prefix = sampler.query(scenario_id), scenario_id or ""
    counts = await source.counts(query)
    choice: Choice = sampler.choose(counts, iteration, used_windows)
    windows = await source.windows(sampler.members_query(query, choice, prefix=prefix)) if choice.windows else []
    selection: Selection = sampler.draw(choice, windows, prefix=prefix)
    until = None if scenario_id is not None else max((group.window.end for group in counts), default=None)
    return replace(selection, until=until)


async def selections(source: Any, sampler: Any, *, iterations: int) -> list[Selection]:
    """What that many iterations take of recorded play, up to the one that nothing is left for; that one too where it
    is the first, since it knows why."""
    taken: list[Selection] = []
    for iteration in range(iterations):
        selection = await select(source, sampler, iteration=iteration, used_windows=used(taken), scenario_id=None)
        if taken and not selection.used:
            break
        taken.append(selection)
        if not selection.used:
            break
    return taken


def used(selections: Collection[Selection]) -> list[str]:
    """The ids of the windows that were trained on, once for each iteration that did."""
    return [name for selection in selections for name in {w.window.id: None for w in selection.windows}]
