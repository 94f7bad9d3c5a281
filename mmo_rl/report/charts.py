"""Charts of the report pages: learning curves, dot plots with intervals, scatter plots, parallel coordinates.

Every function takes plain numbers and returns SVG that stands in a page as it is (`mmo_rl.report.drawing`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from mmo_rl.numbers import finite_number
from mmo_rl.report.drawing import CARD, INK, SOFT, Drawing, Frame, by_series, data, described
from mmo_rl.report.numbers import Unit, short

if TYPE_CHECKING:
    import altair as alt

Row = dict[str, object]
Keywords = dict[str, Any]
"""Keyword arguments that several marks or encodings of altair share."""
CURVE = Frame(width=360, height=220, padding=(54, 14, 12, 38))
LOG_FROM = 30.0
"""Positive values whose largest is this many times the smallest are drawn on a logarithmic axis."""
MANY_POINTS = 60


@dataclass(frozen=True, slots=True)
class Point:
    """A value at an iteration with its band; None where it is missing."""

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
    """The points of one metric in rows of metrics.jsonl; bands by ``_low`` and ``_high``."""
    iterations = ((finite_number(row.get("iteration")), row) for row in rows)
    return tuple(
        Point(int(iteration), *(finite_number(row.get(key + end)) for end in ("", "_low", "_high")))
        for iteration, row in iterations
        if iteration is not None
    )


# --- curves by iteration ----------------------------------------------------------------------------------------------


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
        first=at[0], last=at[-1], tick_format=_tick_format(seen, unit), many=len(at) >= MANY_POINTS, faint=faint
    )
    return drawing, {
        "extent": _extent(seen, unit),
        "zero": _zero(seen),
        "faint": lines if faint else [],
        "bands": bands,
        "whiskers": whiskers,
        "lines": lines,
        "dots": dots,
        "hits": hits if len(series) == 1 else [],
    }


@lru_cache(maxsize=32)
def _curve_drawing(*, first: int, last: int, tick_format: str, many: bool, faint: bool) -> Drawing:
    import altair as alt

    step = max(1, math.ceil((last - first) / 6))
    x = alt.X(
        "x:Q",
        title="iteration",
        scale=alt.Scale(domain=[first - (first == last), last + (first == last)], nice=False, zero=False),
        axis=alt.Axis(values=list(range(first, last + 1, step)), format="d", grid=False),
    )
    y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=False, nice=4), axis=_value_axis(tick_format))
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
    return Drawing.compiled(alt.layer(*layers), CURVE)


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


# --- dots with intervals ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One line of a dot plot: a mean, its interval, and the values that it is the mean of with their names."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    text: str
    interval: str = ""
    colour: str
    parts: tuple[tuple[float, str], ...] = ()


def dot_plot(dots: Sequence[Dot], *, unit: Unit, label: str, wide: float, reference: float | None = None) -> str:
    """Dots with intervals below each other, once ``wide`` pixels wide and once for a telephone.

    An interval is followed no further than the span of the values on either side of them; an arrow says that it goes
    on. ``reference`` is a dashed line.
    """
    spread = [v for dot in dots for v in (dot.value, *(value for value, _ in dot.parts))]
    span = (max(spread) - min(spread)) or abs(max(spread)) * 0.2 or 1.0
    reach = (min(spread) - span, max(spread) + span)
    wider = _dot_plot(dots, unit, reach=reach, width=wide, narrow=False, reference=reference, label=label)
    narrow = _dot_plot(dots, unit, reach=reach, width=340.0, narrow=True, reference=reference, label=label)
    return f'<div class="for-wide">{wider}</div><div class="for-narrow">{narrow}</div>'


def _dot_plot(
    dots: Sequence[Dot],
    unit: Unit,
    *,
    reach: tuple[float, float],
    width: float,
    narrow: bool,
    reference: float | None,
    label: str,
) -> str:
    """Labels and values stand beside the dots, or above them where it is ``narrow``."""
    import altair as alt

    rows: list[Row] = []
    parts: list[Row] = []
    arrows: list[Row] = []
    seen: list[float] = [] if reference is None else [reference]
    for place, dot in enumerate(dots):
        row: Row = {
            "y": place + (0.7 if narrow else 0.5),
            "x": dot.value,
            "low": dot.value if dot.low is None else max(dot.low, reach[0]),
            "high": dot.value if dot.high is None else min(dot.high, reach[1]),
            "label": dot.label,
            "text": dot.text,
            "interval": dot.interval,
            "c": dot.colour,
            "d": described(f"{dot.label}: {dot.text} {dot.interval}".strip()),
        }
        rows.append(row)
        parts += [row | {"x": value, "d": described(text)} for value, text in dot.parts]
        seen += [
            v for v in (row["x"], row["low"], row["high"], *(value for value, _ in dot.parts)) if isinstance(v, float)
        ]
        if dot.low is not None and dot.low < reach[0]:
            arrows.append(row | {"x": reach[0], "shape": "triangle-left"})
        if dot.high is not None and dot.high > reach[1]:
            arrows.append(row | {"x": reach[1], "shape": "triangle-right"})
    tall = 50.0 if narrow else 34.0
    left = 8.0 if narrow else min(0.35 * width, 24.0 + 7.2 * max(len(dot.label) for dot in dots))
    texts, intervals = (max(len(t) for t in found) for found in ([d.text for d in dots], [d.interval for d in dots]))
    right = 12.0 if narrow else 24.0 + 7.6 * texts + 6.8 * intervals
    across = width - left - right
    x = alt.X(
        "x:Q",
        title=None,
        scale=alt.Scale(zero=False, nice=4),
        axis=_value_axis(_tick_format(seen, unit), overlap="greedy"),
    )
    y = alt.Y("y:Q", scale=alt.Scale(domain=[0, len(dots)], reverse=True, nice=False), axis=None)
    ink = alt.Color("c:N", scale=None)
    marks: Keywords = {"y": y, "color": ink, "description": "d:N"}
    words = alt.Chart(data("dots"))
    bold: Keywords = {"baseline": "middle", "fontWeight": 600, "fill": INK, "dy": -22 if narrow else 0}
    layers = [
        alt.Chart(data("extent")).mark_tick(opacity=0, size=0, thickness=0).encode(x=x),
        alt.Chart(data("zero")).mark_rule(color=SOFT).encode(x="x:Q"),
        alt.Chart(data("reference"), name="reference")
        .mark_rule(color="var(--oracle)", strokeDash=[5, 4], strokeWidth=2)
        .encode(x="x:Q"),
        alt.Chart(data("dots"))
        .mark_rule(strokeWidth=9, strokeCap="round", opacity=0.3)
        .encode(x=alt.X("low:Q"), x2="high:Q", **marks),
        alt.Chart(data("arrows"))
        .mark_point(filled=True, size=110, opacity=1)
        .encode(x=x, shape=alt.Shape("shape:N", scale=None), **marks),
        alt.Chart(data("parts")).mark_circle(size=28, opacity=0.75).encode(x=x, **marks),
        alt.Chart(data("dots")).mark_circle(size=130, opacity=1, stroke=CARD, strokeWidth=2).encode(x=x, **marks),
        words.mark_text(align="left" if narrow else "right", limit=0.6 * width if narrow else left - 16, **bold).encode(
            x=alt.value(0 if narrow else -16), y=y, text="label:N"
        ),
        words.mark_text(align="right" if narrow else "left", **bold).encode(
            x=alt.value(across if narrow else across + 16), y=y, text="text:N"
        ),
    ]
    if not narrow:
        beside = words.mark_text(baseline="middle", align="left", fill=SOFT)
        layers.append(beside.encode(x=alt.value(across + 22 + 7.6 * texts), y=y, text="interval:N"))
    frame = Frame(width, tall * len(dots) + 30, (left, right, 4, 26))
    found: dict[str, list[Row]] = {
        "extent": _extent(seen, unit, "x"),
        "zero": _zero(seen, "x"),
        "reference": [] if reference is None else [{"x": reference}],
        "dots": rows,
        "arrows": arrows,
        "parts": parts,
    }
    return Drawing.compiled(alt.layer(*layers), frame).svg(found, label=label)


# --- two numbers against each other -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """One point of a scatter plot; ``number`` is written beside it where it is not None."""

    x: float
    y: float
    text: str
    colour: str
    number: int | None = None
    large: bool = False
    low: float | None = None
    high: float | None = None


def scatter(
    spots: Sequence[Spot],
    *,
    label: str,
    x_title: str,
    x_unit: Unit = "",
    y_unit: Unit,
    line: Sequence[Spot] = (),
    steps: bool = False,
    ticks: Sequence[float] = (),
) -> str:
    """Points with whiskers and numbers, and a line through ``line``: dashed, in ``steps``, for a front.

    ``ticks`` of the x axis are the values that were asked for, where they are few.
    """
    import altair as alt

    across = [s.x for s in spots]
    log = is_log(across)
    seen = [v for s in spots for v in (s.y, s.low, s.high) if v is not None]
    own_ticks: Keywords = {"values": list(ticks)} if 0 < len(ticks) <= 6 else {"tickCount": 4}
    tick_format = _tick_format(across, x_unit, given=log or "values" in own_ticks)
    x = alt.X(
        "x:Q",
        title=x_title + (" (log scale)" if log else ""),
        scale=alt.Scale(type="log" if log else "linear", zero=False, nice=False, padding=16),
        axis=alt.Axis(grid=False, format=tick_format, labelOverlap="greedy", **own_ticks),
    )
    y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=False, nice=4), axis=_value_axis(_tick_format(seen, y_unit)))
    ink = alt.Color("c:N", scale=None)
    path: Keywords = (
        {"interpolate": "step-after", "strokeDash": [5, 4], "strokeWidth": 1.4} if steps else {"strokeWidth": 2}
    )
    number: Keywords = {"fontSize": 11, "fontWeight": 600, "fill": INK}
    chart = alt.layer(
        alt.Chart(data("extent")).mark_tick(opacity=0, size=0, thickness=0).encode(y=y),
        alt.Chart(data("zero")).mark_rule(color=SOFT).encode(y="y:Q"),
        alt.Chart(data("whiskers"))
        .mark_rule(strokeWidth=2, opacity=0.5)
        .encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=ink),
        alt.Chart(data("line")).mark_line(color=SOFT if steps else "var(--a1)", **path).encode(x=x, y=y),
        alt.Chart(data("spots"))
        .mark_circle(opacity=1, stroke=CARD, strokeWidth=1)
        .encode(x=x, y=y, color=ink, size=alt.Size("size:Q", scale=None), description="d:N"),
        alt.Chart(data("above")).mark_text(dy=-11, **number).encode(x=x, y=y, text="n:N"),
        alt.Chart(data("below")).mark_text(dy=12, **number).encode(x=x, y=y, text="n:N"),
    )
    above, below = _beside([s for s in spots if s.number is not None], across, seen)
    rows: list[Row] = []
    for s in spots:
        row: Row = {"x": s.x, "y": s.y, "low": s.low, "high": s.high, "c": s.colour, "d": described(s.text)}
        rows.append(row | {"size": 80 if s.large else 28})
    found: dict[str, list[Row]] = {
        "extent": _extent(seen, y_unit),
        "zero": _zero(seen),
        "whiskers": [row for row in rows if row["low"] is not None and row["high"] is not None],
        "line": [{"x": s.x, "y": s.y} for s in line],
        "spots": rows,
        "above": above,
        "below": below,
    }
    return Drawing.compiled(chart, CURVE).svg(found, label=label)


def _beside(spots: Sequence[Spot], across: Sequence[float], seen: Sequence[float]) -> tuple[list[Row], list[Row]]:
    """Numbers above their points, or below where another number or point is nearer above."""
    place: Callable[[float], float] = math.log10 if is_log(across) else float
    width = (place(max(across)) - place(min(across))) or 1.0
    height = (max(seen) - min(seen)) or 1.0
    centres = {spot.number: (290.0 * place(spot.x) / width, -170.0 * spot.y / height) for spot in spots}
    taken = list(centres.values())
    rows: dict[int, list[Row]] = {-11: [], 12: []}
    for spot in spots:
        x, y = centres[spot.number]
        others = [other for other in taken if other != (x, y)]
        dy = min(rows, key=lambda dy: (sum(math.dist((x, y + dy), other) < 12 for other in others), dy))
        taken.append((x, y + dy))
        rows[dy].append({"x": spot.x, "y": spot.y, "n": str(spot.number)})
    return rows[-11], rows[12]


def is_log(values: Sequence[float]) -> bool:
    """Tells values that are spread so far that only a logarithmic axis shows them all."""
    return min(values) > 0 and max(values) / min(values) >= LOG_FROM


# --- parallel coordinates ---------------------------------------------------------------------------------------------

STEP, PARALLEL_HEIGHT, LONGEST = 130.0, 310.0, 18


@dataclass(frozen=True, slots=True)
class Column:
    """One rail of a plot in parallel coordinates: for each line where it crosses, in [0, 1] (None: not at all), and the
    labels by place."""

    name: str
    places: tuple[float | None, ...]
    ticks: tuple[tuple[float, str], ...]


def parallel(columns: Sequence[Column], *, shades: Sequence[float | None], texts: Sequence[str], label: str) -> str:
    """A line for each of ``texts`` through all columns, from pale to strong by its shade in [0, 1]; one without a shade
    is left out."""
    import altair as alt

    strands: list[Row] = [
        {
            "x": number,
            "y": column.places[place],
            "line": place,
            "c": f"color-mix(in oklab, var(--a1) {100 * shade:.0f}%, var(--lo))",
            "d": described(text),
        }
        for place, (shade, text) in enumerate(zip(shades, texts, strict=True))
        if shade is not None
        for number, column in enumerate(columns)
        if column.places[place] is not None
    ]
    ticks: list[Row] = [
        {"x": number, "y": at, "label": text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"}
        for number, column in enumerate(columns)
        for at, text in column.ticks
    ]
    heads: list[Row] = [{"x": number, "y": 1.0, "y2": 0.0, **_head(c.name)} for number, c in enumerate(columns)]
    last = len(columns) - 1
    x = alt.X("x:Q", scale=alt.Scale(domain=[0, last], nice=False), axis=None)
    y = alt.Y("y:Q", scale=alt.Scale(domain=[0, 1], nice=False), axis=None)
    labels, tops = alt.Chart(data("ticks")), alt.Chart(data("heads"))
    beside: Keywords = {"align": "left", "baseline": "middle", "dx": 6, "fontSize": 11, "fill": INK}
    chart = alt.layer(
        alt.Chart(data("strands"), name="strands")
        .mark_line(strokeWidth=1.8, opacity=0.85)
        .encode(x=x, y=y, detail="line:N", stroke=alt.Stroke("c:N", scale=None), description="d:N"),
        tops.mark_rule(color=SOFT).encode(x=x, y=y, y2="y2:Q"),
        labels.mark_text(**beside, stroke=CARD, strokeWidth=4, strokeJoin="round").encode(x=x, y=y, text="label:N"),
        labels.mark_text(**beside).encode(x=x, y=y, text="label:N"),
        tops.mark_text(dy=-32, fontSize=11, fill=SOFT).encode(x=x, y=y, text="group:N"),
        tops.mark_text(dy=-17, fontWeight=600, fill=INK).encode(x=x, y=y, text="key:N"),
    )
    frame = Frame(60.0 + STEP * last + 100.0, PARALLEL_HEIGHT, (60, 100, 46, 14), scrolls=True)
    found: dict[str, list[Row]] = {"strands": strands, "ticks": ticks, "heads": heads}
    return Drawing.compiled(chart, frame).svg(found, label=label)


def _head(name: str) -> Row:
    group, _, key = name.rpartition("/" if "/" in name else ".")
    return {"group": group, "key": key}


def positions(values: Sequence[float]) -> tuple[list[float], list[tuple[float, float]]]:
    """Places in [0, 1] of numbers between the smallest and the largest, and (place, number) of the labels: all numbers
    where they are few, else five from end to end. Far spread numbers lie on a logarithmic scale."""
    low, high = min(values), max(values)
    log = is_log(values)
    place: Callable[[float], float] = math.log10 if log else float

    def at(value: float) -> float:
        return (place(value) - place(low)) / ((place(high) - place(low)) or 1.0)

    labels = sorted(set(values))
    if len(labels) > 5 or any(at(b) - at(a) < 0.08 for a, b in pairwise(labels)):
        labels = [low ** (1 - t) * high**t if log else low + t * (high - low) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return [at(value) for value in values], [(at(value), value) for value in labels]


# --- parts ------------------------------------------------------------------------------------------------------------


def _value_axis(tick_format: str, *, overlap: Literal["greedy", False] = False) -> alt.Axis:
    """A grid at round numbers; ``overlap`` greedy drops labels that would run into each other, which takes time."""
    import altair as alt

    return alt.Axis(tickCount=4, format=tick_format, labelOverlap=overlap)


def _tick_format(values: Iterable[float], unit: Unit, *, given: bool = False) -> str:
    """The d3 format of tick labels. It has no precision, so labels get the digits that tell neighbours apart;
    ``given`` ticks are written as they are."""
    if unit == "share":
        return "~%" if given else "%"
    number = "~s" if max(map(abs, values), default=0.0) >= 1e4 else "~g" if given else ",f"
    return f"${number}" if unit == "usd" else number


def _extent(seen: Sequence[float], unit: Unit, channel: Literal["x", "y"] = "y") -> list[Row]:
    """The ends of an axis, which also has a span where all values are the same."""
    low, high = min(seen), max(seen)
    if high - low < 1e-9 * max(1.0, abs(high)):
        margin = abs(high) * 0.1 or 1.0
        low, high = low - margin, high + margin
        if unit == "share" and 0.0 <= seen[0] <= 1.0:
            low, high = max(0.0, low), min(1.0, high)
    return [{channel: low}, {channel: high}]


def _zero(seen: Sequence[float], channel: Literal["x", "y"] = "y") -> list[Row]:
    """A line at 0 where the values lie on both sides of it."""
    return [{channel: 0.0}] if min(seen) < 0.0 < max(seen) else []
