"""How good a policy is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from mmo_rl.market.base import Arena
from mmo_rl.policy.base import Policy
from mmo_rl.types import Measured, Parts

Decoding = Literal["sampled", "greedy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorParts(Parts):
    """Collaborators of an evaluator: the ``arena`` of the run's market, and the folder in which results of base models
    are kept (``measured``; None: nowhere)."""

    arena: Arena
    measured: Path | None = None


class Evaluator(Protocol):
    """Plays a policy on held-out markets that are the same for every policy it is asked about.

    ``oracle`` plays the same markets with knowledge of the future: the yardstick that P&L is quoted as a share of.
    """

    async def evaluate(
        self, policy: Policy, decoding: Decoding, *, on_tick: Callable[[int, int], None] | None = None
    ) -> Measured: ...

    async def oracle(self) -> Measured: ...
