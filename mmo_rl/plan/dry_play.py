"""Play for plans: the run's own markets and agents, answered without a model and kept in memory.

The collector, the market and the prompts are the real ones; only the answers are made up, in the form that the market
asks for. So the number of windows, agents and steps is exact and the length of texts is close.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from mmo_rl.database.base import Stay
from mmo_rl.market.base import Collector
from mmo_rl.market.strategies import HOLD, order
from mmo_rl.policy.base import Completion
from mmo_rl.rng import derive_seed, rng
from mmo_rl.types import (
    GroundTruth,
    Group,
    GroupCounts,
    Member,
    Message,
    Selection,
    Trajectory,
    Window,
    WindowQuery,
    WindowStats,
)

HOLDS = 0.1
BROKEN = 0.05
NOT_INSTRUMENTS = ("news", "cash", "held")


class DryPolicy:
    """Policy that orders anything the prompt names; seeded, it sometimes waits or answers with no valid order."""

    name = "dry"
    version = 0

    async def complete(
        self, prompts: Sequence[Sequence[Message]], *, temperature: float, seed: int
    ) -> list[Completion]:
        draw = rng(derive_seed(seed, "dry play"))
        answers = []
        for prompt in prompts:
            lines = prompt[-1]["content"].splitlines()[1:]
            names = [line.split()[0] for line in lines if not line.startswith(NOT_INSTRUMENTS)]
            answer = order(draw.choice(names), draw.choice((-1, 1)), draw.randint(1, 3)) if names else HOLD
            chance = draw.random()
            if chance < HOLDS:
                answer = HOLD
            elif chance < HOLDS + BROKEN:
                answer = answer[:-1]
            answers.append(Completion(answer))
        return answers


class DrySource:
    """Recorder and source in memory: implements `mmo_rl.database.base.Recorder` and `mmo_rl.source.base.Source`."""

    def __init__(self) -> None:
        self.visible: int | None = None
        """The number of windows, in the order of their start, that can be read; None: all."""
        self._windows: dict[str, Window] = {}
        self._played: dict[str, dict[str, Trajectory]] = {}
        self._truths: dict[str, GroundTruth] = {}

    # --- the recorder ------------------------------------------------------------------------------------------------

    async def begin_window(self, window: Window, *, scenario_id: str) -> None:
        self._windows[window.id] = window
        self._played[window.id] = {}

    async def record(self, trajectory: Trajectory) -> None:
        self._played[trajectory.window_id][trajectory.trajectory_id] = trajectory

    async def record_all(self, trajectories: Sequence[Trajectory]) -> None:
        for trajectory in trajectories:
            await self.record(trajectory)

    async def record_outcomes(self, truth: GroundTruth, *, scenario_id: str) -> None:
        self._truths[truth.window_id] = truth

    async def stays(self, *, scenario_id: str) -> Sequence[Stay]:
        """Nothing: a plan keeps no play of an earlier command."""
        return ()

    async def answers(self, *, scenario_id: str) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Nothing, as `recorded`."""
        return {}

    # --- the source --------------------------------------------------------------------------------------------------

    @property
    def rejected(self) -> Mapping[str, int]:
        return {}

    async def counts(self, query: WindowQuery) -> list[GroupCounts]:
        windows = await self.windows(query)
        return [c for w in windows for c in w.counts(min_actions=query.min_actions, by_role=query.by_role)]

    async def windows(self, query: WindowQuery) -> list[WindowStats]:
        windows = list(self._windows.values())[: self.visible]
        only = {window.id for window in query.only}
        found = []
        for window in windows:
            if only and window.id not in only:
                continue
            if window.start > windows[-1].start - timedelta(hours=query.lookback_hours):
                members = tuple(
                    Member(t.trajectory_id, t.agent_id, len(t.steps), t.final_pnl, t.role)
                    for _, t in sorted(self._played[window.id].items())
                )
                found.append(WindowStats(window, members, has_outcomes=window.id in self._truths))
        return found

    async def groups(self, selection: Selection) -> AsyncGenerator[Group, None]:
        for chosen in selection.windows:
            played = self._played[chosen.window.id]
            members = tuple(played[i] for i in chosen.trajectory_ids if i in played)
            yield Group(chosen.window.id, chosen.window, members, self._truths.get(chosen.window.id))

    async def aclose(self) -> None:
        """Holds nothing open."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """Play of a run that plays its own windows: the ``collector`` records into ``source``, which is read from again."""

    collector: Collector
    source: DrySource
