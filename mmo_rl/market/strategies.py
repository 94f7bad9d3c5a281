"""Scripted strategies: the game's five test agents, yardsticks, and the flawed ones that a base model learns from.

Each is a `mmo_rl.market.base.Strategy`: it reads an `Observation` and answers with the text of an action.
"""

from __future__ import annotations

import difflib
import inspect
import json
import random
from collections.abc import Mapping
from typing import NamedTuple

from mmo_rl.errors import ConfigError
from mmo_rl.market.base import Script, Scripted, Strategy, Yardstick
from mmo_rl.market.housekeeping import with_housekeeping
from mmo_rl.market.names import RELIABLE_SOURCES, RUMOUR_SOURCES
from mmo_rl.market.view import NewsItem, Observation

HOLD = '{"ticker":"","action":"HOLD","size":0}'


def order(ticker: str, direction: int, size: int) -> str:
    """Writes the JSON of an order; ``direction`` +1 buys, -1 sells."""
    return json.dumps(
        {"ticker": ticker, "action": "BUY" if direction > 0 else "SELL", "size": size}, separators=(",", ":")
    )


def _from(observation: Observation, sources: tuple[str, ...]) -> NewsItem | None:
    return next((item for item in observation.news if item.source in sources), None)


def _follow(item: NewsItem | None, size: int) -> str:
    return HOLD if item is None else order(item.ticker, item.direction, size)


def within_means(observation: Observation, ticker: str, direction: int, size: int) -> str:
    """Writes an order as large as the cash pays for; HOLD where it pays for none of it."""
    paid = min(size, observation.affordable(ticker))
    return order(ticker, direction, paid) if paid else HOLD


class Profile(NamedTuple):
    """Profile of an original test agent of the game: ``risk`` in [0, 1], ``actions`` of 15 in a window, ``size`` of an
    order in units."""

    risk: float
    actions: int
    size: int

    def acts(self, rng: random.Random) -> bool:
        """Draws whether the agent acts at this tick."""
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
    """Places a small order on a reliable dispatch at a third of the ticks."""
    own = PROFILES["conservative"]
    return _follow(_from(observation, RELIABLE_SOURCES), own.size) if own.acts(rng) else HOLD


def balanced(observation: Observation, rng: random.Random) -> str:
    """Places medium orders on news, three in four on dispatches and the rest on rumours."""
    own = PROFILES["balanced"]
    if not own.acts(rng):
        return HOLD
    sources = RELIABLE_SOURCES if rng.random() < 0.75 else RUMOUR_SOURCES
    return _follow(_from(observation, sources), own.size)


def aggressive(observation: Observation, rng: random.Random) -> str:
    """Places the largest order at every tick, on the first line of the news."""
    return _follow(observation.news[0] if observation.news else None, PROFILES["aggressive"].size)


def momentum(observation: Observation, rng: random.Random) -> str:
    """Follows the largest move since the window began: buys a riser, sells a faller."""
    own = PROFILES["momentum"]
    if not own.acts(rng):
        return HOLD
    quote = max(observation.quotes, key=lambda q: abs(q.change_pct))
    return order(quote.ticker, 1 if quote.change_pct >= 0 else -1, own.size)


def contrarian(observation: Observation, rng: random.Random) -> str:
    """Bets against the largest move since the window began."""
    own = PROFILES["contrarian"]
    if not own.acts(rng):
        return HOLD
    quote = max(observation.quotes, key=lambda q: abs(q.change_pct))
    return order(quote.ticker, -1 if quote.change_pct >= 0 else 1, own.size)


def noop(observation: Observation, rng: random.Random) -> str:
    """Does nothing, which earns exactly 0."""
    return HOLD


def random_trader(observation: Observation, rng: random.Random) -> str:
    """Orders any instrument, side and size at random; loses the fees on average."""
    names = [q.ticker for q in observation.quotes] + [name for name, _ in observation.questions]
    return order(rng.choice(names), rng.choice((-1, 1)), rng.randint(1, 3))


def informed(observation: Observation, rng: random.Random) -> str:
    """Follows every reliable dispatch with the largest order that it can afford: good play, within a policy's reach."""
    item = _from(observation, RELIABLE_SOURCES)
    return HOLD if item is None else within_means(observation, item.ticker, item.direction, 3)


def gullible(observation: Observation, rng: random.Random) -> str:
    """Follows every rumour, and posts of others before rumours."""
    size, tip, rumour = rng.choice((2, 3)), _tip(observation), _from(observation, RUMOUR_SOURCES)
    if tip is not None:
        return within_means(observation, *tip, size)
    return HOLD if rumour is None else within_means(observation, rumour.ticker, rumour.direction, size)


def _tip(observation: Observation) -> tuple[str, int] | None:
    """Reads the newest post that asks for an order such as "buy NOVA"."""
    for post in reversed(observation.posts):
        verb, _, name = post.text.partition(" ")
        if verb in ("buy", "sell") and any(quote.ticker == name for quote in observation.quotes):
            return name, 1 if verb == "buy" else -1
    return None


def promoter(observation: Observation, rng: random.Random) -> str:
    """Pumps and dumps: buys a ticker that rumours praise, posts that others should buy it, sells when the window is
    half over, and goes on praising it. In markets without posts it only trades."""
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
    """Follows dispatches, but every other answer is one of the mistakes that language models make."""
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


def _kept(name: str, strategy: Strategy) -> Script:
    keeping = with_housekeeping(strategy)
    return Script(name, lambda: keeping)


SCRIPTS: Mapping[str, Script] = {
    name: _kept(name, strategy)
    for name, strategy in (
        ("conservative", conservative),
        ("balanced", balanced),
        ("aggressive", aggressive),
        ("momentum", momentum),
        ("contrarian", contrarian),
        ("noop", noop),
        ("random", random_trader),
        ("informed", informed),
        ("gullible", gullible),
        ("promoter", promoter),
        ("clumsy", clumsy),
    )
}
"""Shipped scripts by name; each closes its old positions in a market that goes on."""

YARDSTICKS: Mapping[str, Yardstick] = {
    "oracle": Yardstick("oracle"),
    "contrarian-oracle": Yardstick("contrarian-oracle", contrary=True),
}
"""Players that know the future, by name."""

SHIPPED: Mapping[str, Scripted] = {**SCRIPTS, **YARDSTICKS}
"""All players that have a name without an import."""


def shipped(name: str) -> Scripted:
    """Returns the shipped player of a name. Raises `ConfigError` with the nearest name where there is none."""
    if name in SHIPPED:
        return SHIPPED[name]
    near = difflib.get_close_matches(name, SHIPPED, n=1)
    raise ConfigError(
        f"unknown strategy {name!r}", hint=f"did you mean {near[0]}?" if near else f"one of {', '.join(SHIPPED)}"
    )


def script(found: object, *, name: str) -> Script:
    """Makes a script of a strategy of one's own: a function of (observation, rng), a class, or a `Script`.

    Each seat of each market gets an object of the class. Raises `ConfigError` where ``found`` is none of these.
    """
    if isinstance(found, Script):
        return found
    try:
        if isinstance(found, type):
            inspect.signature(found).bind()
            inspect.signature(found.__call__).bind("self", "observation", "rng")
            return Script(name, found)
        if callable(found):
            inspect.signature(found).bind("observation", "rng")
            strategy: Strategy = found
            return Script(name, lambda: strategy)
    except (TypeError, ValueError) as error:
        problem = str(error)
    else:
        problem = f"it is of type {type(found).__name__}"
    raise ConfigError(
        f"strategy {name!r} cannot play: {problem}",
        hint="expected a function of (observation, rng) that returns the text of an action, or a class whose objects "
        "are called so and which is made without arguments (mmo_rl.market.base.Strategy)",
    )
