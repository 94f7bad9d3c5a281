"""What may be said about two ways of training from a few runs of each: runs paired by seed.

Here a run is one observation, its number is what the run measured on its own held-out markets, and the spread over
seeds is that of everything the seed decides: the play, the order of the data, the held-out markets. Runs of one seed
share their base policy and their markets, so differences are taken seed by seed. Intervals are those of Student's t
(mean +- t(n - 1) s / sqrt(n); Student 1908, "The Probable Error of a Mean"), which supposes that differences are about
normally distributed: with five seeds nothing can check that.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from mmo_rl.rng import rng
from mmo_rl.stats import Interval, t_quantile

Key = TypeVar("Key", bound=Hashable)

FLIPS_EXACT = 14
"""Seeds up to which `sign_flip` goes through all flips."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean difference with its interval, and the two-sided ``p_value`` in [0, 1] of there being none; None from a
    single seed, which says nothing about it."""

    interval: Interval
    p_value: float | None


def mean_over_seeds(values: Mapping[int, float], *, level: float = 0.95) -> Interval:
    """The mean of one number over runs, ``values`` by seed, in its own units; from one seed the bounds are infinite.

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
    unpaired = set(base) ^ set(other)
    if unpaired:
        raise ValueError(f"seeds {sorted(unpaired)} have a run on one side only: they cannot be paired")
    changes = {seed: other[seed] - base[seed] for seed in base}
    interval = mean_over_seeds(changes, level=level)
    if len(changes) < 2:
        return Difference(interval, None)
    error = stdev(changes.values()) / math.sqrt(len(changes))
    if error == 0.0:
        return Difference(interval, 1.0 if interval.estimate == 0.0 else 0.0)
    return Difference(interval, t_two_sided(interval.estimate / error, len(changes) - 1))


def sign_flip(base: Mapping[int, float], other: Mapping[int, float]) -> float | None:
    """The two-sided p value, in (0, 1], of no difference from the signs alone: the share of all ways of flipping the
    signs of the n differences whose sum is at least as far from 0 (Fisher 1935, "The Design of Experiments", section
    21). It supposes nothing of their distribution and cannot fall below 2 / 2^n: 0.0625 from five seeds. From more than
    `FLIPS_EXACT` seeds 20,000 random flips are taken (seeded). None from a single seed.

    Raises `ValueError` unless both have exactly the same seeds.
    """
    if set(base) != set(other):
        raise ValueError(f"seeds {sorted(set(base) ^ set(other))} have a run on one side only: they cannot be paired")
    changes = [other[seed] - base[seed] for seed in sorted(base)]
    if len(changes) < 2:
        return None
    observed = abs(sum(changes)) * (1 - 1e-12)
    if len(changes) <= FLIPS_EXACT:
        sums = [changes[0]]  # the first sign stays: the other half of all flips mirrors this one
        for change in changes[1:]:
            sums = [s + sign * change for s in sums for sign in (1, -1)]
        return sum(abs(s) >= observed for s in sums) / len(sums)
    generator = rng(0, "sign_flip", len(changes))
    flips = 20_000
    extreme = sum(
        abs(sum(change if generator.random() < 0.5 else -change for change in changes)) >= observed
        for _ in range(flips)
    )
    return (extreme + 1) / (flips + 1)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """p values adjusted for having asked several questions, by the names of the questions.

    Where those below 0.05 are called significant, the chance that any such call is false is at most 5 % (Holm 1979, "A
    Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6).
    """
    adjusted: dict[Key, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def t_two_sided(t: float, degrees: int) -> float:
    """The chance, in [0, 1], that Student's t with ``degrees`` >= 1 lies further from 0 than ``t``: the finite sums of
    Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(abs(t) / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2 == 1
    term = cosine if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for k in range(2 if odd else 1, degrees - 2, 2):
        term *= cosine * cosine * k / (k + 1)
        total += term
    inside = 2.0 / math.pi * (angle + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1.0 - inside))
