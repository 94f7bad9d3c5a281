"""The same seed is the same bytes, on every Python version: what a model was trained on stays what it plays."""

import hashlib
import json
import random

import pytest

from mmo_rl.market.prompt import render
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.world import World

AGENTS = 5


def answers(world: World, draw: random.Random) -> list[str]:
    """The oracle's answer for agent 0; for the others orders of all kinds, some of them mistakes."""
    observation = world.observe(0)
    names = [q.ticker for q in observation.quotes] + [name for name, _ in observation.questions]
    texts = [world.best_action(0)]
    for _ in range(AGENTS - 1):
        kind, name = draw.randrange(12), draw.choice(names)
        if kind < 7:
            answer = {"ticker": name, "action": draw.choice(["BUY", "SELL"]), "size": draw.randint(1, 3)}
            texts.append(json.dumps(answer))
        elif kind < 9:
            texts.append(json.dumps({"ticker": name, "action": "CLOSE"}))
        elif kind == 9:
            texts.append('{"ticker":"","action":"HOLD","size":0}')
        elif kind == 10:
            side, size = draw.choice(["short", "NO", "yes", "long"]), draw.choice([1, 3, 7])
            texts.append(json.dumps({"marketId": name, "action": "OPEN_PERP_POSITION", "side": side, "size": size}))
        else:
            mistakes = [f"BUY {name}", "[]", "{}", '{"ticker":"GOLD","action":"BUY","size":1}', '{"action":"x"']
            texts.append(draw.choice(mistakes))
    return texts


def shown(number: float | None) -> str | None:
    """Nine digits: C libraries differ in the last digit of a logarithm, Python versions in nothing."""
    return None if number is None else f"{number:.9g}"


def digest(spec: MarketSpec, windows: int = 1) -> str:
    """A hash of ``windows`` windows of twenty markets: prompts, prices, accounts, results and outcomes."""
    hashed = hashlib.sha256()

    def add(value: object) -> None:
        hashed.update(json.dumps(value).encode() + b"\n")

    for seed in range(20):
        world, draw = World(spec=spec, seed=seed, agents=AGENTS), random.Random(seed)
        for window in range(windows):
            if window:
                world.next_window()
            while not world.done:
                for agent in range(AGENTS):
                    o = world.observe(agent)
                    add([m["content"] for m in render(o)])
                    account = [shown(o.cash_usd), shown(o.equity_usd), sorted(o.positions.items())]
                    quotes = [shown(q.price) for q in o.quotes] + [shown(q.change_pct) for q in o.quotes]
                    add([*account, *quotes, *(shown(p) for _, p in o.questions), *map(str, o.news)])
                for r in world.step(answers(world, draw)):
                    add([r.success, r.error, shown(r.price), shown(r.amount_usd), shown(r.pnl_usd)])
            add([shown(world.pnl(a)) for a in range(AGENTS)] + [shown(world.fees(a)) for a in range(AGENTS)])
            truth = world.truth("w")
            add([[t.ticker, shown(t.start_price), shown(t.end_price), list(t.news)] for t in truth.tickers])
            add([[q.question_id, q.outcome, shown(q.final_probability)] for q in truth.questions])
    return hashed.hexdigest()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (MarketSpec(), "432e9844b7e53ecc10853dd08103bba5131475a949f8767b87a68f413a399235"),
        (MarketSpec(drift_bias=0.05), "54bfef5f7423389586e048eb4d706d314815906228b8986e52ef4f54dc827831"),
        (
            MarketSpec(leverage=50.0, start_cash_usd=2000.0),
            "7026db835fb463b686768ed1fa6709e52431f5a195269b833464e67a305c6ebc",
        ),
        (
            MarketSpec(ticks=5, tickers=1, questions=0),
            "63a78eea31c75b31caf864cd1b55609e0a25f2c40c14373652ea8db3d677b1fe",
        ),
    ],
    ids=["default", "bull", "liquidations", "one ticker"],
)
def test_the_market_that_the_shipped_model_learnt_is_unchanged(spec: MarketSpec, expected: str) -> None:
    assert digest(spec) == expected


EVERYTHING = MarketSpec(
    questions=4, question_windows=3, linked_questions=2, max_leverage=10.0, funding_rate=0.01, impact=0.01,
    impact_decay=0.1, posts=2, event="pump_and_dump", event_size=0.2,
)  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "windows", "expected"),
    [
        (MarketSpec(), 3, "8797ec4db88015f6437d0c91c90d7d55a67aa7f52b88517513036b5ad1c4b86a"),
        (EVERYTHING, 3, "bd6b78ac5c0e76718301118eb60649a5125d615feaa786dfcec8460e91c4ef16"),
        (
            MarketSpec(maker="complete_set", event="scandal", event_size=0.3, leverage=20.0),
            1,
            "be08abd970218ec09c5860fb23ceb25ade39743494910541af58f3de124330bc",
        ),
    ],
    ids=["default", "everything on", "complete sets"],
)
def test_whole_lives_are_the_same_on_every_python(spec: MarketSpec, windows: int, expected: str) -> None:
    assert digest(spec, windows) == expected
