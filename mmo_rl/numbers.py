"""Readers of finite numbers in JSON and text; anything else is None, never 0."""

from __future__ import annotations

import math
import re
from decimal import Decimal

_NUMERIC = (int, float, Decimal)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def finite_number(value: object) -> float | None:
    """Returns ``value`` where it is a finite number: no text, no truth value, no NaN."""
    if isinstance(value, bool) or not isinstance(value, _NUMERIC):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def parse_number(value: object) -> float | None:
    """Returns a finite number, also from its text or a percentage: ``"-12.5"``, ``"1e3"``, ``"70.0%"`` (0.7)."""
    if not isinstance(value, str):
        return finite_number(value)
    text, scale = value.strip(), 1.0
    if text.endswith("%"):
        text, scale = text[:-1].rstrip(), 0.01
    return finite_number(float(text) * scale) if _NUMBER.fullmatch(text) else None
