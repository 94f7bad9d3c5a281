"""Demonstrations of mixed quality that the base model learns from: good, gullible, random, and mostly mistaken.

The base has to be mediocre, sampled and greedy alike, or training could only sharpen it. So most of the play comes
from a `mistaken` trader whose trust in the four sources is half wrong; a `style` in half of the system prompts names
the teacher, so that the model learns each kind of play apart and none of them as the default.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import replace

from mmo_rl.market.base import Strategy
from mmo_rl.market.prompt import render
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.strategies import (
    HOLD,
    clumsy,
    contrarian,
    gullible,
    informed,
    momentum,
    order,
    random_trader,
    within_means,
)
from mmo_rl.market.view import Observation
from mmo_rl.market.world import World
from mmo_rl.rng import derive_seed, rng
from mmo_rl.types import Message

_TRUST = {"@wire": 3, "@moon": 2, "@anon": 1, "@ledger": 0}


def mistaken(observation: Observation, rng: random.Random) -> str:
    """Trusts @wire and @moon, doubts @ledger: right about half of the time. One order in four ignores its cash."""
    if not observation.news or rng.random() < 0.08:
        return HOLD
    ranked = sorted(observation.news, key=lambda item: -_TRUST[item.source])
    item = ranked[0] if rng.random() < 0.7 else ranked[-1]
    size = rng.choice((1, 2, 2, 3))
    if rng.random() < 0.25:
        return order(item.ticker, item.direction, size)
    return within_means(observation, item.ticker, item.direction, size)


TEACHERS: tuple[tuple[str, Strategy, float], ...] = (
    ("mistaken", mistaken, 0.50),
    ("clumsy", clumsy, 0.18),
    ("informed", informed, 0.08),
    ("gullible", gullible, 0.08),
    ("random", random_trader, 0.06),
    ("momentum", momentum, 0.05),
    ("contrarian", contrarian, 0.05),
)
"""Name (also the style tag), strategy, and share of the untagged play."""


def demonstrations(
    spec: MarketSpec, *, seed: int, agents: int = 6, tagged: float = 0.5, only: Collection[str] | None = None
) -> Iterator[tuple[tuple[Message, ...], str]]:
    """Yields (prompt, answer) pairs of teachers that play the market together, without end.

    ``tagged`` is the share of agents whose prompt names their style; their styles are drawn evenly, untagged ones by
    the shares in `TEACHERS`. ``only`` restricts the teachers to some names. Every other market begins with less cash,
    so that the model also learns to trade when its cash does not pay for everything.
    """
    teachers = [t for t in TEACHERS if only is None or t[0] in only]
    weights = [share for _, _, share in teachers]
    episode = 0
    while True:
        draw = rng(seed, "demonstrations", episode)
        cash_usd = draw.uniform(0.05, 1.0) * spec.start_cash_usd if episode % 2 else spec.start_cash_usd
        rules = replace(spec, least_cash_usd=None, start_cash_usd=cash_usd)
        world = World(spec=rules, seed=derive_seed(seed, "demonstration-market", episode), agents=agents)
        seats: list[tuple[str | None, Strategy]] = []
        for _ in range(agents):
            if draw.random() < tagged:
                name, strategy, _ = draw.choice(teachers)
                seats.append((name, strategy))
            else:
                seats.append((None, draw.choices(teachers, weights)[0][1]))
        while not world.done:
            observations = [world.observe(agent) for agent in range(agents)]
            texts = [strategy(o, draw) for o, (_, strategy) in zip(observations, seats, strict=True)]
            for observation, (style, _), text in zip(observations, seats, texts, strict=True):
                yield render(observation, style=style), text
            world.step(texts)
        episode += 1


def headlines_only(example: tuple[tuple[Message, ...], str]) -> tuple[tuple[Message, ...], str]:
    """Shortens an example's prompt to the news: enough to learn the order that a headline asks for."""
    (system, user), answer = example
    news = "\n".join(line for line in user["content"].splitlines() if line.startswith("news "))
    return ({**system}, {"role": "user", "content": news}), answer
