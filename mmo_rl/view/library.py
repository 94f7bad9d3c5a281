"""Library of what can be looked at: the runs of a project, the windows that they judged, and the play of a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mmo_rl.errors import MmoRlError
from mmo_rl.judge.base import AsksModel, Judge, JudgeParts
from mmo_rl.judge.oracle import OracleJudge
from mmo_rl.report.judging import by_group
from mmo_rl.report.run_folder import JudgmentRow, RunFolder
from mmo_rl.report.runs import Listed, is_run, list_runs
from mmo_rl.sampler.base import SamplingRules
from mmo_rl.source.base import Source
from mmo_rl.types import Group, GroupCounts, Judgment, SelectedWindow, Selection, Span, Window, WindowQuery
from mmo_rl.vocabulary import Vocabulary
from mmo_rl.window_ids import named_start

ALL_HOURS = 24.0 * 366 * 200
"""Look-back that reaches every recorded window."""


class NotThere(MmoRlError):
    """Page of something that does not exist."""


@dataclass(frozen=True, slots=True)
class JudgedGroup:
    """Rows of judgments.jsonl about one group in one iteration."""

    iteration: int
    group_id: str
    rows: tuple[JudgmentRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A group as it was read: its play and outcomes, the rows of its judge (none where it is looked at apart from a
    run), the oracle's judgments by trajectory id, and the ids that the source no longer has."""

    group: Group
    iteration: int | None
    rows: Mapping[str, JudgmentRow]
    oracle: Mapping[str, Judgment]
    parts: Mapping[str, Sequence[str]]
    gone: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Runs under ``root``, and the play of ``source``. ``judge`` is that of the viewer's own command, whose config is
    ``judged_by``: the prompts of a run are shown where its judge is the same."""

    root: Path
    source: Source
    vocabulary: Vocabulary
    rules: SamplingRules
    judge: Judge
    judged_by: Mapping[str, object] = field(default_factory=dict)

    # --- runs -------------------------------------------------------------------------------------------------------

    def runs(self) -> list[Listed]:
        """Lists the runs, newest first."""
        return list_runs(self.root)

    def folder(self, run: tuple[str, str]) -> RunFolder:
        """Finds a run's folder by experiment and key. Raises `NotThere`."""
        path = self.root / "runs" / run[0] / run[1]
        if any(part in ("", ".", "..") or "/" in part or "\\" in part for part in run) or not is_run(path):
            raise NotThere(f"there is no run {run[0]}/{run[1]}")
        return RunFolder(path)

    def judged(self, folder: RunFolder) -> list[JudgedGroup]:
        """Lists the groups that a run judged, in the order of judging."""
        groups = by_group(folder.read("judgments"))
        return [JudgedGroup(iteration, group, tuple(rows)) for (iteration, group), rows in groups.items()]

    # --- windows ----------------------------------------------------------------------------------------------------

    async def windows(self) -> list[GroupCounts]:
        """Counts the members of every recorded window, newest first."""
        query = WindowQuery(
            window_hours=self.rules.window_hours,
            lookback_hours=ALL_HOURS,
            min_actions=self.rules.min_actions,
            exact=False,
        )
        return sorted(await self.source.counts(query), key=lambda found: found.window.start, reverse=True)

    async def judged_group(self, run: tuple[str, str], group_id: str) -> Seen:
        """Reads a group that a run judged; of several iterations the newest. Raises `NotThere`."""
        folder = self.folder(run)
        found = [group for group in self.judged(folder) if group.group_id == group_id]
        if not found:
            raise NotThere(f"{run[0]}/{run[1]} judged no window {group_id}")
        judged = found[-1]
        rows = {row["trajectory_id"]: row for row in judged.rows}
        hours = _window_hours(folder.config() or {}, default=self.rules.window_hours)
        window_id, _, role = group_id.partition("/")
        parts = _parts(folder, group_id)
        selected = SelectedWindow(_window(window_id, hours), tuple(rows), role or None, parts)
        return await self._seen(selected, iteration=judged.iteration, rows=rows)

    async def recorded_group(self, group_id: str) -> Seen:
        """Reads all members of a recorded window. Raises `NotThere`."""
        window_id, _, role = group_id.partition("/")
        window = _window(window_id, self.rules.window_hours)
        query = WindowQuery(
            window_hours=self.rules.window_hours,
            span=Span(window.start, window.end),
            only=(window,),
            by_role=bool(role),
        )
        for found in await self.source.windows(query):
            if found.window.id == window_id:
                everything = found.everything
                kept = tuple(m.trajectory_id for m in found.members if not role or m.role == role)
                parts = {i: everything.parts[i] for i in kept if i in everything.parts}
                selected = SelectedWindow(everything.window, kept, role or None, parts)
                return await self._seen(selected, iteration=None, rows={})
        raise NotThere(f"the source has no window {group_id}")

    async def _seen(self, selected: SelectedWindow, *, iteration: int | None, rows: Mapping[str, JudgmentRow]) -> Seen:
        count = len(selected.trajectory_ids)
        selection = Selection(0, (selected,), 1, count, 0.0, 0, {})
        group = Group(selected.group_id, selected.window, (), None)
        async with aclosing(self.source.groups(selection)) as groups:
            async for found in groups:
                group = found
        there = {member.trajectory_id for member in group.members}
        oracle = OracleJudge(credit="decision", parts=JudgeParts(vocabulary=self.vocabulary))
        return Seen(
            group=group,
            iteration=iteration,
            rows=rows,
            oracle=oracle.judgments(group),
            parts=selected.parts,
            gone=tuple(i for i in selected.trajectory_ids if i not in there),
        )

    def asks(self, folder: RunFolder) -> AsksModel | None:
        """Returns the judge of the viewer's command where a run was judged by the same, and it asks a model."""
        own = (folder.config() or {}).get("judge")
        return self.judge if isinstance(self.judge, AsksModel) and own == self.judged_by else None


def _window(window_id: str, hours: float) -> Window:
    start = named_start(window_id)
    if start is None:
        raise NotThere(f"{window_id} is no window: its id is a UTC start, YYYY-MM-DDTHH:MM")
    return Window(window_id, start.astimezone(UTC), start + timedelta(hours=hours))


def _window_hours(config: Mapping[str, object], *, default: float) -> float:
    sampler = config.get("sampler")
    hours = sampler.get("window_hours") if isinstance(sampler, Mapping) else None
    return float(hours) if isinstance(hours, int | float) else default


def _parts(folder: RunFolder, group_id: str) -> dict[str, tuple[str, ...]]:
    """Reads which recorded trajectories the joined ones of a group consist of."""
    for row in reversed(folder.read("checkpoints")):
        for window in row["selection"]["windows"]:
            role = window.get("role")
            if (window["window"]["id"] if role is None else f"{window['window']['id']}/{role}") == group_id:
                return {identity: tuple(parts) for identity, parts in window.get("parts", {}).items()}
    return {}


def moment(text: str | None) -> datetime | None:
    """Reads a time of status.json."""
    return datetime.fromisoformat(text) if text else None
