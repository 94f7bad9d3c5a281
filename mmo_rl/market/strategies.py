"""Scripted agents: the game's five test strategies, yardsticks, and the flawed ones a base model learns from.

Each reads an `Observation` and answers with a text action, exactly as a language model would.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Literal

from mmo_rl.market.spec import RELIABLE_SOURCES, RUMOUR_SOURCES
from mmo_rl.market.world import NewsItem, Observation

Strategy = Callable[[Observation, random.Random], str]
StrategyName = Literal[
    "conservative",
    "balanced",
    "aggressive",
    "momentum",
    "contrarian",
    "noop",
    "random",
    "informed",
    "gullible",
    "clumsy",
    "oracle",
]

HOLD = '{"ticker":"","action":"HOLD","size":0}'


def order(ticker: str, direction: int, size: int) -> str:
    """The JSON of an order; ``direction`` +1 buys, -1 sells."""
    return json.dumps(
        {"ticker": ticker, "action": "BUY" if direction > 0 else "SELL", "size": size}, separators=(",", ":")
    )


def _from(observation: Observation, sources: tuple[str, ...]) -> NewsItem | None:
    return next((item for item in observation.news if item.source in sources), None)


def _follow(item: NewsItem | None, size: int) -> str:
    return HOLD if item is None else order(item.ticker, item.direction, size)


def _affordable(observation: Observation, size: int) -> int:
    """The size that the cash allows, with a hundredth set aside for fees."""
    return min(size, int(observation.cash_usd / (observation.unit_usd * 1.01)))


def conservative(observation: Observation, rng: random.Random) -> str:
    """Risk 0.2, about 5 of 15 actions: now and then a small order on a reliable dispatch."""
    return _follow(_from(observation, RELIABLE_SOURCES), 1) if rng.random() < 5 / 15 else HOLD


def balanced(observation: Observation, rng: random.Random) -> str:
    """Risk 0.5, about 10 of 15: medium orders, believes a dispatch rather than a rumour, not always."""
    if rng.random() >= 10 / 15:
        return HOLD
    sources = RELIABLE_SOURCES if rng.random() < 0.75 else RUMOUR_SOURCES
    return _follow(_from(observation, sources), 2)


def aggressive(observation: Observation, rng: random.Random) -> str:
    """Risk 0.8, every tick: the largest order on whatever news stands first."""
    return _follow(observation.news[0] if observation.news else None, 3)


def momentum(observation: Observation, rng: random.Random) -> str:
    """Risk 0.7, about 12 of 15: buys what rose most, sells what fell most since the window began."""
    if rng.random() >= 12 / 15:
        return HOLD
    quote = max(observation.quotes, key=lambda q: abs(q.change_pct))
    return order(quote.ticker, 1 if quote.change_pct >= 0 else -1, 2)


def contrarian(observation: Observation, rng: random.Random) -> str:
    """Risk 0.4, about 8 of 15: bets that the largest move comes back."""
    if rng.random() >= 8 / 15:
        return HOLD
    quote = max(observation.quotes, key=lambda q: abs(q.change_pct))
    return order(quote.ticker, -1 if quote.change_pct >= 0 else 1, 1)


def noop(observation: Observation, rng: random.Random) -> str:
    """Does nothing: earns exactly 0."""
    return HOLD


def random_trader(observation: Observation, rng: random.Random) -> str:
    """Any instrument, any side, any size: loses the fees on average."""
    names = [q.ticker for q in observation.quotes] + [name for name, _ in observation.questions]
    return order(rng.choice(names), rng.choice((-1, 1)), rng.randint(1, 3))


def informed(observation: Observation, rng: random.Random) -> str:
    """Follows every reliable dispatch with the largest order it can afford: the good play a policy can reach."""
    size = _affordable(observation, 3)
    return _follow(_from(observation, RELIABLE_SOURCES), size) if size else HOLD


def gullible(observation: Observation, rng: random.Random) -> str:
    """Follows every rumour."""
    size = _affordable(observation, rng.choice((2, 3)))
    return _follow(_from(observation, RUMOUR_SOURCES), size) if size else HOLD


def clumsy(observation: Observation, rng: random.Random) -> str:
    """Means well, but every other answer is one of the mistakes that language models make."""
    good = _follow(_from(observation, RELIABLE_SOURCES), rng.randint(1, 3))
    item = _from(observation, RELIABLE_SOURCES)
    if rng.random() < 0.5 or item is None:
        return good
    flaw = rng.randrange(4)
    if flaw == 0:
        return good[:-1]
    if flaw == 1:
        return order(item.ticker, item.direction, rng.choice((7, 9)))
    if flaw == 2:
        return order("CASH", item.direction, rng.randint(1, 3))
    return f"{'BUY' if item.direction > 0 else 'SELL'} {item.ticker}"


STRATEGIES: dict[str, Strategy] = {
    "conservative": conservative,
    "balanced": balanced,
    "aggressive": aggressive,
    "momentum": momentum,
    "contrarian": contrarian,
    "noop": noop,
    "random": random_trader,
    "informed": informed,
    "gullible": gullible,
    "clumsy": clumsy,
}
