"""Scripted agents: the game's five test strategies, yardsticks, and the flawed ones a base model learns from.

Each reads an `Observation` and answers with a text action, exactly as a language model would.
"""

from __future__ import annotations

import json
import random
from typing import Literal, NamedTuple

from mmo_rl.market.housekeeping import Strategy, with_housekeeping
from mmo_rl.market.spec import RELIABLE_SOURCES, RUMOUR_SOURCES
from mmo_rl.market.world import NewsItem, Observation

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
    "promoter",
    "clumsy",
    "oracle",
    "contrarian-oracle",
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


def within_means(observation: Observation, ticker: str, direction: int, size: int) -> str:
    """The order, as large as the cash pays for; HOLD where it pays for none of it."""
    paid = min(size, observation.affordable(ticker))
    return order(ticker, direction, paid) if paid else HOLD


class Profile(NamedTuple):
    """How an original test agent of the game plays: ``risk`` in [0, 1], ``actions`` of 15 in a window, ``size`` of an
    order in units."""

    risk: float
    actions: int
    size: int

    def acts(self, rng: random.Random) -> bool:
        """Whether it does anything this tick."""
        return rng.random() < self.actions / 15


PROFILES: dict[str, Profile] = {
    "conservative": Profile(0.2, 5, 1),
    "balanced": Profile(0.5, 10, 2),
    "aggressive": Profile(0.8, 15, 3),
    "momentum": Profile(0.7, 12, 2),
    "contrarian": Profile(0.4, 8, 1),
}
"""The five test agents of the original game, whose risk and activity are the game's."""


def conservative(observation: Observation, rng: random.Random) -> str:
    """Now and then a small order on a reliable dispatch."""
    own = PROFILES["conservative"]
    return _follow(_from(observation, RELIABLE_SOURCES), own.size) if own.acts(rng) else HOLD


def balanced(observation: Observation, rng: random.Random) -> str:
    """Medium orders, believes a dispatch rather than a rumour, not always."""
    own = PROFILES["balanced"]
    if not own.acts(rng):
        return HOLD
    sources = RELIABLE_SOURCES if rng.random() < 0.75 else RUMOUR_SOURCES
    return _follow(_from(observation, sources), own.size)


def aggressive(observation: Observation, rng: random.Random) -> str:
    """Every tick the largest order on whatever news stands first."""
    return _follow(observation.news[0] if observation.news else None, PROFILES["aggressive"].size)


def momentum(observation: Observation, rng: random.Random) -> str:
    """Buys what rose most, sells what fell most since the window began."""
    own = PROFILES["momentum"]
    if not own.acts(rng):
        return HOLD
    quote = max(observation.quotes, key=lambda q: abs(q.change_pct))
    return order(quote.ticker, 1 if quote.change_pct >= 0 else -1, own.size)


def contrarian(observation: Observation, rng: random.Random) -> str:
    """Bets that the largest move comes back."""
    own = PROFILES["contrarian"]
    if not own.acts(rng):
        return HOLD
    quote = max(observation.quotes, key=lambda q: abs(q.change_pct))
    return order(quote.ticker, -1 if quote.change_pct >= 0 else 1, own.size)


def noop(observation: Observation, rng: random.Random) -> str:
    """Does nothing: earns exactly 0."""
    return HOLD


def random_trader(observation: Observation, rng: random.Random) -> str:
    """Any instrument, any side, any size: loses the fees on average."""
    names = [q.ticker for q in observation.quotes] + [name for name, _ in observation.questions]
    return order(rng.choice(names), rng.choice((-1, 1)), rng.randint(1, 3))


def informed(observation: Observation, rng: random.Random) -> str:
    """Follows every reliable dispatch with the largest order it can afford: the good play a policy can reach."""
    item = _from(observation, RELIABLE_SOURCES)
    return HOLD if item is None else within_means(observation, item.ticker, item.direction, 3)


def gullible(observation: Observation, rng: random.Random) -> str:
    """Follows every rumour, and what others post sooner than that."""
    size, tip, rumour = rng.choice((2, 3)), _tip(observation), _from(observation, RUMOUR_SOURCES)
    if tip is not None:
        return within_means(observation, *tip, size)
    return HOLD if rumour is None else within_means(observation, rumour.ticker, rumour.direction, size)


def _tip(observation: Observation) -> tuple[str, int] | None:
    """What the newest post asks for, if it is an order such as "buy NOVA"."""
    for post in reversed(observation.posts):
        verb, _, name = post.text.partition(" ")
        if verb in ("buy", "sell") and any(quote.ticker == name for quote in observation.quotes):
            return name, 1 if verb == "buy" else -1
    return None


def promoter(observation: Observation, rng: random.Random) -> str:
    """Buys what rumours praise, tells everybody to buy it too, and sells when the window is half over; it goes on
    praising what it has sold. Where nobody may post it only trades."""
    held = next((name for name, units in observation.positions.items() if units > 0), None)
    if observation.tick >= observation.ticks // 2:
        if held is not None:
            return json.dumps({"ticker": held, "action": "CLOSE"}, separators=(",", ":"))
        return _praise(observation, max(observation.quotes, key=lambda q: q.change_pct).ticker)
    if held is not None and observation.tick % 2:
        return _praise(observation, held)
    item = _from(observation, RUMOUR_SOURCES)
    listed = item is not None and any(quote.ticker == item.ticker for quote in observation.quotes)
    if item is None or not listed or item.direction < 0 or held not in (None, item.ticker):
        return HOLD
    return within_means(observation, item.ticker, 1, 3)


def _praise(observation: Observation, ticker: str) -> str:
    if not observation.may_post:
        return HOLD
    return json.dumps({"action": "POST", "text": f"buy {ticker}"}, separators=(",", ":"))


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


_PLAYED: dict[str, Strategy] = {
    "conservative": conservative,
    "balanced": balanced,
    "aggressive": aggressive,
    "momentum": momentum,
    "contrarian": contrarian,
    "noop": noop,
    "random": random_trader,
    "informed": informed,
    "gullible": gullible,
    "promoter": promoter,
    "clumsy": clumsy,
}
STRATEGIES = {name: with_housekeeping(strategy) for name, strategy in _PLAYED.items()}
"""By name, as they sit in markets: with their book in order where a market goes on."""
