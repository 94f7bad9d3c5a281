"""A dropout rule: ``sampler.dropout=my_project.rules.keep_winners``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmo_rl.types import Member


def keep_winners(groups: Sequence[Sequence[Member]], fractions: Mapping[str, float]) -> Mapping[str, float]:
    """Gives each trajectory a number in [0, 1): those below the dropout rate are left out.

    Here the P&L decides within each group, and of equals the larger fraction, a seeded number: the only chance.
    """
    numbers: dict[str, float] = {}
    for group in groups:
        ranked = sorted(group, key=lambda member: (member.final_pnl or 0.0, fractions[member.trajectory_id]))
        numbers |= {member.trajectory_id: (place + 0.5) / len(group) for place, member in enumerate(ranked)}
    return numbers
