"""What is in the steps of a window, counted while they stream by."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from mmo_rl.policy_view import policy_calls
from mmo_rl.types import Trajectory

CLOCK_TOLERANCE = timedelta(seconds=1)
CLOCK = {
    "ends_before_it_starts": "trajectories end before they start",
    "outside_its_span": "trajectories have steps before their start or after their end",
    "out_of_order": "trajectories have steps that go back in time",
    "in_the_future": "trajectories lie in the future",
}


@dataclass(slots=True)
class Quality:
    """Counts over the trajectories (or slices) that could be read. ``calls`` counts recorded LLM calls,
    ``trainable_calls`` those that a policy can be trained on, ``with_logprobs`` those of them whose behaviour logprobs
    were recorded; ``duplicates`` trajectories that repeat another one of their window under an id of their own."""

    trajectories: int = 0
    steps: int = 0
    steps_with_calls: int = 0
    calls: int = 0
    calls_with_prompt: int = 0
    trainable_calls: int = 0
    with_logprobs: int = 0
    actions_with_result: int = 0
    duplicates: int = 0
    ends_before_it_starts: int = 0
    outside_its_span: int = 0
    out_of_order: int = 0
    in_the_future: int = 0
    readable: set[str] = field(default_factory=set)
    _seen: set[tuple[str, datetime, datetime, int]] = field(default_factory=set)

    def add(self, trajectory: Trajectory, *, now: datetime) -> None:
        self.readable.add(trajectory.trajectory_id)
        self.trajectories += 1
        self.steps += len(trajectory.steps)
        for step in trajectory.steps:
            self.steps_with_calls += bool(step.llm_calls)
            self.actions_with_result += step.action.result is not None or step.action.error is not None
            self.calls += len(step.llm_calls)
            self.calls_with_prompt += sum(
                any(message["content"].strip() for message in call.messages) for call in step.llm_calls
            )
            trainable = policy_calls(step)
            self.trainable_calls += len(trainable)
            self.with_logprobs += sum(call.logprobs is not None for call in trainable)
        self._look_at_the_clock(trajectory, now)

    def _look_at_the_clock(self, trajectory: Trajectory, now: datetime) -> None:
        times = [step.timestamp for step in trajectory.steps]
        key = (trajectory.agent_id, trajectory.start, times[0], len(times))
        self.duplicates += key in self._seen
        self._seen.add(key)
        self.ends_before_it_starts += trajectory.end < trajectory.start
        early, late = trajectory.start - CLOCK_TOLERANCE, max(trajectory.start, trajectory.end) + CLOCK_TOLERANCE
        self.outside_its_span += any(not early <= moment <= late for moment in times)
        self.out_of_order += any(after < before for before, after in pairwise(times))
        self.in_the_future += max(*times, trajectory.start, trajectory.end) > now

    def numbers(self) -> dict[str, int]:
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), int)}


def total(parts: list[Quality]) -> dict[str, Any]:
    """All windows together: counts, and shares in [0, 1] (None of nothing)."""
    sums = dict.fromkeys(Quality().numbers(), 0)
    for part in parts:
        for name, number in part.numbers().items():
            sums[name] += number
    clock = {name: sums.pop(name) for name in CLOCK}
    return {
        **sums,
        "share_of_steps_with_calls": _share(sums["steps_with_calls"], sums["steps"]),
        "share_of_calls_with_prompt": _share(sums["calls_with_prompt"], sums["calls"]),
        "share_of_actions_with_result": _share(sums["actions_with_result"], sums["steps"]),
        "clock": clock,
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
