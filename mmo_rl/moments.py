"""Moments of a window: decisions that faced the same market, and so may be compared with each other.

Agents of a live game act when they like, so the same step number of two agents is another market. A moment is a tick of
the game where every decision of the group has one, else an interval of time in the window, else, where no times were
recorded, a step number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from mmo_rl.numbers import finite_number
from mmo_rl.types import Group, Step

TICKS = ("tick", "tickNumber", "gameTick", "currentTick")

CompareBy = Literal["tick", "time", "step"]


@dataclass(frozen=True, slots=True)
class MomentRule:
    """Rule by which decisions share a moment: the same ``tick`` (by time where one has none), the same ``seconds`` of
    ``time`` counted from the window's start, or the same ``step`` number."""

    by: CompareBy = "tick"
    seconds: float = 60.0


SAME_MARKET = MomentRule()
"""Rule of a run that says nothing else: decisions of one tick, else of the same minute."""


@dataclass(frozen=True, slots=True, order=True)
class Moment:
    """Place of a decision in its window: moments sort by time; ``name`` is unique in the window."""

    place: tuple[float, float]
    name: str


def moments_of(group: Group, rule: MomentRule) -> Callable[[Step], Moment]:
    """Returns the function that gives a step of the group its moment."""
    steps = [step for member in group.members for step in member.steps]
    if rule.by == "tick" and all(tick_of(step) is not None for step in steps):
        return _by_tick(steps)
    if rule.by != "step" and any(len({step.timestamp_ms for step in member.steps}) > 1 for member in group.members):
        start = group.window.start

        def by_time(step: Step) -> Moment:
            since = (step.timestamp - start) // timedelta(seconds=rule.seconds) * rule.seconds
            return Moment((since, 0.0), f"{since:+g}s")

        return by_time
    return lambda step: Moment((float(step.number), 0.0), str(step.number))


def tick_of(step: Step) -> int | None:
    """Returns the game's tick at which a decision was made, where the agent's observation or the step has it."""
    data = (access.get("data") for access in step.provider_accesses)
    for seen in (step.environment_state, step.observation, step.metadata, *data):
        if isinstance(seen, Mapping):
            for key in TICKS:
                tick = finite_number(seen.get(key))
                if tick is not None and tick.is_integer():
                    return int(tick)
    return None


def _by_tick(steps: list[Step]) -> Callable[[Step], Moment]:
    """Tells ticks apart by the hour too: in a longer window, play that was recorded by the hour counts from 0 again."""
    hours = {step.timestamp_ms // 3.6e6 for step in steps}

    def by_tick(step: Step) -> Moment:
        hour, tick = step.timestamp_ms // 3.6e6, tick_of(step)
        assert tick is not None
        within = "" if len(hours) == 1 else f"{step.timestamp:%d %H:00} "
        return Moment((hour, float(tick)), f"{within}{tick}")

    return by_tick
