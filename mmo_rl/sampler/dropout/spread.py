"""Dropout by P&L, which keeps the contrast of a group.

    number = 1 - (place + 1/2) / n

Places go from the extremes of P&L inward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmo_rl.types import Member


def spread(groups: Sequence[Sequence[Member]], fractions: Mapping[str, float]) -> Mapping[str, float]:
    """Numbers each group from its extremes of P&L inward: the highest, the lowest, the second highest, and so on.

    Those without a recorded P&L come last. Of equals, the larger fraction comes first.

    The p-th of the n of a group (from 0) has the number 1 - (p + 1/2) / n: at rate r the first (1 - r) n stay, rounded.
    """
    numbers: dict[str, float] = {}
    for group in groups:
        known = sorted(
            ((m.final_pnl, fractions[m.trajectory_id], m.trajectory_id) for m in group if m.final_pnl is not None),
            key=lambda item: (-item[0], -item[1], item[2]),
        )
        unknown = sorted(
            (m.trajectory_id for m in group if m.final_pnl is None),
            key=lambda identity: (-fractions[identity], identity),
        )
        ids = [identity for _, _, identity in known]
        inward = [ids[place // 2] if place % 2 == 0 else ids[-1 - place // 2] for place in range(len(ids))]
        for place, identity in enumerate([*inward, *unknown]):
            numbers[identity] = 1.0 - (place + 0.5) / len(group)
    return numbers
