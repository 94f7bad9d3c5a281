"""Quotes of tickers and questions in what agents saw: providers' data, environment states and observations.

Quotes stand there in any nesting: ``{"ticker": "X", "price": 1.5}``, lists of such objects, ``{"tickers": {"X":
{"price": 1.5}}}``, ``{"marketPrices": {"X": 1.5}}``, ``{"questions": {"q": {"yesPrice": 0.4}}}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from mmo_rl.numbers import parse_number
from mmo_rl.types import Step

TICKERS = ("ticker", "symbol", "stockTicker")
PRICES = ("price", "currentPrice", "lastPrice", "markPrice")
QUESTIONS = ("marketId", "predictionMarketId", "questionId", "id")
YES_PRICES = ("yesPrice", "yesProbability", "probability", "finalProbability")
TICKER_TABLES = {"tickers", "prices", "stocks", "perps", "marketPrices"}
NOT_QUOTES = {"orders", "openOrders", "positions", "openPositions", "history", "priceHistory", "trades", "recentTrades"}
MAX_DEPTH = 8


def seen_objects(step: Step) -> Iterator[Mapping[str, object]]:
    """Yields the objects that may be a quote in all that a step's agent saw."""
    for access in step.provider_accesses:
        yield from objects(access.get("data"))
    yield from objects(step.environment_state)
    yield from objects(step.observation)


def seen_price(step: Step, instrument: str) -> float | None:
    """Returns the price of an instrument that the agent saw in a step, of a question that of YES; None of none."""
    for found in seen_objects(step):
        if text(found, TICKERS) == instrument and (price := number(found, PRICES)) is not None:
            return price
        if text(found, QUESTIONS) == instrument and (chance := number(found, YES_PRICES)) is not None:
            return chance
    return None


def objects(value: object, depth: int = 0) -> Iterator[Mapping[str, object]]:
    """Yields the objects in some data that may be a quote; tables by name become objects with their name."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, list | tuple):
        for item in value:
            yield from objects(item, depth + 1)
    elif isinstance(value, Mapping):
        yield value
        for key, inner in value.items():
            if key in NOT_QUOTES:
                continue
            if isinstance(inner, Mapping) and (key in TICKER_TABLES or key == "questions"):
                named = "ticker" if key in TICKER_TABLES else "questionId"
                plain = "price" if key in TICKER_TABLES else "yesPrice"
                for name, item in inner.items():
                    yield {named: name, **item} if isinstance(item, Mapping) else {named: name, plain: item}
            elif isinstance(inner, list | tuple | Mapping):
                yield from objects(inner, depth + 1)


def text(values: Mapping[str, object], keys: Iterable[str]) -> str | None:
    """Returns the first name under the keys, also one that is a whole number."""
    for key in keys:
        value = values.get(key)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return None


def number(values: Mapping[str, object], keys: Iterable[str]) -> float | None:
    """Returns the first finite number under the keys; probabilities are written as percentages too."""
    return next((found for key in keys if (found := parse_number(values.get(key))) is not None), None)
