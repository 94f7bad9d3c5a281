"""What is written: recordings, outcomes, judgments, batches, models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mmo_rl.types import GroundTruth, Trajectory, Window


@dataclass(frozen=True, slots=True)
class Stay:
    """A recorded trajectory in numbers: ``pnl`` in game dollars, ``errors`` counts failed actions of its ``steps``."""

    window_id: str
    agent_id: str
    pnl: float
    steps: int
    errors: int


class Recorder(Protocol):
    """Stores play as it happens; every trajectory is stored whole or not at all, and `record_all` stores several in
    one transaction: one journey to the disk, not one for each.

    ``begin_window`` makes recording repeatable: it removes what an interrupted run of the same scenario had stored of
    that window. A `Trajectory` read back equals the one recorded.
    """

    async def begin_window(self, window: Window, *, scenario_id: str) -> None: ...

    async def record(self, trajectory: Trajectory) -> None: ...

    async def record_all(self, trajectories: Sequence[Trajectory]) -> None: ...

    async def record_outcomes(self, truth: GroundTruth, *, scenario_id: str) -> None: ...

    async def recorded(self, *, scenario_id: str) -> Sequence[Stay]:
        """What this scenario has recorded in windows that are whole: outcomes, which come last, included."""
        ...

    async def answers(self, *, scenario_id: str) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """The text of every step's answer in this scenario's whole windows, by window and agent: what a market that
        goes on is played again from."""
        ...
