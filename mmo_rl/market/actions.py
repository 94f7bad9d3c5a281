"""Orders: parsed from policies' answers (JSON, tolerant of names, strict about meaning) and named for recordings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mmo_rl.vocabulary import ANSWERED, turned

Verb = Literal["BUY", "SELL", "CLOSE", "HOLD", "POST"]

_MAX_POST = 140
_FIELDS = ANSWERED.fields
_ACTION = ("action", "actionType", "action_type")
_TEXT = ("text", "content", "message")


@dataclass(frozen=True, slots=True)
class Order:
    """Order of an agent. ``ticker`` names a ticker or a question; BUY is long or YES, SELL is short or NO; ``size``
    in units of the market's ``unit_usd``; ``leverage`` None: the market's own; ``text`` is that of a POST."""

    verb: Verb
    ticker: str = ""
    size: int = 0
    leverage: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Invalid:
    """Answer that is no order, with the reason. It counts as a failed action and is never an exception."""

    reason: str


def parse_action(text: str, *, max_size: int, lenient: bool = False) -> Order | Invalid:
    """Parses ``{"ticker": "NOVA", "action": "BUY", "size": 2, "leverage": 5}``.

    Sizes are whole, 1 to ``max_size``; ``leverage`` is optional, 1 to 100. The contract's shape with ``actionType``,
    ``parameters``, ``marketId`` and ``side`` is read too, and ``shares`` or ``amount`` for ``size``. ``lenient`` takes
    the last JSON object of a longer answer, as models that think aloud give it.
    """
    value = _json(text)
    if value is _NOT_JSON and lenient:
        value = _last_object(text)
    if value is _NOT_JSON:
        return Invalid("not JSON")
    if not isinstance(value, dict):
        return Invalid(f"expected a JSON object, got {type(value).__name__}")
    if isinstance(value.get("parameters"), dict):
        value = {**value["parameters"], **value}
    name = _first(value, _ACTION)
    action = ANSWERED.find(name) if isinstance(name, str) else None
    if action is None:
        return Invalid(f"unknown action {shown(name, 40)!r}")
    if action.kind == "wait":
        return Order("HOLD")
    if action.kind == "post":
        return _post(value)
    ticker = _first(value, _FIELDS.instrument)
    if not isinstance(ticker, str) or not ticker:
        return Invalid("no ticker")
    if action.kind == "close":
        return Order("CLOSE", ticker)
    verb: Verb = "BUY" if turned(action.direction, _first(value, _FIELDS.side)) > 0 else "SELL"
    size = _first(value, _FIELDS.size)
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= max_size:
        return Invalid(f"size must be a whole number from 1 to {max_size}, got {shown(size, 20)!r}")
    leverage = value.get("leverage")
    if leverage is None:
        return Order(verb, ticker, size)
    if isinstance(leverage, bool) or not isinstance(leverage, int | float) or not 1 <= leverage <= 100:
        return Invalid(f"leverage must be a number from 1 to 100, got {shown(leverage, 20)!r}")
    return Order(verb, ticker, size, leverage=float(leverage))


def contract_action(order: Order | None, *, question: bool) -> tuple[str, dict[str, object]]:
    """Names an order as recordings do: action type and parameters; ``question`` tells that its ticker is a question.
    None, an answer that was no order, is INVALID."""
    if order is None:
        return "INVALID", {}
    if order.verb == "HOLD":
        return "HOLD", {}
    if order.verb == "POST":
        return "CREATE_POST", {"content": order.text}
    instrument: dict[str, object] = {"marketId" if question else "ticker": order.ticker}
    if order.verb == "CLOSE":
        return "SELL_PREDICTION_SHARES" if question else "CLOSE_PERP_POSITION", instrument
    long = order.verb == "BUY"
    if question:
        return "BUY_PREDICTION_SHARES", {**instrument, "side": "YES" if long else "NO", "size": order.size}
    leverage = {} if order.leverage is None else {"leverage": order.leverage}
    return "OPEN_PERP_POSITION", {**instrument, "side": "long" if long else "short", "size": order.size, **leverage}


def shown(value: object, length: int) -> str:
    """Cuts an agent's text to one line of a message, with nothing unprintable in it."""
    try:
        text = str(value)
    except RecursionError:
        text = type(value).__name__
    return "".join(c if c.isprintable() else "?" for c in text[:length])


_NOT_JSON = object()


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _last_object(text: str) -> object:
    """Finds the last JSON object with at most one level of objects (``parameters``) inside it."""
    found = [
        value for match in re.findall(r"\{(?:[^{}]|\{[^{}]*\})*\}", text) if isinstance(value := _json(match), dict)
    ]
    return found[-1] if found else _NOT_JSON


def _first(value: Mapping[str, object], names: tuple[str, ...]) -> object:
    for name in names:
        if name in value:
            return value[name]
    return None


def _post(value: Mapping[str, object]) -> Order | Invalid:
    text = _first(value, _TEXT)
    if not isinstance(text, str) or not text.strip():
        return Invalid("a post needs a text")
    printable = "".join(c if " " <= c <= "~" else " " for c in text[: 4 * _MAX_POST])
    return Order("POST", text=" ".join(printable.split())[:_MAX_POST])
