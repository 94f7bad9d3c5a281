"""Recorded play in exported files: JSON, JSONL and the same gzipped; one file, a folder of them, or standard input."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field

from mmo_rl.clock import newest_begun
from mmo_rl.origins import EVERYTHING, Origin, Where, is_simulated
from mmo_rl.source.base import RecordedOutcomes, SourceParts
from mmo_rl.source.exports import STANDARD_INPUT, Entry, Exports, models_of, parts_of
from mmo_rl.source.files import READ_FAILURES, failure, standard_input, values
from mmo_rl.source.joined import assemble, joined_members, joins
from mmo_rl.source.piped import Piped
from mmo_rl.source.play import Covered, iterate_in_thread, recorded_outcomes
from mmo_rl.source.rejections import Rejections
from mmo_rl.source.shapes import Part
from mmo_rl.source.slices import crosses, home_window, part, slices_of
from mmo_rl.source.truth import ground_truth
from mmo_rl.types import (
    Group,
    GroupCounts,
    Member,
    Rejection,
    Selection,
    Trajectory,
    Window,
    WindowQuery,
    WindowStats,
)
from mmo_rl.window_ids import is_odd, slice_id, split_id

log = logging.getLogger(__name__)


class JsonlSource:
    """Implements `mmo_rl.source.base.Source` and `Play` over exported files.

    ``path`` is a file, a folder, or ``-`` for standard input. Read are rows of ``trajectories`` (camelCase or
    snake_case, flat or as ``{"trajectory": {}, "llmCalls": []}``), ART lines, group files and dumps of a database, a
    value a line or one a file; files named ``llm-call-logs`` and ``market-outcomes`` beside them hold rows of those
    tables. A line, or a file that is one value, may be ``max_line_mb`` megabytes long. The files are scanned once for
    statistics; only the chosen trajectories are kept in memory. ``where`` chooses the play that is read. Every
    rejection is written to ``rejected_to``.
    Raises `SourceError` where there is no such path, or nothing in it can be read.
    """

    def __init__(
        self,
        *,
        path: str,
        settle_minutes: Annotated[float, Field(ge=0)] = 5.0,
        max_line_mb: Annotated[float, Field(gt=0, le=100_000)] = 128.0,
        where: Where = EVERYTHING,
        parts: SourceParts,
    ) -> None:
        self.path = path
        self.where = where
        self.rejections = Rejections(parts.rejected_to)
        self._max_bytes = int(max_line_mb * 1e6)
        self._settle = timedelta(minutes=settle_minutes)
        self._now = parts.now
        self._exports: Exports | None = None
        self._members: dict[float, list[tuple[Window, datetime, Member, str | None]]] = {}

    @property
    def rejected(self) -> Mapping[str, int]:
        return self.rejections.counts

    async def counts(self, query: WindowQuery) -> list[GroupCounts]:
        windows = await self.windows(query)
        return [c for w in windows for c in w.counts(min_actions=query.min_actions, by_role=query.by_role)]

    async def windows(self, query: WindowQuery) -> list[WindowStats]:
        first = self._exports is None
        exports = self._scan()
        if first and self.rejected:
            log.warning("%s: %s", self.path, self.rejections.summary())
        members: dict[Window, list[tuple[datetime, Member]]] = {}
        for window, start, member, scenario_id in self._members_of(query.window_hours):
            own = query.scenario_id
            if own == scenario_id if own is not None else self._chosen(member, query):
                members.setdefault(window, []).append((start, member))
        now = self._now()
        newest = newest_begun((window.start for window in members), now)
        only = frozenset(query.only)
        found = []
        for window in sorted(members, key=lambda window: window.start):
            if only:
                if window not in only:
                    continue
            elif query.span is not None:
                if window.start < query.span.start or window.end > query.span.end:
                    continue
            elif newest is not None and window.start <= newest - timedelta(hours=query.lookback_hours):
                continue
            together = [member for _, member in members[window]]
            if joins(query.window_hours):
                together = joined_members(members[window], by_role=query.by_role)
            listed = tuple(sorted(together, key=lambda member: member.trajectory_id))
            has_outcomes = ground_truth(window, exports.outcomes) is not None
            found.append(WindowStats(window, listed, has_outcomes, window.end + self._settle < now))
        return found

    async def groups(self, selection: Selection) -> AsyncGenerator[Group, None]:
        exports = self._scan()
        for selected in selection.windows:
            found: dict[str, Trajectory] = {}
            for identity in sorted(selected.recorded_ids, key=lambda i: exports.order(_whole_id(exports, i))):
                trajectory = self._load(exports, identity, selected.window)
                if trajectory is not None:
                    found[identity] = trajectory
            members, incomplete = assemble(selected, found)
            for rejection in incomplete:
                self.rejections.add(rejection)
            if members:
                scenarios = {member.scenario_id for member in members}
                scenario_id = scenarios.pop() if len(scenarios) == 1 else None
                truth = ground_truth(selected.window, exports.outcomes, scenario_id=scenario_id)
                yield Group(selected.group_id, selected.window, members, truth)

    async def origins(self, ids: Sequence[str]) -> dict[str, Origin]:
        """Reads scenario and models of trajectories, by id."""
        entries = self._scan().entries
        return {i: _origin(i, entries[i]) for i in ids if i in entries}

    async def total(self) -> int | None:
        """Counts the trajectories that `stream` yields; None for standard input."""
        if self.path == STANDARD_INPUT:
            return None
        return sum(self._matches(entry) for entry in self._scan().entries.values())

    async def stream(self) -> AsyncIterator[Trajectory | RecordedOutcomes]:
        """Yields every trajectory whole, then the outcomes; from standard input as they arrive."""
        covered = Covered(self.where)
        if self.path != STANDARD_INPUT:
            exports = self._scan()
            for identity, entry in exports.entries.items():
                trajectory = exports.load(identity) if self._matches(entry) else None
                if trajectory is not None:
                    covered.add(trajectory)
                    yield trajectory
            outcomes = exports.outcomes
        else:
            piped = Piped(rejections=self.rejections, clock=asyncio.get_running_loop().time)
            async for found in iterate_in_thread(self._parts_of_input):
                for trajectory in filter(self._matches_read, piped.take(found)):
                    covered.add(trajectory)
                    yield trajectory
            for trajectory in filter(self._matches_read, piped.finish()):
                covered.add(trajectory)
                yield trajectory
            outcomes = piped.outcomes
        for recorded in filter(covered.has, recorded_outcomes(outcomes)):
            yield recorded

    async def aclose(self) -> None:
        if self._exports is not None:
            self._exports.close()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _chosen(self, member: Member, query: WindowQuery) -> bool:
        exports = self._scan()
        entry = exports.entries[_whole_id(exports, member.trajectory_id)]
        if query.simulated and not self.where:
            return is_simulated(entry.member.trajectory_id, entry.scenario_id)
        return self._matches(entry)

    def _matches(self, entry: Entry) -> bool:
        member = entry.member
        return not self.where or self.where.matches(
            scenario=entry.scenario_id, agent=member.agent_id, role=member.role, models=entry.models
        )

    def _matches_read(self, trajectory: Trajectory) -> bool:
        return not self.where or self.where.matches(
            scenario=trajectory.scenario_id,
            agent=trajectory.agent_id,
            role=trajectory.role,
            models=models_of(trajectory),
        )

    def _scan(self) -> Exports:
        if self._exports is None:
            self.rejections.begin()
            self._exports = Exports(self.path, max_bytes=self._max_bytes, rejections=self.rejections)
            self._exports.scan()
        return self._exports

    def _parts_of_input(self) -> Iterator[Part]:
        """Yields the parts of standard input; blocks until the next line arrives."""
        with standard_input() as file:
            try:
                for found in values(file, name="standard input", max_bytes=self._max_bytes):
                    yield from parts_of(found.value, f"standard input at byte {found.offset}")
            except READ_FAILURES as error:
                yield failure(error, "standard input")

    def _members_of(self, hours: float) -> list[tuple[Window, datetime, Member, str | None]]:
        """Lists trajectories, or their slices, in windows of this length; each with its start and scenario."""
        if hours not in self._members:
            exports = self._scan()
            self._members[hours] = []
            for identity, entry in exports.entries.items():
                odd = (entry.window_id or "") if is_odd(entry.window_id) else None
                member = replace(entry.member, odd_window_id=odd)
                named = None if entry.several_hours else entry.window_id
                listed = [(home_window(named, entry.start, hours=hours), member)]
                if crosses(listed[0][0], entry.start, entry.end) and (whole := exports.load(identity)) is not None:
                    listed = _slice_members(whole, member, hours)
                for window, listed_member in listed:
                    began = max(entry.start, window.start) if len(listed) > 1 else entry.start
                    self._members[hours].append((window, began, listed_member, entry.scenario_id))
        return self._members[hours]

    def _load(self, exports: Exports, identity: str, window: Window) -> Trajectory | None:
        """Reads a trajectory, or its slice in a window, by id."""
        origin = _whole_id(exports, identity)
        if origin not in exports.entries:
            self.rejections.add_once(Rejection(identity, "trajectoryId", identity, "no longer in the files"))
            return None
        whole = exports.load(origin)
        if whole is None or origin == identity:
            return whole
        found = part(whole, window)
        if found is None:
            self.rejections.add_once(Rejection(identity, "stepsJson", window.id, "no step in the window any more"))
        return found


def _whole_id(exports: Exports, identity: str) -> str:
    return identity if identity in exports.entries else split_id(identity)[0]


def _origin(identity: str, entry: Entry) -> Origin:
    return Origin(entry.scenario_id, entry.models, is_simulated(identity, entry.scenario_id))


def _slice_members(whole: Trajectory, member: Member, hours: float) -> list[tuple[Window, Member]]:
    slices = slices_of(whole, hours=hours)
    if len(slices) == 1:
        return [(slices[0].window, member)]
    return [
        (
            piece.window,
            replace(
                member,
                trajectory_id=slice_id(whole.trajectory_id, piece.window.id),
                actions=len(piece.steps),
                final_pnl=piece.pnl,
            ),
        )
        for piece in slices
    ]
