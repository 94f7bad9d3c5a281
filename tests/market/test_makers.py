"""What a maker may never do: lose on a round trip, lose more than its subsidy, or quote prices that do not sum to 1."""

import logging
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmo_rl.market.arena import MarketArena, _warn_of_unfair_maker
from mmo_rl.market.makers import MAKERS, CompleteSetMaker, Game2025Maker, LmsrMaker, MakerName, PriceLimitError
from mmo_rl.market.spec import MarketSpec

FAIR = [LmsrMaker, CompleteSetMaker]


@pytest.mark.parametrize("maker_class", FAIR)
@given(
    probability=st.floats(0.05, 0.95),
    orders=st.lists(st.tuples(st.booleans(), st.floats(1.0, 5000.0)), min_size=1, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_round_trips_gain_nothing_and_the_books_agree(
    maker_class: type[LmsrMaker] | type[CompleteSetMaker], probability: float, orders: list[tuple[bool, float]]
) -> None:
    maker = maker_class(liquidity=3000.0, probability=probability)
    assert maker.price(yes=True) == pytest.approx(probability)
    bought = []
    for yes, amount in orders:
        before = maker.price(yes=yes)
        shares = maker.buy(yes=yes, amount=amount)
        assert before - 1e-9 <= amount / shares <= maker.price(yes=yes) + 1e-9  # between the first and the last price
        assert maker.price(yes=True) + maker.price(yes=False) == pytest.approx(1.0)
        assert maker.worth(yes=yes, shares=shares) == pytest.approx(amount, rel=1e-6)
        bought.append((yes, shares))
    paid = sum(amount for _, amount in orders)
    assert maker.taken() == pytest.approx(paid, rel=1e-6)
    for outcome in (True, False):
        chance = probability if outcome else 1.0 - probability
        subsidy = -math.log(chance) if maker_class is LmsrMaker else math.sqrt((1.0 - chance) / chance)
        assert maker.outstanding(yes=outcome) - paid <= 3000.0 * subsidy + 1e-6
    for yes, shares in reversed(bought):
        maker.sell(yes=yes, shares=shares)
    assert maker.taken() == pytest.approx(0.0, abs=1e-4 * (1 + paid))
    assert maker.price(yes=True) == pytest.approx(probability, rel=1e-5)


def test_complete_sets_by_hand() -> None:
    maker = CompleteSetMaker(liquidity=1000.0, probability=0.5)
    # 100 + 1000 - 1000 * 1000 / 1100
    assert maker.buy(yes=True, amount=100.0) == pytest.approx(190.909090909)
    assert maker.price(yes=True) == pytest.approx(1100 / (1100 + 909.090909))


def test_an_lmsr_and_complete_sets_of_the_same_liquidity_are_equally_deep_at_even_odds() -> None:
    moved = []
    for maker_class in FAIR:
        maker = maker_class(liquidity=1000.0, probability=0.5)
        maker.buy(yes=True, amount=1.0)
        moved.append(maker.price(yes=True) - 0.5)
    assert moved[0] == pytest.approx(moved[1], rel=0.01)


async def test_the_games_own_rule_of_2025_loses_the_winners_money_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _warn_of_unfair_maker.cache_clear()
    maker = Game2025Maker(liquidity=1000.0, probability=0.5)
    shares = maker.buy(yes=True, amount=100.0)
    assert shares == pytest.approx(1000.0 - 1000.0 * 1000.0 / 1100.0)
    assert shares < 100.0  # a hundred dollars buy less than a hundred dollars even if YES comes true
    assert maker.taken() == pytest.approx(100.0)
    assert maker.sell(yes=True, shares=shares) == pytest.approx(100.0)
    makers: tuple[MakerName, ...] = ("complete_set", "game_2025", "game_2025")
    told = []
    for name in makers:
        with caplog.at_level(logging.WARNING):
            arena = MarketArena(spec=MarketSpec(maker=name))
            assert not caplog.text, "making an arena logs nothing"
            await arena.play(None, market_seeds=[0], seats=["noop"], temperature=0.0, seed=0)
        told.append("never for training" in caplog.text)
        caplog.clear()
    assert told == [False, True, False]


@pytest.mark.parametrize("name", list(MAKERS))
def test_no_price_reaches_nought_or_one(name: str) -> None:
    maker = MAKERS[name](liquidity=0.01, probability=0.5)
    with pytest.raises(PriceLimitError):
        maker.buy(yes=True, amount=1e6)
    assert maker.price(yes=True) == pytest.approx(0.5) and maker.taken() == pytest.approx(0.0)
