"""Charts of the page that compares runs: dots of arms, learning curves, parameters, costs, parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mmo_rl.numbers import finite_number
from mmo_rl.report.arms import Arm, arms_of, config_value, said
from mmo_rl.report.charts.curves import Point, Series
from mmo_rl.report.charts.dot_plot import Dot, dot_plot
from mmo_rl.report.charts.parallel import Column, parallel, positions
from mmo_rl.report.charts.scatter import Spot, scatter
from mmo_rl.report.compare_table import interval, number
from mmo_rl.report.compared import Compared, by_seed, estimate, unit_of
from mmo_rl.report.numbers import Unit, is_number, short
from mmo_rl.report.runs import Run

COLOURS = 6
"""Arms up to this number have a colour of their own; the others are grey."""
LABELLED = 24
LINES = 80
FOREST_WIDTH, SMALL_WIDTH = 1040.0, 460.0


def colour(arm: Arm) -> str:
    """The CSS class of the arm's colour."""
    return f"a{arm.number if arm.number <= COLOURS else 0}"


def _css(arm: Arm) -> str:
    return f"var(--{colour(arm)})"


def forest(arms: Sequence[Arm], key: str, *, numbered: bool) -> str | None:
    """Arms below each other: dots of seeds, mean and interval; None where no arm has the metric."""
    unit = unit_of(key)
    dots = []
    for arm in arms:
        found, seeds = estimate(arm, key), by_seed(arm, key)
        if found.value is None:
            continue
        named = [(value, f"seed {seed}: {short(value, unit)}") for seed, value in seeds.items()]
        dots.append(
            Dot(
                label=f"{arm.number} {arm.short}" if numbered else arm.short,
                value=found.value,
                low=found.low,
                high=found.high,
                text=number(found.value, key),
                interval=interval(found, key) if numbered else "",
                colour=_css(arm) if numbered else "var(--a1)",
                parts=tuple(named) if len(named) > 1 else (),
            )
        )
    if not dots:
        return None
    return dot_plot(dots, unit=unit, label=f"{key} by arm", wide=FOREST_WIDTH if numbered else SMALL_WIDTH)


def series(arm: Arm, key: str) -> Series:
    """Mean and range over the arm's runs at each iteration; of a single run its own interval, where it has one."""
    values: dict[int, list[float]] = {}
    bounds: dict[int, tuple[float, float]] = {}
    for run in arm.runs:
        for row in run.rows:
            value, at = finite_number(row.get(key)), row.get("iteration")
            if value is None or not isinstance(at, int):
                continue
            values.setdefault(at, []).append(value)
            low, high = finite_number(row.get(f"{key}_low")), finite_number(row.get(f"{key}_high"))
            if len(arm.runs) == 1 and low is not None and high is not None:
                bounds[at] = (low, high)
    points = [Point(at + 1, fmean(v), *bounds.get(at, (min(v), max(v)))) for at, v in sorted(values.items())]
    return Series(arm.short, _css(arm), tuple(points))


def parameter(runs: Sequence[Run], column: str, key: str) -> str | None:
    """A numeric parameter against a metric: every run a dot, the mean over seeds with its interval at each value; None
    where fewer than two values of the parameter have the metric."""
    unit = unit_of(key)
    means = []
    for arm in arms_of(runs, [column]):
        at, found = finite_number(arm.values[column]), estimate(arm, key)
        if at is not None and found.value is not None:
            means.append(
                Spot(
                    x=at,
                    y=found.value,
                    low=found.low,
                    high=found.high,
                    text=f"{column}={said(at)}: {short(found.value, unit)}, n={found.n}",
                    colour="var(--a1)",
                    large=True,
                )
            )
    if len(means) < 2:
        return None
    means.sort(key=lambda spot: spot.x)
    dots = [
        Spot(x=at, y=value, text=f"{run.id}, seed {run.seed}: {short(value, unit)}", colour="var(--soft)")
        for run in runs
        if (at := finite_number(config_value(run, column))) is not None
        and (value := finite_number(run.summary.get(key))) is not None
    ]
    ticks = [spot.x for spot in means]
    return scatter(
        [*dots, *means], label=f"{key} against {column}", x_title=column, y_unit=unit, line=means, ticks=ticks
    )


# --- cost against result ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pareto:
    """Cost against the main metric as a chart, and the arms on the front, the cheapest first."""

    svg: str
    front: tuple[Arm, ...]


def front(points: Mapping[int, tuple[float, float]], *, smaller_is_better: bool = False) -> list[int]:
    """The arms, by number, that no other arm beats in cost without being worse in result, the cheapest first."""
    sign = -1.0 if smaller_is_better else 1.0
    ordered = sorted(points, key=lambda n: (points[n][0], -sign * points[n][1]))
    kept: list[int] = []
    for arm in ordered:
        if not kept or sign * points[arm][1] > sign * points[kept[-1]][1]:
            kept.append(arm)
    return kept


def pareto(compared: Compared) -> Pareto | None:
    """Cost against the main metric, a numbered point an arm; None where fewer than two arms have both."""
    cost, main = compared.cost, compared.main
    if cost is None or cost == main:
        return None
    found = {arm.number: (estimate(arm, cost).value, estimate(arm, main).value) for arm in compared.arms}
    points = {number: (c, r) for number, (c, r) in found.items() if c is not None and r is not None}
    if len(points) < 2:
        return None
    on_front = front(points, smaller_is_better=compared.ascending)
    labelled = set(points if len(points) <= LABELLED else on_front)
    arms = {arm.number: arm for arm in compared.arms}
    spots = {
        number: Spot(
            x=x,
            y=y,
            text=f"{number}: {arms[number].short}: {short(y, unit_of(main))} for {short(x, unit_of(cost))}",
            colour=_css(arms[number]),
            number=number if number in labelled else None,
            large=number in on_front,
        )
        for number, (x, y) in points.items()
    }
    svg = scatter(
        list(spots.values()),
        label=f"{main} against {cost}",
        x_title=cost,
        x_unit=unit_of(cost),
        y_unit=unit_of(main),
        line=[spots[number] for number in on_front],
        steps=True,
    )
    return Pareto(svg, tuple(arms[number] for number in on_front))


# --- parallel coordinates ---------------------------------------------------------------------------------------------


def strands(compared: Compared) -> str | None:
    """Every run a line through its parameters and results, its shade the main metric; means of arms where the runs
    would be more than `LINES`. None where fewer than two things vary."""
    units: list[tuple[Arm, Run | None]] = [(arm, run) for arm in compared.arms for run in arm.runs]
    if len(units) > LINES:
        units = [(arm, None) for arm in compared.arms]
    main = compared.main
    other = [key for key in compared.metrics if unit_of(key) != unit_of(main) and key != compared.cost][:1]
    keys = [*compared.columns[:5], *other, *([compared.cost] if compared.cost else []), main]
    values = {key: [_value(compared, arm, run, key) for arm, run in units] for key in keys}
    varied = {key: found for key, found in values.items() if len({said(v) for v in found if v is not None}) > 1}
    if len(varied) < 2 or main not in varied:
        return None
    columns = [
        _column(key, found, unit_of(key) if key not in compared.columns else "") for key, found in varied.items()
    ]
    texts = [", ".join(f"{key} {said(found[place])}" for key, found in varied.items()) for place in range(len(units))]
    return parallel(columns, shades=columns[-1].places, texts=texts, label="parallel coordinates")


def _value(compared: Compared, arm: Arm, run: Run | None, key: str) -> str | float | None:
    if key in compared.columns:
        value = arm.values[key]
        return float(value) if is_number(value) else None if value is None else said(value)
    return estimate(arm, key).value if run is None else finite_number(run.summary.get(key))


def _column(key: str, values: Sequence[str | float | None], unit: Unit) -> Column:
    """The rail of one key: numbers to scale, words one below the other."""
    numbers = [value for value in values if is_number(value)]
    if len(numbers) == sum(value is not None for value in values):
        at, labels = positions(numbers)
        places = iter(at)
        ticks = tuple(
            (place, short(value, unit) if unit or abs(value) >= 1e3 else f"{value:.3g}") for place, value in labels
        )
        return Column(key, tuple(None if value is None else next(places) for value in values), ticks)
    words = sorted({said(value) for value in values if value is not None})
    heights = {word: 1 - place / (len(words) - 1) for place, word in enumerate(words)}
    every = max(1, math.ceil(len(words) / 14))
    named = tuple((heights[word], word) for word in words[::every])
    return Column(key, tuple(None if value is None else heights[said(value)] for value in values), named)
