"""Parts that all charts share: axes, their formats, ends and zero lines, and the size of a chart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mmo_rl.report.drawing import Frame
from mmo_rl.report.numbers import Unit

if TYPE_CHECKING:
    import altair as alt

Row = dict[str, object]
"""One mark's values by the field names of its chart."""
Keywords = dict[str, Any]
"""Keyword arguments that several marks or encodings of altair share."""
CHART = Frame(width=360, height=220, padding=(54, 14, 12, 38))
LOG_FROM = 30.0
"""Positive values whose largest is this many times the smallest are drawn on a logarithmic axis."""


def is_log(values: Sequence[float]) -> bool:
    """Tells values that are spread so far that only a logarithmic axis shows them all."""
    return min(values) > 0 and max(values) / min(values) >= LOG_FROM


def value_axis(label_format: str, *, overlap: Literal["greedy", False] = False) -> alt.Axis:
    """A grid at round numbers; ``overlap`` greedy drops labels that would run into each other, which takes time."""
    import altair as alt

    return alt.Axis(tickCount=4, format=label_format, labelOverlap=overlap)


def tick_format(values: Iterable[float], unit: Unit, *, given: bool = False) -> str:
    """The d3 format of tick labels. It has no precision, so labels get the digits that tell neighbours apart;
    ``given`` ticks are written as they are."""
    if unit == "share":
        return "~%" if given else "%"
    number = "~s" if max(map(abs, values), default=0.0) >= 1e4 else "~g" if given else ",f"
    return f"${number}" if unit == "usd" else number


def extent(seen: Sequence[float], unit: Unit, channel: Literal["x", "y"] = "y") -> list[Row]:
    """The ends of an axis, which also has a span where all values are the same."""
    low, high = min(seen), max(seen)
    if high - low < 1e-9 * max(1.0, abs(high)):
        margin = abs(high) * 0.1 or 1.0
        low, high = low - margin, high + margin
        if unit == "share" and 0.0 <= seen[0] <= 1.0:
            low, high = max(0.0, low), min(1.0, high)
    return [{channel: low}, {channel: high}]


def zero(seen: Sequence[float], channel: Literal["x", "y"] = "y") -> list[Row]:
    """A line at 0 where the values lie on both sides of it."""
    return [{channel: 0.0}] if min(seen) < 0.0 < max(seen) else []
