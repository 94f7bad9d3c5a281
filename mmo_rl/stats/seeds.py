"""Means and differences of arms over seeds: Student's t intervals, the paired t test, sign flips, Holm's correction.

A run is one observation: the number that it measured on its own held-out markets. The spread over seeds is that of
everything the seed decides: the play, the order of the data, the held-out markets. Runs of one seed share their base
policy and their markets, so differences are taken seed by seed. Intervals are those of Student's t
(mean +- t(n - 1) s / sqrt(n); Student 1908, "The Probable Error of a Mean"), which supposes that differences are about
normally distributed: with five seeds nothing can check that.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from mmo_rl.rng import derive_seed
from mmo_rl.stats.interval import Interval, t_quantile, t_two_sided

Key = TypeVar("Key", bound=Hashable)

FLIPS = 20_000
"""Random flips of `sign_flip`; up to 14 seeds there are fewer than this in all, and each is taken once."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean difference with its interval, and the two-sided ``p_value`` in [0, 1] of no difference; None from a single
    seed."""

    interval: Interval
    p_value: float | None


def mean_over_seeds(values: Mapping[int, float], *, level: float = 0.95) -> Interval:
    """Mean of one number over runs, ``values`` by seed, in its own units; from one seed the bounds are infinite.

    Raises `ValueError` where there is no run.
    """
    if not values:
        raise ValueError("no run to take the mean of")
    numbers = [values[seed] for seed in sorted(values)]
    n, mean = len(numbers), fmean(numbers)
    if n < 2:
        return Interval(mean, -math.inf, math.inf)
    reach = t_quantile((1.0 + level) / 2.0, n - 1) * stdev(numbers) / math.sqrt(n)
    return Interval(mean, mean - reach, mean + reach)


def difference_over_seeds(base: Mapping[int, float], other: Mapping[int, float], *, level: float = 0.95) -> Difference:
    """``other`` minus ``base``, paired by seed, and the t test of no difference.

    Raises `ValueError` unless both have exactly the same seeds.
    """
    changes = _changes(base, other)
    interval = mean_over_seeds(changes, level=level)
    if len(changes) < 2:
        return Difference(interval, None)
    error = stdev(changes.values()) / math.sqrt(len(changes))
    if error == 0.0:
        return Difference(interval, 1.0 if interval.estimate == 0.0 else 0.0)
    return Difference(interval, t_two_sided(interval.estimate / error, len(changes) - 1))


def sign_flip(base: Mapping[int, float], other: Mapping[int, float]) -> float | None:
    """Two-sided p value, in (0, 1], of no difference, from the signs alone; None from a single seed.

    Twice the smaller share of all ways of flipping the signs of the n differences that give a mean at least as high, or
    as low, as the one seen (Fisher 1935, "The Design of Experiments", section 21). It supposes nothing of their
    distribution and cannot fall below 2 / 2^n: 0.0625 from five seeds. Where there are more than `FLIPS` ways that many
    random ones are taken (seeded).

    Raises `ValueError` unless both have exactly the same seeds.
    """
    changes = _changes(base, other)
    if len(changes) < 2:
        return None
    import numpy as np
    from scipy import stats

    found = stats.permutation_test(
        ([changes[seed] for seed in sorted(changes)], np.zeros(len(changes))),
        lambda one, two, axis: np.mean(one - two, axis=axis),
        permutation_type="samples",  # swaps the two of a pair, which flips the sign of their difference
        vectorized=True,
        n_resamples=FLIPS,
        rng=np.random.default_rng(derive_seed(0, "sign_flip", len(changes))),
    )
    return float(found.pvalue)


def _changes(base: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    unpaired = set(base) ^ set(other)
    if unpaired:
        raise ValueError(f"seeds {sorted(unpaired)} have a run on one side only: they cannot be paired")
    return {seed: other[seed] - base[seed] for seed in base}


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """p values adjusted for several questions, by the names of the questions (scipy has no such correction).

    Where those below 0.05 are called significant, the chance that any such call is false is at most 5 % (Holm 1979, "A
    Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6).
    """
    adjusted: dict[Key, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
