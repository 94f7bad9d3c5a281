"""A/B comparison of two policies at the same tables, on the same held-out markets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from mmo_rl.evaluate.base import Contestant, Decoding, Look, OnTick
from mmo_rl.evaluate.market import rollout
from mmo_rl.market.base import Arena, Seat
from mmo_rl.rng import derive_seed
from mmo_rl.types import Rollout


class PairEvaluator:
    """Compares ``a`` and ``b`` (see `mmo_rl.config.players`) in ``markets`` held-out markets of every scenario.

    **Paired**: in each market A and B sit alternately at a table of ``agents`` and play it twice, the second time with
    their seats swapped. So both had every seat once, with the same future, news and randomness, and against the same
    rivals; a policy compared with itself gets a difference of exactly 0 (an endpoint that ignores the seed it is given
    does not). Not paired: each plays by itself, in markets of its own.

    The markets are played in ``looks`` equal parts. After each part the interval of the difference is computed, and the
    rest is left unplayed once it excludes 0; the intervals are wide enough for all looks together
    (`mmo_rl.stats.interval.level_of_looks`). ``scenarios`` names market configs; none is the run's own market.
    """

    def __init__(
        self,
        *,
        a: Annotated[str, Field(min_length=1)],
        b: Annotated[str, Field(min_length=1)],
        scenarios: tuple[str, ...] = (),
        markets: Annotated[int, Field(ge=2)] = 128,
        agents: Annotated[int, Field(ge=1, le=100)] = 4,
        temperature: Annotated[float, Field(ge=0)] = 1.0,
        paired: bool = True,
        looks: Annotated[int, Field(ge=1, le=10)] = 4,
        format: Literal["table", "json"] = "table",
        seed: int,
    ) -> None:
        self.a = a
        self.b = b
        self.scenarios = scenarios
        self.markets = markets
        self.agents = agents
        self.paired = paired
        self.looks = looks
        self.format = format
        self.seed = seed
        self._temperature = temperature

    @staticmethod
    def check_keys(*, markets: int = 128, looks: int = 4, scenarios: tuple[str, ...] = (), **_: object) -> None:
        """Raises `ValueError` where the looks are too many for the markets, or a scenario is named twice."""
        if markets < 2 * looks:
            raise ValueError(
                f"markets={markets} is too few for looks={looks}: a look needs two markets at least, so "
                f"markets={2 * looks} or " + (f"looks={markets // 2}" if markets > 1 else "more")
            )
        if repeated := sorted({name for name in scenarios if scenarios.count(name) > 1}):
            raise ValueError(f"scenarios holds {', '.join(repeated)} more than once")

    @property
    def decoding(self) -> Decoding:
        """Decoding of both policies, by their temperature."""
        return "sampled" if self._temperature > 0 else "greedy"

    def part(self, look: int) -> range:
        """The numbers, within a scenario, of the markets that look ``look`` (from 0) adds."""
        return range(self.markets * look // self.looks, self.markets * (look + 1) // self.looks)

    def scenario_of(self, market: int, names: Sequence[str]) -> str:
        """The scenario that a market belongs to, of ``names`` in the order in which they were played."""
        return names[market // self.markets]

    async def play(
        self,
        look: int,
        arenas: Mapping[str, Arena],
        a: Contestant,
        b: Contestant,
        *,
        on_tick: OnTick | None = None,
    ) -> Look:
        """Plays one look in the arenas of all scenarios; raises what the policies and the arena do."""
        rollouts: tuple[list[Rollout], list[Rollout]] = ([], [])
        plays = [(number, arena, side) for number, arena in enumerate(arenas.values()) for side in (0, 1)]
        for done, (number, arena, side) in enumerate(plays):
            # In the first seating A has the even seats, in the second B; unpaired, each has all of its own table.
            sides = [(agent + side) % 2 if self.paired else side for agent in range(self.agents)]
            episodes = await arena.play(
                None,
                market_seeds=[self._market_seed(number, side) for number in self.part(look)],
                seats=[_seat((a, b)[s], "AB"[s]) for s in sides],
                rivals={key: player.policy for key, player in (("A", a), ("B", b)) if player.policy is not None},
                temperature=self._temperature,
                seed=derive_seed(self.seed, "pair", look, *([] if self.paired else [side])),
                on_tick=_shifted(on_tick, done, len(plays)),
            )
            for market, episode in zip(self.part(look), episodes, strict=True):
                for agent, s in enumerate(sides):
                    rollouts[s].append(rollout(episode, market=number * self.markets + market, agent=agent))
        return Look(*(tuple(sorted(side, key=lambda r: (r.market, r.agent))) for side in rollouts))

    def _market_seed(self, number: int, side: int) -> int:
        if self.paired:
            return derive_seed(self.seed, "held-out market", number)
        return derive_seed(self.seed, "held-out market", number, "AB"[side])


def _seat(contestant: Contestant, key: str) -> Seat:
    return contestant.strategy if contestant.strategy is not None else key


def _shifted(on_tick: OnTick | None, done: int, plays: int) -> OnTick | None:
    if on_tick is None:
        return None
    return lambda tick, ticks: on_tick(done * ticks + tick, plays * ticks)
