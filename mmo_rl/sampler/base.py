"""Which recorded trajectories an iteration trains on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from mmo_rl.types import Selection, WindowQuery, WindowStats


class Sampler(Protocol):
    """Chooses windows and trajectories from statistics alone; pure and seeded.

    ``prefix`` is what trajectory ids begin with in a world that was made for one run. It has no part in any choice, so
    that the same run chooses the same trajectories in whatever world it is repeated.
    """

    def query(self, scenario_id: str | None) -> WindowQuery: ...

    def select(
        self, windows: Sequence[WindowStats], iteration: int, used_windows: Collection[str] = (), *, prefix: str = ""
    ) -> Selection: ...
