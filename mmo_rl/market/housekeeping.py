"""How a scripted agent keeps its book in a market that never ends.

A strategy only says what it would like to do now. In the first window of a life that is all there is to it. Later it
also owns what it bought in earlier windows: the hidden events that spoke for it are over, and the margin is missing for
new orders. So it closes a position from an earlier window where it wants the opposite, where it is short of cash, and
where it has nothing better to do; and it orders no more than it can pay.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from mmo_rl.market.view import Observation

Strategy = Callable[[Observation, random.Random], str]


def with_housekeeping(strategy: Strategy) -> Strategy:
    """The same strategy, which answers unchanged in the first window and keeps its book in all later ones."""

    def keeping(observation: Observation, rng: random.Random) -> str:
        text = strategy(observation, rng)
        return text if observation.window == 0 else _kept(observation, text)

    return keeping


def _kept(observation: Observation, text: str) -> str:
    try:
        wish = json.loads(text)
    except ValueError:
        return text
    if wish["action"] not in ("BUY", "SELL"):
        return _close(observation.old[0]) if wish["action"] == "HOLD" and observation.old else text
    held = observation.positions.get(wish["ticker"], 0)
    if wish["ticker"] in observation.old and held * (1 if wish["action"] == "BUY" else -1) < 0:
        return _close(wish["ticker"])
    size = min(wish["size"], observation.affordable(wish["ticker"]))
    if size < wish["size"] and (owned := observation.old or tuple(observation.positions)):
        return _close(owned[0])
    if size == wish["size"]:
        return text
    wish |= {"size": size} if size else {"ticker": "", "action": "HOLD", "size": 0}
    return json.dumps(wish, separators=(",", ":"))


def _close(name: str) -> str:
    return json.dumps({"ticker": name, "action": "CLOSE"}, separators=(",", ":"))
