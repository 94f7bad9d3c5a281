"""Numbers as text for people: dollars, shares of 1 as percent, significant digits."""

from __future__ import annotations

from typing import Literal, TypeGuard

Unit = Literal["usd", "share", "s", ""]
"""Game dollars, a share of 1, seconds, or none."""
MISSING = "–"
MINUS = "\u2212"


def is_number(value: object) -> TypeGuard[int | float]:
    """Tells numbers from all else, True and False included."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def amount(value: float | None, unit: Unit, *, signed: bool = False, bare: bool = False) -> str:
    """Game dollars (``$12.3``) or a share of 1 as percent (``57.1%``), ``bare`` without the unit's sign; a dash where
    there is nothing."""
    if value is None:
        return MISSING
    number = 100 * value if unit == "share" else value
    digits = 1 if unit == "share" or 10 <= abs(number) < 100 else 2 if abs(number) < 10 else 0
    text = f"{abs(number):,.{digits}f}"
    sign = "" if not float(text.replace(",", "")) else MINUS if number < 0 else "+" if signed else ""
    if bare:
        return sign + text
    return f"{sign}{text}%" if unit == "share" else f"{sign}${text}"


def short(value: float | None, unit: Unit) -> str:
    """A number beside a chart: dollars, percent, or three significant digits; a dash where there is nothing."""
    if value is None:
        return MISSING
    sign = MINUS if value < 0 else ""
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
