"""Money is conserved to the cent: what agents gain is what left the house, by the house's own books."""

import random

import pytest

from mmo_rl.errors import ConfigError
from mmo_rl.market.accounts import total
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.world import World

RICH: dict[str, object] = {
    "questions": 4,
    "question_windows": 4,
    "linked_questions": 2,
    "max_leverage": 100.0,
    "funding_rate": 0.5,
    "impact": 0.01,
    "impact_decay": 0.1,
    "posts": 2,
    "max_size": 5,
}
RULES: dict[str, dict[str, object]] = {
    "default": {},
    "pump and dump": {"event": "pump_and_dump", "event_size": 0.3, "leverage": 20.0},
    "everything": RICH,
    "complete sets": {**RICH, "maker": "complete_set", "event": "scandal", "event_size": 0.3},
    "the game's": {**RICH, "maker": "game_2025", "impact": 0.0},
}


def any_answer(world: World, agent: int, draw: random.Random) -> str:
    seen = world.observe(agent)
    name = draw.choice([q.ticker for q in seen.quotes] + [q for q, _ in seen.questions])
    action = draw.choice(["BUY", "SELL", "BUY", "SELL", "CLOSE", "HOLD"])
    leverage = "" if world.spec.max_leverage is None or world.is_question(name) else ',"leverage":50'
    return f'{{"ticker":"{name}","action":"{action}","size":{draw.randint(1, world.spec.max_size)}{leverage}}}'


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_what_agents_gain_is_what_the_house_and_the_fees_lose(rules: dict[str, object]) -> None:
    spec, liquidated, traded = MarketSpec(**rules), 0, 0  # type: ignore[arg-type]
    for seed in range(12):
        world, draw = World(spec=spec, seed=seed, agents=6), random.Random(seed)
        for window in range(4):
            for _ in range(spec.ticks):
                results = world.step([any_answer(world, agent, draw) for agent in range(6)])
                traded += sum(r.success and r.amount_usd is not None for r in results)
                assert abs(world.ledger().residual) < 0.005
            before = [world.equity(agent) for agent in range(6)]
            if window < 3:
                world.next_window()
                # Paying out what was resolved and going on changes nobody's wealth, and a new P&L begins at 0.
                assert [world.equity(agent) for agent in range(6)] == pytest.approx(before, abs=0.005)
                assert [world.pnl(agent) for agent in range(6)] == [0.0] * 6
        ledger = world.ledger()
        assert abs(ledger.residual) < 0.005 and ledger.fees > 0
        liquidated += ledger.liquidations != 0.0
    assert traded > 200
    assert liquidated > 0 or (spec.leverage < 20 and spec.max_leverage is None)


def test_funding_by_hand() -> None:
    spec = MarketSpec(funding_rate=0.01, hours=8.0, noise=0.0, drift_low=0.0, drift_high=0.0, fee=0.0)
    world = World(spec=spec, seed=0, agents=2)
    ticker = world.observe(0).quotes[0].ticker
    world.step([f'{{"ticker":"{ticker}","action":"{side}","size":3}}' for side in ("BUY", "SELL")])
    while not world.done:
        world.step(['{"action":"HOLD"}'] * 2)
    eight_hours = 4500.0 * 0.01 * 8 / (365 * 24)  # 1 % a year on the size
    assert world.pnl(0) == pytest.approx(-eight_hours) and world.pnl(1) == pytest.approx(eight_hours)
    assert world.ledger().funding == pytest.approx(0.0)


def test_an_order_moves_the_price_and_a_round_trip_gains_nothing() -> None:
    spec = MarketSpec(impact=0.02, noise=0.0, drift_low=0.0, drift_high=0.0, fee=0.0)
    world = World(spec=spec, seed=0, agents=2)
    ticker, price, hold = world.observe(0).quotes[0].ticker, world.observe(0).quotes[0].price, '{"action":"HOLD"}'
    buy, close = f'{{"ticker":"{ticker}","action":"BUY","size":3}}', f'{{"ticker":"{ticker}","action":"CLOSE"}}'
    (bought, _) = world.step([buy, hold])
    assert bought.price is not None
    after = world.observe(0).quotes[0].price
    assert price < bought.price < after == pytest.approx(price * 1.00904, rel=1e-4)  # e^(0.02 * 4500 / 10000)
    assert world.equity(0) == pytest.approx(10_000.0)  # not even on paper
    world.step([buy, buy])
    assert world.equity(0) > 10_000.0  # another agent's order is what makes one richer
    world.step([hold, close])
    world.step([close, hold])
    assert world.pnl(0) == pytest.approx(0.0, abs=1e-6) and world.pnl(1) == pytest.approx(0.0, abs=1e-6)
    assert world.observe(0).quotes[0].price == pytest.approx(price)


def test_impact_fades() -> None:
    spec = MarketSpec(impact=0.02, impact_decay=0.5, noise=0.0, drift_low=0.0, drift_high=0.0)
    world = World(spec=spec, seed=0, agents=1)
    quote = world.observe(0).quotes[0]
    world.step([f'{{"ticker":"{quote.ticker}","action":"BUY","size":3}}'])
    for tick in range(1, 4):
        moved = world.observe(0).quotes[0].price / quote.price - 1.0
        assert moved == pytest.approx(0.009 * 0.5**tick, rel=0.01)
        world.step(['{"action":"HOLD"}'])


def test_leverage_is_asked_for_where_the_market_allows_it() -> None:
    def answer(leverage: object) -> str:
        return f'{{"ticker":"{ticker}","action":"BUY","size":1,"leverage":{leverage}}}'

    world = World(spec=MarketSpec(max_leverage=20.0), seed=0, agents=4)
    ticker = world.observe(0).quotes[0].ticker
    results = world.step([answer(20), answer(21), answer("null"), answer('"x"')])
    assert [r.amount_usd for r in results] == [10_000.0, None, 1500.0, None]
    assert results[1].error == "leverage is at most 20 here, got 21"
    assert results[3].error == "leverage must be a number from 1 to 100, got 'x'"
    plain = World(spec=MarketSpec(), seed=0, agents=2)
    fixed, same = plain.step([answer(5), answer(3)])
    assert fixed.error == "leverage is 3 here, got 5" and same.success


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"drift_low": 0.5}, "drift_low is 0.5, above market.drift_high = 0.11"),
        ({"leverage": 20.0, "max_leverage": 10.0}, "leverage is 20, above market.max_leverage = 10"),
        ({"linked_questions": 3}, "linked_questions is 3, but there are 2 questions"),
        ({"event": "scandal"}, "needs a size and 4 ticks, found event_size=0"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(rules: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        MarketSpec(**rules)  # type: ignore[arg-type]


def test_money_is_added_up_the_same_on_every_python() -> None:
    assert total([0.1] * 10) == 0.9999999999999999  # sum() says 1.0 from Python 3.12 on
