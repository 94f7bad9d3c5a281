"""Drawings for the report page: lines with error bands as inline SVG, intervals and bars as percentages for CSS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 360.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 12.0, 26.0


@dataclass(frozen=True, slots=True)
class Curve:
    """What a chart shows of the rows of metrics.jsonl: one series, its 95 % band where known, and how to read it."""

    key: str
    title: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """A value at an iteration, None where it is missing."""

    iteration: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn curve. ``svg`` is markup made of numbers only; ``x`` and ``y`` are pixel positions of the points, in
    the order of ``points``, for the page's tooltips."""

    curve: Curve
    points: tuple[Point, ...]
    svg: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]

    @property
    def last(self) -> str:
        return shown(next((p.value for p in reversed(self.points) if p.value is not None), None), self.curve.unit)


def chart(curve: Curve, rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    """The curve over the rows' iterations, or None where no row has a value."""
    points = tuple(
        Point(int(row["iteration"]), *(_number(row.get(curve.key + suffix)) for suffix in ("", "_low", "_high")))
        for row in rows
        if _number(row.get("iteration")) is not None
    )
    if not any(p.value is not None for p in points):
        return None
    seen = [v for p in points for v in (p.value, p.low, p.high) if v is not None]
    ticks = nice_ticks(min(seen), max(seen), share=curve.unit == "share")
    first, last = points[0].iteration, points[-1].iteration

    def x_of(iteration: float) -> float:
        inner = WIDTH - LEFT - RIGHT
        return round(LEFT + (inner / 2 if first == last else inner * (iteration - first) / (last - first)), 1)

    def y_of(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - ticks[0]) / (ticks[-1] - ticks[0])), 1)

    parts = [_grid(ticks, y_of, curve.unit)]
    parts += [
        f'<text class="tick" x="{x_of(i)}" y="{HEIGHT - 8}" text-anchor="middle">{i}</text>'
        for i in _iteration_ticks(first, last)
    ]
    for run in _runs(points):
        banded = [p for p in run if p.low is not None and p.high is not None]
        if len(banded) > 1:
            edge = [(x_of(p.iteration), y_of(p.high)) for p in banded if p.high is not None]
            edge += [(x_of(p.iteration), y_of(p.low)) for p in reversed(banded) if p.low is not None]
            parts.append(f'<polygon class="band" points="{_path(edge)}"/>')
        elif banded and banded[0].low is not None and banded[0].high is not None:
            x = x_of(banded[0].iteration)
            parts.append(
                f'<line class="whisker" x1="{x}" x2="{x}" y1="{y_of(banded[0].low)}" y2="{y_of(banded[0].high)}"/>'
            )
        if len(run) > 1:
            line = [(x_of(p.iteration), y_of(p.value)) for p in run if p.value is not None]
            parts.append(f'<polyline class="line" points="{_path(line)}"/>')
    parts += [
        f'<circle class="dot" cx="{x_of(p.iteration)}" cy="{y_of(p.value)}" r="{2.6 if len(points) < 60 else 1.2}"/>'
        for p in points
        if p.value is not None
    ]
    return Chart(
        curve,
        points,
        "".join(parts),
        tuple(x_of(p.iteration) for p in points),
        tuple(None if p.value is None else y_of(p.value) for p in points),
    )


def nice_ticks(low: float, high: float, *, share: bool = False, count: int = 4) -> list[float]:
    """About ``count`` round numbers that enclose [low, high]; a share's never leave [0, 1] where the data do not."""
    if high - low < 1e-9 * max(1.0, abs(high)):
        margin = abs(high) * 0.1 or 1.0
        low, high = low - margin, high + margin
        if share:
            low, high = max(0.0, low), min(1.0, high) if high <= 1.1 else high
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999) * power
    start = math.floor(low / step + 1e-9)
    end = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(start, end + 1)]


def shown(value: float | None, unit: str) -> str:
    """A number for the eye: dollars, percent, or four significant digits."""
    if value is None:
        return "–"
    sign = "\u2212" if value < 0 else ""
    size = abs(value)
    if unit == "share":
        return f"{sign}{100 * size:.3g}%"
    if size >= 1000:
        text = f"{size:,.0f}"
    elif size and size < 1e-3:
        text = f"{size:.1e}"
    else:
        text = f"{size:.3g}"
    return f"{sign}${text}" if unit == "usd" else sign + text


def parts_of(amounts: Mapping[str, float]) -> list[dict[str, Any]]:
    """Positive amounts as shares of their sum, in percent, for a stacked bar."""
    total = sum(v for v in amounts.values() if v > 0)
    return [{"label": k, "value": v, "pct": round(100 * v / total, 3)} for k, v in amounts.items() if v > 0]


def _grid(ticks: Sequence[float], y_of: Any, unit: str) -> str:
    lines = []
    for tick in ticks:
        y = y_of(tick)
        name = "zero" if tick == 0 and ticks[0] < 0 else "grid"
        lines.append(f'<line class="{name}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        lines.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5}" text-anchor="end">{shown(tick, unit)}</text>')
    return "".join(lines)


def _iteration_ticks(first: int, last: int) -> list[int]:
    step = max(1, math.ceil((last - first) / 6))
    return list(range(first, last + 1, step))


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    """Stretches without a missing value: a line over a gap would invent what was not measured."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if point.value is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
