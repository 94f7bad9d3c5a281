"""Collection of play: new windows of the simulated market, recorded in the form of any game."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated

from pydantic import Field

from mmo_rl.clock import window_at
from mmo_rl.database.base import Stay
from mmo_rl.errors import DatabaseError
from mmo_rl.market.base import Collected, CollectorParts, Episode, Replay, Seat
from mmo_rl.market.recording import Player, agent_id, trajectory
from mmo_rl.policy.base import Policy
from mmo_rl.rng import derive_seed
from mmo_rl.types import GroundTruth, Window


class SimulatedCollector:
    """Collector of ``windows`` new windows an iteration, each with ``agents`` agents that face the same market at once.

    The seats are the policy's, or those of scripted ``strategies`` in turn where some are named (the name ``policy``
    among them gives the policy a seat). The markets of an iteration depend on the seed and the iteration alone;
    ``window_hours`` is the game time that a window covers. `collect_missing` plays ``abreast`` windows side by side.

    ``continuous`` plays the windows of an iteration, or of `collect_missing`, as one market that goes on from each to
    the next. Each is recorded as it ends, and a question's outcome is filled in once it is known. Windows that an
    interrupted run has recorded are played again from the recording, so no policy is asked anything twice.
    """

    def __init__(
        self,
        *,
        windows: Annotated[int, Field(ge=1, le=1000)] = 8,
        agents: Annotated[int, Field(ge=2, le=100)] = 8,
        strategies: tuple[str, ...] = (),
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        window_hours: Annotated[float, Field(ge=0.25)] = 1.0,
        abreast: Annotated[int, Field(ge=1, le=1000)] = 8,
        continuous: bool = False,
        seed: int,
        parts: CollectorParts,
    ) -> None:
        self.windows = windows
        self.agents = agents
        named = strategies or ("policy",)
        players = [None if name == "policy" else parts.find_player(name) for name in named]
        self.seats: list[Seat] = [players[agent % len(players)] for agent in range(agents)]
        self.window_hours = window_hours
        self._continuous = continuous
        self._abreast = windows if continuous else abreast
        self._temperature = temperature
        self._seed = seed
        self._arena = parts.arena
        self._recorder = parts.recorder

    def player_names(self, policy: Policy | None) -> dict[str, str]:
        """Returns the name of the strategy or policy of each seat, by the agent's recorded id."""
        return {
            agent_id(agent, seat): Player.at(seat, policy, self._temperature).name
            for agent, seat in enumerate(self.seats)
        }

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
        known = await self._recorder.stays(scenario_id=scenario_id)
        stays = {window.id: [stay for stay in known if stay.window_id == window.id] for window in windows}
        resumed = sum(map(bool, stays.values()))
        done = resumed

        def on_window(new: int) -> None:
            nonlocal done
            done += new
            if on_windows is not None:
                on_windows(done, self.windows)

        on_window(0)
        for first in range(0, self.windows, self._abreast):
            numbers = range(first, min(first + self._abreast, self.windows))
            known_here = {number for number in numbers if stays[windows[number].id]}
            if len(known_here) == len(numbers):
                continue
            played = await self._record(
                policy,
                numbers,
                known=known_here,
                on_window=on_window,
                seed=derive_seed(self._seed, "collect", "from window", first),
                scenario_id=scenario_id,
                start=start,
                on_tick=on_tick,
            )
            for window in played.windows:
                stays[window.id] = [stay for stay in played.stays if stay.window_id == window.id]
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
        on_window: Callable[[int], None] | None = None,
    ) -> Collected:
        """Plays the windows of these numbers and records them one by one, without those that are ``known``: side by
        side (with the known ones, because a policy's answers depend on the prompts that are asked together), or as
        one market's, each as it ends. ``on_window(1)`` is called for each that was recorded."""
        windows: list[Window] = []
        stays: list[Stay] = []

        async def record(number: int, episode: Episode) -> None:
            window = self._window(start, number)
            windows.append(window)
            await self._recorder.begin_window(window, scenario_id=scenario_id)
            played = []
            for agent, seat in enumerate(self.seats):
                player = Player.at(seat, policy, self._temperature)
                one = trajectory(episode, agent, window=window, scenario_id=scenario_id, index=number, player=player)
                played.append(one)
                steps = episode.steps[agent]
                errors = sum(not step.success for step in steps)
                stays.append(Stay(window.id, one.agent_id, episode.pnl[agent], len(steps), errors))
            try:
                await self._recorder.record_all(played)
            except DatabaseError:
                for one in played:  # one by one, so that the error names the trajectory that is refused
                    await self._recorder.record(one)
            await record_truth(number, episode)
            if on_window is not None:
                on_window(1)

        async def record_truth(number: int, episode: Episode) -> None:
            truth = replace(episode.truth, window_id=self._window(start, number).id)
            await self._recorder.record_outcomes(truth, scenario_id=scenario_id)

        truths: dict[int, GroundTruth] = {}

        async def ended(episodes: Sequence[Episode]) -> None:
            number = numbers[len(episodes) - 1]
            if number in known:
                return
            # Earlier windows first: with its outcomes this window is whole, and a resumed run starts after it.
            for earlier, episode in zip(numbers, episodes[:-1], strict=False):
                if truths.get(earlier) != episode.truth:
                    await record_truth(earlier, episode)
                    truths[earlier] = episode.truth
            await record(number, episodes[-1])
            truths[number] = episodes[-1].truth

        play = partial(
            self._arena.play, policy, seats=self.seats, temperature=self._temperature, seed=seed, on_tick=on_tick
        )
        seeds = [derive_seed(self._seed, "collected market", number) for number in numbers]
        if self._continuous:
            known = set(numbers[: next((n for n, number in enumerate(numbers) if number not in known), len(numbers))])
            replay = await self._replay(numbers[: len(known)], scenario_id=scenario_id, start=start) if known else ()
            await play(market_seeds=seeds[:1], windows=len(numbers), replay=replay, on_window=ended)
        else:
            episodes = await play(market_seeds=seeds)
            for number, episode in zip(numbers, episodes, strict=True):
                if number not in known:
                    await record(number, episode)
        return Collected(tuple(windows), tuple(stays))

    async def _replay(self, numbers: Sequence[int], *, scenario_id: str, start: datetime) -> Replay:
        """Reads the answers of these windows, which are recorded whole."""
        answers = await self._recorder.answers(scenario_id=scenario_id)
        agents = [agent_id(agent, seat) for agent, seat in enumerate(self.seats)]
        recorded = [answers[self._window(start, number).id] for number in numbers]
        return [list(zip(*(window[agent] for agent in agents), strict=True)) for window in recorded]
