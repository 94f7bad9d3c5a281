"""Plots in parallel coordinates: a line for each run through a rail for each key."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mmo_rl.report.charts.axes import Keywords, Row, is_log
from mmo_rl.report.drawing import CARD, INK, SOFT, Drawing, Frame, data, described

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
