"""Dot plots: means with their intervals, below each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmo_rl.report.charts.axes import Keywords, Row, extent, tick_format, value_axis, zero
from mmo_rl.report.drawing import CARD, INK, SOFT, Drawing, Frame, data, described
from mmo_rl.report.numbers import Unit


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
        axis=value_axis(tick_format(seen, unit), overlap="greedy"),
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
        "extent": extent(seen, unit, "x"),
        "zero": zero(seen, "x"),
        "reference": [] if reference is None else [{"x": reference}],
        "dots": rows,
        "arrows": arrows,
        "parts": parts,
    }
    return Drawing.compiled(alt.layer(*layers), frame).svg(found, label=label)
