"""Which recorded trajectories an iteration trains on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from mmo_rl.types import Choice, GroupCounts, Member, Selection, WindowQuery, WindowStats


class Sampler(Protocol):
    """Chooses windows from their numbers, then trajectories from their statistics; pure and seeded.

    ``choose`` needs no id, ``draw`` the members of the chosen windows alone (``members_query`` asks for them);
    ``select`` is both, where all members are at hand. ``used_windows`` has the ids of the windows that this run trained
    on, each as often as it did. ``prefix`` is what trajectory ids begin with in a world that was made for one run. It
    has no part in any choice, so that the same run chooses the same trajectories in whatever world it is repeated.
    """

    def query(self, scenario_id: str | None) -> WindowQuery: ...

    def choose(self, counts: Sequence[GroupCounts], iteration: int, used_windows: Collection[str] = ()) -> Choice: ...

    def members_query(self, query: WindowQuery, choice: Choice, *, prefix: str = "") -> WindowQuery: ...

    def draw(self, choice: Choice, windows: Sequence[WindowStats], *, prefix: str = "") -> Selection: ...

    def select(
        self, windows: Sequence[WindowStats], iteration: int, used_windows: Collection[str] = (), *, prefix: str = ""
    ) -> Selection: ...


class Dropout(Protocol):
    """A strategy: a number in [0, 1) for every trajectory of the groups of an iteration, by id. Those whose number is
    at least the dropout rate stay. ``fractions`` are uniform in [0, 1), by id, and the only chance there is."""

    def __call__(
        self, groups: Sequence[Sequence[Member]], fractions: Mapping[str, float], /
    ) -> Mapping[str, float]: ...
