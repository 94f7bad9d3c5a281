"""Drawings for the page that compares runs, as inline SVG: numbers and escaped text, readable without script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from statistics import fmean
from typing import Any

from mmo_rl.report.arms import Arm, arms_of, config_value, is_number, said
from mmo_rl.report.charts import nice_ticks, shown
from mmo_rl.report.compared import Compared, estimate, unit_of
from mmo_rl.report.runs import Run

WIDTH, HEIGHT = 360.0, 236.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 16.0, 12.0, 42.0
COLOURS = 6
"""Arms up to this number have a colour of their own; the others are grey."""
LOG_FROM = 30.0
"""Positive values whose largest is this many times the smallest are drawn on a logarithmic axis."""
LABELLED = 24


@dataclass(frozen=True, slots=True)
class Axis:
    """Positions of values between 0 and 1, and the ticks. Values beyond the ends sit at the ends."""

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]
    unit: str = ""

    def at(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        value = math.log10(max(value, self.low)) if self.log else value
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def label(self, value: float) -> str:
        if self.unit in ("usd", "share"):
            return shown(value, self.unit)
        size = abs(value)
        sign = "\u2212" if value < 0 else ""
        for factor, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
            if size >= factor:
                return f"{sign}{size / (1e3 if letter == 'k' else factor):.3g}{letter}"
        return f"{sign}{size:.3g}" if size >= 1e-3 or not size else f"{sign}{size:.0e}".replace("e-0", "e\u2212")


def axis(values: Sequence[float], *, unit: str = "", reach: Sequence[float] = (), log: bool | None = None) -> Axis:
    """An axis for ``values``; ``reach`` are ends of intervals, followed no further than the values' own span."""
    low, high = min(values), max(values)
    if log is None:
        log = low > 0 and high / low >= LOG_FROM
    if log:
        first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
        steps = (1, 3) if last - first <= 2 else (1,)
        every = max(1, math.ceil((last - first) / 5))
        ticks = [m * 10.0**p for p in range(first, last + 1, every) for m in steps]
        return Axis(low / 1.15, high * 1.15, True, tuple(t for t in ticks if low / 1.2 <= t <= high * 1.2), unit)
    span = (high - low) or abs(high) * 0.2 or 1.0
    finite = [v for v in reach if math.isfinite(v)]
    low, high = max(min([low, *finite]), low - span), min(max([high, *finite]), high + span)
    ticks = nice_ticks(low, high, share=unit == "share")
    return Axis(ticks[0], ticks[-1], False, tuple(ticks), unit)


def colour(arm: Arm) -> str:
    return f"a{arm.number if arm.number <= COLOURS else 0}"


# --- learning curves ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Series:
    """One arm's curve: (iteration, mean over seeds, lowest seed, highest seed), gaps where no seed has the value."""

    arm: Arm
    points: tuple[tuple[int, float, float, float], ...]


def series(arm: Arm, key: str) -> Series:
    """Mean and range over the arm's runs at each iteration; of a single run its own interval, where it has one."""
    values: dict[int, list[float]] = {}
    bounds: dict[int, tuple[float, float]] = {}
    for run in arm.runs:
        for row in run.rows:
            value, at = row.get(key), row.get("iteration")
            if is_number(value) and math.isfinite(value) and isinstance(at, int):
                values.setdefault(at, []).append(float(value))
                low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
                if len(arm.runs) == 1 and is_number(low) and is_number(high):
                    bounds[at] = (float(low), float(high))
    points = [
        (at, fmean(found), *bounds.get(at, (min(found), max(found)))) for at, found in sorted(values.items()) if found
    ]
    return Series(arm, tuple(points))


def curves(all_series: Sequence[Series], key: str) -> str:
    """All arms' curves on one pair of axes, with their bands."""
    x, y = _curve_axes(all_series, key)
    drawn = [_curve(one, x, y) for one in reversed(all_series)]
    return _svg([_frame(x, y, "iteration"), *drawn], f"{key} by iteration")


def panels(all_series: Sequence[Series], key: str, *, count: int) -> list[str]:
    """One chart for each of the first ``count`` arms, on the same axes: its curve in colour, all others in grey. The
    grey ones are in the markup once, for that many arms would fill the page."""
    x, y = _curve_axes(all_series, key)
    lines = [[_xy(x, y, at, mean) for at, mean, *_ in s.points] for s in all_series]
    name = "faint-" + "".join(c if c.isalnum() else "-" for c in key)
    faint = "".join(f'<polyline class="line faint" points="{_path(line)}"/>' for line in lines)
    behind = [f'<g id="{name}">{faint}</g>', *[f'<use href="#{name}"/>'] * (count - 1)]
    return [
        _svg([_frame(x, y, "iteration"), back, _curve(one, x, y)], f"{key} by iteration, {one.arm.short}")
        for one, back in zip(all_series[:count], behind, strict=False)
    ]


def _curve_axes(all_series: Sequence[Series], key: str) -> tuple[Axis, Axis]:
    points = [p for s in all_series for p in s.points]
    x = _iterations([at for at, *_ in points])
    y = axis([mean for _, mean, *_ in points], unit=unit_of(key), reach=[v for p in points for v in p[2:]], log=False)
    return x, y


def _curve(one: Series, x: Axis, y: Axis) -> str:
    line = [_xy(x, y, at, mean) for at, mean, _, _ in one.points]
    band = [_xy(x, y, at, high) for at, _, _, high in one.points]
    band += [_xy(x, y, at, low) for at, _, low, _ in reversed(one.points)]
    parts = [
        f'<polygon class="band {colour(one.arm)}" points="{_path(band)}"/>',
        f'<polyline class="line {colour(one.arm)}" points="{_path(line)}"/>',
    ]
    parts += [
        _dot(x, y, at, mean, f"dot {colour(one.arm)}", 2.2, f"{one.arm.short}, iteration {at}: {y.label(mean)}")
        for at, mean, *_ in one.points
    ]
    return "".join(parts)


# --- parameter against metric ---------------------------------------------------------------------------------------


def parameter(runs: Sequence[Run], column: str, key: str) -> str | None:
    """A numeric parameter against a metric: every run a dot, the mean over seeds with its interval at each value; None
    where fewer than two values of the parameter have the metric."""
    groups = [(float(a.values[column] or 0), a) for a in arms_of(runs, [column]) if is_number(a.values[column])]
    means = [(at, estimate(arm, key)) for at, arm in sorted(groups, key=lambda g: g[0])]
    means = [(at, found) for at, found in means if found.value is not None]
    if len(means) < 2:
        return None
    dots = [
        (float(at), float(run.summary[key]), run)
        for run in runs
        if is_number(at := config_value(run, column)) and is_number(run.summary.get(key))
    ]
    x = _values_axis([at for at, _ in means])
    reach = [b for _, found in means for b in (found.low, found.high) if b is not None]
    y = axis([value for _, value, _ in dots], unit=unit_of(key), reach=reach, log=False)
    parts = [_frame(x, y, column + (" (log scale)" if x.log else ""))]
    for at, found in means:
        if found.low is not None and found.high is not None:
            (px, top), (_, bottom) = _xy(x, y, at, found.high), _xy(x, y, at, found.low)
            parts.append(f'<line class="whisker a1" x1="{px}" x2="{px}" y1="{top}" y2="{bottom}"/>')
    line = [_xy(x, y, at, found.value) for at, found in means if found.value is not None]
    parts.append(f'<polyline class="line a1" points="{_path(line)}"/>')
    parts += [_dot(x, y, at, v, "dot seed", 2.4, f"{run.id}, seed {run.seed}: {y.label(v)}") for at, v, run in dots]
    parts += [
        _dot(x, y, at, found.value, "dot a1", 4.2, f"{column}={said(at)}: {y.label(found.value)}, n={found.n}")
        for at, found in means
        if found.value is not None
    ]
    return _svg(parts, f"{key} against {column}")


# --- cost against result --------------------------------------------------------------------------------------------


def front(points: Mapping[int, tuple[float, float]], *, smaller_is_better: bool = False) -> list[int]:
    """The arms, by number, that no other arm beats in cost without being worse in result, the cheapest first."""
    sign = -1.0 if smaller_is_better else 1.0
    ordered = sorted(points, key=lambda n: (points[n][0], -sign * points[n][1]))
    kept: list[int] = []
    for number in ordered:
        if not kept or sign * points[number][1] > sign * points[kept[-1]][1]:
            kept.append(number)
    return kept


def pareto(compared: Compared) -> tuple[str, list[Arm]] | None:
    """Cost against the main metric, a numbered point an arm, and the arms on the front; None where fewer than two arms
    have both."""
    if compared.cost is None or compared.cost == compared.main:
        return None
    points: dict[int, tuple[float, float]] = {}
    for arm in compared.arms:
        cost, result = estimate(arm, compared.cost).value, estimate(arm, compared.main).value
        if cost is not None and result is not None:
            points[arm.number] = (cost, result)
    if len(points) < 2:
        return None
    costs, results = zip(*points.values(), strict=True)
    on_front = front(points, smaller_is_better=compared.ascending)
    x = axis(costs, unit=unit_of(compared.cost), reach=_beyond(costs))
    y = axis(results, unit=unit_of(compared.main), reach=_beyond(results), log=False)
    parts = [_frame(x, y, compared.cost + (" (log scale)" if x.log else ""))]
    corners = [_xy(x, y, *points[on_front[0]])]
    for number in on_front[1:]:
        at = _xy(x, y, *points[number])
        corners += [(at[0], corners[-1][1]), at]
    parts.append(f'<polyline class="line front" points="{_path(corners)}"/>')
    arms = {arm.number: arm for arm in compared.arms}
    places = {n: _xy(x, y, *point) for n, point in points.items()}
    for number in sorted(points, reverse=True):
        cost, result = points[number]
        text = f"{number}: {arms[number].short}: {y.label(result)} for {x.label(cost)}"
        radius = 5.0 if number in on_front else 3.6
        parts.append(_dot(x, y, cost, result, f"dot {colour(arms[number])}", radius, text))
    parts += _labels({n: places[n] for n in (points if len(points) <= LABELLED else on_front)}, list(places.values()))
    return _svg(parts, f"{compared.main} against {compared.cost}"), [arms[n] for n in on_front]


def _beyond(values: Sequence[float]) -> tuple[float, float]:
    """Room for a label beside the outermost points; a cost does not fall below 0 for it."""
    margin = 0.06 * (max(values) - min(values))
    low = min(values) - margin
    return (max(0.0, low) if min(values) >= 0 else low), max(values) + margin


def _labels(places: Mapping[int, tuple[float, float]], dots: Sequence[tuple[float, float]]) -> list[str]:
    """Numbers beside their points, each where it covers no point and no other number."""
    taken: list[tuple[float, float]] = list(dots)
    parts = []
    for number, (x, y) in places.items():
        around = [(x + dx, y + dy) for dx, dy in ((0, -11), (10, -7), (10, 8), (-10, -7), (-10, 8), (0, 13), (16, 0))]
        others = [t for t in taken if t != (x, y)]
        best = max(around, key=lambda p: min([12.0, *(math.dist(p, t) for t in others)]))
        taken.append(best)
        parts.append(
            f'<text class="number" x="{best[0]:.1f}" y="{best[1] + 3.5:.1f}" text-anchor="middle">{number}</text>'
        )
    return parts


# --- parallel coordinates -------------------------------------------------------------------------------------------

STEP, PARALLEL_HEIGHT, LONGEST = 130.0, 300.0, 18
LINES = 80


def parallel(compared: Compared) -> str | None:
    """Every run a line through what it was asked and what came out, its colour the main metric; means of arms where
    the runs would be more than `LINES`. None where fewer than two things vary."""
    by_arm = len(compared.runs) > LINES
    units = [[arm] for arm in compared.arms] if by_arm else [[arm, run] for arm in compared.arms for run in arm.runs]

    def value(unit: Sequence[Any], key: str) -> Any:
        if key in compared.columns:
            return unit[0].values[key]
        found = estimate(unit[0], key).value if by_arm else unit[1].summary.get(key)
        return found if is_number(found) and math.isfinite(found) else None

    other = [key for key in compared.metrics if unit_of(key) != unit_of(compared.main) and key != compared.cost][:1]
    wanted = [*compared.columns[:5], *other, *([compared.cost] if compared.cost else []), compared.main]
    columns = {key: [value(unit, key) for unit in units] for key in wanted}
    columns = {k: v for k, v in columns.items() if len({said(x) for x in v if x is not None}) > 1}
    if len(columns) < 2 or compared.main not in columns:
        return None
    top, bottom, left = 46.0, PARALLEL_HEIGHT - 14.0, 60.0
    width = left + STEP * (len(columns) - 1) + 96.0
    parts, places = [], []
    for index, (key, values) in enumerate(columns.items()):
        x = left + STEP * index
        scale, ticks = _parallel_axis(values, unit_of(key) if key not in compared.columns else "")
        places.append({said(v): round(bottom - (bottom - top) * scale[said(v)], 1) for v in values if v is not None})
        head, _, tail = key.rpartition("/" if "/" in key else ".")
        parts.append(f'<line class="rail" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="14" text-anchor="middle">{escape(head)}</text>')
        parts.append(f'<text class="name" x="{x}" y="29" text-anchor="middle">{escape(tail)}</text>')
        for at, label in ticks:
            y = round(bottom - (bottom - top) * at, 1)
            parts.append(f'<line class="rail" x1="{x - 3}" x2="{x + 3}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text class="tick halo" x="{x + 6}" y="{y + 3.5}">{escape(label)}</text>')
    keys = list(columns)
    main = axis([v for v in columns[compared.main] if v is not None], log=False)
    lines = []
    for place in range(len(units)):
        values = [columns[key][place] for key in keys]
        points = [(left + STEP * i, places[i][said(v)]) for i, v in enumerate(values) if v is not None]
        at = values[keys.index(compared.main)]
        if len(points) < 2 or at is None:
            continue
        share = 100 * main.at(at)
        text = ", ".join(f"{key} {said(v)}" for key, v in zip(keys, values, strict=True))
        lines.append(
            f'<polyline class="strand" style="--t: {share:.0f}%" points="{_path(points)}">'
            f"<title>{escape(text)}</title></polyline>"
        )
    box = f'viewBox="0 0 {width:.0f} {PARALLEL_HEIGHT:.0f}"'
    size = f'style="min-width: {width:.0f}px; max-width: {1.15 * width:.0f}px"'
    return f'<svg {box} {size} role="img" aria-label="parallel coordinates">{"".join([*lines, *parts])}</svg>'


def _parallel_axis(values: Sequence[Any], unit: str) -> tuple[dict[str, float], list[tuple[float, str]]]:
    """Where each value lies between 0 and 1, and the labels."""
    there = [v for v in values if v is not None]
    distinct = list(dict.fromkeys(said(v) for v in there))
    if all(is_number(v) for v in there):
        scale = axis(there, unit=unit)
        few = sorted({float(v) for v in there}) if len(distinct) <= 5 else []
        far = all(scale.at(b) - scale.at(a) > 0.08 for a, b in pairwise(few))
        ticks = few if few and far else list(scale.ticks)
        named = [(scale.at(t), said(t) if few and not unit and abs(t) < 1e4 else scale.label(t)) for t in ticks]
        return {said(v): scale.at(v) for v in there}, named
    at = {v: (0.5 if len(distinct) == 1 else 1 - i / (len(distinct) - 1)) for i, v in enumerate(sorted(distinct))}
    every = max(1, math.ceil(len(distinct) / 14))
    named = [(p, v if len(v) <= LONGEST else f"{v[: LONGEST - 1]}…") for v, p in list(at.items())[::every]]
    return at, named


# --- parts ----------------------------------------------------------------------------------------------------------


def _iterations(values: Sequence[int]) -> Axis:
    first, last = min(values), max(values)
    step = max(1, math.ceil((last - first) / 6))
    return Axis(first - (first == last), last + (first == last), False, tuple(range(first, last + 1, step)))


def _values_axis(values: Sequence[float]) -> Axis:
    """Ticks at the values themselves, where they are few and far enough from each other."""
    scale = axis(values)
    margin = 0.0 if scale.log else 0.06 * (max(values) - min(values))
    low, high = (scale.low, scale.high) if scale.log else (min(values) - margin, max(values) + margin)
    own = Axis(low, high, scale.log, tuple(sorted(values)))
    apart = all(own.at(b) - own.at(a) > 0.11 for a, b in pairwise(own.ticks))
    inside = tuple(t for t in scale.ticks if low <= t <= high)
    return own if apart else Axis(low, high, scale.log, inside)


def _frame(x: Axis, y: Axis, title: str) -> str:
    parts = []
    for tick in y.ticks:
        at = _xy(x, y, x.low, tick)[1]
        name = "zero" if tick == 0 and y.ticks[0] < 0 else "grid"
        parts.append(f'<line class="{name}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 3.5}" text-anchor="end">{y.label(tick)}</text>')
    for tick in x.ticks:
        at = _xy(x, y, tick, y.low)[0]
        parts.append(f'<text class="tick" x="{at}" y="{HEIGHT - 24}" text-anchor="middle">{x.label(tick)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 7}" text-anchor="middle">{escape(title)}</text>')
    return "".join(parts)


def _xy(x: Axis, y: Axis, at: float, value: float) -> tuple[float, float]:
    across = LEFT + (WIDTH - LEFT - RIGHT) * x.at(at)
    return round(across, 1), round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - y.at(value)), 1)


def _dot(x: Axis, y: Axis, at: float, value: float, classes: str, radius: float, text: str) -> str:
    px, py = _xy(x, y, at, value)
    return f'<circle class="{classes}" cx="{px}" cy="{py}" r="{radius}"><title>{escape(text)}</title></circle>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _svg(parts: Sequence[str], label: str) -> str:
    size = f'viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}"'
    return f'<svg {size} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
