"""Index of the trajectories in exported files: their places, statistics, and the reading of one of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mmo_rl.errors import SourceError
from mmo_rl.source.files import (
    READ_FAILURES,
    SUFFIXES,
    RandomAccess,
    blocks,
    copy,
    failure,
    foreign_format,
    kind,
    open_unpacked,
    standard_input,
    stem,
    value_of,
    values,
    write,
)
from mmo_rl.source.formats import otel
from mmo_rl.source.jsontext import excerpt
from mmo_rl.source.parse import parse_trajectory
from mmo_rl.source.rejections import Rejections
from mmo_rl.source.shapes import Candidate, LoggedCall, OutcomeRow, Part, parts
from mmo_rl.source.values import Fields, as_int, as_text, pick
from mmo_rl.types import Member, Rejection, Trajectory

STANDARD_INPUT = "-"
UNOWNED = "an LLM call without its trajectory: its row of trajectories is not among what is read"
CALL_LOGS, OUTCOMES = "llm-call-logs", "market-outcomes"
BESIDE = {CALL_LOGS: LoggedCall, OUTCOMES: OutcomeRow}
"""Files of other tables that are read too; of them nothing else is wanted."""
SKIPPED = ("reward-judgments", "manifest")
WINDOW_IDS = ("windowId", "window_id")


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of an unpacked file that hold a JSON value, and the number of one of its parts."""

    path: Path
    offset: int
    length: int
    item: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A trajectory's place and statistics. ``window_id`` as recorded, None where it does not say which hour;
    ``several_hours`` where that is the id of a longer window, which does not say which of its hours;
    ``needs_log`` where steps hold no LLM calls of their own; ``models`` those of its own LLM calls."""

    place: Place
    detail: int
    start: datetime
    end: datetime
    window_id: str | None
    several_hours: bool
    scenario_id: str | None
    needs_log: bool
    member: Member
    models: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[int, int, float]:
        """Sort key of two recordings of one trajectory: the fuller shape, more steps, the later end come first."""
        return self.detail, -self.member.actions, -self.end.timestamp()


class Exports:
    """An index of the trajectories in a file, a folder or (``-``) standard input, which is kept in a temporary file.

    `scan` reads everything once. Of a trajectory that is found twice, the one of the shape that keeps more of what
    was recorded counts, then the one with more steps, the later end, the first. What cannot be read goes to
    ``rejections``.
    """

    def __init__(self, path: str, *, max_bytes: int, rejections: Rejections) -> None:
        self.entries: dict[str, Entry] = {}
        self.outcomes: list[Fields] = []
        self._path = path
        self._max_bytes = max_bytes
        self._rejections = rejections
        self._calls: dict[str, list[Place]] = {}
        self._access = RandomAccess()
        self._decoded: tuple[Place | None, list[Part]] = (None, [])
        self._spool: Path | None = None
        self._converted: list[Path] = []

    def scan(self) -> None:
        """Reads all files once. Raises `SourceError` where the path does not exist, or holds no readable trajectory."""
        files = self._files()
        for path in files:
            for place, part in self._parts(path):
                self._add(path, place, part)
        for identity in sorted(self._calls.keys() - self.entries.keys()):
            for call in self._calls[identity]:
                if len(files) > 1 and call.path != files[0] and not Path(self._path).expanduser().is_dir():
                    continue  # a log of the whole table beside a file of some of its trajectories
                found = f"{call.path.name} at byte {call.offset}"
                self._rejections.add(Rejection(identity, "llm_call_logs", found, UNOWNED))
        if not self.entries:
            name = "standard input" if self._path == STANDARD_INPUT else self._path
            why = self._rejections.summary() if self._rejections.counts else "it is empty"
            raise SourceError(
                f"no trajectory could be read from {name}: {why}",
                hint="source.path takes exported trajectories: a file, a folder of .json and .jsonl files, or -",
            )

    def load(self, identity: str) -> Trajectory | None:
        """Reads a trajectory with the calls that were logged beside it; None where it cannot be read any more."""
        entry = self.entries[identity]
        part = self._read(entry.place)
        found = parse_candidate(part, self._logged_calls(identity, entry)) if isinstance(part, Candidate) else None
        if isinstance(found, Trajectory) and found.trajectory_id == identity:
            return found
        reason = found.reason if isinstance(found, Rejection) else "the file changed while it was read"
        self._rejections.add_once(Rejection(identity, f"{entry.place.path.name}", excerpt(identity), reason))
        return None

    def order(self, identity: str) -> tuple[str, int, int]:
        """Returns a sort key by place in the files, which is the fastest order to load trajectories in."""
        entry = self.entries.get(identity)
        return ("", 0, 0) if entry is None else (str(entry.place.path), entry.place.offset, entry.place.item)

    def close(self) -> None:
        self._access.close()
        for path in [*self._converted, *filter(None, [self._spool])]:
            path.unlink(missing_ok=True)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _files(self) -> list[Path]:
        if self._path == STANDARD_INPUT:
            return [self._copy_standard_input()]
        path = Path(self._path).expanduser()
        if not path.exists():
            raise SourceError(
                f"there is no {path}", hint="source=jsonl source.path=FILE_OR_FOLDER of exported trajectories"
            )
        if not (files := export_files(path)):
            raise SourceError(
                f"there are no JSON or JSONL files in {path}",
                hint=f"it takes {', '.join(SUFFIXES)} and the same with .gz; name a file of another kind itself",
            )
        return files

    def _copy_standard_input(self) -> Path:
        with (
            tempfile.NamedTemporaryFile(prefix="standard-input-", delete=False, buffering=0) as spool,
            standard_input() as file,
        ):
            self._spool = Path(spool.name)
            try:
                copy(file, spool)
            except READ_FAILURES as error:
                self._rejections.add(failure(error, "standard input"))
        return self._spool

    def _parts(self, path: Path) -> Iterator[tuple[Place, Part]]:
        try:
            if (named := foreign_format(path)) is not None:
                raise SourceError(f"{path.name} is {named[0]}, which is not read", hint=named[1])
            if is_spans(path):
                path = self._rows_of_spans(path)
            with open_unpacked(path) as file:
                whole = kind(path) == ".json"
                for found in values(file, name=path.name, max_bytes=self._max_bytes, document=whole):
                    for item, part in enumerate(parts_of(found.value, f"{path.name} at byte {found.offset}")):
                        yield Place(path, found.offset, found.length, item), part
        except READ_FAILURES as error:
            self._rejections.add(failure(error, path.name))

    def _rows_of_spans(self, path: Path) -> Path:
        """Writes the rows of a file of OpenTelemetry spans to a temporary file, and rejects what gives none."""
        with tempfile.NamedTemporaryFile(prefix=f"{stem(path)}-", suffix=".jsonl", delete=False, buffering=0) as rows:
            self._converted.append(Path(rows.name))
            with open_unpacked(path) as file:
                for row in otel.rows(blocks(file, name=path.name, max_bytes=self._max_bytes), path.name):
                    if isinstance(row, Rejection):
                        self._rejections.add(row)
                    else:
                        write(json.dumps(row).encode() + b"\n", rows)
        return self._converted[-1]

    def _add(self, path: Path, place: Place, part: Part) -> None:
        wanted = BESIDE.get(stem(path))
        if isinstance(part, LoggedCall):
            self._calls.setdefault(part.trajectory_id, []).append(place)
        elif isinstance(part, OutcomeRow):
            self.outcomes.append(part.row)
        elif wanted is not None and not (isinstance(part, Rejection) and place.length == 0):
            return
        elif isinstance(part, Rejection):
            self._rejections.add(part)
        else:
            found = parse_candidate(part, ())
            if isinstance(found, Rejection):
                self._rejections.add(found)
            else:
                self._enter(_entry(place, part, found))

    def _enter(self, entry: Entry) -> None:
        identity = entry.member.trajectory_id
        known = self.entries.get(identity)
        if known is not None and known.detail == entry.detail:
            place = f"{entry.place.path.name} at byte {entry.place.offset}"
            first = f"{known.place.path.name} at byte {known.place.offset}"
            self._rejections.add(Rejection(identity, place, f"first in {first}", "more than once"))
        if known is None or entry.rank < known.rank:
            self.entries[identity] = entry

    def _read(self, place: Place) -> Part | None:
        where, listed = self._decoded
        if where is None or (where.path, where.offset) != (place.path, place.offset):
            try:
                text = self._access.read(place.path, place.offset, place.length)
            except READ_FAILURES:
                return None
            listed = list(parts_of(value_of(text, place.path.name), place.path.name))
            self._decoded = (place, listed)
        return listed[place.item] if place.item < len(listed) else None

    def _logged_calls(self, identity: str, entry: Entry) -> list[Fields]:
        if not entry.needs_log:
            return []
        found = [self._read(place) for place in self._calls.get(identity, ())]
        return [part.row for part in found if isinstance(part, LoggedCall)]


def export_files(path: Path) -> list[Path]:
    """Lists the files that are read for ``path``: those of a folder, or the file and the other tables beside it."""
    if not path.is_dir():
        beside = (p for p in sorted(path.parent.iterdir()) if stem(p) in BESIDE and kind(p) in SUFFIXES)
        return [path, *(p for p in beside if p.is_file() and p != path)]
    return [p for p in sorted(path.rglob("*")) if kind(p) in SUFFIXES and stem(p) not in SKIPPED and p.is_file()]


def is_spans(path: Path) -> bool:
    """Tells if a file holds OpenTelemetry spans, by its first bytes."""
    with open_unpacked(path) as file:
        return otel.recognises(file.read(4096))


def parts_of(value: object | Rejection, place: str) -> list[Part]:
    """Lists the parts of a JSON value; a rejection is its own only part."""
    if isinstance(value, Rejection):
        return [value]
    try:
        return list(parts(value, place))
    except RecursionError:
        return [Rejection(None, place, excerpt(value), "nested too deeply")]


def parse_candidate(candidate: Candidate, logged: Sequence[Fields]) -> Trajectory | Rejection:
    """Parses a candidate; ``logged`` are calls from elsewhere than its own document."""
    row = candidate.row
    if several_hours(row):  # the id of its window does not say which of the hours
        row = {key: value for key, value in row.items() if key not in WINDOW_IDS}
    return parse_trajectory(row, calls=[*candidate.calls, *logged])


def several_hours(row: Fields) -> bool:
    return (as_int(pick(row, "windowHours", "window_hours")) or 1) > 1


def models_of(trajectory: Trajectory) -> tuple[str, ...]:
    """Lists the models of a trajectory's LLM calls."""
    return tuple(sorted({call.model for step in trajectory.steps for call in step.llm_calls}))


def _entry(place: Place, candidate: Candidate, found: Trajectory) -> Entry:
    row = candidate.row
    member = Member(
        trajectory_id=found.trajectory_id,
        agent_id=found.agent_id,
        actions=len(found.steps),
        final_pnl=found.final_pnl,
        role=found.role,
        is_training_data=found.is_training_data,
        is_evaluation=found.is_evaluation,
    )
    return Entry(
        place=place,
        detail=candidate.detail,
        start=found.start,
        end=found.end,
        window_id=as_text(pick(row, *WINDOW_IDS)),
        several_hours=several_hours(row),
        scenario_id=found.scenario_id,
        needs_log=not all(step.llm_calls for step in found.steps),
        member=member,
        models=models_of(found),
    )
