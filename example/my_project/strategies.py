"""A scripted strategy: ``collect.strategies=[policy,my_project.strategies.Careful,balanced]``."""

from __future__ import annotations

import random

from mmo_rl.market.strategies import HOLD, order
from mmo_rl.market.view import Observation


class Careful:
    """Follows the second dispatch on a ticker, never the first. Each seat has an object of its own, so it remembers."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, observation: Observation, rng: random.Random) -> str:
        for item in observation.news:
            if item.ticker in self._seen:
                return order(item.ticker, item.direction, min(1, observation.affordable(item.ticker)))
            self._seen.add(item.ticker)
        return HOLD
