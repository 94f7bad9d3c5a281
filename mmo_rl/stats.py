"""What may be said about the difference of two policies: cluster bootstrap by market.

Rollouts of one market share its luck, so markets are resampled, never single rollouts. Intervals are two-sided 95 %
percentile intervals, widened for a small number of markets as Hesterberg (2015, "What Teachers Should Know about the
Bootstrap", section 5.3) proposes: the tail is that of Student's t with n - 1 degrees of freedom, scaled by
sqrt(n / (n - 1)); with fewer than `FEW_MARKETS` markets they are no narrower than Student's t intervals. Ratios
(error rate, percentages, shares) are ratios of sums, resampled together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

from mmo_rl.rng import derive_seed
from mmo_rl.types import Measured, Rollout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Value = Literal["pnl", "win_rate", "error_rate", "drawdown", "activity"]

POCOCK = (1.960, 2.178, 2.289, 2.361, 2.413, 2.453, 2.485, 2.512, 2.535, 2.555)
"""Standard errors that an estimate must lie from 0 at each of 1 to 10 equally spaced looks, so that all looks together
err in 5 % (Pocock 1977, "Group sequential methods in the design and analysis of clinical trials", Biometrika 64;
Jennison and Turnbull 2000, table 2.1)."""


FEW_MARKETS = 20
"""With fewer markets an interval is at least as wide as Student's t has it."""


def level_of_looks(looks: int) -> float:
    """The level, in (0, 1), of intervals that hold together with 95 % at all of ``looks`` equally spaced looks at
    growing data: repeated confidence intervals with Pocock's constants (Jennison and Turnbull 1989, JRSS B 51), so one
    may stop at the first that excludes 0, and quote it. ``looks`` from 1 to 10; 1 gives 0.95."""
    return 0.95 if looks == 1 else 2.0 * NormalDist().cdf(POCOCK[looks - 1]) - 1.0


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its interval (95 % unless another level was asked for), in the units of what was estimated. A
    bound that the data cannot give (one market only, a base that may be 0) is infinite."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0.0 or self.high < 0.0


def mean_interval(
    measured: Measured, value: Value, *, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """``value`` of one policy over markets like the ones it was measured on.

    P&L in game dollars an agent and market, rates in [0, 1]. Raises `ValueError` where there is no rollout.
    """
    _, sums = _sums_by_market(measured, value)
    return _possible(_bootstrap(sums, _ratio, seed=seed, resamples=resamples, level=level), value)


def paired_difference(
    base: Measured, trained: Measured, value: Value, *, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """``trained`` minus ``base`` in ``value``, on the same markets; exactly 0 where both did the same in all of them.

    Raises `ValueError` unless both have exactly the same (market, agent) rollouts.
    """
    both = _paired_sums(base, trained, value)
    if (both[:, :2] == both[:, 2:]).all():
        return Interval(0.0, 0.0, 0.0)
    difference = _bootstrap(
        both, lambda s: _ratio(s[..., 2:]) - _ratio(s[..., :2]), seed=seed, resamples=resamples, level=level
    )
    return _possible(difference, value, lowest=-1.0)


def unpaired_difference(
    base: Measured, trained: Measured, value: Value, *, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """``trained`` minus ``base`` in ``value``, each on markets of its own: both are resampled by themselves.

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

    It means something only where the base certainly earns: the 95 % interval of the base's own P&L lies above 0.
    A base near 0 would turn any gain into any percentage, a losing base would turn its sign; quote the difference
    in dollars or the share of the oracle's P&L then. Raises as `paired_difference` does.
    """
    if mean_interval(base, "pnl", seed=seed, resamples=resamples).low <= 0.0:
        return None

    def pct(s: Array) -> Array:
        return 100.0 * _quotient(_ratio(s[..., 2:]) - _ratio(s[..., :2]), _ratio(s[..., :2]))

    return _bootstrap(_paired_sums(base, trained, "pnl"), pct, seed=seed, resamples=resamples)


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
    return _bootstrap(
        _side_by_side(theirs, ours),
        lambda s: _quotient(_ratio(s[..., 2:]), _ratio(s[..., :2])),
        seed=seed,
        resamples=resamples,
    )


def _possible(interval: Interval, value: Value, *, lowest: float = 0.0) -> Interval:
    """Within what ``value`` can be at all: rates lie between ``lowest`` and 1."""
    return interval if value in ("pnl", "drawdown") else _within(interval, lowest)


def _within(interval: Interval, lowest: float) -> Interval:
    """No wider than from ``lowest`` to 1; an infinite bound says that the data give none."""
    if math.isinf(interval.low):
        return interval
    return Interval(interval.estimate, max(interval.low, lowest), min(interval.high, 1.0))


def _sums_by_market(measured: Measured, value: Value) -> tuple[list[int], Array]:
    """The markets in order, and for each the (numerator, denominator) that ``value`` is the ratio of."""
    import numpy as np

    _by_id(measured)
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


def _by_id(measured: Measured) -> set[tuple[int, int]]:
    ids = {(r.market, r.agent) for r in measured.rollouts}
    if len(ids) != len(measured.rollouts):
        raise ValueError(f"policy {measured.policy!r} has two rollouts of the same agent in the same market")
    return ids


def tau_interval(
    pairs_by_window: Sequence[tuple[int, int, int, int]], *, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval | None:
    """Kendall's rank correlation tau-b over all pairs inside windows, with windows resampled; in [-1, 1].

    Of each window (concordant, discordant, tied in the first only, tied in the second only), see `rank_pairs`.
    ``tau_b = (C - D) / sqrt((C + D + T1) (C + D + T2))`` of the sums (Kendall 1945, "The treatment of ties in ranking
    problems", Biometrika 33), so a window that one of the two does not rank counts against it. None where one of them
    ranks nothing at all.
    """
    import numpy as np

    def tau(sums: Array) -> Array:
        concordant, discordant, first, second = (sums[..., column] for column in range(4))
        ranked = concordant + discordant
        scale = np.sqrt((ranked + first) * (ranked + second))
        return np.divide(concordant - discordant, scale, out=np.zeros_like(scale), where=scale > 0)

    sums = np.array(pairs_by_window, dtype=float).reshape(-1, 4)
    ranked, first, second = sums[:, 0].sum() + sums[:, 1].sum(), sums[:, 2].sum(), sums[:, 3].sum()
    if not (ranked + first) * (ranked + second):
        return None
    return _within(_bootstrap(sums, tau, seed=seed, resamples=resamples, level=level), -1.0)


def rank_pairs(first: Sequence[float], second: Sequence[float]) -> tuple[int, int, int, int]:
    """Pairs of one window's members that two rankings order alike, that they order differently, that only the first
    and that only the second ties; numbers nearer than 1e-9 are tied. Bound by position."""
    concordant = discordant = tied_first = tied_second = 0
    members = list(zip(first, second, strict=True))
    for place, (a, b) in enumerate(members):
        for c, d in members[place + 1 :]:
            one, two = a - c, b - d
            flat, level = abs(one) <= 1e-9, abs(two) <= 1e-9
            if flat and level:
                continue
            tied_first += flat
            tied_second += level
            if not (flat or level):
                alike = (one > 0) == (two > 0)
                concordant += alike
                discordant += not alike
    return concordant, discordant, tied_first, tied_second


def _paired_sums(base: Measured, trained: Measured, value: Value) -> Array:
    unpaired = _by_id(base) ^ _by_id(trained)
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
    """Numerator by denominator in the last axis; 0 where nothing was counted (a policy without a single action has
    made no error), as `Measured.error_rate` has it."""
    import numpy as np

    numerator, denominator = sums[..., 0], sums[..., 1]
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def _quotient(numerator: Array, denominator: Array) -> Array:
    """By a base that is positive but for rare resamples, in which the quotient has no bound."""
    import numpy as np

    unbounded = np.where(numerator == 0, 0.0, np.copysign(np.inf, numerator))
    positive = denominator > 0
    return np.where(positive, numerator / np.where(positive, denominator, 1.0), unbounded)


def _bootstrap(
    sums: Array, statistic: Callable[[Array], Array], *, seed: int, resamples: int, level: float = 0.95
) -> Interval:
    n = len(sums)
    estimate = float(statistic(sums.sum(axis=0)))
    if n < 2:
        return Interval(estimate, -math.inf, math.inf)
    return _percentiles(estimate, _replicates(sums, statistic, seed=seed, resamples=resamples), n=n, level=level)


def _replicates(sums: Array, statistic: Callable[[Array], Array], *, seed: int, resamples: int) -> Array:
    """The statistic of ``resamples`` resamples of the markets."""
    return statistic(_resampled(len(sums), seed, resamples) @ sums)


@lru_cache(maxsize=1)
def _resampled(n: int, seed: int, resamples: int) -> Array:
    """How often each of ``n`` markets is in each resample, [resamples, n]. Every number of an evaluation is about the
    same resamples, and drawing them takes nearly all the time of an interval."""
    import numpy as np

    generator = np.random.default_rng(derive_seed(seed, "bootstrap", n))
    counts = generator.multinomial(n, np.full(n, 1.0 / n), size=resamples)
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


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t in the upper half, ``probability`` in [0.5, 1): exact for 1 and 2 degrees of freedom,
    else Abramowitz and Stegun 26.7.5 (at 0.975 within 0.5 % from 3 on, 0.05 % from 6 on)."""
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:
        a = 2.0 * probability - 1.0
        return a * math.sqrt(2.0 / (1.0 - a * a))
    x = NormalDist().inv_cdf(probability)
    n = float(degrees)
    return (
        x
        + (x**3 + x) / (4 * n)
        + (5 * x**5 + 16 * x**3 + 3 * x) / (96 * n**2)
        + (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / (384 * n**3)
        + (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / (92160 * n**4)
    )
