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
        (MarketSpec(), "8846551374f0f49f8dd68174019b288c88fc235bfb45eb1f36c000123e29f01c"),
        (MarketSpec(drift_bias=0.05), "db956bb1c0bbc1269e1c5aa01b0ec5f0f08156a7659fa24a3519b2cb6aed9c31"),
        (
            MarketSpec(leverage=50.0, start_cash_usd=2000.0),
            "4b5cce198468ae80650a68f9fe8937adee6b7f508387ad286ffa74ed26950430",
        ),
        (
            MarketSpec(ticks=5, tickers=1, questions=0),
            "2d2553cf2ef8655622ee46b3c2cf5c1af8da2968a279c2397b0ce665ffc7e33b",
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
        (MarketSpec(), 3, "c405ea370b084fc7dc8a2b4ec4d65c00b406d91ab93e587078228044dbc7436c"),
        (EVERYTHING, 3, "4eaabe98ce84354ed18a60cf0e3095d3cced315199579fdd9ee365e2446ac1a5"),
        (
            MarketSpec(maker="complete_set", event="scandal", event_size=0.3, leverage=20.0),
            1,
            "a2468afb9672527f29790a58195edae17a536c4fbe9f3c08875e602c7ac140a3",
        ),
    ],
    ids=["default", "everything on", "complete sets"],
)
def test_whole_lives_are_the_same_on_every_python(spec: MarketSpec, windows: int, expected: str) -> None:
    assert digest(spec, windows) == expected
