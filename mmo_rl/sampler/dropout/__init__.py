"""Strategies of dropout: each gives every trajectory a number, and those at or above the rate stay.

The numbers do not depend on the rate, so a larger rate only removes more, whatever the strategy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from mmo_rl.sampler.base import Dropout
from mmo_rl.sampler.dropout.random import random
from mmo_rl.sampler.dropout.spread import spread
from mmo_rl.sampler.dropout.stratified import stratified

Strategy = Literal["random", "stratified", "spread"]
STRATEGIES: Mapping[Strategy, Dropout] = {"random": random, "stratified": stratified, "spread": spread}
