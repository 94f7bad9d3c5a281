"""From what was played to the recorded contract: one agent's window as a trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mmo_rl.clock import milliseconds
from mmo_rl.market.base import Episode, PlayedStep, Seat
from mmo_rl.policy.base import Policy
from mmo_rl.types import Action, LLMCall, Step, Trajectory, Window, prompt_fields


@dataclass(frozen=True, slots=True)
class Player:
    """Who answered, as recordings name it: ``seat`` is the strategy, None for a policy. A script has no
    temperature."""

    seat: Seat
    model: str
    version: str | None
    temperature: float | None

    @classmethod
    def at(cls, seat: Seat, policy: Policy | None, temperature: float) -> Player:
        if seat is not None:
            return cls(seat, f"script/{seat}", None, None)
        assert policy is not None
        return cls(None, policy.name, str(policy.version), temperature)


def agent_id(agent: int, seat: Seat) -> str:
    """The agent of a seat, as it is recorded."""
    return f"{seat or 'agent'}-{agent:02d}"


def trajectory(
    episode: Episode, agent: int, *, window: Window, scenario_id: str, index: int, player: Player
) -> Trajectory:
    """One agent's play as the recorded contract has it. Its id depends on the scenario, the window's index and the
    seat alone, so that seeded dropout picks the same trajectories wherever the same run is repeated."""
    trajectory_id = f"{scenario_id}-w{index:05d}-a{agent:02d}"
    played = episode.steps[agent]
    length = (window.end - window.start) / episode.ticks
    steps = tuple(_step(step, trajectory_id, window.start + length * step.tick, player) for step in played)
    failed = sum(not step.success for step in played)
    return Trajectory(
        trajectory_id=trajectory_id,
        agent_id=agent_id(agent, player.seat),
        window_id=window.id,
        start=window.start,
        end=window.end,
        steps=steps,
        final_pnl=episode.pnl[agent],
        final_balance=episode.balance[agent],
        final_status="completed_with_errors" if failed else "completed",
        scenario_id=scenario_id,
        metrics={"errorCount": failed},
    )


def _step(played: PlayedStep, trajectory_id: str, timestamp: datetime, player: Player) -> Step:
    call = LLMCall(
        call_id=f"{trajectory_id}-call-{played.tick}-0",
        model=player.model,
        model_version=player.version,
        **prompt_fields(played.messages),
        response=played.completion.text,
        purpose="action",
        action_type=played.action_type,
        prompt_token_ids=played.completion.prompt_token_ids,
        token_ids=played.completion.token_ids,
        logprobs=played.completion.logprobs,
        temperature=player.temperature,
        latency_ms=played.completion.latency_ms,
        timestamp_ms=milliseconds(timestamp),
    )
    return Step(
        number=played.tick,
        timestamp_ms=milliseconds(timestamp),
        environment_state=played.state,
        action=Action(played.action_type, played.parameters, played.success, result=played.result, error=played.error),
        llm_calls=(call,),
        provider_accesses=({"providerName": "market", "purpose": "observe", "data": played.market},),
    )
