"""From a policy's text to an order: one JSON object, tolerant of names, strict about meaning."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

Verb = Literal["BUY", "SELL", "CLOSE", "HOLD"]

_VERBS: dict[str, Verb] = {
    "BUY": "BUY",
    "LONG": "BUY",
    "YES": "BUY",
    "BUY_SHARES": "BUY",
    "OPEN_PERP": "BUY",
    "OPEN_PERP_POSITION": "BUY",
    "BUY_PREDICTION_SHARES": "BUY",
    "SELL": "SELL",
    "SHORT": "SELL",
    "NO": "SELL",
    "SELL_SHARES": "SELL",
    "CLOSE": "CLOSE",
    "CLOSE_PERP": "CLOSE",
    "CLOSE_PERP_POSITION": "CLOSE",
    "SELL_PREDICTION_SHARES": "CLOSE",
    "HOLD": "HOLD",
    "WAIT": "HOLD",
}
_NEGATIVE_SIDES = {"SHORT", "SELL", "NO"}


@dataclass(frozen=True, slots=True)
class Order:
    """What an agent wants. ``ticker`` names a ticker or a question; BUY is long or YES, SELL is short or NO; ``size``
    in units of the market's ``unit_usd``."""

    verb: Verb
    ticker: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Invalid:
    """Text that is no order, and why. It is a failed action, never an exception."""

    reason: str


def parse_action(text: str, *, max_size: int) -> Order | Invalid:
    """Reads ``{"ticker": "NOVA", "action": "BUY", "size": 2}``; sizes are whole, 1 to ``max_size``."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return Invalid("not JSON")
    if not isinstance(value, dict):
        return Invalid(f"expected a JSON object, got {type(value).__name__}")
    name = value.get("action", value.get("actionType", value.get("action_type")))
    verb = _VERBS.get(name.upper()) if isinstance(name, str) else None
    if verb is None:
        return Invalid(f"unknown action {str(name)[:40]!r}")
    if verb == "HOLD":
        return Order("HOLD")
    side = value.get("side")
    if verb == "BUY" and isinstance(side, str) and side.upper() in _NEGATIVE_SIDES:
        verb = "SELL"
    ticker = value.get("ticker", value.get("marketId"))
    if not isinstance(ticker, str) or not ticker:
        return Invalid("no ticker")
    if verb == "CLOSE":
        return Order("CLOSE", ticker)
    size = value.get("size")
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= max_size:
        return Invalid(f"size must be a whole number from 1 to {max_size}, got {str(size)[:20]!r}")
    return Order(verb, ticker, size)
