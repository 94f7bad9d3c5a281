"""Agent-steps a second of the simulated market with scripted agents, on one core.

    python benchmarks/market.py [--markets 200] [--repetitions 5] [--json]

An agent-step is one observation, decision, order and record of one agent. ``arena`` is what `mmo-rl task=collect` and
evaluations run: prompts are rendered and every step is kept; its goal is 20,000 a second. ``world`` is the market
alone, ``env`` its PettingZoo face. Seconds are CPU seconds, the best of the repetitions.

With `--policy` it also tells which share of an episode's wall time the shipped language model takes (goal: above 0.9).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable

from mmo_rl.market.arena import MarketArena
from mmo_rl.market.base import Seat
from mmo_rl.market.parallel_env import MarketEnv
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.strategies import SCRIPTS
from mmo_rl.market.world import World
from mmo_rl.rng import rng

GOAL = 20_000
POLICY_GOAL = 0.9
SEATS = ("conservative", "balanced", "aggressive", "momentum", "contrarian", "noop", "random", "informed")


def arena(spec: MarketSpec, markets: int) -> None:
    play = MarketArena(spec=spec).play(None, market_seeds=range(markets), seats=SEATS, temperature=0.0, seed=0)
    asyncio.run(play)


def world(spec: MarketSpec, markets: int) -> None:
    for seed in range(markets):
        market, draw = World(spec=spec, seed=seed, agents=len(SEATS)), rng(seed, "script")
        players = [SCRIPTS[name].new() for name in SEATS]
        while not market.done:
            market.step([player(market.observe(agent), draw) for agent, player in enumerate(players)])


def env(spec: MarketSpec, markets: int) -> None:
    market = MarketEnv(spec=spec, agents=len(SEATS))
    for seed in range(markets):
        market.reset(seed=seed)
        draw, players = rng(seed, "script"), [SCRIPTS[name].new() for name in SEATS]
        while market.agents:
            seen = [market.world.observe(agent) for agent in range(len(SEATS))]
            texts = [player(observation, draw) for player, observation in zip(players, seen, strict=True)]
            market.step(dict(zip(market.agents, texts, strict=True)))


def steps_per_second(run: Callable[[MarketSpec, int], None], *, markets: int, repetitions: int) -> float:
    spec, best = MarketSpec(), float("inf")
    run(spec, 2)  # warms up
    for _ in range(repetitions):
        start = time.process_time()
        run(spec, markets)
        best = min(best, time.process_time() - start)
    return markets * len(SEATS) * spec.ticks / best


def policy_share(markets: int) -> float:
    """The share of the wall time of LLM play that is spent in the policy."""
    from mmo_rl.lm.load import load_model
    from mmo_rl.lm.model import SHIPPED
    from mmo_rl.policy.base import Completion, Policy
    from mmo_rl.policy.local import LocalPolicy
    from mmo_rl.types import Message

    model, tokenizer = load_model(str(SHIPPED / "tiny"))
    inner: Policy = LocalPolicy(model=model, tokenizer=tokenizer, name="tiny", version=0, max_completion_tokens=24)
    spent = 0.0

    class Timed:
        name, version = inner.name, inner.version

        async def complete(
            self, prompts: list[tuple[Message, ...]], *, temperature: float, seed: int
        ) -> list[Completion]:
            nonlocal spent
            start = time.perf_counter()
            completions = await inner.complete(prompts, temperature=temperature, seed=seed)
            spent += time.perf_counter() - start
            return completions

    seats: list[Seat] = [None] * len(SEATS)
    start = time.perf_counter()
    policy: Policy = Timed()  # type: ignore[assignment]
    asyncio.run(
        MarketArena(spec=MarketSpec()).play(policy, market_seeds=range(markets), seats=seats, temperature=1.0, seed=0)
    )
    return spent / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--markets", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--policy", action="store_true", help="also the share of time that a language model takes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    result: dict[str, object] = {
        "agent_steps_per_second": {
            run.__name__: steps_per_second(run, markets=arguments.markets, repetitions=arguments.repetitions)
            for run in (arena, world, env)
        },
        "goal": GOAL,
        "agents": len(SEATS),
        "markets": arguments.markets,
        "python": sys.version.split()[0],
    }
    if arguments.policy:
        result["policy_share"] = policy_share(16)
        result["policy_goal"] = POLICY_GOAL
    if arguments.json:
        print(json.dumps(result))
        return
    rates = result["agent_steps_per_second"]
    assert isinstance(rates, dict)
    for name, rate in rates.items():
        print(f"{name:6} {rate:10,.0f} agent-steps a second" + (f" (goal: {GOAL:,})" if name == "arena" else ""))
    if arguments.policy:
        print(f"policy {result['policy_share']:10.3f} of the wall time of LLM play (goal: above {POLICY_GOAL})")


if __name__ == "__main__":
    main()
