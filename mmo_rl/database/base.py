"""Protocols of the database room: connections, recordings, outcomes, judgments, batches, models."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mmo_rl.types import (
    GroundTruth,
    PolicyVersion,
    QuestionOutcome,
    ScoredGroup,
    TickerOutcome,
    Trajectory,
    Window,
)

# --- connections ----------------------------------------------------------------------------------------------------


class Row(Protocol):
    """A row of a result, by column name; its values are as the driver gives them."""

    def __getitem__(self, column: str, /) -> Any: ...


class Connection(Protocol):
    """A connection inside a transaction: the part of asyncpg's that is used here."""

    async def fetch(self, sql: str, /, *arguments: object) -> Sequence[Row]: ...

    async def fetchrow(self, sql: str, /, *arguments: object) -> Row | None: ...

    async def fetchval(self, sql: str, /, *arguments: object) -> Any: ...

    async def execute(self, sql: str, /, *arguments: object) -> str: ...

    async def executemany(self, sql: str, arguments: Iterable[Sequence[object]], /) -> None: ...


class Pool(Protocol):
    """A pool of connections, each handed out inside one transaction that ends with its block."""

    def acquire(self) -> AbstractAsyncContextManager[Connection]: ...


class Database(Pool, Protocol):
    """A PostgreSQL database that opens on first use: making it reads no environment variable and starts no server.

    ``acquire`` gives connections that may write, ``read_only`` a pool of those that may not. ``dsn_env`` names the
    environment variable of its connection string (None: the ``embedded`` server); ``name`` is for messages. The first
    use raises `DatabaseError` where it cannot be opened; ``open`` does so without using it. ``close`` may be called
    twice, and without any use before.
    """

    @property
    def name(self) -> str: ...

    @property
    def dsn_env(self) -> str | None: ...

    @property
    def embedded(self) -> bool: ...

    def read_only(self) -> Pool: ...

    async def refusal(self) -> str | None:
        """Describes the actions of a run that this user may not do here; None where nothing is refused."""
        ...

    async def require_tables(self) -> None:
        """Raises `DatabaseError` where tables or columns that are needed do not exist, or may not be written to."""
        ...

    async def migrate(self, *, index: bool = False) -> MigrationResult:
        """Brings the tables to the newest revision; ``index`` makes the index of windows on a game's own table too."""
        ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """The effect of a migration. ``before`` and ``after`` are revisions (None: never migrated). Row counts are of the
    tables that existed; ``indexed`` where the index that counts windows was made."""

    before: str | None
    after: str
    tables_created: tuple[str, ...]
    rows_before: Mapping[str, int]
    rows_after: Mapping[str, int]
    indexed: bool = False


# --- play -----------------------------------------------------------------------------------------------------------


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
    one transaction.

    ``begin_window`` makes recording repeatable: it removes the rows that an interrupted run of the same scenario had
    stored of that window. A `Trajectory` read back equals the one recorded.
    """

    async def begin_window(self, window: Window, *, scenario_id: str) -> None: ...

    async def record(self, trajectory: Trajectory) -> None: ...

    async def record_all(self, trajectories: Sequence[Trajectory]) -> None: ...

    async def record_outcomes(self, truth: GroundTruth, *, scenario_id: str) -> None: ...

    async def stays(self, *, scenario_id: str) -> Sequence[Stay]:
        """Reads the stays of this scenario's whole windows: those whose outcomes, which come last, are stored too."""
        ...

    async def answers(self, *, scenario_id: str) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Reads the text of every step's answer in this scenario's whole windows, by window and agent.

        A market that continues is replayed from them.
        """
        ...


# --- outcomes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tracked:
    """The outcomes of one window after tracking. ``state``: they were "stored"; "kept" as they were (final); the
    "game" has recorded all of them itself; "none" could be derived. ``tickers`` and ``questions`` count the rows now
    stored, ``skipped`` by reason what was seen and cannot be an outcome."""

    window: Window
    state: Literal["stored", "kept", "game", "none"]
    tickers: tuple[TickerOutcome, ...] = ()
    questions: tuple[QuestionOutcome, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)


class OutcomesTracker(Protocol):
    """Derives outcomes from recorded play and stores them, window by window, until a window is final."""

    async def final(self, windows: Iterable[Window]) -> set[str]:
        """Returns the ids of the windows whose derived outcomes are final."""
        ...

    async def track(self, window: Window, trajectories: Iterable[Trajectory], *, recompute: bool = False) -> Tracked:
        """Stores the outcomes that these trajectories (all that were recorded of the window) show; with ``recompute``
        also of a window that is final."""
        ...

    async def resolve_late(self) -> int:
        """Answers open questions of earlier windows that have been resolved since; returns how many."""
        ...


# --- judgments and models -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Written:
    """Numbers of recorded trajectories that a group's scores were written to: ``scored`` have them now, ``replaced`` of
    these had a judgment of somebody else, and ``left`` keep theirs."""

    scored: int
    replaced: int = 0
    left: int = 0


class WriteBack(Protocol):
    """Writes scores to the trajectories as they were recorded, one transaction a group; twice changes nothing.

    Judgments that something else has written (the game itself, a person's script) are replaced only where that was
    asked for."""

    async def require(self) -> None:
        """Raises `DatabaseError` where tables or columns do not exist or may not be written, before anything is."""
        ...

    async def require_free(self, recorded_ids: Collection[str]) -> None:
        """Raises `DatabaseError` where any of these trajectories has a judgment that may not be replaced."""
        ...

    async def write(self, scored: ScoredGroup, parts: Mapping[str, Sequence[str]]) -> Written:
        """Writes one group. ``parts`` maps the id of a joined trajectory to the ids of its parts."""
        ...


class Registry(Protocol):
    """Batches and trained models. Every call is one transaction and may be repeated: a resumed run ends with the same
    rows as an unbroken one."""

    async def start_batch(
        self,
        batch_id: str,
        base_model: str,
        model_version: str,
        trajectory_ids: Sequence[str],
        rewards: Mapping[str, float],
    ) -> None:
        """Notes that a batch is being trained on; ``rewards`` by trajectory id. A completed batch stays completed."""
        ...

    async def publish(
        self,
        batch_id: str,
        policy: PolicyVersion,
        metrics: Mapping[str, float],
        trajectory_ids: Sequence[str],
        wandb_run_id: str | None = None,
    ) -> str:
        """Completes the batch, enters its policy as a model that is ready, and marks the trajectories as used, in one
        transaction. Returns the model's id. Raises `DatabaseError` where the batch was never started."""
        ...

    async def fail_batch(self, batch_id: str, error: str) -> None:
        """Notes why a batch failed; a completed batch stays completed."""
        ...

    async def note_measured(self, batch_id: str, score: float | None, metrics: Mapping[str, float | None]) -> None:
        """Adds the results on held-out markets to the metrics of a batch's model; ``score`` is its P&L."""
        ...

    async def archive(self, batch_ids: Collection[str]) -> set[str]:
        """Enters these batches' models as archived; returns the batches of those that are. A model that is deployed,
        or that agents use, is left as it is."""
        ...
