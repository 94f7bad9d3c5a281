"""Joins the trajectories of an agent in a longer window into one: pure functions that every source uses.

A joined trajectory has the id ``<id of its first part>+<how many more>``. Where a trajectory is alone in its window, it
stays itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from msgspec import structs

from mmo_rl.types import JsonDict, Member, Rejection, SelectedWindow, Trajectory, Window


def joins(hours: float) -> bool:
    """Tells if windows of this length join trajectories.

    The game records by the hour: two trajectories of an agent in one hour are two attempts.
    """
    return hours > 1


def joined_id(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{parts[0]}+{len(parts) - 1}"


def joined_members(found: Iterable[tuple[datetime, Member]], *, by_role: bool) -> list[Member]:
    """Joins the members of one window (each with its start) by agent, in the order of time.

    Members that may be trained on are not joined with those that may not, nor, ``by_role``, one role with another. P&L
    adds up; it is unknown where that of one part is.
    """
    own: dict[tuple[object, ...], list[Member]] = {}
    for _, member in sorted(found, key=lambda item: (item[0], item[1].trajectory_id)):
        role = member.role if by_role else None
        own.setdefault((member.agent_id, role, member.is_training_data, member.is_evaluation), []).append(member)
    return [_join_members(parts) if len(parts) > 1 else parts[0] for parts in own.values()]


def _join_members(parts: Sequence[Member]) -> Member:
    first = parts[0]
    ids = tuple(part.trajectory_id for part in parts)
    return Member(
        trajectory_id=joined_id(ids),
        agent_id=first.agent_id,
        actions=sum(part.actions for part in parts),
        final_pnl=total([part.final_pnl for part in parts]),
        role=first.role if len({part.role for part in parts}) == 1 else None,
        is_training_data=first.is_training_data,
        is_evaluation=first.is_evaluation,
        odd_window_id=next((part.odd_window_id for part in parts if part.odd_window_id is not None), None),
        parts=ids,
    )


def total(values: Sequence[float | None]) -> float | None:
    """Adds values; None where one is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def assemble(
    selected: SelectedWindow, read: Mapping[str, Trajectory]
) -> tuple[tuple[Trajectory, ...], list[Rejection]]:
    """Builds the members of a selected window from the trajectories that could be read, in the selection's order.

    A joined one with a missing part is left out and rejected: its other parts would pass for the whole.
    """
    members: list[Trajectory] = []
    rejected: list[Rejection] = []
    for identity in selected.trajectory_ids:
        parts = selected.parts.get(identity)
        if parts is None:
            if identity in read:
                members.append(read[identity])
        elif missing := [part for part in parts if part not in read]:
            rejected.append(Rejection(identity, "stepsJson", missing[0], "a joined part cannot be read"))
        else:
            members.append(join(identity, selected.window, [read[part] for part in parts]))
    return tuple(members), rejected


def join(identity: str, window: Window, parts: Sequence[Trajectory]) -> Trajectory:
    """Joins trajectories of one agent in a window into one.

    Steps stand in the order of time, numbered anew from 0; the P&L adds up, balance and status are those of the last.
    The whole has no ``metrics``: those of the parts do not add up.
    """
    steps = sorted((step for part in parts for step in part.steps), key=lambda step: step.timestamp_ms)
    metadata: JsonDict = {}
    for part in parts:
        metadata |= part.metadata
    first, last = parts[0], max(parts, key=lambda part: part.end)
    return Trajectory(
        trajectory_id=identity,
        agent_id=first.agent_id,
        window_id=window.id,
        start=first.start,
        end=last.end,
        steps=tuple(structs.replace(step, number=number) for number, step in enumerate(steps)),
        final_pnl=total([part.final_pnl for part in parts]),
        final_balance=last.final_balance,
        final_status=last.final_status,
        role=first.role if len({part.role for part in parts}) == 1 else None,
        scenario_id=first.scenario_id if len({part.scenario_id for part in parts}) == 1 else None,
        is_training_data=all(part.is_training_data for part in parts),
        is_evaluation=any(part.is_evaluation for part in parts),
        metadata=metadata,
    )
