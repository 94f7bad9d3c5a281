"""Kendall's rank correlation tau-b inside windows, with an interval from a bootstrap over windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from mmo_rl.stats.bootstrap import Array, bootstrap, clamp
from mmo_rl.stats.interval import Interval

TIED = 1e-9
"""Numbers nearer to each other than this share a rank."""


class RankPairs(NamedTuple):
    """Counts of pairs of members: ordered alike by two rankings, ordered differently, tied in one of them only."""

    concordant: int = 0
    discordant: int = 0
    tied_first: int = 0
    tied_second: int = 0

    def plus(self, other: RankPairs) -> RankPairs:
        return RankPairs(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def tau_b(self) -> float | None:
        """``(C - D) / sqrt((C + D + T1) (C + D + T2))`` in [-1, 1]; None where one of the two ranks nothing."""
        ranked = self.concordant + self.discordant
        scale = math.sqrt((ranked + self.tied_first) * (ranked + self.tied_second))
        return (self.concordant - self.discordant) / scale if scale else None


def rank_pairs(first: Sequence[float], second: Sequence[float]) -> RankPairs:
    """Counts the pairs of one window's members, bound by position; pairs that both rankings tie are not counted."""
    import numpy as np

    if len(first) != len(second):
        raise ValueError(f"two rankings of the same members differ in length: {len(first)} and {len(second)}")
    above = np.triu_indices(len(first), k=1)
    one, two = (_signs(np.asarray(values, dtype=float))[above] for values in (first, second))
    return RankPairs(
        concordant=int((one * two > 0).sum()),
        discordant=int((one * two < 0).sum()),
        tied_first=int(((one == 0) & (two != 0)).sum()),
        tied_second=int(((one != 0) & (two == 0)).sum()),
    )


def _signs(values_M: Array) -> Array:
    """Signs of all differences between members, [M, M]."""
    import numpy as np

    difference_MM = values_M[:, None] - values_M[None, :]
    return np.where(np.abs(difference_MM) <= TIED, 0.0, np.sign(difference_MM))


def tau_interval(
    windows: Sequence[RankPairs], *, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval | None:
    """Kendall's tau-b over the pairs of all ``windows``, which are resampled; in [-1, 1].

    The counts of the windows are summed (Kendall 1945, "The treatment of ties in ranking problems", Biometrika 33), so
    a window that one of the two does not rank counts against it. None where one of them ranks nothing at all.
    """
    import numpy as np

    def tau(sums: Array) -> Array:
        concordant, discordant, first, second = (sums[..., column] for column in range(4))
        ranked = concordant + discordant
        scale = np.sqrt((ranked + first) * (ranked + second))
        return np.divide(concordant - discordant, scale, out=np.zeros_like(scale), where=scale > 0)

    total = RankPairs()
    for window in windows:
        total = total.plus(window)
    if total.tau_b is None:
        return None
    sums_W4 = np.array(windows, dtype=float).reshape(-1, 4)
    return clamp(bootstrap(sums_W4, tau, seed=seed, resamples=resamples, level=level), -1.0)
