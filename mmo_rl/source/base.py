"""Where recorded play is read from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from mmo_rl.clock import utc_now
from mmo_rl.errors import SourceError
from mmo_rl.types import Group, GroupCounts, Parts, Selection, WindowQuery, WindowStats

WINDOWS_INDEX = "mmo_rl_windows_idx"
"""Answers what windows hold without a look at the rows. The database room makes it, this one announces its absence."""


class ReadPool(Protocol):
    """Read-only connections to a PostgreSQL server (asyncpg connections; the pool belongs to the database room)."""

    def acquire(self) -> AbstractAsyncContextManager[Any]: ...


class NoPool:
    """The pool of a source that reads no database."""

    def acquire(self) -> AbstractAsyncContextManager[Any]:
        raise SourceError("this source has no database to read from", hint="source=embedded or source=postgres has one")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceParts(Parts):
    """Collaborators of a source: ``pool`` has read-only connections to the database of the node's ``dsn_env`` (opened
    at the first use), ``rejected_to`` is the file for rejected rows (None: not written), ``now`` the clock."""

    pool: ReadPool = field(default_factory=NoPool)
    rejected_to: Path | None = None
    now: Callable[[], datetime] = utc_now


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
