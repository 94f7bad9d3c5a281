"""Strategies of dropout: each gives every trajectory a number, and those at or above the rate stay.

The numbers do not depend on the rate, so a larger rate only removes more, whatever the strategy.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmo_rl.errors import ConfigError
from mmo_rl.sampler.base import Dropout
from mmo_rl.sampler.dropout.random import random
from mmo_rl.sampler.dropout.spread import spread
from mmo_rl.sampler.dropout.stratified import stratified

STRATEGIES: Mapping[str, Dropout] = {"random": random, "stratified": stratified, "spread": spread}


def shipped_rule(name: str) -> Dropout:
    """Returns the shipped rule of this name. Raises `ConfigError` where there is none."""
    if name not in STRATEGIES:
        raise ConfigError(f"sampler.dropout: found {name!r}, expected one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
