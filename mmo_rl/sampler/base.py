"""Which recorded trajectories an iteration trains on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from mmo_rl.types import Selection, WindowQuery, WindowStats


class Sampler(Protocol):
    """Chooses windows and trajectories from statistics alone; pure and seeded."""

    def query(self, scenario_id: str | None) -> WindowQuery: ...

    def select(
        self, windows: Sequence[WindowStats], iteration: int, used_windows: Collection[str] = ()
    ) -> Selection: ...
