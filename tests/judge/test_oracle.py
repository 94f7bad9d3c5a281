from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from mmo_rl.clock import milliseconds, window_at
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
    assert judged == Score("t0", 0.5, "0 good and 0 bad of 1 decisions, 0 failed")
