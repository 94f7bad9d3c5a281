"""What a sweep over arms and seeds showed, as tables: each arm's numbers, and the differences between arms.

    python benchmarks/compare_arms.py runs/NAME [runs/OTHER ...] [--against ARM] [--json]

Reads ``overrides.yaml`` and ``summary.json`` of every run folder. A run's arm is its overrides without the seed and
without what all runs have in common. Arms are compared in pairs, all of them or all others against one, seed by seed:
mean of the differences, its 95 % t interval over seeds, the p value of the t test, and that p value after Holm's
correction for all pairs in that measure (`mmo_rl.paired_runs`). Base and markets are the same in one seed, so the
difference of trained P&L is that of the improvement.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmo_rl.paired_runs import Difference, difference_over_seeds, holm, mean_over_seeds
from mmo_rl.stats import Interval

Runs = dict[str, dict[int, dict[str, Any]]]
"""Summaries by arm, the best first, and seed."""

DECODINGS = {"sampled": "eval/", "greedy": "eval/greedy/"}
MEASURES = {"P&L, $": ("pnl", 1.0, 0), "win rate, %": ("win_rate", 100.0, 1), "error rate, %": ("error_rate", 100.0, 1)}
"""Label: name in summary.json, factor, decimals."""


def read_runs(folders: Sequence[Path]) -> Runs:
    """The finished runs of experiment folders. Raises `SystemExit` where there is none, where arms lack seeds that
    others have, or where one arm has two runs of one seed."""
    found = []
    for path in sorted(p for folder in folders for p in folder.glob("*/summary.json")):
        overrides = yaml.safe_load((path.parent / "overrides.yaml").read_text())
        summary = json.loads(path.read_text())
        seeds = [o.partition("=")[2] for o in overrides if o.startswith("seed=")]
        found.append((int(seeds[0]) if seeds else 0, {o for o in overrides if not o.startswith("seed=")}, summary))
    if not found:
        raise SystemExit(f"no finished run in {', '.join(map(str, folders))}")
    common = set.intersection(*(overrides for _, overrides, _ in found))
    runs: Runs = {}
    for seed, overrides, summary in found:
        arm = runs.setdefault(" ".join(sorted(overrides - common, reverse=True)) or "(defaults)", {})
        if seed in arm:
            raise SystemExit(f"two runs of seed {seed} with {sorted(overrides)}: remove the one that is not meant")
        arm[seed] = summary
    seeds_of_all = set().union(*runs.values())
    lacking = {arm: sorted(seeds_of_all - set(by_seed)) for arm, by_seed in runs.items() if seeds_of_all - set(by_seed)}
    if lacking:
        raise SystemExit(f"these arms lack seeds that others have: {lacking}; run the sweep again to finish it")
    return dict(sorted(runs.items(), key=lambda item: _profit(item[1]), reverse=True))


def _profit(by_seed: Mapping[int, Mapping[str, Any]]) -> float:
    return mean_over_seeds(column(by_seed, "eval/pnl_trained")).estimate


def column(runs: Mapping[int, Mapping[str, Any]], key: str) -> dict[int, float]:
    """One number of ``summary.json`` by seed. Raises `SystemExit` where a run has none."""
    values = {seed: summary.get(key) for seed, summary in runs.items()}
    missing = [seed for seed, value in values.items() if value is None]
    if missing:
        raise SystemExit(f"the runs of seeds {missing} have no {key} in summary.json")
    return {seed: float(value) for seed, value in values.items() if value is not None}


def differences(runs: Runs, key: str, against: str | None) -> dict[tuple[str, str], tuple[Difference, float | None]]:
    """By (arm, other): arm minus other with the p value after Holm's correction, None from a single seed."""
    pairs = list(itertools.combinations(runs, 2)) if against is None else [(a, against) for a in runs if a != against]
    found = {(a, b): difference_over_seeds(column(runs[b], key), column(runs[a], key)) for a, b in pairs}
    corrected = holm({pair: d.p_value for pair, d in found.items() if d.p_value is not None})
    return {pair: (difference, corrected.get(pair)) for pair, difference in found.items()}


# --- tables ---------------------------------------------------------------------------------------------------------


def arm_table(runs: Runs, decoding: str) -> str:
    """One line an arm: base -> trained over seeds, changes with intervals."""
    prefix = DECODINGS[decoding]
    lines = [
        f"| {decoding} | P&L, $, base → trained | change | share of the oracle's P&L | win rate | error rate "
        "| gradient steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, by_seed in runs.items():

        def ends(name: str, scale: float, digits: int, by_seed: Mapping[int, Any] = by_seed) -> str:
            both = [mean_over_seeds(column(by_seed, f"{prefix}{name}_{end}")).estimate for end in ("base", "trained")]
            return " → ".join(f"{scale * value:,.{digits}f}" for value in both)

        change = mean_over_seeds(column(by_seed, f"{prefix}pnl_improvement"))
        steps = mean_over_seeds(column(by_seed, "train/gradient_steps")).estimate
        lines.append(
            f"| {arm} | {ends('pnl', 1, 0)} | {shown(change)} | {ends('oracle_share', 100, 1)} % "
            f"| {ends('win_rate', 100, 0)} % | {ends('error_rate', 100, 1)} % | {steps:,.0f} |"
        )
    return "\n".join(lines)


def difference_table(runs: Runs, decoding: str, against: str | None) -> str:
    """One line a pair and measure."""
    lines = [f"| {decoding} | difference of | mean [95 %] | p | p, Holm |", "|---|---|---|---|---|"]
    for label, (name, scale, digits) in MEASURES.items():
        for (a, b), (found, corrected) in differences(runs, f"{DECODINGS[decoding]}{name}_trained", against).items():
            lines.append(
                f"| {a} − {b} | {label} | {shown(found.interval, scale, digits)} "
                f"| {probability(found.p_value)} | {probability(corrected)} |"
            )
    return "\n".join(lines)


def shown(interval: Interval, scale: float = 1.0, digits: int = 0) -> str:
    """``+12 [3, 21]``; an infinite bound is shown as such."""
    low, high = (f"{scale * b:,.{digits}f}" if math.isfinite(b) else "unknown" for b in (interval.low, interval.high))
    return f"{scale * interval.estimate:+,.{digits}f} [{low}, {high}]"


def probability(p: float | None) -> str:
    return "unknown" if p is None else ("< 0.0001" if p < 0.0001 else f"{p:.2g}")


def as_json(runs: Runs, against: str | None) -> dict[str, Any]:
    """The differences of all measures, for machines."""
    return {
        f"{decoding}/{name}/{a} - {b}": {
            "mean": found.interval.estimate,
            "low": found.interval.low,
            "high": found.interval.high,
            "p": found.p_value,
            "p_holm": corrected,
        }
        for decoding, prefix in DECODINGS.items()
        for name, _, _ in MEASURES.values()
        for (a, b), (found, corrected) in differences(runs, f"{prefix}{name}_trained", against).items()
    }


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="runs/NAME")
    parser.add_argument("--against", help="the arm that all others are compared with, as the table names it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    runs = read_runs(options.folders)
    if options.against is not None and options.against not in runs:
        parser.error(f"no arm {options.against!r}; there are {', '.join(map(repr, runs))}")
    if options.json:
        print(json.dumps(as_json(runs, options.against)))
        return
    seeds = sorted(next(iter(runs.values())))
    print(f"{len(runs)} arms, seeds {', '.join(map(str, seeds))}; intervals are 95 % t intervals over seeds\n")
    for decoding in DECODINGS:
        print(arm_table(runs, decoding), difference_table(runs, decoding, options.against), sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main(sys.argv[1:])
