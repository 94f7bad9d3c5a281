import math
import statistics

import pytest

from mmo_rl.errors import ConfigError
from mmo_rl.market.actions import Invalid, Order, parse_action
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.makers import LmsrMaker
from mmo_rl.market.prompt import render
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.strategies import HOLD, order
from mmo_rl.market.world import World

SPEC = MarketSpec()


async def play(strategy: str, *, markets: int = 150, agents: int = 3) -> list[float]:
    episodes = await MarketArena(spec=SPEC).play(
        None, market_seeds=range(markets), seats=[strategy] * agents, temperature=0.0, seed=0
    )
    return [statistics.mean(episode.pnl) for episode in episodes]


async def test_the_five_test_strategies_differ_and_none_loses_to_the_oracle() -> None:
    means = {
        s: statistics.mean(await play(s, markets=60)) for s in ("conservative", "balanced", "aggressive", "momentum")
    }
    assert 0 < means["conservative"] < means["balanced"]
    assert max(means.values()) < statistics.mean(await play("oracle", markets=60))


def test_the_same_seed_is_the_same_market_whoever_plays() -> None:
    one, two = World(spec=SPEC, seed=7, agents=2), World(spec=SPEC, seed=7, agents=2)
    while not one.done:
        assert one.observe(0).quotes == two.observe(0).quotes
        assert one.observe(0).news == two.observe(0).news
        one.step([HOLD, HOLD])
        two.step([order(two.observe(0).quotes[0].ticker, 1, 3), HOLD])
    assert one.truth("w").tickers == two.truth("w").tickers
    assert World(spec=SPEC, seed=8, agents=1).observe(0).quotes != World(spec=SPEC, seed=7, agents=1).observe(0).quotes


def test_a_perpetual_by_hand() -> None:
    world = World(spec=SPEC, seed=1, agents=1)
    quote = world.observe(0).quotes[0]
    (opened,) = world.step([order(quote.ticker, 1, 2)])
    size = 2 * 500.0 * 3.0
    assert opened.price == quote.price
    assert world.observe(0).cash_usd == pytest.approx(10_000 - 1000 - 0.001 * size)
    now = world.observe(0).quotes[0].price
    (closed,) = world.step([f'{{"ticker":"{quote.ticker}","action":"CLOSE"}}'])
    gain = (now / quote.price - 1.0) * size
    assert closed.pnl_usd == pytest.approx(gain)
    assert world.pnl(0) == pytest.approx(gain - 2 * 0.001 * size)
    assert world.fees(0) == pytest.approx(2 * 0.001 * size)


def test_a_short_earns_what_a_long_loses() -> None:
    world = World(spec=SPEC, seed=3, agents=2)
    ticker = world.observe(0).quotes[0].ticker
    world.step([order(ticker, 1, 3), order(ticker, -1, 3)])
    while not world.done:
        world.step([HOLD, HOLD])
    fees = 2 * 0.001 * 3 * 500 * 3.0
    assert world.pnl(0) + world.pnl(1) == pytest.approx(-2 * fees)


def test_a_position_that_lost_nine_tenths_of_its_margin_is_liquidated() -> None:
    spec = MarketSpec(ticks=2, leverage=100.0, drift_low=0.5, drift_high=0.5, noise=0.0, fee=0.0)
    world = World(spec=spec, seed=0, agents=2)
    ticker = world.observe(0).quotes[0].ticker
    world.step([order(ticker, 1, 1), order(ticker, -1, 1)])
    losses = sorted(world.pnl(agent) for agent in range(2))
    assert losses[0] == pytest.approx(-500.0)
    assert losses[1] > 500.0


def test_shares_of_a_question_pay_one_or_nothing() -> None:
    world = World(spec=SPEC, seed=5, agents=2)
    question, price = world.observe(0).questions[0]
    yes, no = world.step([order(question, 1, 1), order(question, -1, 1)])
    assert yes.price is not None and no.price is not None
    assert abs(yes.price - price) < 0.02
    while not world.done:
        world.step([HOLD, HOLD])
    outcome = next(q for q in world.truth("w").questions if q.question_id == question)
    winner, loser = (0, 1) if outcome.outcome == "YES" else (1, 0)
    won = (yes if winner == 0 else no).price
    assert world.pnl(winner) == pytest.approx(100.0 / (won or 1.0) - 100.0 - 0.1)
    assert world.pnl(loser) == pytest.approx(-100.1)


@pytest.mark.parametrize("yes", [True, False])
def test_the_maker_is_arbitrage_free(yes: bool) -> None:
    maker = LmsrMaker(liquidity=1000.0, probability=0.4)
    before = maker.price(yes=yes)
    shares = maker.buy(yes=yes, amount=300.0)
    assert maker.price(yes=True) + maker.price(yes=False) == pytest.approx(1.0)
    assert before < 300.0 / shares < maker.price(yes=yes)  # the average price lies between the first and the last
    assert maker.sell(yes=yes, shares=shares) == pytest.approx(300.0)  # a round trip gains nothing
    assert maker.price(yes=yes) == pytest.approx(before)


def test_the_makers_loss_is_bounded() -> None:
    maker = LmsrMaker(liquidity=1000.0, probability=0.5)
    shares = sum(maker.buy(yes=True, amount=500.0) for _ in range(40))
    assert shares - 40 * 500.0 <= 1000.0 * math.log(2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"ticker":"NOVA","action":"BUY","size":2}', Order("BUY", "NOVA", 2)),
        ('{"ticker":"NOVA","action":"open_perp","side":"short","size":1}', Order("SELL", "NOVA", 1)),
        ('{"marketId":"AUDIT","action":"BUY_PREDICTION_SHARES","side":"NO","size":3}', Order("SELL", "AUDIT", 3)),
        ('{"action":"wait"}', Order("HOLD")),
        ("BUY NOVA", Invalid("not JSON")),
        ("[1]", Invalid("expected a JSON object, got list")),
        ('{"ticker":"NOVA","action":"EAT","size":1}', Invalid("unknown action 'EAT'")),
        ('{"ticker":"NOVA","action":"BUY","size":4}', Invalid("size must be a whole number from 1 to 3, got '4'")),
        (
            '{"ticker":"NOVA","action":"BUY","size":true}',
            Invalid("size must be a whole number from 1 to 3, got 'True'"),
        ),
        ('{"ticker":"NOVA","action":"BUY","size":NaN}', Invalid("size must be a whole number from 1 to 3, got 'nan'")),
        ('{"action":"BUY","size":1}', Invalid("no ticker")),
        ("[" * 100_000, Invalid("not JSON")),
    ],
)
def test_text_becomes_an_order_or_a_reason(text: str, expected: Order | Invalid) -> None:
    assert parse_action(text, max_size=3) == expected


def test_what_cannot_be_done_is_a_failed_action_that_costs_nothing() -> None:
    world = World(spec=SPEC, seed=2, agents=3)
    ticker = world.observe(0).quotes[0].ticker
    results = world.step([order("GOLD", 1, 1), f'{{"ticker":"{ticker}","action":"CLOSE"}}', "hello"])
    assert [r.success for r in results] == [False, False, False]
    assert [r.error for r in results] == ["GOLD is not listed", f"no position in {ticker}", "not JSON"]
    assert [world.pnl(agent) for agent in range(3)] == [0.0, 0.0, 0.0]
    poor = World(spec=MarketSpec(start_cash_usd=400.0), seed=2, agents=1)
    (refused,) = poor.step([order(poor.observe(0).quotes[0].ticker, 1, 1)])
    assert not refused.success and "cash is 400" in (refused.error or "")


def test_what_is_shown_as_affordable_is_exactly_what_the_cash_pays_for() -> None:
    """By hand: a unit of a ticker costs 500 and 0.1 % of three times that, one of a question 100 and 0.1 %."""
    for cash, expected in ((100.0, (0, 0)), (100.1, (0, 1)), (501.5, (1, 3)), (1504.4, (2, 3)), (1504.5, (3, 3))):
        world = World(spec=MarketSpec(start_cash_usd=cash), seed=2, agents=1)
        seen = world.observe(0)
        assert (seen.max_order, seen.max_bet) == expected
        assert f"order {expected[0]} bet {expected[1]}" in render(seen)[1]["content"]
        for name, most in ((seen.quotes[0].ticker, expected[0]), (seen.questions[0][0], expected[1])):
            assert seen.affordable(name) == most
            for size in range(1, 4):
                (result,) = World(spec=world.spec, seed=2, agents=1).step([order(name, 1, size)])
                assert result.success == (size <= most)


def test_with_a_least_sum_each_market_draws_what_its_agents_begin_with() -> None:
    spec = MarketSpec(least_cash_usd=1000.0)
    begun = [[World(spec=spec, seed=seed, agents=2).observe(agent).cash_usd for agent in (0, 1)] for seed in range(200)]
    assert all(one == other for one, other in begun)
    sums = sorted(one for one, _ in begun)
    assert 1000 <= sums[0] < 1500 and 9500 < sums[-1] <= 10_000 and 4500 < statistics.mean(sums) < 6500
    world = World(spec=spec, seed=3, agents=1)
    assert world.pnl(0) == 0.0 and world.ledger().agents == 0.0
    with pytest.raises(ConfigError, match="least_cash_usd is 20000, above"):
        MarketSpec(least_cash_usd=20_000.0)


def test_observations_hold_nothing_later_than_their_tick() -> None:
    """Prices after a tick are changed in one of two otherwise equal worlds: nothing that agents see may differ."""
    one, two = World(spec=SPEC, seed=4, agents=1), World(spec=SPEC, seed=4, agents=1)
    for path in two._paths.values():
        path[4:] = [price * 2 for price in path[4:]]
    for question in two._questions.values():
        question.outcome = not question.outcome
    while one.tick < 4:
        assert one.observe(0) == two.observe(0)
        action = order(one.observe(0).quotes[0].ticker, 1, 1)
        assert one.step([action]) == two.step([action])
    assert one.observe(0) != two.observe(0)
