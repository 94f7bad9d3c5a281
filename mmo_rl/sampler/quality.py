"""Quality counts over the steps of recorded trajectories, taken while they stream by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from itertools import pairwise

from mmo_rl.messages import content_text
from mmo_rl.numbers import is_logprob
from mmo_rl.policy_view import policy_calls
from mmo_rl.sampler.base import ClockFaults, StepQuality
from mmo_rl.types import Trajectory
from mmo_rl.vocabulary import Vocabulary

CLOCK_TOLERANCE = timedelta(seconds=1)


class QualityCounter:
    """Counter of the quality of one window's trajectories; ``readable`` has the ids of those that could be read."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._unknown: Counter[str] = Counter()
        self.readable: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._seen: set[tuple[str, datetime, datetime, int]] = set()

    @property
    def quality(self) -> StepQuality:
        """The counts so far."""
        return StepQuality(**self._counts, clock=ClockFaults(**self._faults), unknown_actions=dict(self._unknown))

    def add(self, trajectory: Trajectory, *, now: datetime) -> None:
        """Counts one trajectory."""
        self.readable.add(trajectory.trajectory_id)
        counts = self._counts
        counts["trajectories"] += 1
        counts["steps"] += len(trajectory.steps)
        for step in trajectory.steps:
            counts["steps_with_calls"] += bool(step.llm_calls)
            counts["actions_with_result"] += step.action.result is not None or step.action.error is not None
            read = self._vocabulary.read(step.action)
            counts["trades"] += read.trade
            if read.unknown_trade:
                self._unknown[step.action.action_type] += 1
            counts["failed_actions"] += not step.action.success
            counts["calls"] += len(step.llm_calls)
            counts["calls_with_prompt"] += sum(
                any(content_text(message.get("content")).strip() for message in call.messages)
                for call in step.llm_calls
            )
            trainable = policy_calls(step)
            counts["trainable_calls"] += len(trainable)
            counts["with_logprobs"] += sum(bool(call.token_ids) and _known(call.logprobs) for call in trainable)
            counts["logprobs_without_ids"] += sum(not call.token_ids and bool(call.logprobs) for call in trainable)
        self._add_times(trajectory, now)

    def _add_times(self, trajectory: Trajectory, now: datetime) -> None:
        """Counts a repeated trajectory, and each kind of fault in its times once."""
        times = [step.timestamp for step in trajectory.steps]
        key = (trajectory.agent_id, trajectory.start, times[0], len(times))
        self._counts["duplicates"] += key in self._seen
        self._seen.add(key)
        early, late = trajectory.start - CLOCK_TOLERANCE, max(trajectory.start, trajectory.end) + CLOCK_TOLERANCE
        self._faults["ends_before_it_starts"] += trajectory.end < trajectory.start
        self._faults["outside_its_span"] += any(not early <= moment <= late for moment in times)
        self._faults["out_of_order"] += any(after < before for before, after in pairwise(times))
        self._faults["in_the_future"] += max(*times, trajectory.start, trajectory.end) > now


def _known(logprobs: Sequence[float] | None) -> bool:
    """Tells that logprobs were recorded, and all of them are some."""
    return bool(logprobs) and all(map(is_logprob, logprobs or ()))


def total(parts: Iterable[StepQuality]) -> StepQuality:
    """Adds up the counts of several windows."""
    counts: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    numbers = [field.name for field in fields(StepQuality) if field.name not in ("clock", "unknown_actions")]
    for part in parts:
        counts.update({name: getattr(part, name) for name in numbers})
        unknown.update(part.unknown_actions)
        faults.update({field.name: getattr(part.clock, field.name) for field in fields(ClockFaults)})
    return StepQuality(**counts, clock=ClockFaults(**faults), unknown_actions=dict(unknown.most_common()))
