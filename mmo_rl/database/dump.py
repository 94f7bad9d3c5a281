"""Dump of recorded play: the rows of the game's tables in a JSONL or Parquet file that an import reads."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, cast

from mmo_rl.database.outcomes import outcome_rows
from mmo_rl.database.rows import to_json, trajectory_row
from mmo_rl.source.base import Play, RecordedOutcomes
from mmo_rl.types import Trajectory

if TYPE_CHECKING:
    import pyarrow as pa

OUTCOMES = "market-outcomes.jsonl"
"""The file beside a Parquet file; an import reads it by this name."""
BATCH = 50
"""Trajectories in memory, and rows of one row group, at most."""
Row = dict[str, object]
STAMPS = ("createdAt", "updatedAt")


@dataclass(frozen=True, slots=True)
class Dumped:
    """Counts of what was written, and its files."""

    trajectories: int
    outcomes: int
    files: tuple[Path, ...]


class _Writer(Protocol):
    def trajectory(self, row: Row) -> None: ...

    def outcome(self, row: Row) -> None: ...

    def close(self) -> None: ...


async def dump(play: Play, output: Path, *, advance: Callable[[int], None], now: datetime) -> Dumped:
    """Streams the play into ``output``; the file appears under its name when it is whole, or not at all.

    ``advance`` is called with the number of trajectories that are done.
    """
    parquet = output.suffix == ".parquet"
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(OUTCOMES)
    wanted = (output, beside) if parquet else (output,)
    unfinished = {path: path.with_name(f".{path.name}.{os.getpid()}.unfinished") for path in wanted}
    trajectories = outcomes = 0
    try:
        with ExitStack() as stack:
            writer: _Writer = (
                _ParquetWriter(unfinished[output], unfinished[beside])
                if parquet
                else _JsonWriter(unfinished[output], gzipped=output.suffix == ".gz")
            )
            stack.callback(writer.close)
            async for item in play.stream():
                if isinstance(item, Trajectory):
                    writer.trajectory(trajectory_line(item, now=now))
                    trajectories += 1
                    advance(1)
                else:
                    for row in _outcome_lines(item):
                        writer.outcome(row)
                    outcomes += 1
        written = [path for path in wanted if path == output or outcomes]
        for path in written:
            os.replace(unfinished[path], path)
    finally:
        for path in unfinished.values():
            path.unlink(missing_ok=True)
    return Dumped(trajectories, outcomes, tuple(written))


def trajectory_line(trajectory: Trajectory, *, now: datetime) -> Row:
    """Builds the row of ``trajectories`` in values that JSON has; times in ISO 8601, UTC."""
    row = {**trajectory_row(trajectory, window_hours=1, now=now), "archetype": trajectory.role}
    return {key: _plain(value) for key, value in row.items() if key not in STAMPS}


def _outcome_lines(recorded: RecordedOutcomes) -> list[Row]:
    rows = outcome_rows(recorded.truth, origin=recorded.scenario_id)
    return [{key: _plain(value) for key, value in row.items()} for row in rows]


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return f"{value.replace(tzinfo=UTC):%Y-%m-%dT%H:%M:%S}.{value.microsecond // 1000:03d}Z"
    return value if value is None or isinstance(value, str | int | float) else str(value)


class _JsonWriter:
    """Writer of one JSON object a line."""

    def __init__(self, path: Path, *, gzipped: bool) -> None:
        opened = gzip.open if gzipped else open
        self._file = cast(IO[str], opened(path, "wt", encoding="utf-8"))

    def trajectory(self, row: Row) -> None:
        nested = {key: json.loads(str(value)) for key, value in row.items() if key.endswith("Json")}
        self._write({**row, **nested})

    def outcome(self, row: Row) -> None:
        self._write(row)

    def close(self) -> None:
        self._file.close()

    def _write(self, row: Mapping[str, object]) -> None:
        self._file.write(to_json(row) + "\n")


class _ParquetWriter:
    """Writer of the table ``trajectories`` as Parquet, and of outcomes as JSONL beside it."""

    def __init__(self, path: Path, outcomes: Path) -> None:
        import pyarrow.parquet as pq

        self._outcomes = _JsonWriter(outcomes, gzipped=False)
        self._schema = _schema()
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[Row] = []

    def trajectory(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) >= BATCH:
            self._flush()

    def outcome(self, row: Row) -> None:
        self._outcomes.outcome(row)

    def close(self) -> None:
        self._flush()
        self._file.close()
        self._outcomes.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


def _schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {
        pa.int64(): ("durationMs", "windowHours", "episodeLength", "tradesExecuted", "postsCreated"),
        pa.float64(): ("totalReward", "finalBalance", "finalPnL", "aiJudgeReward"),
        pa.bool_(): ("isTrainingData", "isEvaluation"),
        pa.string(): (
            *("id", "trajectoryId", "agentId", "startTime", "endTime", "windowId", "scenarioId", "archetype"),
            *("stepsJson", "rewardComponentsJson", "metricsJson", "metadataJson", "finalStatus"),
        ),
    }
    return pa.schema([(name, kind) for kind, names in kinds.items() for name in names])
