"""Joining and slicing conserve steps and P&L; windows partition time."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mmo_rl.clock import milliseconds, window_at
from mmo_rl.source.base import SourceParts
from mmo_rl.source.joined import assemble, join, joined_members, total
from mmo_rl.source.jsonl import JsonlSource
from mmo_rl.source.slices import part, slices_of
from mmo_rl.types import Action, Member, SelectedWindow, Selection, Step, Trajectory, WindowQuery

START = datetime(2025, 6, 1, tzinfo=UTC)
LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 24.0)
minutes = st.integers(0, 5 * 24 * 60)


def trajectory(name: str, times: list[int], pnl: float | None, **columns: Any) -> Trajectory:
    """One step at each of these minutes; the agent's P&L grows evenly from 0 to ``pnl``."""
    steps = tuple(
        Step(
            number=number,
            timestamp_ms=milliseconds(START + timedelta(minutes=minute)),
            environment_state={} if pnl is None else {"agentPnL": pnl * number / len(times)},
            action=Action("HOLD", {}, True),
        )
        for number, minute in enumerate(times)
    )
    end = steps[-1].timestamp + timedelta(minutes=1)
    return Trajectory(name, "a", "w", steps[0].timestamp, end, steps, pnl, **columns)


@given(minutes, st.sampled_from(LENGTHS))
def test_windows_partition_time(minute: int, hours: float) -> None:
    moment = START + timedelta(minutes=minute)
    window = window_at(moment, hours)
    assert window.start <= moment < window.end
    assert window.end - window.start == timedelta(hours=hours)
    assert window_at(window.end, hours).start == window.end
    assert window_at(window.end - timedelta(microseconds=1), hours) == window


@settings(deadline=None)
@given(st.lists(minutes, min_size=1, max_size=12), st.sampled_from(LENGTHS), st.floats(-1e4, 1e4))
def test_slicing_conserves_steps_and_pnl(times: list[int], hours: float, pnl: float) -> None:
    whole = trajectory("t", sorted(times), pnl)
    parts = [part(whole, piece.window) for piece in slices_of(whole, hours=hours)]
    found = [piece for piece in parts if piece is not None]
    assert [step for piece in found for step in piece.steps] == list(whole.steps)
    summed = total([piece.final_pnl for piece in found])
    if len(found) == 1:
        assert summed == pnl
    else:  # what the P&L was at the first step is 0 here
        assert summed is not None
        assert math.isclose(summed, pnl, abs_tol=1e-6)
    assert all(window_at(step.timestamp, hours).start == window_at(piece.steps[0].timestamp, hours).start
               for piece in found for step in piece.steps)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.lists(minutes, min_size=1, max_size=5), min_size=1, max_size=5), st.data())
def test_joining_conserves_steps_and_pnl(listed: list[list[int]], data: st.DataObject) -> None:
    parts = [
        trajectory(f"t{number}", sorted(times), data.draw(st.one_of(st.none(), st.floats(-1e4, 1e4))))
        for number, times in enumerate(listed)
    ]
    window = window_at(START, 24.0 * 30)
    joined = join("j", window, parts)
    assert [step.number for step in joined.steps] == list(range(sum(map(len, listed))))
    moments = [step.timestamp for step in joined.steps]
    assert moments == sorted(step.timestamp for part_ in parts for step in part_.steps)
    if any(piece.final_pnl is None for piece in parts):
        assert joined.final_pnl is None
    else:
        assert joined.final_pnl == sum(piece.final_pnl or 0.0 for piece in parts)
    found = [(p.start, Member(p.trajectory_id, "a", len(p.steps), p.final_pnl)) for p in parts]
    (member,) = joined_members(data.draw(st.permutations(found)), by_role=False)
    assert member.actions == len(joined.steps)
    assert set(member.parts or (member.trajectory_id,)) == {p.trajectory_id for p in parts}
    assert (member.final_pnl is None) == (joined.final_pnl is None)
    assert member == joined_members(found, by_role=False)[0]


def test_joined_by_hand() -> None:
    """Evaluation is never joined with what is trained on, nor, by role, one role with another."""
    first = (START, Member("b", "x", 3, 5.0, "bull"))
    second = (START + timedelta(hours=1), Member("a", "x", 4, -2.0, "bear", odd_window_id="default"))
    apart = (START + timedelta(hours=2), Member("c", "x", 9, 1.0, "bull", is_evaluation=True))
    other = (START, Member("d", "y", 2, None))
    found = {m.trajectory_id: m for m in joined_members([apart, second, other, first], by_role=False)}
    assert found == {
        "b+1": Member("b+1", "x", 7, 3.0, None, odd_window_id="default", parts=("b", "a")),
        "c": apart[1],
        "d": other[1],
    }
    assert {m.trajectory_id for m in joined_members([apart, second, other, first], by_role=True)} == set("abcd")


def test_what_lacks_a_part_is_left_out_and_told() -> None:
    window = window_at(START, 2.0)
    selected = SelectedWindow(window, ("a+1", "c"), parts={"a+1": ("a", "b")})
    a, c = trajectory("a", [1], 1.0), trajectory("c", [2], 1.0)
    members, rejected = assemble(selected, {"a": a, "c": c})
    assert [member.trajectory_id for member in members] == ["c"]
    assert [(r.trajectory_id, r.found) for r in rejected] == [("a+1", "b")]
    members, rejected = assemble(selected, {"a": a, "b": replace(c, trajectory_id="b"), "c": c})
    assert [(m.trajectory_id, len(m.steps), m.final_pnl) for m in members] == [("a+1", 2, 2.0), ("c", 1, 1.0)]
    assert rejected == []
    assert selected.recorded_ids == ("a", "b", "c")


async def test_files_join_as_a_database_does() -> None:
    path = Path(__file__).parent.parent / "data" / "babylon" / "art_trajectories.jsonl.gz"
    reader = JsonlSource(path=str(path), parts=SourceParts(now=lambda: datetime(2030, 1, 1, tzinfo=UTC)))
    query = WindowQuery(window_hours=24.0, min_actions=2)
    windows = await reader.windows(query)
    assert await reader.counts(query) == [c for w in windows for c in w.counts(min_actions=2)]
    assert any(member.parts for stats in windows for member in stats.members)
    everything = tuple(stats.everything for stats in windows)
    groups = [group async for group in reader.groups(Selection(0, everything, len(windows), 0, 0.0, 0, {}))]
    for stats, group in zip(windows, groups, strict=True):
        read = [(t.trajectory_id, len(t.steps), t.final_pnl) for t in group.members]
        assert read == [(m.trajectory_id, m.actions, m.final_pnl) for m in stats.members]
    await reader.aclose()
