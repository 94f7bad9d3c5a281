"""Comparison of runs arm by arm: means with intervals over seeds, and tests of the differences between arms.

Intervals and tests are those of `mmo_rl.stats.seeds`. A run whose summary lacks a key does not count for that key, and
the number of runs that have it is shown. Where ``by`` leaves out something that differs, runs of one seed are averaged
first, so that n is always a number of seeds.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from mmo_rl.errors import ConfigError
from mmo_rl.report.arms import Arm, arms_of, config_value, differing, known_keys, newest_only, said
from mmo_rl.report.numbers import Unit, is_number
from mmo_rl.report.runs import Run
from mmo_rl.stats.interval import Interval
from mmo_rl.stats.seeds import difference_over_seeds, holm, mean_over_seeds, sign_flip

METRICS = {
    "train": (
        "eval/pnl_trained",
        "eval/pnl_improvement",
        "eval/win_rate_trained",
        "eval/error_rate_trained",
        "eval/oracle_share_trained",
        "eval/greedy/pnl_trained",
        "judge/cost_usd",
        "time/total_s",
    ),
    "judge": ("judge/oracle_tau", "judge/pnl_tau", "judge/unscored_share", "judge/cost_usd", "time/judge_s"),
    "evaluate": ("ab/pnl_difference", "ab/pnl_a", "ab/pnl_b", "ab/win_rate_difference", "ab/error_rate_difference"),
}
"""The columns that are shown unless others are asked for, by task; the first that exists is what is sorted by."""
COSTS = ("judge/cost_usd", "train/tokens", "time/total_s", "data/trajectories_used")
"""Keys of cost, in order: P&L is drawn against the first in which the runs differ, unless another is asked for."""
MARKETS = ("evaluate.scenarios", "evaluate.agents")
"""Keys beside those of the market that decide the worth of a dollar of P&L."""
ALL_PAIRS = 12
"""Number of arms up to which all pairs are compared; more arms are compared with one arm only."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric of one arm. ``over`` says what the interval is over: seeds (Student's t), the markets of its only run
    (that run's own bootstrap), or nothing. ``n`` seeds of ``of`` have the key; ``value`` is None where none has."""

    value: float | None
    low: float | None
    high: float | None
    over: Literal["seeds", "run", ""]
    n: int
    of: int


@dataclass(frozen=True, slots=True)
class Pair:
    """``a`` minus ``b`` in one metric, paired by the ``n`` seeds that both have. ``note`` says why nothing can be said
    where the p values are None; ``p_holm`` is ``p`` after Holm's correction for all pairs in this metric."""

    a: Arm
    b: Arm
    n: int
    difference: Interval | None
    p: float | None
    p_sign_flip: float | None
    p_holm: float | None
    note: str = ""

    @property
    def finding(self) -> str:
        """One of: a higher, a lower, no difference shown, nothing can be said."""
        if self.p_holm is None or self.difference is None:
            return "nothing can be said"
        if self.p_holm >= 0.05:
            return "no difference shown"
        return "higher" if self.difference.estimate > 0 else "lower"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A comparison of runs. ``arms`` are in the order of the table, the best by ``sort`` first; ``left_out`` are runs
    whose numbers do not count, with the reason."""

    columns: tuple[str, ...]
    arms: tuple[Arm, ...]
    metrics: tuple[str, ...]
    sort: str
    ascending: bool
    cost: str | None
    pairs: Mapping[str, tuple[Pair, ...]]
    left_out: tuple[tuple[Run, str], ...]
    notes: tuple[str, ...]
    task: str

    @property
    def main(self) -> str:
        """The metric that the plots and the test of significance are about."""
        return self.sort if self.sort in self.metrics else self.metrics[0]

    @property
    def runs(self) -> list[Run]:
        return [run for arm in self.arms for run in arm.runs]


def compare_runs(
    runs: Sequence[Run],
    *,
    by: Sequence[str] = (),
    metrics: Sequence[str] = (),
    sort: str | None = None,
    cost: str | None = None,
    where: Mapping[str, object] | None = None,
    against: str | None = None,
) -> Compared:
    """Compares the finished ones of ``runs``.

    ``by`` chooses the config keys that make the arms (default: all that differ), ``metrics`` the columns, ``sort`` a
    metric, a config key or ``arm``, best first, the smallest first with a leading ``-``; ``where`` keeps the runs with
    these config values; ``against`` is the arm, by name or number, that all others are compared with.

    Of runs of several tasks the trainings are compared (without one, the most frequent task), and the others are listed
    as left out.

    Raises `ConfigError` where no finished run is left, and for a key or an arm that there is not.
    """
    runs = _filtered(runs, where or {})
    done = [run for run in runs if run.finished]
    left_out = [(run, run.reason or run.state) for run in runs if not run.finished]
    if not done:
        listed = ", ".join(f"{n} {state}" for state, n in Counter(run.state for run in runs).items())
        first = next((f"; {run.id}: {why}" for run, why in left_out if why), "")
        raise ConfigError(
            f"{'the run is not' if len(runs) == 1 else f'none of the {len(runs)} runs is'} finished ({listed}{first})",
            hint="run the same command again: it finishes them",
        )
    task = _main_task(done)
    left_out += [(run, f"of another task: 'compare.where={{task:{run.task}}}'") for run in done if run.task != task]
    done = [run for run in done if run.task == task]
    keys = known_keys(done)
    columns = [_known(key, keys, "compare.by", "no config of these runs has") for key in by] or differing(done)
    full = columns if not by else [*columns, *(c for c in differing(done) if c not in columns)]
    done, older = newest_only(done, full)
    left_out += [(run, "an older run of the same config and seed") for run in older]
    summary_keys = _numbers(done)
    chosen = [_known(key, summary_keys, "compare.metrics", "no summary has a number called") for key in metrics]
    chosen = chosen or [key for key in METRICS.get(task, ()) if key in summary_keys and _varies_or_main(done, key)]
    chosen = chosen or summary_keys[:6]
    if not chosen:
        raise ConfigError("the summaries of these runs hold no number", hint="look at one: its summary.json")
    ascending, sort = _order(sort, chosen, summary_keys, keys)
    if sort in summary_keys and sort not in chosen:
        chosen.insert(0, sort)
    arms = _sorted(arms_of(done, columns), sort, ascending)
    cost = _known(cost, summary_keys, "compare.cost", "no summary has a number called") if cost else _cost(done, chosen)
    other = None if against is None else _arm(against, arms)
    notes = _notes(arms, columns, full, len(arms) > ALL_PAIRS and other is None)
    compared = Compared(
        columns=tuple(columns),
        arms=tuple(arms),
        metrics=tuple(chosen),
        sort=sort,
        ascending=ascending,
        cost=cost,
        pairs={},
        left_out=tuple(left_out),
        notes=tuple(notes),
        task=task,
    )
    return replace(compared, pairs={key: _pairs(arms, key, other) for key in chosen})


def by_seed(arm: Arm, key: str) -> dict[int, float]:
    """One metric by seed; runs of one seed are averaged. A run without a seed counts as a seed of its own."""
    values: dict[int, list[float]] = {}
    for place, run in enumerate(arm.runs):
        value = run.summary.get(key)
        if is_number(value) and math.isfinite(value):
            values.setdefault(-1 - place if run.seed is None else run.seed, []).append(float(value))
    return {seed: fmean(found) for seed, found in sorted(values.items())}


def estimate(arm: Arm, key: str) -> Estimate:
    """The arm's mean over seeds, with the interval that there is."""
    values = by_seed(arm, key)
    of = len({-1 - place if run.seed is None else run.seed for place, run in enumerate(arm.runs)})
    if not values:
        return Estimate(None, None, None, "", 0, of)
    if len(values) > 1:
        mean = mean_over_seeds(values)
        return Estimate(mean.estimate, mean.low, mean.high, "seeds", len(values), of)
    (value,) = values.values()
    bounds = [(run.summary.get(f"{key}_low"), run.summary.get(f"{key}_high")) for run in arm.runs if key in run.summary]
    if len(bounds) == 1 and is_number(bounds[0][0]) and is_number(bounds[0][1]):
        return Estimate(value, float(bounds[0][0]), float(bounds[0][1]), "run", 1, of)
    return Estimate(value, None, None, "", 1, of)


def unit_of(key: str) -> Unit:
    """``usd``, ``share`` (of 1), ``s`` or nothing, by the name of a metric."""
    last = key.rpartition("/")[2]
    if last.endswith(("_pct", "_tau", "_per_s")):
        return ""
    if last.endswith("_usd") or last.startswith(("pnl", "drawdown")):
        return "usd"
    if "rate" in last.split("_") or "share" in last or last == "win_rate":
        return "share"
    return "s" if last.endswith("_s") else ""


# --- pairs ----------------------------------------------------------------------------------------------------------


def _pairs(arms: Sequence[Arm], key: str, against: Arm | None) -> tuple[Pair, ...]:
    if against is None and len(arms) > ALL_PAIRS:
        against = arms[0]
    asked = (
        list(itertools.combinations(arms, 2))
        if against is None
        else [(arm, against) for arm in arms if arm.number != against.number]
    )
    pairs = [_pair(a, b, key) for a, b in asked]
    corrected = holm({place: pair.p for place, pair in enumerate(pairs) if pair.p is not None})
    return tuple(replace(pair, p_holm=corrected.get(place)) for place, pair in enumerate(pairs))


def _pair(a: Arm, b: Arm, key: str) -> Pair:
    ours, theirs = by_seed(a, key), by_seed(b, key)
    common = sorted(seed for seed in ours.keys() & theirs.keys() if seed >= 0)
    if not common:
        return Pair(a, b, 0, None, None, None, None, "no seed in common")
    ours, theirs = {s: ours[s] for s in common}, {s: theirs[s] for s in common}
    found = difference_over_seeds(theirs, ours)
    note = "" if found.p_value is not None else "one seed in common says nothing about the spread"
    return Pair(a, b, len(common), found.interval, found.p_value, sign_flip(theirs, ours), None, note)


# --- what is asked for ----------------------------------------------------------------------------------------------


def _filtered(runs: Sequence[Run], where: Mapping[str, object]) -> list[Run]:
    keys = known_keys(runs)
    kept = list(runs)
    for key, wanted in where.items():
        _known(key, keys, "compare.where", "no config of these runs has")
        values = {said(value) for value in (wanted if isinstance(wanted, (list, tuple)) else [wanted])}
        there = dict.fromkeys(said(config_value(run, key)) for run in kept)
        kept = [run for run in kept if said(config_value(run, key)) in values]
        if not kept:
            raise ConfigError(
                f"compare.where: no run has {key}={' or '.join(sorted(values))}", hint=f"there is: {', '.join(there)}"
            )
    return kept


def _main_task(runs: Sequence[Run]) -> str:
    """Chooses the task whose runs are compared: runs of different tasks have different numbers."""
    tasks = Counter(run.task for run in runs)
    return "train" if "train" in tasks else tasks.most_common(1)[0][0]


def _numbers(runs: Sequence[Run]) -> list[str]:
    keys = dict.fromkeys(key for run in runs for key, value in run.summary.items() if is_number(value))
    return [k for k in keys if not (k.endswith(("_low", "_high")) and k.rpartition("_")[0] in keys)]


def _known(key: str, keys: Sequence[str], option: str, what: str) -> str:
    if key in keys:
        return key
    near = difflib.get_close_matches(key, keys, n=3, cutoff=0.5) or [k for k in keys if key in k][:5]
    raise ConfigError(
        f"{option}: {what} {key!r}",
        hint=f"did you mean {', '.join(near)}?" if near else f"there is: {', '.join(list(keys)[:30])}",
    )


def _order(sort: str | None, chosen: Sequence[str], numbers: Sequence[str], keys: Sequence[str]) -> tuple[bool, str]:
    if sort is None:
        return False, chosen[0]
    ascending, name = sort.startswith("-"), sort.lstrip("-")
    return ascending, _known(name, ["arm", *numbers, *keys], "compare.sort", "there is no metric or config key")


def _sorted(arms: Sequence[Arm], sort: str, ascending: bool) -> list[Arm]:
    """Sorts the arms, best first: the largest number, or with ``ascending`` the smallest; text in its own order.

    Arms without a value come last."""

    def value(arm: Arm) -> Any:
        if sort == "arm":
            return arm.name
        measured = estimate(arm, sort).value
        return config_value(arm.runs[0], sort) if measured is None else measured

    keyed = [(value(arm), arm) for arm in arms]
    numbers = [(v, arm) for v, arm in keyed if is_number(v)]
    words = sorted(((said(v), arm) for v, arm in keyed if v is not None and not is_number(v)), key=lambda item: item[0])
    numbers.sort(key=lambda item: item[0], reverse=not ascending)
    missing = [arm for v, arm in keyed if v is None]
    ordered = [arm for _, arm in numbers] + [arm for _, arm in (reversed(words) if ascending else words)] + missing
    return [replace(arm, number=number) for number, arm in enumerate(ordered, start=1)]


def _varies_or_main(runs: Sequence[Run], key: str) -> bool:
    """True unless the metric is a judge's cost that is the same for all runs."""
    return not key.startswith("judge/cost") or len({run.summary.get(key) for run in runs}) > 1


def _cost(runs: Sequence[Run], metrics: Sequence[str]) -> str | None:
    for key in COSTS:
        if len({run.summary.get(key) for run in runs} - {None}) > 1:
            return key
    return None


def _arm(named: str, arms: Sequence[Arm]) -> Arm:
    for arm in arms:
        if named in (arm.name, arm.short, str(arm.number)):
            return arm
    raise ConfigError(
        f"compare.against: there is no arm {named!r}",
        hint="there is: " + ", ".join(repr(arm.short) for arm in arms[:20]),
    )


def _notes(arms: Sequence[Arm], columns: Sequence[str], full: Sequence[str], one_only: bool) -> list[str]:
    """Limits of the comparison that matter before a number is quoted."""
    runs = [run for arm in arms for run in arm.runs]
    notes = []
    if len(arms) == 1:
        notes.append(
            "All runs have the same config but for the seed: there is one arm, and nothing to compare it with."
        )
    averaged = [column for column in full if column not in columns]
    if averaged:
        notes.append(f"Runs of one seed that differ in {', '.join(averaged)} are averaged before anything is compared.")
        if len({frozenset(tuple(said(config_value(r, c)) for c in averaged) for r in arm.runs) for arm in arms}) > 1:
            notes.append(
                f"Not all arms have the same values of {', '.join(averaged)}: their means mix different things."
            )
    if len({tuple(sorted({run.seed for run in arm.runs}, key=str)) for arm in arms}) > 1:
        notes.append("Not all arms have the same seeds: a difference is taken over the seeds that both have.")
    other_markets = [c for c in columns if c.partition(".")[0] == "market" or c in MARKETS]
    if other_markets:
        notes.append(
            f"The arms were measured on different markets ({', '.join(other_markets)}): their dollars are not on one "
            "scale; the share of the oracle's P&L is."
        )
    commits = Counter(run.commit[:10] for run in runs if run.commit)
    if len(commits) > 1:
        told = ", ".join(f"{commit} ({n})" for commit, n in commits.most_common(4))
        notes.append(f"The runs were made by {len(commits)} versions of the code: {told}.")
    if one_only:
        notes.append(
            f"{len(arms)} arms are compared with the first one only (compare.against names another). It was chosen by "
            "these same numbers, which flatters it."
        )
    return notes
