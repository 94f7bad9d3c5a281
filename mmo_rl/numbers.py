"""Readers of finite numbers in JSON and text; anything else is None, never 0."""

from __future__ import annotations

import math
import re
from decimal import Decimal

LOWEST_LOGPROB = -50.0
"""Least log-probability that a sampled token can have: servers write -9999 or -inf where they do not know it."""
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


def is_logprob(value: float) -> bool:
    """Tells the log-probability of a sampled token from a server's placeholder: finite, `LOWEST_LOGPROB` or more, and
    above 0 by no more than rounding."""
    return math.isfinite(value) and LOWEST_LOGPROB <= value <= 0.01


def parse_number(value: object) -> float | None:
    """Returns a finite number, also from its text or a percentage: ``"-12.5"``, ``"1e3"``, ``"70.0%"`` (0.7)."""
    if not isinstance(value, str):
        return finite_number(value)
    text, scale = value.strip(), 1.0
    if text.endswith("%"):
        text, scale = text[:-1].rstrip(), 0.01
    return finite_number(float(text) * scale) if _NUMBER.fullmatch(text) else None
