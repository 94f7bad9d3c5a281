"""Plays new windows of the simulated market and records them as any game would."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field

from mmo_rl.clock import milliseconds, window_at
from mmo_rl.database.base import Recorder, Stay
from mmo_rl.market.arena import with_window
from mmo_rl.market.base import Arena, Episode, PlayedStep, Seat
from mmo_rl.market.strategies import StrategyName
from mmo_rl.policy.base import Policy
from mmo_rl.rng import derive_seed
from mmo_rl.types import Action, LLMCall, Step, Trajectory, Window, prompt_fields


@dataclass(frozen=True, slots=True)
class Collected:
    """What was recorded: the windows, and one stay an agent and window. ``resumed`` of the windows had been recorded
    by an earlier run of the same command."""

    windows: tuple[Window, ...]
    stays: tuple[Stay, ...]
    resumed: int = 0

    @property
    def pnl(self) -> tuple[float, ...]:
        return tuple(stay.pnl for stay in self.stays)

    @property
    def error_rate(self) -> float:
        """Failed actions as a share of all, in [0, 1]."""
        return sum(stay.errors for stay in self.stays) / sum(stay.steps for stay in self.stays)


class SimulatedCollector:
    """``windows`` new windows an iteration, each with ``agents`` agents that face the same market at once.

    The seats are the policy's, or those of scripted ``strategies`` in turn where some are named (``policy`` among them
    is a seat of the policy's). The markets of an iteration depend on the seed and the iteration alone; ``window_hours``
    is how much game time a window covers. `collect_missing` plays ``abreast`` windows side by side.

    ``continuous`` plays the windows of an iteration, or of `collect_missing`, as one market that goes on from each to
    the next; they are recorded when the last is over, and questions count as resolved where they were by then.
    """

    def __init__(
        self,
        *,
        windows: Annotated[int, Field(ge=1, le=1000)] = 8,
        agents: Annotated[int, Field(ge=2, le=100)] = 8,
        strategies: tuple[StrategyName | Literal["policy"], ...] = (),
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        window_hours: Annotated[float, Field(ge=0.25)] = 1.0,
        abreast: Annotated[int, Field(ge=1, le=1000)] = 8,
        continuous: bool = False,
        seed: int,
        arena: Arena,
        recorder: Recorder,
    ) -> None:
        self.windows = windows
        self.agents = agents
        named = strategies or ("policy",)
        self.seats: list[Seat] = [None if (name := named[a % len(named)]) == "policy" else name for a in range(agents)]
        self.window_hours = window_hours
        self._continuous = continuous
        self._abreast = windows if continuous else abreast
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
        return await self._record(
            policy,
            range(first, first + self.windows),
            seed=derive_seed(self._seed, "collect", iteration),
            scenario_id=scenario_id,
            start=start,
            on_tick=on_tick,
        )

    async def collect_missing(
        self,
        policy: Policy | None,
        *,
        scenario_id: str,
        start: datetime,
        on_tick: Callable[[int, int], None] | None = None,
        on_windows: Callable[[int, int], None] | None = None,
    ) -> Collected:
        """Plays ``windows`` windows in all, of which those that the scenario has recorded whole are left as they are;
        the others are the same as if nothing had been interrupted. ``on_windows(done, total)`` is called at the start
        and as windows are recorded."""
        windows = [self._window(start, number) for number in range(self.windows)]
        known = await self._recorder.recorded(scenario_id=scenario_id)
        stays = {window.id: [stay for stay in known if stay.window_id == window.id] for window in windows}
        resumed = sum(map(bool, stays.values()))
        done = resumed
        if on_windows is not None:
            on_windows(done, self.windows)
        for first in range(0, self.windows, self._abreast):
            numbers = range(first, min(first + self._abreast, self.windows))
            known_here = {number for number in numbers if stays[windows[number].id]}
            if len(known_here) == len(numbers):
                continue
            played = await self._record(
                policy,
                numbers,
                known=known_here,
                seed=derive_seed(self._seed, "collect", "from window", first),
                scenario_id=scenario_id,
                start=start,
                on_tick=on_tick,
            )
            for stay in played.stays:
                stays[stay.window_id].append(stay)
            done += len(played.windows)
            if on_windows is not None:
                on_windows(done, self.windows)
        return Collected(tuple(windows), tuple(stay for window in windows for stay in stays[window.id]), resumed)

    def _window(self, start: datetime, number: int) -> Window:
        return window_at(start + timedelta(hours=self.window_hours) * number, self.window_hours)

    async def _record(
        self,
        policy: Policy | None,
        numbers: Sequence[int],
        *,
        seed: int,
        scenario_id: str,
        start: datetime,
        on_tick: Callable[[int, int], None] | None,
        known: Collection[int] = (),
    ) -> Collected:
        """Plays the windows of these numbers, side by side or as one market's, then records them one by one, without
        those that are ``known``: what a policy answers depends on who is asked together, so that the others are
        repeated exactly."""
        markets, windows_each = (numbers[:1], len(numbers)) if self._continuous else (numbers, 1)
        episodes = await self._arena.play(
            policy,
            market_seeds=[derive_seed(self._seed, "collected market", number) for number in markets],
            seats=self.seats,
            temperature=self._temperature,
            seed=seed,
            on_tick=on_tick,
            windows=windows_each,
        )
        windows, stays = [], []
        for number, episode in zip(numbers, episodes, strict=True):
            if number in known:
                continue
            window = self._window(start, number)
            windows.append(window)
            await self._recorder.begin_window(window, scenario_id=scenario_id)
            for agent, seat in enumerate(self.seats):
                player = _Player.at(seat, policy, self._temperature)
                played = trajectory(episode, agent, window=window, scenario_id=scenario_id, index=number, player=player)
                await self._recorder.record(played)
                steps = episode.steps[agent]
                errors = sum(not step.success for step in steps)
                stays.append(Stay(window.id, played.agent_id, episode.pnl[agent], len(steps), errors))
            await self._recorder.record_outcomes(with_window(episode.truth, window.id), scenario_id=scenario_id)
        return Collected(tuple(windows), tuple(stays))


@dataclass(frozen=True, slots=True)
class _Player:
    """Who answered, as recordings name it: ``seat`` is the strategy, None for a policy. A script has no
    temperature."""

    seat: Seat
    model: str
    version: str | None
    temperature: float | None

    @classmethod
    def at(cls, seat: Seat, policy: Policy | None, temperature: float) -> _Player:
        if seat is not None:
            return cls(seat, f"script/{seat}", None, None)
        assert policy is not None
        return cls(None, policy.name, str(policy.version), temperature)


def agent_id(agent: int, seat: Seat) -> str:
    """The agent of a seat, as it is recorded."""
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
