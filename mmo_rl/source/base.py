"""Where recorded play is read from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from mmo_rl.types import Group, Selection, WindowQuery, WindowStats


class ReadPool(Protocol):
    """Read-only connections to a PostgreSQL server (asyncpg connections; the pool belongs to the database room)."""

    def acquire(self) -> AbstractAsyncContextManager[Any]: ...


class WindowCount(NamedTuple):
    """What a window holds, counted: its start in UTC, trajectories or slices, and agents with enough steps in play that
    may be trained on."""

    start: datetime
    trajectories: int
    agents: int


class Source(Protocol):
    """Reads recorded trajectories; never writes.

    ``windows`` gives statistics only and touches no step JSON; ``counts`` counts all windows that end before a moment,
    in order, however far back (a trajectory that crosses windows counts in each); ``groups`` streams the chosen
    trajectories, one group a window, in the selection's order, with bounded memory. Rows that cannot be read are left
    out of their group and counted in ``rejected`` by reason. Raises `SourceError` when there is nothing to read from.
    """

    @property
    def rejected(self) -> Mapping[str, int]: ...

    async def windows(self, query: WindowQuery) -> list[WindowStats]: ...

    async def counts(self, query: WindowQuery, *, before: datetime, min_actions: int) -> list[WindowCount]: ...

    def groups(self, selection: Selection) -> AsyncIterator[Group]: ...

    async def aclose(self) -> None: ...
