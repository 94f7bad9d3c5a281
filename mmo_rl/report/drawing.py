"""Altair charts as static SVG for a page: no script, no network, the page's own colours in light and dark.

Colours are the page's CSS variables, which a browser resolves (``var(--a1)``). The description of a mark becomes its
``<title>``, which browsers show on hover. A description (`described`) may hold the number of its series: `by_series`
takes one drawing of all series apart by it, which costs one rendering instead of one a series.
"""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from mmo_rl.plain_text import harmless

if TYPE_CHECKING:
    import altair as alt

SVG = "http://www.w3.org/2000/svg"
SERIES_END = "\u2063"
"""An invisible separator, which marks our own descriptions; Vega writes some of its own accord."""
INK, SOFT, RULE, CARD = "var(--ink)", "var(--soft)", "var(--rule)", "var(--card)"
_DROPPED = ("role", "aria-roledescription", "aria-hidden", "aria-label", "pointer-events", "stroke-miterlimit")


@dataclass(frozen=True, slots=True)
class Frame:
    """Pixels of a drawing, ``padding`` (left, right, top, bottom) of them for axes. It shrinks with the page, unless it
    ``scrolls``."""

    width: float
    height: float
    padding: tuple[float, float, float, float]
    scrolls: bool = False


Rows = Sequence[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart that is compiled once and drawn with many data sets, whose names its layers' `data` bear.

    Compiling takes as long as drawing, so charts that differ in their numbers alone share one of these.
    """

    vega: Mapping[str, object]
    frame: Frame

    @classmethod
    def compiled(cls, chart: alt.LayerChart | alt.FacetChart, frame: Frame) -> Drawing:
        import vl_convert

        left, right, top, bottom = frame.padding
        spec = chart.to_dict(validate=False) | {
            "width": frame.width - left - right,
            "height": frame.height - top - bottom,
            "padding": {"left": left, "right": right, "top": top, "bottom": bottom},
            "autosize": {"type": "none"},
            "background": None,
            "config": _CONFIG,
        }
        return cls(vl_convert.vegalite_to_vega(spec), frame)

    def svg(self, data: Mapping[str, Rows], *, label: str) -> str:
        """Draws ``data``, by name, as SVG with the accessible name ``label``."""
        return text_of(self.tree(data, label=label))

    def tree(self, data: Mapping[str, Rows], *, label: str) -> ET.Element:
        """Draws like `svg`, as an element tree."""
        import vl_convert

        sources = cast("list[dict[str, object]]", self.vega["data"])
        filled = [
            source | {"values": _drawable(data[str(source["name"])])} if source["name"] in data else source
            for source in sources
        ]
        root = ET.fromstring(vl_convert.vega_to_svg({**self.vega, "data": filled}))
        for element in list(root.iter()):
            _plain(element)
        least = f"min-width: {self.frame.width:.0f}px; " if self.frame.scrolls else ""
        root.attrib = {
            "viewBox": f"0 0 {self.frame.width:.0f} {self.frame.height:.0f}",
            "style": f"{least}max-width: {1.25 * self.frame.width:.0f}px",
            "role": "img",
            "aria-label": label,
        }
        return root


def _drawable(rows: Rows) -> list[dict[str, object]]:
    """Rows without the characters that no SVG can hold: controls and halves of surrogate pairs."""
    return [{key: harmless(v) if isinstance(v, str) else v for key, v in row.items()} for row in rows]


def text_of(root: ET.Element) -> str:
    """Serializes a drawing for a page of HTML, text escaped."""
    ET.register_namespace("", SVG)
    return ET.tostring(root, encoding="unicode")


def by_series(root: ET.Element, count: int, *, shared: str) -> list[str]:
    """Splits a drawing into one a series, each with the marks that belong to no series behind it.

    The markup of the latter is in the first drawing alone, under the id ``shared``; the others refer to it.
    """
    shapes: list[list[ET.Element]] = [[] for _ in range(count)]
    for parent in list(root.iter()):
        for child in list(parent):
            number = child.attrib.pop("data-series", None)
            if number is not None:
                parent.remove(child)
                shapes[int(number)].append(child)
    frame = ET.Element(f"{{{SVG}}}g", {"id": shared})
    frame.extend(list(root))
    # Marks of a series lie in groups that are moved by the padding, like the frame's own.
    moved = next((g.attrib["transform"] for g in frame if "transform" in g.attrib), "translate(0,0)")
    drawn = []
    for place, own in enumerate(shapes):
        panel = ET.Element(root.tag, root.attrib)
        panel.append(frame if place == 0 else ET.Element(f"{{{SVG}}}use", {"href": f"#{shared}"}))
        group = ET.SubElement(panel, f"{{{SVG}}}g", {"transform": moved, "fill": "none"})
        group.extend(copy.deepcopy(own))
        drawn.append(text_of(panel))
    return drawn


def _plain(element: ET.Element) -> None:
    """Drops empty shapes and the accessible names of single marks; the drawing as a whole has one name."""
    for child in list(element):
        if child.attrib.get("class") in ("background", "foreground"):
            element.remove(child)
    series, is_ours, text = element.attrib.get("aria-label", "").rpartition(SERIES_END)
    for name in _DROPPED:
        element.attrib.pop(name, None)
    if is_ours and series:
        element.set("data-series", series)
    if is_ours and text:
        ET.SubElement(element, f"{{{SVG}}}title").text = text


def described(text: str, *, series: int | None = None) -> str:
    """The description of a mark: its title, which may be empty, and the series that it belongs to."""
    return f"{'' if series is None else series}{SERIES_END}{text}"


def data(name: str) -> alt.NamedData:
    """The data of a layer, which `Drawing.svg` is given under this name."""
    import altair as alt

    return alt.NamedData(name)


_CONFIG: Mapping[str, object] = {
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        "domain": False,
        "ticks": False,
        "gridColor": RULE,
        "labelColor": SOFT,
        "titleColor": SOFT,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelPadding": 6,
        "titlePadding": 6,
        "labelOverlap": False,
        "labelFlush": False,
    },
    "text": {"fontSize": 12, "fill": INK},
    "rule": {"color": SOFT},
}
