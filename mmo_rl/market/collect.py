"""Plays new windows of the simulated market and records them as any game would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field

from mmo_rl.clock import milliseconds, window_at
from mmo_rl.database.base import Recorder
from mmo_rl.market.arena import with_window
from mmo_rl.market.base import Arena, Episode, PlayedStep, Seat
from mmo_rl.market.strategies import StrategyName
from mmo_rl.policy.base import Policy
from mmo_rl.rng import derive_seed
from mmo_rl.types import Action, LLMCall, Step, Trajectory, Window, prompt_fields


@dataclass(frozen=True, slots=True)
class Collected:
    """What was recorded: the windows, and per trajectory its agent and its P&L in game dollars; ``error_rate`` in
    [0, 1]."""

    windows: tuple[Window, ...]
    agents: tuple[str, ...]
    pnl: tuple[float, ...]
    error_rate: float

    @property
    def mean_pnl(self) -> float:
        return sum(self.pnl) / len(self.pnl)

    @property
    def win_rate(self) -> float:
        return sum(p > 0 for p in self.pnl) / len(self.pnl)


class SimulatedCollector:
    """``windows`` new windows an iteration, each with ``agents`` agents that face the same market at once.

    The seats are the policy's, or those of scripted ``strategies`` in turn where some are named. The markets of an
    iteration depend on the seed and the iteration alone; ``window_hours`` is how much game time a window covers.
    """

    def __init__(
        self,
        *,
        windows: Annotated[int, Field(ge=1, le=1000)] = 8,
        agents: Annotated[int, Field(ge=2, le=100)] = 8,
        strategies: tuple[StrategyName, ...] = (),
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        window_hours: Annotated[float, Field(ge=0.25)] = 1.0,
        seed: int,
        arena: Arena,
        recorder: Recorder,
    ) -> None:
        self.windows = windows
        self.agents = agents
        self.seats: list[Seat] = [strategies[a % len(strategies)] if strategies else None for a in range(agents)]
        self.window_hours = window_hours
        self._temperature = temperature
        self._seed = seed
        self._arena = arena
        self._recorder = recorder

    async def collect(
        self,
        policy: Policy | None,
        *,
        iteration: int,
        scenario_id: str,
        start: datetime,
        on_tick: Callable[[int, int], None] | None = None,
    ) -> Collected:
        """Plays iteration ``iteration`` and records it in the hours that begin at ``start``, the first of the
        scenario's block. Repeating an iteration replaces what it had recorded."""
        first = iteration * self.windows
        seeds = [derive_seed(self._seed, "collected market", first + k) for k in range(self.windows)]
        episodes = await self._arena.play(
            policy,
            market_seeds=seeds,
            seats=self.seats,
            temperature=self._temperature,
            seed=derive_seed(self._seed, "collect", iteration),
            on_tick=on_tick,
        )
        windows = []
        for k, episode in enumerate(episodes):
            window = window_at(start + timedelta(hours=self.window_hours) * (first + k), self.window_hours)
            windows.append(window)
            await self._recorder.begin_window(window, scenario_id=scenario_id)
            for agent in range(self.agents):
                player = _Player.at(self.seats[agent], policy)
                await self._recorder.record(
                    trajectory(episode, agent, window=window, scenario_id=scenario_id, index=first + k, player=player)
                )
            await self._recorder.record_outcomes(with_window(episode.truth, window.id), scenario_id=scenario_id)
        steps = [step for episode in episodes for agent in episode.steps for step in agent]
        return Collected(
            windows=tuple(windows),
            agents=tuple(_agent_id(agent, seat) for agent, seat in enumerate(self.seats)) * len(windows),
            pnl=tuple(p for episode in episodes for p in episode.pnl),
            error_rate=sum(not step.success for step in steps) / len(steps),
        )


@dataclass(frozen=True, slots=True)
class _Player:
    """Who answered, as recordings name it: ``seat`` is the strategy, None for a policy."""

    seat: Seat
    model: str
    version: str | None

    @classmethod
    def at(cls, seat: Seat, policy: Policy | None) -> _Player:
        if seat is not None:
            return cls(seat, f"script/{seat}", None)
        assert policy is not None
        return cls(None, policy.name, str(policy.version))


def _agent_id(agent: int, seat: Seat) -> str:
    return f"{seat or 'agent'}-{agent:02d}"


def trajectory(
    episode: Episode, agent: int, *, window: Window, scenario_id: str, index: int, player: _Player
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
        agent_id=_agent_id(agent, player.seat),
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


def _step(played: PlayedStep, trajectory_id: str, timestamp: datetime, player: _Player) -> Step:
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
