"""Evaluation on recorded play: the change in the probability of well judged against badly judged recorded decisions.

    change(d)      = log p_trained(d) - log p_base(d)                     of a recorded decision d, in nats
    rank agreement = Kendall's tau-b of change and reward, inside the groups that were judged together
    margin         = mean change of decisions above their group's mean reward - that of decisions below it
    reward change  = sum(w r) / sum(w) - mean(r),  w = p_trained(d) / p_recorded(d)
    effective      = sum(w)^2 / sum(w^2)

The third is the self-normalised importance-weighted estimate of off-policy evaluation (Swaminathan and Joachims 2015),
of single decisions: it says nothing about states that the recorded policy did not reach. It is refused where the
behaviour's log-probabilities are unknown or the effective sample size (Kong 1992) is small. Intervals resample windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, TypedDict

from pydantic import Field

from mmo_rl.evaluate.base import Change, RecordedVerdict
from mmo_rl.stats.bootstrap import Array, bootstrap
from mmo_rl.stats.interval import Interval
from mmo_rl.stats.ranks import RankPairs, rank_pairs, tau_interval

LARGEST_LOG_WEIGHT = 30.0
"""Log-weights are cut here: beyond it one decision is the whole estimate, and the effective size says so."""


class _Weighted(TypedDict):
    reward_change: Interval | None
    effective: float | None
    refusal: str | None


class RecordedEvaluator:
    """Compares base and trained policy on the newest ``max_windows`` held-out windows, without playing.

    The reward of recorded decisions is estimated only where at least ``min_known`` of them have the log-probabilities
    of the policy that made them, and the effective sample size is at least ``min_effective``.
    """

    def __init__(
        self,
        *,
        max_windows: Annotated[int, Field(ge=1)] = 100,
        min_effective: Annotated[float, Field(ge=1)] = 50.0,
        min_known: Annotated[float, Field(gt=0, le=1)] = 0.9,
        seed: int,
    ) -> None:
        self._max_windows = max_windows
        self._min_effective = min_effective
        self._min_known = min_known
        self._seed = seed

    def windows_at_most(self) -> int:
        """Returns the number of held-out windows that are read."""
        return self._max_windows

    def verdict(self, changes: Sequence[Change]) -> RecordedVerdict:
        """Computes the numbers of this module from the change of every judged decision."""
        windows: dict[str, dict[str, list[Change]]] = {}
        for change in changes:
            windows.setdefault(change.window, {}).setdefault(change.group, []).append(change)
        pairs = []
        for groups in windows.values():
            total = RankPairs()
            for members in groups.values():
                total = total.plus(rank_pairs([m.change for m in members], [m.reward for m in members]))
            pairs.append(total)
        return RecordedVerdict(
            windows=len(windows),
            decisions=len(changes),
            rank_agreement=tau_interval(pairs, seed=self._seed) if pairs else None,
            margin=self._margin(windows),
            **self._weighted(windows, changes),
        )

    # --- inside -----------------------------------------------------------------------------------------------------

    def _margin(self, windows: Mapping[str, Mapping[str, Sequence[Change]]]) -> Interval | None:
        rows = []
        for groups in windows.values():
            margins = [margin for members in groups.values() if (margin := _group_margin(members)) is not None]
            if margins:
                rows.append((sum(margins), float(len(margins))))
        return self._interval(rows, lambda sums: _ratio(sums[..., 0], sums[..., 1])) if rows else None

    def _weighted(self, windows: Mapping[str, Mapping[str, Sequence[Change]]], changes: Sequence[Change]) -> _Weighted:
        known = [change for change in changes if change.log_weight is not None]
        if not changes or len(known) / len(changes) < self._min_known:
            share = len(known) / len(changes) if changes else 0.0
            why = f"{share:.0%} of the decisions have the log-probabilities of the policy that made them, too few"
            return {"reward_change": None, "effective": None, "refusal": why}
        weights = [_weight(change) for change in known]
        effective = sum(weights) ** 2 / sum(weight**2 for weight in weights)
        if effective < self._min_effective:
            why = f"{len(known)} decisions are worth {effective:.1f}, fewer than evaluate.min_effective"
            return {"reward_change": None, "effective": effective, "refusal": f"{why}={self._min_effective:g}"}
        rows = []
        for groups in windows.values():
            own = [c for members in groups.values() for c in members if c.log_weight is not None]
            rows.append(
                (
                    sum(_weight(c) * c.reward for c in own),
                    sum(_weight(c) for c in own),
                    sum(c.reward for c in own),
                    float(len(own)),
                )
            )
        interval = self._interval(rows, lambda s: _ratio(s[..., 0], s[..., 1]) - _ratio(s[..., 2], s[..., 3]))
        return {"reward_change": interval, "effective": effective, "refusal": None}

    def _interval(self, rows: Sequence[tuple[float, ...]], statistic: Callable[[Array], Array]) -> Interval:
        import numpy as np

        return bootstrap(np.array(rows, dtype=float), statistic, seed=self._seed, resamples=2000)


def _weight(change: Change) -> float:
    assert change.log_weight is not None
    return math.exp(min(change.log_weight, LARGEST_LOG_WEIGHT))


def _group_margin(members: Sequence[Change]) -> float | None:
    """Mean change of the members above the mean reward minus that of those below; None where there are none."""
    mean = sum(member.reward for member in members) / len(members)
    above = [member.change for member in members if member.reward > mean]
    below = [member.change for member in members if member.reward < mean]
    return sum(above) / len(above) - sum(below) / len(below) if above and below else None


def _ratio(numerator: Array, denominator: Array) -> Array:
    import numpy as np

    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
