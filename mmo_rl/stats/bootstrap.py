"""Confidence intervals for policies and their differences: a bootstrap clustered by market.

Rollouts of one market share its luck, so markets are resampled, never single rollouts (`scipy.stats.bootstrap`
resamples observations and knows no clusters). Intervals are two-sided 95 % percentile intervals, widened for a small
number of markets as Hesterberg (2015, "What Teachers Should Know about the Bootstrap", section 5.3) proposes: the tail
is that of Student's t with n - 1 degrees of freedom, scaled by sqrt(n / (n - 1)); with fewer than `FEW_MARKETS` markets
they are no narrower than Student's t intervals. Ratios (error rate, percentages, shares) are ratios of sums, resampled
together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, TypeAlias

from mmo_rl.rng import derive_seed
from mmo_rl.stats.interval import Interval, t_quantile
from mmo_rl.types import Measured, Rollout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[np.float64]"

Value = Literal["pnl", "win_rate", "error_rate", "drawdown", "activity"]

FEW_MARKETS = 20
"""With fewer markets an interval is at least as wide as the one of Student's t."""


def mean_interval(
    measured: Measured, value: Value, *, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """Interval of ``value`` of one policy over markets like those that it was measured on.

    P&L in game dollars an agent and market, rates in [0, 1]. Raises `ValueError` where there is no rollout.
    """
    _, sums = _sums_by_market(measured, value)
    return _possible(bootstrap(sums, _ratio, seed=seed, resamples=resamples, level=level), value)


def paired_difference(
    base: Measured, trained: Measured, value: Value, *, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """Interval of ``trained`` minus ``base`` in ``value`` on the same markets; exactly 0 where no market differs.

    Raises `ValueError` unless both have exactly the same (market, agent) rollouts.
    """
    both = _paired_sums(base, trained, value)
    if (both[:, :2] == both[:, 2:]).all():
        return Interval(0.0, 0.0, 0.0)
    difference = bootstrap(
        both, lambda s: _ratio(s[..., 2:]) - _ratio(s[..., :2]), seed=seed, resamples=resamples, level=level
    )
    return _possible(difference, value, lowest=-1.0)


def unpaired_difference(
    base: Measured, trained: Measured, value: Value, *, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """Interval of ``trained`` minus ``base`` in ``value``, each resampled on markets of its own.

    Raises `ValueError` where one has no rollout.
    """
    (_, ours), (_, theirs) = _sums_by_market(trained, value), _sums_by_market(base, value)
    estimate = float(_ratio(ours.sum(axis=0)) - _ratio(theirs.sum(axis=0)))
    n = min(len(ours), len(theirs))
    if n < 2:
        return Interval(estimate, -math.inf, math.inf)
    replicates = _replicates(ours, _ratio, seed=derive_seed(seed, "ours"), resamples=resamples)
    replicates = replicates - _replicates(theirs, _ratio, seed=derive_seed(seed, "theirs"), resamples=resamples)
    return _possible(_percentiles(estimate, replicates, n=n, level=level), value, lowest=-1.0)


def improvement_pct(base: Measured, trained: Measured, *, seed: int, resamples: int = 2000) -> Interval | None:
    """P&L improvement in percent of the base's P&L, or None where such a percentage means nothing.

    A percentage means something only where the base certainly earns: the 95 % interval of the base's own P&L lies
    above 0. A base near 0 would turn any gain into any percentage, a losing base would turn its sign; quote the
    difference in dollars or the share of the oracle's P&L then. Raises as `paired_difference` does.
    """
    if mean_interval(base, "pnl", seed=seed, resamples=resamples).low <= 0.0:
        return None

    def pct(s: Array) -> Array:
        return 100.0 * _quotient(_ratio(s[..., 2:]) - _ratio(s[..., :2]), _ratio(s[..., :2]))

    return bootstrap(_paired_sums(base, trained, "pnl"), pct, seed=seed, resamples=resamples)


def oracle_share(measured: Measured, oracle: Measured, *, seed: int, resamples: int = 2000) -> Interval | None:
    """P&L as a share of what the oracle earns on the same markets (1 = as good as knowing the future, below 0 =
    loses money), or None where the oracle itself does not certainly earn.

    Only markets are paired: the oracle may be one agent where the policy is several. Raises `ValueError` where the
    markets differ.
    """
    if mean_interval(oracle, "pnl", seed=seed, resamples=resamples).low <= 0.0:
        return None
    markets, ours = _sums_by_market(measured, "pnl")
    oracle_markets, theirs = _sums_by_market(oracle, "pnl")
    if markets != oracle_markets:
        raise ValueError(f"the oracle played {len(oracle_markets)} markets that are not the policy's {len(markets)}")
    return bootstrap(
        _side_by_side(theirs, ours),
        lambda s: _quotient(_ratio(s[..., 2:]), _ratio(s[..., :2])),
        seed=seed,
        resamples=resamples,
    )


def _possible(interval: Interval, value: Value, *, lowest: float = 0.0) -> Interval:
    """Clamps the interval of a rate to [``lowest``, 1]; amounts of dollars have no limits."""
    return interval if value in ("pnl", "drawdown") else clamp(interval, lowest)


def clamp(interval: Interval, lowest: float) -> Interval:
    """Clamps the bounds to [``lowest``, 1]; infinite ones stay, for they say that the data give no bound."""
    if math.isinf(interval.low):
        return interval
    return Interval(interval.estimate, max(interval.low, lowest), min(interval.high, 1.0))


def _sums_by_market(measured: Measured, value: Value) -> tuple[list[int], Array]:
    """Sorted market numbers, and the (numerator, denominator) of ``value`` in each, [markets, 2]."""
    import numpy as np

    _rollout_ids(measured)
    sums: dict[int, list[float]] = {}
    for rollout in measured.rollouts:
        numerator, denominator = _terms(rollout, value)
        entry = sums.setdefault(rollout.market, [0.0, 0.0])
        entry[0] += numerator
        entry[1] += denominator
    if not sums:
        raise ValueError(f"policy {measured.policy!r} has no rollouts: nothing was measured")
    markets = sorted(sums)
    return markets, np.array([sums[m] for m in markets])


def _terms(rollout: Rollout, value: Value) -> tuple[float, float]:
    if value == "pnl":
        return rollout.pnl, 1.0
    if value in ("drawdown", "activity"):
        known = rollout.drawdown if value == "drawdown" else rollout.trades
        if known is None:
            raise ValueError(f"the {value} of agent {rollout.agent} in market {rollout.market} was not measured")
        return float(known), 1.0 if value == "drawdown" else float(rollout.actions)
    if value == "win_rate":
        return float(rollout.pnl > 0), 1.0
    return float(rollout.errors), float(rollout.actions)


def _rollout_ids(measured: Measured) -> set[tuple[int, int]]:
    ids = {(r.market, r.agent) for r in measured.rollouts}
    if len(ids) != len(measured.rollouts):
        raise ValueError(f"policy {measured.policy!r} has two rollouts of the same agent in the same market")
    return ids


def _paired_sums(base: Measured, trained: Measured, value: Value) -> Array:
    unpaired = _rollout_ids(base) ^ _rollout_ids(trained)
    if unpaired:
        raise ValueError(
            f"{base.policy!r} and {trained.policy!r} were not measured on the same markets: "
            f"{len(unpaired)} (market, agent) rollouts are in one only, such as {min(unpaired)}"
        )
    return _side_by_side(_sums_by_market(base, value)[1], _sums_by_market(trained, value)[1])


def _side_by_side(left: Array, right: Array) -> Array:
    import numpy as np

    return np.concatenate([left, right], axis=1)


def _ratio(sums: Array) -> Array:
    """Divides the first by the second number of the last axis; 0 where nothing was counted, as `Measured.error_rate`
    has it: a policy without a single action has made no error."""
    import numpy as np

    numerator, denominator = sums[..., 0], sums[..., 1]
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def _quotient(numerator: Array, denominator: Array) -> Array:
    """Divides by a base that is positive but for rare resamples, in which the quotient is infinite."""
    import numpy as np

    unbounded = np.where(numerator == 0, 0.0, np.copysign(np.inf, numerator))
    positive = denominator > 0
    return np.where(positive, numerator / np.where(positive, denominator, 1.0), unbounded)


def bootstrap(
    sums: Array, statistic: Callable[[Array], Array], *, seed: int, resamples: int, level: float = 0.95
) -> Interval:
    """Interval of ``statistic`` of the summed rows of ``sums`` [clusters, terms], with the rows resampled.

    ``statistic`` takes sums in the last axis, of the data or of all resamples at once. One row alone has no bounds.
    """
    n = len(sums)
    estimate = float(statistic(sums.sum(axis=0)))
    if n < 2:
        return Interval(estimate, -math.inf, math.inf)
    return _percentiles(estimate, _replicates(sums, statistic, seed=seed, resamples=resamples), n=n, level=level)


def _replicates(sums: Array, statistic: Callable[[Array], Array], *, seed: int, resamples: int) -> Array:
    """Statistic of each of ``resamples`` resamples of the markets."""
    return statistic(_resampled(len(sums), seed, resamples) @ sums)


@lru_cache(maxsize=1)
def _resampled(n: int, seed: int, resamples: int) -> Array:
    """Draws how often each of ``n`` markets is in each resample, [resamples, n].

    The latest draw is kept: every number of an evaluation is about the same resamples, and drawing them takes nearly
    all the time of an interval."""
    import numpy as np

    generator = np.random.default_rng(derive_seed(seed, "bootstrap", n))
    counts = generator.multinomial(n, np.full(n, 1.0 / n), size=resamples).astype(np.float64)
    counts.flags.writeable = False
    return counts


def _percentiles(estimate: float, replicates: Array, *, n: int, level: float) -> Interval:
    import numpy as np

    tail = NormalDist().cdf(-math.sqrt(n / (n - 1)) * t_quantile((1.0 + level) / 2.0, n - 1))
    low, high = np.quantile(np.sort(replicates), [tail, 1.0 - tail], method="nearest")
    if n < FEW_MARKETS and np.isfinite(replicates).all():
        # Resamples of few markets cannot reach beyond them: two that happen to agree would be called clear.
        margin = t_quantile((1.0 + level) / 2.0, n - 1) * math.sqrt(n / (n - 1)) * float(replicates.std())
        low, high = min(low, estimate - margin), max(high, estimate + margin)
    return Interval(estimate, float(low), float(high))
