"""How good a policy is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from mmo_rl.policy.base import Policy
from mmo_rl.types import Measured

Decoding = Literal["sampled", "greedy"]


class Evaluator(Protocol):
    """Plays a policy on held-out markets that are the same for every policy it is asked about.

    ``oracle`` plays the same markets with knowledge of the future: the yardstick that P&L is quoted as a share of.
    """

    async def evaluate(
        self, policy: Policy, decoding: Decoding, *, on_tick: Callable[[int, int], None] | None = None
    ) -> Measured: ...

    async def oracle(self) -> Measured: ...
