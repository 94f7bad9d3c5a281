"""Recording of play: one agent's window as a trajectory of the recorded contract."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mmo_rl.clock import milliseconds
from mmo_rl.market.base import Episode, PlayedStep, Scripted, Seat
from mmo_rl.policy.base import Policy
from mmo_rl.types import Action, LLMCall, Step, Trajectory, Window, prompt_fields


@dataclass(frozen=True, slots=True)
class Player:
    """Player of a seat as recordings name it: ``strategy`` is None for a policy. A script has no temperature."""

    strategy: str | None
    model: str
    version: str | None
    temperature: float | None

    @property
    def name(self) -> str:
        """Name of the strategy or policy."""
        return self.strategy or self.model

    @classmethod
    def at(cls, seat: Seat, policy: Policy | None, temperature: float) -> Player:
        """Names the player of a seat: a scripted strategy, or the policy."""
        if seat is not None:
            return cls(strategy_name(seat), f"script/{strategy_name(seat)}", None, None)
        assert policy is not None
        return cls(None, policy.name, str(policy.version), temperature)


def strategy_name(seat: Scripted | str) -> str:
    """Returns the name under which a scripted player is recorded."""
    return seat if isinstance(seat, str) else seat.name


def agent_id(agent: int, seat: Seat) -> str:
    """Returns the id under which the agent of a seat is recorded."""
    return f"{'agent' if seat is None else strategy_name(seat)}-{agent:02d}"


def trajectory(
    episode: Episode, agent: int, *, window: Window, scenario_id: str, index: int, player: Player
) -> Trajectory:
    """Builds the trajectory of one agent, as the recorded contract has it. Its id depends on the scenario, the window's
    index and the seat alone, so that seeded dropout picks the same trajectories wherever the same run is repeated."""
    trajectory_id = f"{scenario_id}-w{index:05d}-a{agent:02d}"
    played = episode.steps[agent]
    length = (window.end - window.start) / episode.ticks
    steps = tuple(_step(step, trajectory_id, window.start + length * step.tick, player) for step in played)
    failed = sum(not step.success for step in played)
    return Trajectory(
        trajectory_id=trajectory_id,
        agent_id=agent_id(agent, player.strategy),
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
        environment_state=dict(played.state),
        action=Action(played.action_type, played.parameters, played.success, result=played.result, error=played.error),
        llm_calls=(call,),
        provider_accesses=({"providerName": "market", "purpose": "observe", "data": played.market},),
    )
