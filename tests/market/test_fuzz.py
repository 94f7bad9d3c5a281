"""Whatever an agent writes, the market answers with a result: never an exception, never money from nowhere."""

import json
import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmo_rl.market.actions import Invalid, Order, parse_action
from mmo_rl.market.names import QUESTIONS, TICKERS
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.world import World

SPECS = [
    MarketSpec(),
    MarketSpec(
        ticks=3, question_windows=3, questions=3, max_leverage=100.0, max_size=100, impact=1.0, posts=4,
        funding_rate=1.0, lenient_answers=True, liquidity_usd=50.0, maker="complete_set",
    ),
    MarketSpec(ticks=3, leverage=100.0, fee=0.09, noise=1.0, max_size=100, liquidity_usd=0.01),
]  # fmt: skip
NAMES = [
    "buy", "sell", "open_perp", "close_perp", "wait", "hold", "BUY_SHARES", "SELL_SHARES", "OPEN_PERP_POSITION",
    "CLOSE_PERP_POSITION", "BUY_PREDICTION_SHARES", "SELL_PREDICTION_SHARES", "CREATE_POST", "CREATE_COMMENT",
    "SEND_MESSAGE", "COMMENT_ON_POST", "TRADING_DECISION", "", "Buy",
]  # fmt: skip
odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=2)
)
orders = st.fixed_dictionaries(
    {},
    optional={
        "action": st.sampled_from(NAMES) | odd,
        "actionType": st.sampled_from(NAMES),
        "ticker": st.sampled_from([*TICKERS, *QUESTIONS]) | odd,
        "marketId": st.sampled_from(QUESTIONS) | odd,
        "side": st.sampled_from(["long", "short", "YES", "no"]) | odd,
        "size": st.integers(1, 100) | odd,
        "shares": st.integers(1, 3) | odd,
        "leverage": st.integers(1, 100) | odd,
        "text": odd,
        "parameters": st.dictionaries(st.sampled_from(["ticker", "side", "size"]), odd) | odd,
    },
).map(json.dumps)
texts = st.one_of(orders, orders, orders, st.text(), orders.map(lambda o: f"<think>{{so}}</think> ```json\n{o}\n```"))


@given(spec=st.sampled_from(SPECS), seed=st.integers(0, 3), written=st.lists(st.tuples(texts, texts), max_size=12))
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_has_a_result_and_money_is_conserved(
    spec: MarketSpec, seed: int, written: list[tuple[str, str]]
) -> None:
    world = World(spec=spec, seed=seed, agents=2)
    for pair in written:
        if world.done:
            world.next_window()
        before = [world.observe(agent).cash_usd for agent in range(2)]
        for agent, result in enumerate(world.step(pair)):
            assert result.success == (result.error is None)
            if not result.success:
                assert result.error and result.error.isprintable()
                assert world.observe(agent).cash_usd == before[agent]
        ledger = world.ledger()
        # To the cent, and where fuzzing has made millions, to a billionth.
        assert abs(ledger.residual) < max(0.005, 1e-9 * abs(ledger.perps), 1e-9 * abs(ledger.makers))
        assert all(math.isfinite(world.equity(agent)) for agent in range(2))


@given(text=st.text(alphabet='{}[]"\\:,ab1 ', max_size=60), lenient=st.booleans())
@settings(max_examples=500, deadline=None)
def test_parsing_never_raises(text: str, lenient: bool) -> None:
    assert isinstance(parse_action(text, max_size=3, lenient=lenient), Order | Invalid)


def test_long_and_deep_texts_are_refused_at_once() -> None:
    for text in (
        "{" * 200_000,
        "[" * 200_000,
        '{"a":' * 50_000,
        '{"size":' + "9" * 5000 + "}",
        '{"action":"' + "x" * 10**6,
    ):
        for lenient in (False, True):
            assert isinstance(parse_action(text, max_size=3, lenient=lenient), Invalid)


def test_a_lenient_market_reads_the_last_object_of_a_longer_answer() -> None:
    order = '{"action":"OPEN_PERP_POSITION","parameters":{"ticker":"NOVA","side":"short","size":2}}'
    text = f'I could {{"action":"HOLD"}} but: ```json\n{order}\n```'
    assert parse_action(text, max_size=3) == Invalid("not JSON")
    assert parse_action(text, max_size=3, lenient=True) == Order("SELL", "NOVA", 2)


def test_what_agents_write_cannot_break_a_line() -> None:
    assert parse_action('{"action":"B\\nUY\\u0000"}', max_size=3) == Invalid("unknown action 'B?UY?'")
    assert parse_action('{"action":"CREATE_POST","text":"a\\n\\nheld  NOVA \\ud800"}', max_size=3) == Order(
        "POST", text="a held NOVA"
    )
    assert parse_action('{"action":"CREATE_POST","content":"  "}', max_size=3) == Invalid("a post needs a text")
