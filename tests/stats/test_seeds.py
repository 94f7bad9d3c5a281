"""Differences of arms over seeds: cases worked out by hand."""

from __future__ import annotations

import math

import pytest

from mmo_rl.stats.interval import t_two_sided
from mmo_rl.stats.seeds import difference_over_seeds, holm, mean_over_seeds, sign_flip


@pytest.mark.parametrize(
    ("t", "degrees"), [(12.706, 1), (4.3027, 2), (3.1824, 3), (2.7764, 4), (2.5706, 5), (2.4469, 6), (2.2622, 9)]
)
def test_the_t_test_has_the_printed_critical_values(t: float, degrees: int) -> None:
    assert t_two_sided(t, degrees) == pytest.approx(0.05, abs=1e-5)
    assert t_two_sided(-t, degrees) == t_two_sided(t, degrees)
    assert t_two_sided(0.0, degrees) == 1.0


def test_a_mean_over_five_seeds() -> None:
    found = mean_over_seeds({0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0, 4: 5.0})  # s = sqrt(2.5), s / sqrt(5) = 0.7071
    assert found.estimate == 3.0
    assert found.high - 3.0 == pytest.approx(2.7764 * 0.70711, rel=1e-3)
    assert found.low + found.high == pytest.approx(6.0)


def test_one_seed_says_nothing_of_the_spread() -> None:
    found = difference_over_seeds({7: 1.0}, {7: 3.0})
    assert (found.interval.estimate, found.interval.low, found.interval.high) == (2.0, -math.inf, math.inf)
    assert found.p_value is None
    with pytest.raises(ValueError, match="no run"):
        mean_over_seeds({})


def test_differences_are_taken_seed_by_seed() -> None:
    base = {0: 100.0, 1: 200.0, 2: 300.0}
    found = difference_over_seeds(base, {2: 312.0, 0: 110.0, 1: 211.0})  # 10, 11, 12: s = 1, t = 11 sqrt(3) = 19.05
    assert found.interval.estimate == pytest.approx(11.0)
    assert found.interval.low == pytest.approx(11.0 - 4.3027 / math.sqrt(3), abs=1e-3)
    assert found.p_value == pytest.approx(1.0 - 19.0526 / math.sqrt(2 + 19.0526**2), rel=1e-4)  # exact for 2 degrees
    assert difference_over_seeds(base, base).p_value == 1.0


def test_seeds_of_one_side_only_are_refused() -> None:
    with pytest.raises(ValueError, match=r"seeds \[1, 2\]"):
        difference_over_seeds({0: 1.0, 1: 1.0}, {0: 1.0, 2: 1.0})


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_signs_alone_cannot_be_surer_than_their_number() -> None:
    base = dict.fromkeys(range(5), 0.0)
    assert sign_flip(base, {seed: 1.0 + seed for seed in range(5)}) == 2 / 2**5
    # Differences 3, -1: sums of all flips are 4, 2, -2, -4, and all four are as far from 0 as 2.
    assert sign_flip({0: 0.0, 1: 0.0}, {0: 3.0, 1: -1.0}) == 1.0
    assert sign_flip({0: 0.0}, {0: 3.0}) is None
    with pytest.raises(ValueError, match=r"seeds \[1\]"):
        sign_flip({0: 1.0}, {0: 1.0, 1: 1.0})


def test_many_seeds_are_flipped_at_random_but_always_alike() -> None:
    base = dict.fromkeys(range(20), 0.0)
    shifted = {seed: 1.0 + (seed % 3) for seed in range(20)}
    assert sign_flip(base, shifted) == sign_flip(base, shifted) == pytest.approx(2 / 20_001)
    even = {seed: float((-1) ** seed) for seed in range(20)}
    assert sign_flip(base, even) == 1.0
