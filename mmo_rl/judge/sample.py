"""Two small made-up groups that every template must be able to show: everything recorded, and the least."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mmo_rl.clock import milliseconds
from mmo_rl.types import (
    Action,
    GroundTruth,
    Group,
    LLMCall,
    QuestionOutcome,
    Step,
    TickerOutcome,
    Trajectory,
    Window,
)

_START = datetime(2025, 1, 13, 14, tzinfo=UTC)
_WINDOW = Window("2025-01-13T14:00", _START, _START + timedelta(hours=1))


def sample_groups() -> tuple[Group, Group]:
    """A group with every field recorded and a group with every optional field missing; two members each."""
    truth = GroundTruth(
        _WINDOW.id,
        tickers=(TickerOutcome("ACME", 100.0, 104.0, news=("ACME wins a contract",)),),
        questions=(QuestionOutcome("q1", "Will ACME open a second plant?", "YES", 0.8),),
    )
    full = Group(_WINDOW.id, _WINDOW, (_full("a", 120.0), _full("b", -35.5)), truth)
    least = Group(_WINDOW.id, _WINDOW, (_least("c"), _least("d")), None)
    return full, least


def _full(trajectory_id: str, pnl: float) -> Trajectory:
    call = LLMCall(
        call_id=f"{trajectory_id}-call-0-0",
        model="sample",
        system_prompt="You trade.",
        user_prompt="ACME trades at 100.0; @wire reports a contract.",
        response='{"ticker": "ACME", "action": "BUY", "size": 2}',
        reasoning="A contract should lift the price.",
    )
    bought = Action(
        "open_perp",
        {"ticker": "ACME", "size": 200.0, "side": "long"},
        success=True,
        result={"price": 100.0},
        reasoning="good news",
        correctness={"perpCorrect": True, "priceChange": 4.0},
    )
    failed = Action("buy", {"question": "q9"}, success=False, error="no such question")
    state = {"agentBalance": 1000.0, "agentPnL": 0.0, "openPositions": 0}
    return Trajectory(
        trajectory_id=trajectory_id,
        agent_id=f"agent-{trajectory_id}",
        window_id=_WINDOW.id,
        start=_START,
        end=_WINDOW.end,
        steps=(
            Step(0, milliseconds(_START + timedelta(minutes=5)), state, bought, (call,), reward=0.0),
            Step(1, milliseconds(_START + timedelta(minutes=20)), state, failed, (call,), reward=0.0),
        ),
        final_pnl=pnl,
        final_balance=1000.0 + pnl,
        role="trader",
        metadata={"gameKnowledge": {"trueProbabilities": {"q1": 0.9}}},
    )


def _least(trajectory_id: str) -> Trajectory:
    wait = Action("wait", {}, success=True)
    return Trajectory(
        trajectory_id=trajectory_id,
        agent_id=f"agent-{trajectory_id}",
        window_id=_WINDOW.id,
        start=_START,
        end=_WINDOW.end,
        steps=(Step(0, milliseconds(_START), {}, wait),),
        final_pnl=None,
    )
