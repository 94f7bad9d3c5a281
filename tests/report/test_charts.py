"""Charts as they stand in a page: what is drawn where, what the ticks say, and that text stays text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from mmo_rl.report.charts.curves import Point, Series, curves, panels, points_of
from mmo_rl.report.charts.dot_plot import Dot, dot_plot
from mmo_rl.report.charts.parallel import Column, parallel, positions
from mmo_rl.report.charts.scatter import Spot, scatter
from mmo_rl.report.numbers import Unit, short

SVG = "{http://www.w3.org/2000/svg}"


def line(*values: float | None, name: str = "", colour: str = "var(--a1)", half: float | None = None) -> Series:
    """A series with a band of ``half`` around its values."""
    bands = [(None, None) if half is None or v is None else (v - half, v + half) for v in values]
    return Series(
        name, colour, tuple(Point(i, v, *band) for i, (v, band) in enumerate(zip(values, bands, strict=True)))
    )


def marks(svg: str, kind: str) -> list[ET.Element]:
    """The shapes of one kind of mark: line, area, symbol, rect."""
    root = ET.fromstring(svg)
    groups = [g for g in root.iter(f"{SVG}g") if f"mark-{kind} role-mark" in g.attrib.get("class", "")]
    return [path for group in groups for path in group]


def hits(svg: str) -> list[ET.Element]:
    """The titles of the columns that can be pointed at."""
    return [title for column in marks(svg, "rect") for title in column.iter(f"{SVG}title")]


def ticks(svg: str, *, axis: int) -> list[str]:
    """The labels of the x axis (0) or the y axis (1)."""
    root = ET.fromstring(svg)
    found = [g for g in root.iter(f"{SVG}g") if "role-axis-label" in g.attrib.get("class", "")]
    return [text.text or "" for text in found[axis] if text.attrib.get("opacity") != "0"]


def places(svg: str) -> list[tuple[float, float]]:
    """The pixels of the dots."""
    found = [re.findall(r"-?[\d.]+", dot.attrib["transform"]) for dot in marks(svg, "symbol")]
    return [(float(x), float(y)) for x, y in found]


def test_a_curve_breaks_where_a_value_is_missing() -> None:
    rows = [{"iteration": i, "x": v} for i, v in enumerate([1.0, 2.0, None, 3.0, float("nan"), 4.0, 5.0])]
    points = points_of(rows, "x")
    assert [p.value is None for p in points] == [False, False, True, False, True, False, False]
    svg = curves([Series("", "var(--a1)", points)], unit="", label="x")
    assert len(marks(svg, "line")) == 2
    assert len(marks(svg, "symbol")) == 5


def test_a_curve_draws_its_values_to_scale() -> None:
    (x0, low), (x1, middle), (x2, high) = places(curves([line(0.0, 5.0, 10.0)], unit="", label="x"))
    assert high < middle < low
    assert middle == pytest.approx((high + low) / 2, abs=0.1)
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)


def test_the_axis_reaches_as_far_as_the_bands() -> None:
    svg = curves([line(100.0, 120.0, 140.0, half=60.0), line(110.0, 110.0, 110.0)], unit="usd", label="P&L")
    (band,) = marks(svg, "area")
    heights = [float(y) for y in re.findall(r"[ML]-?[\d.]+,(-?[\d.]+)", band.attrib["d"])]
    assert min(heights) >= 0 and max(heights) <= 170, "inside the plot, which is 170 pixels high"
    assert len(set(heights)) == 6, "and nowhere flat"


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ((247.9, 248.2), "usd", ["$247.9", "$248.0", "$248.1", "$248.2"]),
        ((0.0, 1000.0), "", ["0", "200", "400", "600", "800", "1,000"]),
        ((12_000.0, 15_000.0), "", ["12k", "13k", "14k", "15k"]),
        ((0.97, 1.0), "share", ["97%", "98%", "99%", "100%"]),
        ((-8.7, 169.6), "usd", ["−$50", "$0", "$50", "$100", "$150", "$200"]),
        ((1e-5, 4e-5), "", ["0.00001", "0.00002", "0.00003", "0.00004"]),
    ],
)
def test_ticks_are_round_and_differ(values: tuple[float, float], unit: Unit, expected: list[str]) -> None:
    assert ticks(curves([line(*values)], unit=unit, label="x"), axis=1) == expected


def test_values_that_do_not_change_have_an_axis_with_a_span() -> None:
    flat = ticks(curves([line(1.0, 1.0)], unit="share", label="x"), axis=1)
    assert flat[-1] == "100%" and len(set(flat)) == len(flat) > 1, "a share without spread stays in its range"
    assert len(ticks(curves([line(0.0)], unit="", label="x"), axis=1)) > 1


def test_iterations_are_whole_numbers() -> None:
    assert ticks(curves([line(1.0, 2.0, 3.0)], unit="", label="x"), axis=0) == ["0", "1", "2"]
    assert ticks(curves([line(1.0)], unit="", label="x"), axis=0) == ["0"]
    assert len(ticks(curves([line(*map(float, range(100)))], unit="", label="x"), axis=0)) <= 8


def test_one_curve_tells_its_values_anywhere_and_several_at_their_dots() -> None:
    alone = curves([line(1.0, 2.0, half=0.5)], unit="usd", label="x")
    assert [title.text for title in hits(alone)] == [
        "$1 ($0.5 to $1.5)\niteration 0",
        "$2 ($1.5 to $2.5)\niteration 1",
    ]
    two = curves([line(1.0, 2.0, name="a"), line(2.0, 3.0, name="b")], unit="", label="x")
    assert not hits(two)
    assert [dot[0].text for dot in marks(two, "symbol")][:2] == ["1\na, iteration 0", "2\na, iteration 1"]


def test_text_stays_text() -> None:
    name = "</svg><script>throw 1</script>"
    for svg in (
        curves([line(1.0, 2.0, name=name)], unit="", label=name),
        scatter([Spot(x=1, y=2, text=name, colour="red")], label=name, x_title=name, y_unit=""),
        parallel([Column(name, (0.0, 1.0), ((0.0, name),))] * 2, shades=[0, 1], texts=[name] * 2, label=name),
    ):
        root = ET.fromstring(svg)
        assert root.attrib["aria-label"] == name and root.attrib["role"] == "img"
        assert f"{SVG}script" not in {element.tag for element in root.iter()}


def test_a_panel_has_one_series_in_colour_and_the_rest_is_in_the_markup_once() -> None:
    several = [line(1.0 * n, 2.0 * n, name=f"s{n}", colour=f"var(--a{n})", half=0.1) for n in range(5)]
    drawn = panels(several, unit="", label="a/b", count=4)
    assert len(drawn) == 4
    for number, svg in enumerate(drawn):
        assert set(re.findall(r"var\(--a\d\)", svg)) == {f"var(--a{number})"}
        assert svg.count("<title>") == 2
    assert 'id="faint-a-b"' in drawn[0] and drawn[0].count("var(--lo)") == 5
    assert all('href="#faint-a-b"' in svg and "var(--lo)" not in svg for svg in drawn[1:])


def test_an_interval_that_goes_on_is_cut_and_has_an_arrow() -> None:
    few = [
        Dot(
            label="a", value=10.0, low=-500.0, high=11.0, text="10", colour="red", parts=((9.0, "seed 0"), (11.0, "x"))
        ),
        Dot(label="b", value=12.0, low=11.0, high=13.0, text="12", colour="red"),
    ]
    html = dot_plot(few, unit="usd", label="dots", wide=800.0)
    wide, narrow = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    for svg in (wide, narrow):
        # An arrow, two seeds, two means.
        assert len(marks(svg, "symbol")) == 5
        assert min(float(t.replace("−", "-").replace("$", "")) for t in ticks(svg, axis=0)) >= 4
    assert "var(--oracle)" not in html
    assert "var(--oracle)" in dot_plot(few, unit="usd", label="dots", wide=800.0, reference=12.5)


def test_far_spread_values_lie_on_a_logarithmic_axis() -> None:
    spots = [Spot(x=10.0**-n, y=float(n), text="", colour="red") for n in (3, 4, 5)]
    svg = scatter(spots, label="x", x_title="rate", y_unit="", ticks=[s.x for s in spots])
    assert "rate (log scale)" in svg
    first, second, third = (x for x, _ in places(svg))
    assert first - second == pytest.approx(second - third, abs=0.1)
    assert ticks(svg, axis=0) == ["0.001", "0.0001", "0.00001"] or ticks(svg, axis=0) == ["0.00001", "0.0001", "0.001"]
    near = [Spot(x=x, y=1.0, text="", colour="red") for x in (0.0, 0.3, 0.7)]
    assert "log scale" not in scatter(near, label="x", x_title="rate", y_unit="")
    assert positions([1e-5, 1e-4, 1e-3])[0] == pytest.approx([0.0, 0.5, 1.0])
    assert positions([0.0, 0.3, 1.0]) == ([0.0, 0.3, 1.0], [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (12345.0, "", "12,345"),
        (-0.5, "usd", "\u2212$0.5"),
        (0.123, "share", "12.3%"),
        (2e-5, "", "2.0e-05"),
        (0, "", "0"),
    ],
)
def test_numbers_on_charts_are_short(value: float, unit: Unit, text: str) -> None:
    assert short(value, unit) == text
