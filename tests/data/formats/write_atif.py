"""Writes atif.jsonl with atif 1.8.0: three agents in one hour, a sub-agent, and a second hour of one of them."""

from __future__ import annotations

import json
from pathlib import Path

from atif import Agent, FinalMetrics, Metrics, Observation, ObservationResult, Step, ToolCall, Trajectory

TOOL = {"type": "function", "function": {"name": "OPEN_PERP_POSITION", "parameters": {"type": "object"}}}


def decision(number: int, *, minute: int, hour: int, side: str | None, ids: list[int] | None) -> Step:
    calls = None
    if side is not None:
        calls = [
            ToolCall(
                tool_call_id=f"call-{number}",
                function_name="OPEN_PERP_POSITION",
                arguments={"ticker": "NOVA", "side": side, "size": 500, "price": 100.0 + number},
            )
        ]
    return Step(
        step_id=number,
        timestamp=f"2026-01-05T{hour}:{minute:02}:00Z",
        source="agent",
        message="" if calls else "I wait.",
        reasoning_content="NOVA looks strong.",
        tool_calls=calls,
        observation=Observation(results=[ObservationResult(source_call_id=f"call-{number}", content="filled")])
        if calls
        else None,
        metrics=Metrics(
            prompt_tokens=40,
            completion_tokens=len(ids) if ids else 5,
            prompt_token_ids=[1, 2, 3] if ids else None,
            completion_token_ids=ids,
            logprobs=[-0.125 * (n + 1) for n in range(len(ids))] if ids else None,
        ),
    )


def trajectory(name: str, *, hour: int, sides: list[str | None], pnl: float, ids: list[int] | None) -> Trajectory:
    steps = [
        Step(step_id=1, timestamp=f"2026-01-05T{hour}:00:00Z", source="system", message="You trade."),
        Step(step_id=2, timestamp=f"2026-01-05T{hour}:00:00Z", source="user", message="NOVA stands at 100."),
    ]
    for place, side in enumerate(sides):
        steps.append(decision(3 + place, minute=5 + 10 * place, hour=hour, side=side, ids=ids))
    return Trajectory(
        schema_version="ATIF-v1.8",
        session_id=f"session-{name}",
        trajectory_id=f"{name}-{hour}",
        agent=Agent(name=name, version="1.0", model_name="my-model", tool_definitions=[TOOL]),
        steps=steps,
        final_metrics=FinalMetrics(total_steps=len(steps), extra={"pnl": pnl, "reward": pnl / 100}),
        extra={"scenario": "my-game", "secret": "PLANTED-SECRET"},
    )


def main() -> None:
    alice = trajectory("alice", hour=14, sides=["long", "short"], pnl=12.5, ids=[11, 12, 13])
    alice.subagent_trajectories = [trajectory("scout", hour=14, sides=[None], pnl=0.0, ids=None)]
    found = [
        alice,
        trajectory("bob", hour=14, sides=["short", None, "long"], pnl=-4.25, ids=None),
        trajectory("alice", hour=15, sides=["long"], pnl=3.0, ids=[21]),
    ]
    lines = [json.dumps(Trajectory.model_validate(t.to_json_dict()).to_json_dict()) for t in found]
    Path(__file__).with_name("atif.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
