"""Selection of an iteration's trajectories from a source, by a sampler: one function for plans and runs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mmo_rl.sampler.base import Sampler
from mmo_rl.source.base import Source
from mmo_rl.types import Selection


async def select(
    source: Source,
    sampler: Sampler,
    *,
    iteration: int,
    used_windows: Collection[str],
    scenario_id: str | None,
    simulated: bool = False,
) -> Selection:
    """Selects the trajectories of one iteration from statistics alone.

    Windows are chosen by their numbers, then members of these windows. ``used_windows`` has the windows of each earlier
    iteration (see `used`); ``scenario_id`` names the world of a run that plays; ``simulated`` asks for play of the
    simulated market alone, where the source's own choice does not say more.
    """
    query, prefix = replace(sampler.query(scenario_id), simulated=simulated), scenario_id or ""
    counts = await source.counts(query)
    choice = sampler.choose(counts, iteration, used_windows)
    windows = await source.windows(sampler.members_query(query, choice, prefix=prefix)) if choice.windows else []
    until = None if scenario_id is not None else max((group.window.end for group in counts), default=None)
    return replace(sampler.draw(choice, windows, prefix=prefix), until=until)


async def held_out(
    source: Source, sampler: Sampler, *, used_windows: Collection[str], scenario_id: str | None, most: int
) -> Selection:
    """Selects the newest ``most`` of the windows that the sampler holds out, every ready member of them."""
    query, prefix = sampler.query(scenario_id), scenario_id or ""
    counts = await source.counts(query)
    whole = sampler.with_rules(holdout=0.0, max_windows=2**31, max_dropout=0.0, reuse=False)
    choice = whole.choose(counts, 0)
    in_time = sorted(choice.windows, key=lambda window: window.start)
    first = len(in_time) - int(len(in_time) * sampler.rules.holdout)
    kept = tuple(window for window in in_time[first:] if window.id not in set(used_windows))[-most:]
    ids = {window.id for window in kept}
    choice = replace(choice, windows=kept, groups=frozenset(key for key in choice.groups if key[0] in ids))
    windows = await source.windows(whole.members_query(query, choice, prefix=prefix)) if kept else []
    return whole.draw(choice, windows, prefix=prefix)


async def selections(source: Source, sampler: Sampler, *, iterations: int) -> list[Selection]:
    """Selects for that many iterations over recorded play, up to the first that nothing is left for; that one is
    included where it is the first of all, since it has the reasons."""
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
    """Lists the ids of the windows that were trained on, once for each iteration that did."""
    return [name for selection in selections for name in {w.window.id: None for w in selection.windows}]
