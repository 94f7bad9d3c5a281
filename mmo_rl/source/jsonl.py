"""Recorded play in exported files: JSON, JSONL and the same gzipped, one file or a folder of them."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

from pydantic import Field

from mmo_rl.clock import parse_window_id, utc_now, window_at
from mmo_rl.errors import SourceError
from mmo_rl.source.parse import CALLS, STEPS, Unreadable, parse_json, parse_trajectory, shown
from mmo_rl.source.truth import ground_truth
from mmo_rl.source.values import pick
from mmo_rl.types import Group, Member, Rejection, Selection, Trajectory, Window, WindowQuery, WindowStats

SIDECARS = ("reward-judgments", "llm-call-logs", "manifest")
OUTCOMES = "market-outcomes"
SUFFIXES = (".jsonl", ".ndjson", ".json")
MAX_REJECTIONS_KEPT = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a trajectory lies, and its statistics. ``offset`` in bytes of the unpacked file; ``item`` of a list."""

    path: Path
    offset: int
    item: int | None
    start: datetime
    window_id: str
    scenario_id: str | None
    member: Member


class JsonlSource:
    """Implements `mmo_rl.source.base.Source` over exported files.

    Read are rows of ``trajectories`` (camelCase or snake_case, flat or as ``{"trajectory": {}, "llmCalls": []}``), one
    a line or one a file. A file ``market-outcomes.jsonl`` beside them holds the ground truth as rows of
    ``market_outcomes``. The files are scanned once for statistics; only the chosen trajectories are kept in memory.
    Raises `SourceError` where there is no such path, or nothing in it can be read.
    """

    def __init__(
        self,
        *,
        path: str,
        settle_minutes: Annotated[float, Field(ge=0)] = 5.0,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.path = Path(path).expanduser()
        self._settle = timedelta(minutes=settle_minutes)
        self._now = now
        self._rejected: Counter[str] = Counter()
        self._rejections: list[Rejection] = []
        self._entries: dict[str, Entry] | None = None
        self._outcomes: list[Mapping[str, Any]] = []

    @property
    def rejected(self) -> Mapping[str, int]:
        return self._rejected

    @property
    def rejections(self) -> Sequence[Rejection]:
        """The first rows that could not be read, for a report."""
        return self._rejections

    async def windows(self, query: WindowQuery) -> list[WindowStats]:
        members: dict[datetime, list[Member]] = {}
        windows: dict[datetime, Window] = {}
        for entry in self._index().values():
            if query.scenario_id is not None and entry.scenario_id != query.scenario_id:
                continue
            window = _window_of(entry, query.window_hours)
            windows[window.start] = window
            members.setdefault(window.start, []).append(entry.member)
        newest = max(windows, default=None)
        now = self._now()
        found = []
        for start in sorted(windows):
            window = windows[start]
            if query.span is not None:
                if window.start < query.span.start or window.end > query.span.end:
                    continue
            elif newest is not None and start <= newest - timedelta(hours=query.lookback_hours):
                continue
            listed = tuple(sorted(members[start], key=lambda member: member.trajectory_id))
            has_outcomes = ground_truth(window, self._outcomes) is not None
            found.append(WindowStats(window, listed, has_outcomes, window.end + self._settle < now))
        return found

    async def groups(self, selection: Selection) -> AsyncIterator[Group]:
        index = self._index()
        for selected in selection.windows:
            members = []
            for identity in selected.trajectory_ids:
                entry = index.get(identity)
                if entry is None:
                    self._reject(Rejection(identity, "trajectoryId", identity, "no longer in the files"))
                elif (trajectory := self._load(entry)) is not None:
                    members.append(trajectory)
            if members:
                truth = ground_truth(selected.window, self._outcomes)
                yield Group(selected.window.id, selected.window, tuple(members), truth)

    async def aclose(self) -> None:
        """Nothing is held open."""

    # --- inside -----------------------------------------------------------------------------------------------------

    def _index(self) -> dict[str, Entry]:
        if self._entries is not None:
            return self._entries
        entries: dict[str, Entry] = {}
        for path in self._files():
            for offset, item, found in self._objects(path):
                if _stem(path) == OUTCOMES:
                    self._outcomes.append(found)
                    continue
                parsed = _parsed(found)
                if isinstance(parsed, Rejection):
                    self._reject(parsed)
                elif parsed.trajectory_id in entries:
                    self._reject(Rejection(parsed.trajectory_id, "trajectoryId", str(path), "more than once"))
                else:
                    entries[parsed.trajectory_id] = _entry(path, offset, item, found, parsed)
        if not entries:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in self._rejected.most_common(5))
            raise SourceError(
                f"no trajectory could be read from {self.path} ({reasons or 'no JSON or JSONL files'})",
                hint="source.path takes a file or folder of exported rows of the table trajectories",
            )
        self._entries = entries
        return entries

    def _files(self) -> list[Path]:
        if not self.path.exists():
            raise SourceError(
                f"there is no {self.path}", hint="source=jsonl source.path=FILE_OR_FOLDER of exported trajectories"
            )
        listed = sorted(self.path.rglob("*")) if self.path.is_dir() else [self.path]
        return [p for p in listed if p.is_file() and _kind(p) in SUFFIXES and _stem(p) not in SIDECARS]

    def _objects(self, path: Path) -> Iterator[tuple[int, int | None, Mapping[str, Any]]]:
        """The JSON objects of a file with where they are; what is none is rejected."""
        try:
            with _opened(path) as file:
                if _kind(path) == ".json":
                    yield from self._checked(path, 0, file.read())
                    return
                offset = 0
                for line in file:
                    if line.strip():
                        yield from self._checked(path, offset, line)
                    offset += len(line)
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            self._reject(Rejection(None, str(path), str(error), "file cannot be read"))

    def _checked(self, path: Path, offset: int, text: bytes) -> Iterator[tuple[int, int | None, Mapping[str, Any]]]:
        try:
            value = parse_json(text, f"{path.name} at byte {offset}")
        except (Unreadable, RecursionError) as error:
            field, reason = (error.field, error.reason) if isinstance(error, Unreadable) else (path.name, "too deep")
            self._reject(Rejection(None, field, shown(text[:80].decode("utf-8", "replace")), reason))
            return
        for item, found in enumerate(value) if isinstance(value, list) else ((None, value),):
            if isinstance(found, Mapping):
                yield offset, item, found
            else:
                self._reject(Rejection(None, path.name, shown(found), "not an object"))

    def _load(self, entry: Entry) -> Trajectory | None:
        with _opened(entry.path) as file:
            file.seek(entry.offset)
            text = file.read() if _kind(entry.path) == ".json" else file.readline()
        value = parse_json(text, entry.path.name)
        parsed = _parsed(value if entry.item is None else value[entry.item])
        if isinstance(parsed, Rejection):
            self._reject(parsed)
            return None
        return parsed

    def _reject(self, rejection: Rejection) -> None:
        self._rejected[rejection.reason] += 1
        if len(self._rejections) < MAX_REJECTIONS_KEPT:
            self._rejections.append(rejection)


def _parsed(found: Mapping[str, Any]) -> Trajectory | Rejection:
    row, calls = found, pick(found, *CALLS)
    if isinstance(found.get("trajectory"), Mapping):
        row = found["trajectory"]
    if pick(row, *STEPS) is None:
        keys = ", ".join(sorted(map(str, found))[:8])
        return Rejection(None, "row", shown(keys), "unknown shape: not a row of trajectories")
    listed = [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
    return parse_trajectory(row, calls=listed)


def _entry(path: Path, offset: int, item: int | None, found: Mapping[str, Any], parsed: Trajectory) -> Entry:
    member = Member(
        trajectory_id=parsed.trajectory_id,
        agent_id=parsed.agent_id,
        actions=len(parsed.steps),
        final_pnl=parsed.final_pnl,
        role=parsed.role,
        is_training_data=parsed.is_training_data,
        is_evaluation=parsed.is_evaluation,
    )
    return Entry(path, offset, item, parsed.start, parsed.window_id, parsed.scenario_id, member)


def _window_of(entry: Entry, hours: float) -> Window:
    named = parse_window_id(entry.window_id) if hours == 1 else None
    if named is None:
        return window_at(entry.start, hours)
    return Window(entry.window_id, named, named + timedelta(hours=1))


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _kind(path: Path) -> str:
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def _stem(path: Path) -> str:
    return path.name.split(".", 1)[0]
