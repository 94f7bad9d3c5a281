"""How good a policy is."""

from __future__ import annotations

from typing import Literal, Protocol

from mmo_rl.policy.base import Policy
from mmo_rl.types import Measured

Decoding = Literal["sampled", "greedy"]


class Evaluator(Protocol):
    """Plays a policy on held-out markets that are the same for every policy it is asked about."""

    async def evaluate(self, policy: Policy, decoding: Decoding) -> Measured: ...
