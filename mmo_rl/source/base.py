"""Protocols of sources of recorded play, and of the connections that they read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mmo_rl.clock import utc_now
from mmo_rl.errors import SourceError
from mmo_rl.origins import Origin, Where
from mmo_rl.types import (
    GroundTruth,
    Group,
    GroupCounts,
    Parts,
    Rejection,
    Selection,
    Trajectory,
    WindowQuery,
    WindowStats,
)

WINDOWS_INDEX = "mmo_rl_windows_idx"
"""The index that counts windows without reading rows. The database room makes it, this one announces its absence."""
MODELS_INDEX = "mmo_rl_models_idx"
"""The index that finds the trajectories of a model; made together with that of windows."""
IMPORTED = "imported"
"""Stands for the scenario of outcomes that were recorded of no simulated one."""


class Row(Protocol):
    """A row of a result, by column name; its values are as the driver gives them."""

    def __getitem__(self, column: str, /) -> Any: ...


def source_overrides(dsn_env: str | None) -> str:
    """Returns the overrides that choose the server behind ``dsn_env`` as source, to be appended to a command."""
    if dsn_env is None:
        return ""
    return " source=postgres" + ("" if dsn_env == "DATABASE_URL" else f" source.dsn_env={dsn_env}")


class ReadConnection(Protocol):
    """A connection in a read-only transaction; its rows are asyncpg's records."""

    async def fetch(self, sql: str, /, *arguments: object) -> list[Any]: ...


class ReadPool(Protocol):
    """A pool of read-only connections to a PostgreSQL server; it belongs to the database room."""

    def acquire(self) -> AbstractAsyncContextManager[ReadConnection]: ...


class NoPool:
    """The pool of a source that reads no database."""

    def acquire(self) -> AbstractAsyncContextManager[ReadConnection]:
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

    def groups(self, selection: Selection) -> AsyncGenerator[Group, None]: ...

    async def aclose(self) -> None: ...


# --- capabilities beyond reading windows: narrow a `Source` with isinstance -----------------------------------------


class RejectionLog(Protocol):
    """The rows that could not be read: ``counts`` by reason, and all of them in the file ``path`` (None: in none)."""

    @property
    def path(self) -> Path | None: ...

    @property
    def counts(self) -> Mapping[str, int]: ...

    def add(self, rejection: Rejection) -> None: ...

    def summary(self) -> str:
        """Returns the reasons in one line, the most frequent first."""
        ...


@runtime_checkable
class Rejecting(Protocol):
    """A source that keeps a log of the rows that it could not read."""

    @property
    def rejections(self) -> RejectionLog: ...


@dataclass(frozen=True, slots=True)
class RecordedOutcomes:
    """The outcomes of one window, as one scenario recorded them."""

    scenario_id: str
    truth: GroundTruth


@runtime_checkable
class Traceable(Protocol):
    """A source that tells the origin of recorded trajectories, by id; ``where`` is the choice that it reads by."""

    @property
    def where(self) -> Where: ...

    async def origins(self, ids: Sequence[str]) -> Mapping[str, Origin]: ...


@runtime_checkable
class Play(Rejecting, Protocol):
    """A source whose play can be copied: every trajectory whole (in no windows, sliced nowhere), then the outcomes.
    ``total`` is the number of trajectories where that is known beforehand."""

    async def total(self) -> int | None: ...

    def stream(self) -> AsyncIterator[Trajectory | RecordedOutcomes]: ...
