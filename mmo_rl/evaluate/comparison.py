"""Numbers of an A/B comparison from the rollouts of both policies, and the side that is shown to be better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mmo_rl.stats.bootstrap import Value, mean_interval, paired_difference, unpaired_difference
from mmo_rl.stats.interval import level_of_looks
from mmo_rl.types import Measured, Rollout

Numbers = dict[str, float | int | str | None]
VALUES: tuple[Value, ...] = ("pnl", "win_rate", "error_rate", "drawdown", "activity")


def compare(
    a: Sequence[Rollout],
    b: Sequence[Rollout],
    *,
    looks: int,
    paired: bool,
    seed: int,
    resamples: int = 4000,
    together: int = 1,
) -> Numbers:
    """``<value>_a``, ``<value>_b`` and ``<value>_difference`` (B minus A), each with ``_low`` and ``_high``, which are
    None where the data cannot give them. P&L and drawdown in game dollars an agent and market; win rate, error rate and
    activity (trades a step) in [0, 1]. The intervals hold at all ``looks``, and for
    ``together`` comparisons at once.

    Raises `ValueError` where one has no rollout, or paired ones were not in the same markets and seats.
    """
    level = level_together(looks, together)
    ours = Measured("A", "sampled", tuple(a))
    theirs = Measured("B", "sampled", tuple(b))
    difference = paired_difference if paired else unpaired_difference
    numbers: Numbers = {}
    for value in VALUES:
        for name, interval in (
            (f"{value}_a", mean_interval(ours, value, seed=seed, resamples=resamples, level=level)),
            (f"{value}_b", mean_interval(theirs, value, seed=seed, resamples=resamples, level=level)),
            (f"{value}_difference", difference(ours, theirs, value, seed=seed, resamples=resamples, level=level)),
        ):
            numbers[name] = interval.estimate
            numbers[f"{name}_low"] = interval.low if math.isfinite(interval.low) else None
            numbers[f"{name}_high"] = interval.high if math.isfinite(interval.high) else None
    return numbers


def winner(numbers: Numbers) -> str | None:
    """``A`` or ``B`` where the interval of the difference in P&L lies on its side of 0, else None."""
    low, high = numbers["pnl_difference_low"], numbers["pnl_difference_high"]
    if isinstance(low, float) and low > 0.0:
        return "B"
    return "A" if isinstance(high, float) and high < 0.0 else None


def level_together(looks: int, together: int) -> float:
    """The level of intervals that hold at all ``looks`` and for ``together`` comparisons at once (Bonferroni)."""
    return 1.0 - (1.0 - level_of_looks(looks)) / together


def by_scenario(
    a: Sequence[Rollout],
    b: Sequence[Rollout],
    scenario_of: Callable[[int], str],
    *,
    looks: int,
    paired: bool,
    seed: int,
) -> dict[str, Numbers]:
    """`compare` in the markets of each scenario alone, with intervals that hold for all scenarios together."""
    names = dict.fromkeys(scenario_of(rollout.market) for rollout in a)
    return {
        name: compare(
            [rollout for rollout in a if scenario_of(rollout.market) == name],
            [rollout for rollout in b if scenario_of(rollout.market) == name],
            looks=looks,
            paired=paired,
            seed=seed,
            together=len(names),
        )
        for name in names
    }
