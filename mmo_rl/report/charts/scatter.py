"""Scatter plots: two numbers against each other, with a line through some of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmo_rl.report.charts.axes import CHART, Keywords, Row, extent, is_log, tick_format, value_axis, zero
from mmo_rl.report.drawing import CARD, INK, SOFT, Drawing, data, described
from mmo_rl.report.numbers import Unit


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
    x_format = tick_format(across, x_unit, given=log or "values" in own_ticks)
    x = alt.X(
        "x:Q",
        title=x_title + (" (log scale)" if log else ""),
        scale=alt.Scale(type="log" if log else "linear", zero=False, nice=False, padding=16),
        axis=alt.Axis(grid=False, format=x_format, labelOverlap="greedy", **own_ticks),
    )
    y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=False, nice=4), axis=value_axis(tick_format(seen, y_unit)))
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
        "extent": extent(seen, y_unit),
        "zero": zero(seen),
        "whiskers": [row for row in rows if row["low"] is not None and row["high"] is not None],
        "line": [{"x": s.x, "y": s.y} for s in line],
        "spots": rows,
        "above": above,
        "below": below,
    }
    return Drawing.compiled(chart, CHART).svg(found, label=label)


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
