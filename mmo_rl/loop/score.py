"""Judging of a selection: its groups are read, scored, and counted on the bar."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from mmo_rl.config.composition import Components
from mmo_rl.judge.base import Judge
from mmo_rl.loop.history import spending
from mmo_rl.report.progress import Advance, Stages
from mmo_rl.types import Group, ScoredGroup, Selection


async def score(components: Components, stages: Stages, selection: Selection, *, label: str) -> list[ScoredGroup]:
    """Scores every group of a selection; ``label`` stands at the bar."""
    with stages.stage("judge", label) as advance:
        async with aclosing(components.source.groups(selection)) as groups:
            return [scored async for scored in _counted(components.judge, groups, selection, advance)]


async def _counted(
    judge: Judge, groups: AsyncIterator[Group], selection: Selection, advance: Advance
) -> AsyncIterator[ScoredGroup]:
    """Scores the groups and advances the bar with each."""
    done = 0
    async for group in judge.score(groups):
        done += 1
        advance(done, len(selection.windows), spending(judge.usage))
        yield group
