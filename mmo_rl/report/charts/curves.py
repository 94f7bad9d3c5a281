"""Learning curves: values with bands by iteration, on one pair of axes or a panel each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from mmo_rl.numbers import finite_number
from mmo_rl.report.charts.axes import CHART, Keywords, Row, extent, tick_format, value_axis, zero
from mmo_rl.report.drawing import CARD, SOFT, Drawing, by_series, data, described
from mmo_rl.report.numbers import Unit, short

MANY_POINTS = 60


@dataclass(frozen=True, slots=True)
class Point:
    """A value at an iteration, counted from 1, with its band; None where it is missing."""

    iteration: int
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart; ``colour`` is a CSS colour."""

    name: str
    colour: str
    points: tuple[Point, ...]


def points_of(rows: Sequence[Mapping[str, object]], key: str) -> tuple[Point, ...]:
    """The points of one metric in rows of metrics.jsonl (iterations from 0 there); bands by ``_low`` and ``_high``."""
    iterations = ((finite_number(row.get("iteration")), row) for row in rows)
    return tuple(
        Point(int(iteration) + 1, *(finite_number(row.get(key + end)) for end in ("", "_low", "_high")))
        for iteration, row in iterations
        if iteration is not None
    )


def curves(series: Sequence[Series], *, unit: Unit, label: str) -> str:
    """All series on one pair of axes, with their bands; of a single one each iteration can be pointed at."""
    drawing, rows = _curves(series, unit)
    return drawing.svg(rows, label=label)


def panels(series: Sequence[Series], *, unit: Unit, label: str, count: int) -> list[str]:
    """A chart for each of the first ``count`` series on the same axes: its own in colour, the others faint."""
    drawing, rows = _curves(series, unit, faint=True)
    shared = "faint-" + "".join(c if c.isalnum() else "-" for c in label)
    return by_series(drawing.tree(rows, label=label), len(series), shared=shared)[:count]


def _curves(series: Sequence[Series], unit: Unit, *, faint: bool = False) -> tuple[Drawing, dict[str, list[Row]]]:
    bands: list[Row] = []
    whiskers: list[Row] = []
    lines: list[Row] = []
    dots: list[Row] = []
    seen: list[float] = []
    for number, one in enumerate(series):
        for part, stretch in enumerate(_stretches(one.points)):
            rows: list[Row] = [
                {
                    "x": p.iteration,
                    "y": p.value,
                    "low": p.low,
                    "high": p.high,
                    "c": one.colour,
                    "part": f"{number:04d}-{part}",
                    "of": described("", series=number),
                    "d": described(_point_text(one, p, unit), series=number),
                }
                for p in stretch
            ]
            seen += [v for p in stretch for v in (p.value, p.low, p.high) if v is not None]
            banded = [row for row in rows if row["low"] is not None and row["high"] is not None]
            (bands if len(banded) > 1 else whiskers).extend(banded)
            lines += rows if len(rows) > 1 else []
            dots += rows
    at = sorted({p.iteration for one in series for p in one.points if p.value is not None})
    half = 0.5 if len(at) == 1 else min(b - a for a, b in pairwise(at)) / 2
    hits = [row | {"from": p - half, "to": p + half} for row in dots if isinstance(p := row["x"], int)]
    drawing = _curve_drawing(
        first=at[0], last=at[-1], ticks=tick_format(seen, unit), many=len(at) >= MANY_POINTS, faint=faint
    )
    return drawing, {
        "extent": extent(seen, unit),
        "zero": zero(seen),
        "faint": lines if faint else [],
        "bands": bands,
        "whiskers": whiskers,
        "lines": lines,
        "dots": dots,
        "hits": hits if len(series) == 1 else [],
    }


@lru_cache(maxsize=32)
def _curve_drawing(*, first: int, last: int, ticks: str, many: bool, faint: bool) -> Drawing:
    import altair as alt

    step = max(1, math.ceil((last - first) / 6))
    x = alt.X(
        "x:Q",
        title="iteration",
        scale=alt.Scale(domain=[first - (first == last), last + (first == last)], nice=False, zero=False),
        axis=alt.Axis(values=list(range(first, last + 1, step)), format="d", grid=False),
    )
    y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=False, nice=4), axis=value_axis(ticks))
    low = alt.Y("low:Q")
    of_series: Keywords = {"color": alt.Color("c:N", scale=None), "detail": "part:N", "description": "of:N"}
    layers = [
        alt.Chart(data("extent")).mark_tick(opacity=0, size=0, thickness=0).encode(y=y),
        alt.Chart(data("zero")).mark_rule(color=SOFT).encode(y="y:Q"),
        alt.Chart(data("bands")).mark_area(opacity=0.16).encode(x=x, y=low, y2="high:Q", **of_series),
        alt.Chart(data("whiskers")).mark_rule(strokeWidth=2, opacity=0.5).encode(x=x, y=low, y2="high:Q", **of_series),
        alt.Chart(data("lines")).mark_line(strokeWidth=2, strokeJoin="round").encode(x=x, y=y, **of_series),
        alt.Chart(data("dots"))
        .mark_circle(size=8 if many else 30, opacity=1, stroke=CARD, strokeWidth=0.8)
        .encode(x=x, y=y, color=of_series["color"], description="d:N"),
        alt.Chart(data("hits"), name="hits")
        .mark_rect(fill=SOFT, fillOpacity=0)
        .encode(x=alt.X("from:Q"), x2="to:Q", y=alt.value(0), y2=alt.value("height"), description="d:N"),
    ]
    if faint:
        behind = alt.Chart(data("faint")).mark_line(color="var(--lo)", strokeWidth=1.2)
        layers.insert(2, behind.encode(x=x, y=y, detail="part:N"))
    return Drawing.compiled(alt.layer(*layers), CHART)


def _point_text(series: Series, point: Point, unit: Unit) -> str:
    band = (
        "" if point.low is None or point.high is None else f" ({short(point.low, unit)} to {short(point.high, unit)})"
    )
    name = f"{series.name}, " if series.name else ""
    return f"{short(point.value, unit)}{band}\n{name}iteration {point.iteration}"


def _stretches(points: Sequence[Point]) -> list[list[Point]]:
    """Neighbours without a missing value between them: a line over a gap would show what was not measured."""
    stretches: list[list[Point]] = [[]]
    for point in points:
        if point.value is None:
            stretches.append([])
        else:
            stretches[-1].append(point)
    return [stretch for stretch in stretches if stretch]
