"""Windows of a recorded trajectory, and its slice in each: pure functions that every source uses.

A trajectory belongs to the window that its recorded id names, else to that of its start. One that goes on beyond the
end of its window is sliced by the times of its steps: each slice has an id of its own, ``<trajectory id>@<window id>``,
and its own P&L.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mmo_rl.clock import window_at
from mmo_rl.clock import window_id as written
from mmo_rl.source.values import as_number, as_time, pick
from mmo_rl.types import Step, Trajectory, Window
from mmo_rl.window_ids import named_start, slice_id


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of a trajectory that lies in ``window``: the positions of its steps, never empty, and its P&L in game
    dollars (None: not known)."""

    window: Window
    steps: tuple[int, ...]
    pnl: float | None


def home_window(window_id: str | None, start: datetime, *, hours: float) -> Window:
    """Returns the window that a trajectory belongs to.

    A window of an hour is named by the recorded id where that names a start; every other follows from the start time.
    """
    named = named_start(window_id) if hours == 1 else None
    if named is None:
        return window_at(start, hours)
    return Window(written(named), named, named + timedelta(hours=1))


def crosses(home: Window, start: datetime, end: datetime) -> bool:
    """Tells if a trajectory goes on beyond its window.

    One that ends exactly with it does not; one that was recorded under the id of a window that it did not start in
    stays whole, because its id and its clock disagree.
    """
    return home.start <= start < home.end < end


def slices(
    times: Sequence[datetime],
    pnls: Sequence[float | None],
    *,
    final_pnl: float | None,
    start: datetime,
    end: datetime,
    hours: float,
) -> list[Slice]:
    """Cuts a trajectory into slices in the order of their windows, by the times and P&Ls of its steps.

    A slice's P&L goes from that at its first step to that at the first step of the next slice, the last one's to
    ``final_pnl``; a trajectory that lies in one window keeps ``final_pnl``. A step outside ``[start, end]`` (a wrong
    clock) counts at the nearer of the two.
    """
    found: dict[Window, list[int]] = {}
    for position, moment in enumerate(times):
        found.setdefault(window_at(min(max(moment, start), end), hours), []).append(position)
    ordered = sorted(found.items(), key=lambda item: item[0].start)
    if len(ordered) == 1:
        window, positions = ordered[0]
        return [Slice(window, tuple(positions), final_pnl)]
    edges = [pnls[positions[0]] for _, positions in ordered] + [final_pnl]
    return [
        Slice(window, tuple(positions), _difference(before, after))
        for (window, positions), before, after in zip(ordered, edges, edges[1:], strict=False)
    ]


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def pnl_at(step: Step) -> float | None:
    """Reads the agent's P&L at the beginning of a step."""
    return as_number(pick(step.environment_state, "agentPnL", "agent_pnl"))


def slices_of(trajectory: Trajectory, *, hours: float) -> list[Slice]:
    """Cuts a trajectory that was read whole into slices."""
    return slices(
        [step.timestamp for step in trajectory.steps],
        [pnl_at(step) for step in trajectory.steps],
        final_pnl=trajectory.final_pnl,
        start=trajectory.start,
        end=max(trajectory.start, trajectory.end),
        hours=hours,
    )


def part(trajectory: Trajectory, window: Window) -> Trajectory | None:
    """Returns the slice in ``window`` as a trajectory of its own; None where no step lies in it.

    It starts at the later of both starts and ends at the earlier of both ends. It has no ``metrics`` or ``rewards``,
    which are the whole's; the final balance is that at the first step of the next slice.
    """
    hours = (window.end - window.start) / timedelta(hours=1)
    listed = slices_of(trajectory, hours=hours)
    place = next((place for place, slice_ in enumerate(listed) if slice_.window.start == window.start), None)
    if place is None:
        return None
    here = listed[place]
    balance = trajectory.final_balance
    if place + 1 < len(listed):
        after = trajectory.steps[listed[place + 1].steps[0]]
        balance = as_number(pick(after.environment_state, "agentBalance", "agent_balance"))
    return replace(
        trajectory,
        trajectory_id=slice_id(trajectory.trajectory_id, window.id),
        window_id=window.id,
        start=max(trajectory.start, window.start),
        end=min(trajectory.end, window.end),
        steps=tuple(trajectory.steps[position] for position in here.steps),
        final_pnl=here.pnl,
        final_balance=balance,
        metrics={},
        rewards={},
    )


def step_times(recorded: Sequence[object], start: datetime) -> list[datetime]:
    """Reads the times of steps; a step without one has that of the step before."""
    times: list[datetime] = []
    for value in recorded:
        times.append(as_time(value) or (times[-1] if times else start))
    return times
