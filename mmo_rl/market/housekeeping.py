"""Housekeeping of scripted agents in a market that goes on from window to window.

A strategy answers with its wish for this tick. In later windows of a market's life it also holds positions of earlier
ones: the hidden events that were the reason for them are over, and their margin is missing for new orders. So a
position from an earlier window is closed where the strategy wants the opposite, where its cash does not pay for a new
order, and where it holds; and an order is never larger than the cash pays for.
"""

from __future__ import annotations

import json
import random

from mmo_rl.market.base import Strategy
from mmo_rl.market.view import Observation


def with_housekeeping(strategy: Strategy) -> Strategy:
    """Wraps a strategy: its answers stay unchanged in the first window, and old positions are closed in later ones."""

    def keeping(observation: Observation, rng: random.Random) -> str:
        text = strategy(observation, rng)
        return text if observation.window == 0 else _kept(observation, text)

    return keeping


def _kept(observation: Observation, text: str) -> str:
    try:
        wish = json.loads(text)
    except ValueError:
        return text
    if not isinstance(wish, dict):
        return text
    action, ticker, wanted = wish.get("action"), wish.get("ticker"), wish.get("size")
    if action == "HOLD" and observation.old:
        return _close(observation.old[0])
    if action not in ("BUY", "SELL") or not isinstance(ticker, str) or not isinstance(wanted, int):
        return text
    held = observation.positions.get(ticker, 0)
    if ticker in observation.old and held * (1 if action == "BUY" else -1) < 0:
        return _close(ticker)
    size = min(wanted, observation.affordable(ticker))
    if size < wanted and (owned := observation.old or tuple(observation.positions)):
        return _close(owned[0])
    if size == wanted:
        return text
    wish |= {"size": size} if size else {"ticker": "", "action": "HOLD", "size": 0}
    return json.dumps(wish, separators=(",", ":"))


def _close(name: str) -> str:
    return json.dumps({"ticker": name, "action": "CLOSE"}, separators=(",", ":"))
