"""Evaluator of one policy on held-out markets: the same for base and trained policy, never those of training."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field

from mmo_rl.evaluate.base import Decoding, EvaluatorParts, OnTick
from mmo_rl.evaluate.kept import KeptRollouts
from mmo_rl.market.base import Episode, Seat
from mmo_rl.milestones import reached
from mmo_rl.policy.base import Fingerprinted, Policy
from mmo_rl.rng import derive_seed
from mmo_rl.types import Measured, Rollout
from mmo_rl.vocabulary import SHIPPED


class MarketEvaluator:
    """Plays ``markets`` held-out markets with ``agents`` seats each, all taken by the policy.

    Market k of a seed is the same market for every policy, and so is the randomness of sampling. Results of
    base models on this machine are kept in the folder ``parts.measured`` (None: nowhere) and read from there when the
    very same is measured again.

    ``validation_markets`` further markets (`validation`) are for choosing among runs, as a search does, so that the
    best of many runs is not reported by the markets that it was chosen by.
    """

    def __init__(
        self,
        *,
        markets: Annotated[int, Field(ge=2)] = 128,
        agents: Annotated[int, Field(ge=1)] = 4,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        validation_markets: Annotated[int, Field(ge=0)] = 0,
        seed: int,
        parts: EvaluatorParts,
    ) -> None:
        self._agents = agents
        self._temperature = temperature
        self._seed = seed
        self._arena = parts.arena
        self._kept = None if parts.measured is None else KeptRollouts(folder=parts.measured)
        self._market_seeds = [derive_seed(seed, "held-out market", k) for k in range(markets)]
        self._validation_seeds = [derive_seed(seed, "validation market", k) for k in range(validation_markets)]

    def validation(self) -> Self | None:
        """Returns the evaluator on the validation markets; None where there are none."""
        if not self._validation_seeds:
            return None
        chosen = copy.copy(self)
        chosen._market_seeds, chosen._validation_seeds = self._validation_seeds, []
        return chosen

    async def evaluate(self, policy: Policy, decoding: Decoding, *, on_tick: OnTick | None = None) -> Measured:
        """Results of the policy, sampled at ``temperature`` or greedy."""
        seats: list[Seat] = [None] * self._agents
        temperature = self._temperature if decoding == "sampled" else 0.0
        seed = derive_seed(self._seed, "evaluate")
        fingerprint = None
        if self._kept is not None and policy.version == 0 and isinstance(policy, Fingerprinted):
            fingerprint = await asyncio.to_thread(policy.fingerprint)
        kept = self._kept if fingerprint is not None else None
        conditions = {
            "market_seeds": self._market_seeds,
            "seats": seats,
            "temperature": temperature,
            "seed": seed,
            "policy": fingerprint,
            "market": self._arena.rules(),
        }
        rollouts = None if kept is None else kept.read(conditions)
        if rollouts is None:
            episodes = await self._arena.play(
                policy,
                market_seeds=self._market_seeds,
                seats=seats,
                temperature=temperature,
                seed=seed,
                on_tick=on_tick,
            )
            rollouts = _rollouts(episodes)
            if kept is not None:
                kept.write(conditions, rollouts)
        reached("policy evaluated", decoding)
        return Measured(f"{policy.name}@{policy.version}", decoding, rollouts)

    def rollouts(self) -> int:
        return len(self._market_seeds) * self._agents

    async def oracle(self) -> Measured:
        """Results of an agent that knows the future."""
        episodes = await self._arena.play(
            None, market_seeds=self._market_seeds, seats=["oracle"] * self._agents, temperature=0.0, seed=self._seed
        )
        return Measured("oracle", "greedy", _rollouts(episodes))


def _rollouts(episodes: Sequence[Episode]) -> tuple[Rollout, ...]:
    return tuple(
        rollout(episode, market=market, agent=agent)
        for market, episode in enumerate(episodes)
        for agent in range(len(episode.steps))
    )


def rollout(episode: Episode, *, market: int, agent: int) -> Rollout:
    """Summarises one agent's play of an episode: P&L, actions, errors, trades, and the largest fall from a peak."""
    steps = episode.steps[agent]
    peak = drawdown = 0.0
    for pnl in (*(float(step.state["agentPnL"]) for step in steps), episode.pnl[agent]):
        peak = max(peak, pnl)
        drawdown = max(drawdown, peak - pnl)
    return Rollout(
        market=market,
        agent=agent,
        pnl=episode.pnl[agent],
        actions=len(steps),
        errors=sum(not step.success for step in steps),
        trades=sum(step.success and SHIPPED.kind(step.action_type) in ("open", "close") for step in steps),
        drawdown=drawdown,
    )
