from __future__ import annotations

import math

import numpy as np
import pytest

from mmo_rl.stats import bootstrap
from mmo_rl.stats.bootstrap import improvement_pct, mean_interval, oracle_share, paired_difference
from mmo_rl.stats.interval import Interval, t_quantile
from mmo_rl.types import Measured, Rollout


def measured(name: str, pnl: dict[tuple[int, int], float], *, errors: int = 0, actions: int = 10) -> Measured:
    return Measured(name, "sampled", tuple(Rollout(m, a, p, actions, errors) for (m, a), p in pnl.items()))


def noisy(name: str, generator: np.random.Generator, luck: np.ndarray, *, gain: float = 0.0) -> Measured:
    """Four agents a market that share the market's luck and have noise of their own."""
    return measured(
        name,
        {(m, a): float(x + gain + generator.normal(0, 60)) for m, x in enumerate(luck) for a in range(4)},
    )


def test_two_markets_by_hand() -> None:
    # Markets A (mean 10) and B (mean 30): a standard error of 10, and Student's t with one degree of freedom is 12.706.
    result = mean_interval(measured("p", {(0, 0): 5, (0, 1): 15, (1, 0): 20, (1, 1): 40}), "pnl", seed=0)
    assert result.estimate == 20.0
    assert (result.low, result.high) == pytest.approx((20.0 - 127.06, 20.0 + 127.06), rel=0.03)
    rates = mean_interval(measured("p", {(0, 0): 5, (1, 0): -20}), "win_rate", seed=0)
    assert rates == Interval(0.5, 0.0, 1.0)


def test_two_markets_that_agree_by_chance_make_nothing_clear() -> None:
    base = {(m, 0): 0.0 for m in range(2)}
    trained = {(0, 0): -169.0, (1, 0): -317.0}
    assert not paired_difference(measured("b", base), measured("t", trained), "pnl", seed=0).excludes_zero


def test_a_constant_gain_has_an_interval_without_width() -> None:
    base = {(m, 0): float(m * m) for m in range(10)}
    gained = {k: v + 7.0 for k, v in base.items()}
    difference = paired_difference(measured("b", base), measured("t", gained), "pnl", seed=0)
    assert (difference.estimate, difference.low, difference.high) == pytest.approx((7.0, 7.0, 7.0))
    assert difference.excludes_zero


def test_rates_by_hand() -> None:
    base = measured("b", {(0, 0): 1, (0, 1): -1, (1, 0): 0, (1, 1): -5}, errors=5, actions=10)
    trained = measured("t", {(0, 0): 1, (0, 1): 2, (1, 0): 3, (1, 1): -5}, errors=1, actions=10)
    assert paired_difference(base, trained, "win_rate", seed=0).estimate == pytest.approx(0.5)  # 1 of 4 -> 3 of 4
    assert paired_difference(base, trained, "error_rate", seed=0).estimate == pytest.approx(-0.4)
    assert mean_interval(base, "error_rate", seed=0).estimate == pytest.approx(base.error_rate)


def test_error_rate_weighs_actions_not_rollouts() -> None:
    rollouts = (Rollout(0, 0, 0.0, 1, 1), Rollout(1, 0, 0.0, 99, 0))
    assert mean_interval(Measured("p", "sampled", rollouts), "error_rate", seed=0).estimate == pytest.approx(0.01)


def test_a_policy_that_never_acts_has_made_no_error() -> None:
    idle = Measured("idle", "sampled", tuple(Rollout(m, 0, 0.0, 0, 0) for m in range(4)))
    assert mean_interval(idle, "error_rate", seed=0) == Interval(0.0, 0.0, 0.0)


def test_the_order_of_the_rollouts_does_not_matter_and_the_seed_does() -> None:
    generator = np.random.default_rng(3)
    base, trained = (noisy(n, generator, generator.normal(0, 50, 12)) for n in "bt")
    backwards = Measured("t", "sampled", trained.rollouts[::-1])
    first = paired_difference(base, trained, "pnl", seed=0)
    shuffled = paired_difference(base, backwards, "pnl", seed=0)
    assert (shuffled.estimate, shuffled.low, shuffled.high) == pytest.approx((first.estimate, first.low, first.high))
    assert paired_difference(base, trained, "pnl", seed=0) == first
    assert paired_difference(base, trained, "pnl", seed=1) != first


def test_the_numbers_of_one_evaluation_are_about_the_same_resamples() -> None:
    generator = np.random.default_rng(0)
    base, trained = (noisy(name, generator, generator.normal(0, 50, 20)) for name in "bt")
    bootstrap._resampled.cache_clear()
    first = mean_interval(base, "pnl", seed=3)
    assert paired_difference(base, trained, "pnl", seed=3) != first
    assert mean_interval(trained, "win_rate", seed=3).low > 0
    assert mean_interval(base, "pnl", seed=3) == first
    assert bootstrap._resampled.cache_info().misses == 1


def test_pairing_removes_the_luck_of_the_market() -> None:
    generator = np.random.default_rng(4)
    luck = generator.normal(0, 500, 20)
    base, trained = noisy("b", generator, luck), noisy("t", generator, luck, gain=60)
    paired = paired_difference(base, trained, "pnl", seed=0)
    alone = mean_interval(trained, "pnl", seed=0)
    assert paired.excludes_zero
    assert paired.high - paired.low < (alone.high - alone.low) / 3


@pytest.mark.parametrize("markets", [8, 40])
def test_equal_policies_are_told_apart_in_one_case_of_twenty(markets: int) -> None:
    generator = np.random.default_rng(5)
    covered = 0
    repeats = 300
    for seed in range(repeats):
        luck = generator.normal(0, 50, markets)
        base, trained = noisy("b", generator, luck), noisy("t", generator, luck)
        covered += not paired_difference(base, trained, "pnl", seed=seed, resamples=800).excludes_zero
    # 95 % of 300 with a binomial standard error of 1.3 %.
    assert 0.91 <= covered / repeats <= 0.99


def test_unpaired_rollouts_are_refused() -> None:
    base = measured("b", {(0, 0): 1.0, (1, 0): 1.0})
    with pytest.raises(ValueError, match=r"not measured on the same markets: 2 .* \(1, 0\)"):
        paired_difference(base, measured("t", {(0, 0): 1.0, (2, 0): 1.0}), "pnl", seed=0)
    twice = Measured("twice", "sampled", base.rollouts + base.rollouts[:1])
    with pytest.raises(ValueError, match="two rollouts of the same agent"):
        mean_interval(twice, "pnl", seed=0)
    with pytest.raises(ValueError, match="nothing was measured"):
        mean_interval(Measured("empty", "sampled", ()), "pnl", seed=0)


def test_one_market_says_nothing_about_others() -> None:
    result = mean_interval(measured("p", {(0, 0): 5.0, (0, 1): 7.0}), "pnl", seed=0)
    assert result == Interval(6.0, -math.inf, math.inf)
    assert not result.excludes_zero


def test_a_percentage_exists_only_over_a_base_that_certainly_earns() -> None:
    earns = {(m, 0): 50.0 + m for m in range(10)}
    twice = {k: 2 * v for k, v in earns.items()}
    result = improvement_pct(measured("b", earns), measured("t", twice), seed=0)
    assert result is not None
    assert (result.estimate, result.low, result.high) == pytest.approx((100.0, 100.0, 100.0))
    near_zero = {(m, 0): (-1.0) ** m * 50 + 1 for m in range(10)}
    assert improvement_pct(measured("b", near_zero), measured("t", twice), seed=0) is None
    loses = {k: -v for k, v in earns.items()}
    assert improvement_pct(measured("b", loses), measured("t", twice), seed=0) is None


def test_oracle_share_pairs_markets_not_agents() -> None:
    oracle = measured("oracle", {(m, 0): 100.0 + m for m in range(8)})
    half = measured("p", {(m, a): (100.0 + m) / 2 for m in range(8) for a in range(3)})
    share = oracle_share(half, oracle, seed=0)
    assert share is not None
    assert (share.estimate, share.low, share.high) == pytest.approx((0.5, 0.5, 0.5))
    assert oracle_share(half, measured("blind", {(m, 0): (-1.0) ** m for m in range(8)}), seed=0) is None
    with pytest.raises(ValueError, match="markets"):
        oracle_share(half, measured("oracle", {(m, 0): 100.0 for m in range(7)}), seed=0)


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (9, 2.262), (30, 2.042), (1000, 1.962)]
)
def test_t_quantiles_match_the_printed_table(degrees: int, expected: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(expected, abs=5e-4)
