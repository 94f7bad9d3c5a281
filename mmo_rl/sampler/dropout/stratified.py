"""Stratified dropout, by agent and role.

    number = 1 - (place + 1/2) / n

Places are dealt to the strata in turn, so that no agent dominates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmo_rl.types import Member


def stratified(groups: Sequence[Sequence[Member]], fractions: Mapping[str, float]) -> Mapping[str, float]:
    """Numbers trajectories in turns of the agents (each role of an agent apart): first the best of each, and so on.

    In a turn, and inside an agent, the larger fraction comes first.

    The p-th of n in that order (from 0) has the number 1 - (p + 1/2) / n: at rate r the first (1 - r) n stay, rounded.
    An agent with few trajectories keeps them all before one with many keeps another, so that no agent dominates.
    """
    strata: dict[tuple[str, str | None], list[str]] = {}
    for member in (member for group in groups for member in group):
        strata.setdefault((member.agent_id, member.role), []).append(member.trajectory_id)
    turns = []
    for ids in strata.values():
        ids.sort(key=lambda identity: (-fractions[identity], identity))
        turns += [(turn, -fractions[identity], identity) for turn, identity in enumerate(ids)]
    return {identity: 1.0 - (place + 0.5) / len(turns) for place, (_, _, identity) in enumerate(sorted(turns))}
