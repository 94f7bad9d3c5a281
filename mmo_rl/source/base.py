"""Where recorded play is read from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from mmo_rl.types import Group, GroupCounts, Selection, WindowQuery, WindowStats

WINDOWS_INDEX = "mmo_rl_windows_idx"
"""Answers what windows hold without a look at the rows. The database room makes it, this one announces its absence."""


class ReadPool(Protocol):
    """Read-only connections to a PostgreSQL server (asyncpg connections; the pool belongs to the database room)."""

    def acquire(self) -> AbstractAsyncContextManager[Any]: ...


class Source(Protocol):
    """Reads recorded trajectories; never writes.

    ``counts`` gives numbers and ``windows`` the members and their statistics, and neither touches step JSON but of
    trajectories that cross the end of their window: those are sliced. In windows longer than an hour what an agent did
    is joined. ``groups`` streams the chosen trajectories, one group a window (or role in one), in the selection's
    order, with bounded memory. Rows that cannot be read are left out of their group and counted in ``rejected`` by
    reason. Raises `SourceError` when there is nothing to read from.
    """

    @property
    def rejected(self) -> Mapping[str, int]: ...

    async def counts(self, query: WindowQuery) -> list[GroupCounts]: ...

    async def windows(self, query: WindowQuery) -> list[WindowStats]: ...

    def groups(self, selection: Selection) -> AsyncIterator[Group]: ...

    async def aclose(self) -> None: ...
