"""Chart of one instrument in a window: the prices that agents saw, everybody's trades on them, and the end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from mmo_rl.report.charts.axes import Keywords, Row, extent, tick_format, value_axis
from mmo_rl.report.drawing import CARD, INK, SOFT, Drawing, Frame, data, described
from mmo_rl.report.numbers import Unit
from mmo_rl.view.window import InstrumentView, TradeMark

FRAME = Frame(width=520, height=230, padding=(58, 22, 12, 36))
COLOURS = 6
"""Members up to this number have a colour of their own; the others are grey."""


def colour(number: int) -> str:
    """The CSS variable of a member's colour."""
    return f"var(--a{number if number <= COLOURS else 0})"


def market_chart(instrument: InstrumentView, *, minutes: float) -> str:
    """SVG of an instrument's prices and trades over a window of ``minutes``; empty where there is nothing to draw."""
    seen = [price for _, price in instrument.seen] + [trade.price for trade in instrument.trades]
    if not seen:
        return ""
    unit: Unit = "share" if instrument.is_question else "usd"
    ends = [] if instrument.end is None else [instrument.end]
    # An outcome of 0 or 1 far from the odds would press them into one line: it is told in words alone.
    near = [end for end in ends if not instrument.is_question or min(abs(end - price) for price in seen) < 0.25]
    found: dict[str, list[Row]] = {
        "extent": extent([*seen, *near], unit),
        "end": [{"y": end} for end in near],
        "prices": [{"x": minute, "y": price} for minute, price in instrument.seen],
        "marks": _marks(instrument.trades),
    }
    label = f"{instrument.name}: {len(instrument.trades)} trades over {minutes:g} minutes"
    return _drawing(minutes, tick_format([*seen, *near], unit)).svg(found, label=label)


def _marks(trades: Sequence[TradeMark]) -> list[Row]:
    """One mark for all trades of one minute in one direction: it bears the numbers of their members."""
    together: dict[tuple[float, int], list[TradeMark]] = {}
    for trade in trades:
        together.setdefault((trade.minute, trade.direction), []).append(trade)
    return [
        {
            "x": minute,
            "y": same[0].price,
            "c": colour(same[0].member) if len({trade.member for trade in same}) == 1 else INK,
            "shape": "triangle-up" if direction > 0 else "triangle-down",
            "n": " ".join(dict.fromkeys(str(trade.member) for trade in same)),
            "d": described(f"minute {minute:g}: {'; '.join(trade.words for trade in same)}"),
        }
        for (minute, direction), same in together.items()
    ]


@lru_cache(maxsize=16)
def _drawing(minutes: float, label_format: str) -> Drawing:
    import altair as alt

    x = alt.X(
        "x:Q",
        title="minute of the window",
        scale=alt.Scale(domain=[0, minutes], nice=False),
        axis=alt.Axis(grid=False, tickCount=6, format="d", labelOverlap="greedy"),
    )
    y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=False, nice=4), axis=value_axis(label_format))
    ink = alt.Color("c:N", scale=None)
    number: Keywords = {"fontSize": 10, "fontWeight": 600, "fill": INK}
    marks = alt.Chart(data("marks"))
    chart = alt.layer(
        alt.Chart(data("extent")).mark_tick(opacity=0, size=0, thickness=0).encode(y=y),
        alt.Chart(data("end")).mark_rule(color="var(--knew)", strokeDash=[6, 4], strokeWidth=1.6).encode(y="y:Q"),
        alt.Chart(data("prices")).mark_line(color=SOFT, strokeWidth=1.6, interpolate="step-after").encode(x=x, y=y),
        marks.mark_point(filled=True, size=120, opacity=0.95, stroke=CARD, strokeWidth=1).encode(
            x=x, y=y, color=ink, shape=alt.Shape("shape:N", scale=None), description="d:N"
        ),
        marks.transform_filter("datum.shape == 'triangle-up'").mark_text(dy=-12, **number).encode(x=x, y=y, text="n:N"),
        marks.transform_filter("datum.shape == 'triangle-down'")
        .mark_text(dy=14, **number)
        .encode(x=x, y=y, text="n:N"),
    )
    return Drawing.compiled(chart, FRAME)
