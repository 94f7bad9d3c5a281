"""What is written: recordings, outcomes, judgments, batches, models."""

from __future__ import annotations

from typing import Protocol

from mmo_rl.types import GroundTruth, Trajectory, Window


class Recorder(Protocol):
    """Stores play as it happens; every trajectory is one transaction.

    ``begin_window`` makes recording repeatable: it removes what an interrupted run of the same scenario had stored of
    that window. A `Trajectory` read back equals the one recorded.
    """

    async def begin_window(self, window: Window, *, scenario_id: str) -> None: ...

    async def record(self, trajectory: Trajectory) -> None: ...

    async def record_outcomes(self, truth: GroundTruth, *, scenario_id: str) -> None: ...
