from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from mmo_rl.clock import milliseconds, window_at
from mmo_rl.types import (
    Action,
    GroundTruth,
    Group,
    LLMCall,
    Score,
    ScoredGroup,
    Step,
    TickerOutcome,
    Trajectory,
    prompt_fields,
)

WINDOW = window_at(datetime(2025, 1, 1, tzinfo=UTC), 1.0)
PROMPT = (
    {"role": "system", "content": "You trade."},
    {"role": "user", "content": "t0\nNOVA +1\nnews NOVA soars @wire"},
)


def played(name: str, *, steps: int = 2, extra: str = "", logprobs: bool = False, **fields: Any) -> Trajectory:
    """A recorded trajectory with one action call a step."""
    return Trajectory(
        trajectory_id=name,
        agent_id=name,
        window_id=WINDOW.id,
        start=WINDOW.start,
        end=WINDOW.end,
        steps=tuple(
            Step(
                number,
                milliseconds(WINDOW.start),
                {"agentBalance": 1.0},
                Action("HOLD", {}, True, correctness={"actualOutcome": extra} if extra else None),
                llm_calls=(
                    LLMCall(
                        call_id=f"{name}-{number}",
                        model="tiny",
                        **prompt_fields(PROMPT),
                        response=f'{{"ticker":"NOVA","action":"BUY","size":{1 + number}}}',
                        token_ids=(5, 6, 2) if logprobs else None,
                        logprobs=(-0.1, -0.2, -0.3) if logprobs else None,
                    ),
                    LLMCall(
                        call_id=f"{name}-{number}-r",
                        model="m",
                        **prompt_fields(PROMPT),
                        response="why",
                        purpose="reasoning",
                    ),
                ),
            )
            for number in range(steps)
        ),
        final_pnl=fields.pop("final_pnl", 1.0),
        **fields,
    )


@pytest.fixture
def scored() -> Callable[..., ScoredGroup]:
    """A scored group of two: rewards 1 and 0, by decision where ``decisions`` is set."""

    def make(*, decisions: bool = False, canary: str = "", **fields: Any) -> ScoredGroup:
        members = tuple(played(name, extra=canary, **fields) for name in ("good", "bad"))
        truth = GroundTruth(WINDOW.id, (TickerOutcome(canary or "NOVA", 1.0, 2.0, news=(canary,)),))
        judgments = {
            m.trajectory_id: Score(
                m.trajectory_id,
                reward,
                explanation=canary,
                decisions={s.number: reward for s in m.steps} if decisions else None,
            )
            for m, reward in zip(members, (1.0, 0.0), strict=True)
        }
        return ScoredGroup(Group("g", WINDOW, members, truth), judgments, "decision" if decisions else "trajectory")

    return make
