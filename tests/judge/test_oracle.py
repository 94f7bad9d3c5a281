from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from mmo_rl.clock import milliseconds, window_at
from mmo_rl.judge.base import JudgeParts
from mmo_rl.judge.oracle import OracleJudge
from mmo_rl.types import (
    Action,
    GroundTruth,
    Group,
    Judgment,
    QuestionOutcome,
    Score,
    Step,
    TickerOutcome,
    Trajectory,
    Unscored,
)
from mmo_rl.vocabulary import Vocabulary

WINDOW = window_at(datetime(2025, 1, 1, tzinfo=UTC), 1.0)
TRUTH = GroundTruth(
    WINDOW.id,
    (TickerOutcome("NOVA", 100.0, 105.0), TickerOutcome("FLAT", 50.0, 50.0)),
    (QuestionOutcome("AUDIT", "Audit?", "YES"), QuestionOutcome("OPEN", "Open?", "UNRESOLVED", 0.7)),
)


def action(kind: str, price: float | None = None, *, success: bool = True, **parameters: Any) -> Action:
    return Action(kind, parameters, success, result=None if price is None else {"price": price})


def grouped(*actions: list[Action], truth: GroundTruth | None = TRUTH) -> Callable[[], AsyncIterator[Group]]:
    members = tuple(
        Trajectory(
            trajectory_id=f"t{n}",
            agent_id=f"a{n}",
            window_id=WINDOW.id,
            start=WINDOW.start,
            end=WINDOW.end,
            steps=tuple(Step(i, milliseconds(WINDOW.start), {}, a) for i, a in enumerate(acts)),
            final_pnl=None,
        )
        for n, acts in enumerate(actions)
    )

    async def groups() -> AsyncIterator[Group]:
        yield Group(WINDOW.id, WINDOW, members, truth)

    return groups


async def judge(*actions: list[Action], truth: GroundTruth | None = TRUTH, **options: Any) -> list[Judgment]:
    (scored,) = [s async for s in OracleJudge(**options).score(grouped(*actions, truth=truth)())]
    return [scored.judgments[m.trajectory_id] for m in scored.group.members]


def decisions(judgment: Judgment) -> list[float]:
    assert isinstance(judgment, Score) and judgment.decisions is not None
    return [judgment.decisions[i] for i in sorted(judgment.decisions)]


async def test_decisions_by_hand() -> None:
    (judged,) = await judge(
        [
            action("OPEN_PERP_POSITION", 100.0, ticker="NOVA", side="long", size=3),  # +5 % of 10 %: 0.5
            action("OPEN_PERP_POSITION", 100.0, ticker="NOVA", side="short", size=3),  # -0.5
            action("OPEN_PERP_POSITION", 100.0, ticker="NOVA", side="long", size=1),  # a third of 0.5
            action("BUY_PREDICTION_SHARES", 0.4, marketId="AUDIT", side="YES", size=3),  # 1 - 0.4
            action("BUY_PREDICTION_SHARES", 0.95, marketId="AUDIT", side="YES", size=3),  # a sure thing: 0.05
            action("BUY_PREDICTION_SHARES", 0.4, marketId="AUDIT", side="NO", size=3),  # 0 - 0.4
            action("BUY_PREDICTION_SHARES", 0.5, marketId="OPEN", side="NO", size=3),  # 0.3 - 0.5
            action("HOLD"),
            action("OPEN_PERP_POSITION", success=False, ticker="GOLD", side="long", size=3),
        ]
    )
    values = [0.5, -0.5, 0.5 / 3, 0.6, 0.05, -0.4, -0.2, 0.0, -0.6]
    assert decisions(judged) == pytest.approx([(v + 1) / 2 for v in values])
    assert isinstance(judged, Score)
    assert judged.value == pytest.approx(sum((v + 1) / 2 for v in values) / 9)


async def test_an_unchanged_price_is_worth_nothing() -> None:
    (judged,) = await judge([action("BUY_SHARES", 50.0, ticker="FLAT"), action("SELL_SHARES", 50.0, ticker="FLAT")])
    assert decisions(judged) == [0.5, 0.5]


async def test_what_has_no_outcome_is_unscored_not_zero() -> None:
    no_truth, unknown = await judge([action("HOLD")], truth=None), await judge([action("BUY_SHARES", 5.0, ticker="X")])
    assert isinstance(no_truth[0], Unscored) and "ground truth" in no_truth[0].reason
    assert isinstance(unknown[0], Unscored) and "X" in unknown[0].reason
    (some,) = await judge([action("BUY_SHARES", 5.0, ticker="X"), action("BUY_SHARES", 100.0, ticker="NOVA")])
    assert len(decisions(some)) == 1


async def test_decisions_without_a_recorded_outcome_are_counted() -> None:
    oracle, by_trajectory = OracleJudge(), OracleJudge(credit="trajectory")
    unknown, known = action("BUY_SHARES", 5.0, ticker="X"), action("BUY_SHARES", 100.0, ticker="NOVA")
    group = grouped([unknown, known], [unknown, unknown, known], [unknown])
    (scored,) = [s async for s in oracle.score(group())]
    assert scored.credit == "decision"
    assert scored.unscored_decisions == 3  # a member that is unscored as a whole is counted as one
    assert oracle.findings == {"unscored_decisions": 3.0}
    (scored,) = [s async for s in by_trajectory.score(group())]
    assert (scored.credit, scored.unscored_decisions) == ("trajectory", 0)
    assert by_trajectory.findings == {}


async def test_credit_by_trajectory_gives_no_decisions() -> None:
    (judged,) = await judge([action("HOLD")], credit="trajectory")
    assert judged == Score("t0", 0.5, "0 good and 0 bad of 1 decision, 0 failed")


RISEN = GroundTruth(
    WINDOW.id,
    (TickerOutcome("NOVA", 100.0, 110.0), TickerOutcome("ORB", 100.0, 80.0)),
    (QuestionOutcome("Q", "Q?", "NO"),),
)


@pytest.mark.parametrize(
    ("kind", "parameters", "value"),
    [
        ("TRADING_DECISION", {"ticker": "NOVA", "side": "long", "price": 100}, 1.0),
        ("TRADING_DECISION", {"ticker": "NOVA", "side": "short", "price": 100, "marketType": "perp"}, -1.0),
        ("TRADING_DECISION", {"marketId": "Q", "side": "no", "price": 0.4}, 0.6),
        ("TRADE", {"ticker": "NOVA", "side": "long", "amount": 50, "price": 105}, (110 / 105 - 1) / 0.1),
        ("TRADE", {"marketId": "Q", "side": "yes", "amount": 50, "price": 0.4}, -0.4),
        ("BUY_PREDICTION_SHARES", {"marketId": "Q", "outcome": "NO", "price": 0.7}, 0.3),
        ("BUY_PREDICTION_SHARES", {"marketId": "Q", "outcome": "YES", "price": 0.3}, -0.3),
        ("BUY_PREDICTION_SHARES", {"marketId": "Q", "outcome": False, "price": "0.7"}, 0.3),
        ("buy_shares", {"ticker": "NOVA", "shares": 3, "price": "105"}, (110 / 105 - 1) / 0.1),
        ("FOLLOW", {"userId": "u"}, 0.0),
    ],
)
async def test_the_games_own_actions_are_scored(kind: str, parameters: dict[str, Any], value: float) -> None:
    (judged,) = await judge([Action(kind, parameters, True)], truth=RISEN)
    assert decisions(judged) == [pytest.approx((value + 1) / 2)]


async def test_going_long_in_a_rise_scores_above_an_idle_agent_and_short_below() -> None:
    long, short = ({"ticker": "NOVA", "side": side, "price": 100} for side in ("long", "short"))
    scores = await judge(
        [Action("TRADING_DECISION", long, True)],
        [Action("HOLD", {}, True)],
        [Action("TRADING_DECISION", short, True)],
        truth=RISEN,
    )
    values = [score.value for score in scores if isinstance(score, Score)]
    assert len(values) == 3 and values == sorted(values, reverse=True) and values[1] == 0.5


async def test_sizes_in_money_and_in_shares_are_compared_as_money() -> None:
    bought = [
        Action("BUY", {"ticker": "NOVA", "price": 100, key: size}, True)
        for key, size in (("shares", 2), ("quantity", 1), ("amount", 100), ("notional", 50), ("size", 200))
    ]
    (judged,) = await judge(bought, truth=RISEN)
    assert decisions(judged) == pytest.approx([(share + 1) / 2 for share in (1.0, 0.5, 0.5, 0.25, 1.0)])


async def test_leaving_before_a_fall_is_worth_what_it_saved() -> None:
    bought = action("OPEN_PERP_POSITION", 100.0, ticker="ORB", side="long", size=2)
    left = action("CLOSE_PERP_POSITION", 95.0, ticker="ORB")
    half = action("CLOSE_PERP_POSITION", 95.0, ticker="ORB", size=1)
    stayed, closed, halved = await judge([bought, action("HOLD")], [bought, left], [bought, half], truth=RISEN)
    saved = (1 - 80 / 95) / 0.1  # more than a full move
    assert decisions(closed) == pytest.approx([0.0, 1.0]) and saved > 1
    assert decisions(halved) == pytest.approx([0.0, 0.75])
    assert decisions(stayed) == pytest.approx([0.0, 0.5])


async def test_covering_a_short_and_selling_a_bet_are_the_opposite_trades() -> None:
    (judged,) = await judge(
        [
            action("SHORT", 100.0, ticker="NOVA", amount=10),
            action("CLOSE", 104.0, ticker="NOVA"),  # buys at 104, worth 110 at the end
            action("BUY_PREDICTION_SHARES", 0.7, marketId="Q", outcome="NO", amount=10),
            action("SELL_PREDICTION_SHARES", 0.9, marketId="Q", outcome="NO"),  # gives up a share that pays 1
        ],
        truth=RISEN,
    )
    assert decisions(judged) == pytest.approx([(v + 1) / 2 for v in (-1.0, (110 / 104 - 1) / 0.1, 0.3, -0.1)])


async def test_a_close_of_nothing_held_is_unscored_and_a_sale_without_a_size_gives_up_what_is_held() -> None:
    nothing, sold, short = await judge(
        [action("CLOSE", 100.0, ticker="NOVA"), action("HOLD")],
        [action("BUY", 100.0, ticker="ORB", amount=4), action("SELL", 100.0, ticker="ORB")],
        [action("SELL", 100.0, ticker="ORB", amount=2)],
        truth=RISEN,
    )
    assert decisions(nothing) == [0.5]
    assert isinstance(nothing, Score) and "CLOSE of NOVA, of which nothing is held" in nothing.explanation
    assert decisions(sold) == pytest.approx([0.0, 1.0])
    assert decisions(short) == pytest.approx([0.75])


async def test_a_close_by_the_position_s_id() -> None:
    (judged,) = await judge(
        [
            Action(
                "OPEN_PERP_POSITION",
                {"ticker": "ORB", "side": "long", "size": 1},
                True,
                {"positionId": "p1", "price": 99},
            ),
            Action(
                "OPEN_PERP_POSITION",
                {"ticker": "NOVA", "side": "long", "size": 1},
                True,
                {"positionId": "p2", "price": 99},
            ),
            Action("CLOSE_PERP_POSITION", {"positionId": "p1"}, True, {"price": 90}),
        ],
        truth=RISEN,
    )
    assert decisions(judged)[2] == pytest.approx(1.0)


async def test_words_that_are_not_known_are_unscored_and_counted_until_somebody_says_what_they_mean() -> None:
    acts = [Action("SWAP", {"ticker": "NOVA", "side": "long", "price": 100}, True), Action("HOLD", {}, True)]
    oracle = OracleJudge()
    (scored,) = [s async for s in oracle.score(grouped(acts, acts[:1], truth=RISEN)())]
    first, second = scored.judgments["t0"], scored.judgments["t1"]
    assert decisions(first) == [0.5]
    assert isinstance(second, Unscored) and "no meaning of SWAP" in second.reason
    assert oracle.findings["unknown_actions"] == 2
    taught = OracleJudge(parts=JudgeParts(vocabulary=Vocabulary(actions={"swap": "open"})))
    (scored,) = [s async for s in taught.score(grouped(acts, truth=RISEN)())]
    assert decisions(scored.judgments["t0"]) == [1.0, 0.5] and not taught.findings


async def test_a_trade_without_a_price_takes_the_price_that_the_agent_saw() -> None:
    long, no = (
        Action("TRADE", {"ticker": "NOVA", "side": "long"}, True),
        Action("TRADE", {"marketId": "Q", "side": "no"}, True),
    )
    members = []
    for number, (state, seen) in enumerate(
        (({"marketPrices": {"NOVA": 105}}, None), ({}, {"marketPrices": {"NOVA": 100}}))
    ):
        data = {"questions": {"Q": {"yesPrice": 0.3}}}
        steps = (
            Step(0, milliseconds(WINDOW.start), state, long, observation=seen),
            Step(1, milliseconds(WINDOW.start), {}, no, provider_accesses=({"providerName": "m", "data": data},)),
            Step(2, milliseconds(WINDOW.start), {}, long),
        )
        members.append(Trajectory(f"t{number}", f"a{number}", WINDOW.id, WINDOW.start, WINDOW.end, steps, None))
    judged = OracleJudge().judgments(Group(WINDOW.id, WINDOW, tuple(members), RISEN))
    assert decisions(judged["t0"]) == pytest.approx([((110 / 105 - 1) / 0.1 + 1) / 2, 0.65])
    assert decisions(judged["t1"]) == pytest.approx([1.0, 0.65])
