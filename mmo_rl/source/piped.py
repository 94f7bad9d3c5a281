"""Joins trajectories that arrive through a pipe with LLM calls that were logged apart from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from mmo_rl.source.exports import parse_candidate
from mmo_rl.source.files import temporary_file, write
from mmo_rl.source.jsontext import excerpt
from mmo_rl.source.rejections import Rejections
from mmo_rl.source.shapes import Candidate, LoggedCall, OutcomeRow, Part
from mmo_rl.source.values import Fields, as_text, pick
from mmo_rl.types import Rejection, Trajectory

MAX_HELD = 200
HELD_S = 30.0
TOO_LATE = "an LLM call after its trajectory was stored: pipe the calls first, or inside their steps"
UNOWNED = "an LLM call whose trajectory did not come: pipe it too, or import both as files"


@dataclass(frozen=True, slots=True)
class Held:
    """A trajectory with steps without LLM calls, which waits for them."""

    candidate: Candidate
    calls: list[Fields]
    read: Trajectory
    since: float


class Piped:
    """Joins trajectories with their logged calls as both come, in bounded memory.

    Calls that come first wait in a temporary file. A trajectory that has its calls is given at once; one with steps
    without any waits for calls that follow, until ``MAX_HELD`` others have come or ``HELD_S`` seconds have passed when
    something comes. Calls that come later still, or whose trajectory never comes, are rejected with its id; those of a
    trajectory that has all its calls say nothing new. ``clock`` in seconds.
    """

    def __init__(self, *, rejections: Rejections, clock: Callable[[], float]) -> None:
        self.outcomes: list[Fields] = []
        self._rejections = rejections
        self._clock = clock
        self._calls = WaitingCalls()
        self._held: dict[str, Held] = {}
        self._complete: dict[str, bool] = {}

    def take(self, part: Part) -> Iterator[Trajectory]:
        """Takes the next part; yields the trajectories that it completes."""
        if isinstance(part, Rejection):
            self._rejections.add(part)
        elif isinstance(part, OutcomeRow):
            self.outcomes.append(part.row)
        elif isinstance(part, LoggedCall):
            self._take_call(part)
        else:
            yield from self._take_trajectory(part)
        now = self._clock()
        while self._held:
            identity, oldest = next(iter(self._held.items()))
            if len(self._held) <= MAX_HELD and now - oldest.since < HELD_S:
                break
            yield from self._release(identity)

    def finish(self) -> Iterator[Trajectory]:
        """Ends the input: yields the trajectories that still wait, rejects calls without one."""
        for identity in list(self._held):
            yield from self._release(identity)
        for identity in list(self._calls.owners()):
            for row in self._calls.pop(identity):
                self._reject(LoggedCall(identity, row), UNOWNED)
        self._calls.close()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _take_call(self, call: LoggedCall) -> None:
        held = self._held.get(call.trajectory_id)
        complete = self._complete.get(call.trajectory_id)
        if held is not None:
            held.calls.append(call.row)
        elif complete is None:
            self._wait(call)
        elif not complete:
            self._reject(call, TOO_LATE)

    def _wait(self, call: LoggedCall) -> None:
        try:
            self._calls.add(call)
        except RecursionError:
            self._reject(call, "nested too deeply")

    def _take_trajectory(self, candidate: Candidate) -> Iterator[Trajectory]:
        identity = as_text(pick(candidate.row, "trajectoryId", "trajectory_id", "id")) or ""
        yield from self._release(identity)
        calls = self._calls.pop(identity)
        read = parse_candidate(candidate, calls)
        if isinstance(read, Rejection):
            self._rejections.add(read)
            self._complete[identity] = True  # its calls have nothing to belong to
        elif all(step.llm_calls for step in read.steps):
            self._complete[identity] = True
            yield read
        else:
            self._held[identity] = Held(candidate, calls, read, self._clock())

    def _release(self, identity: str) -> Iterator[Trajectory]:
        held = self._held.pop(identity, None)
        if held is None:
            return
        # Parsed again only where calls came after it, and refused only by them.
        read = parse_candidate(held.candidate, held.calls) if held.calls else held.read
        if isinstance(read, Rejection):
            self._rejections.add(read)
            read = held.read
        self._complete[identity] = all(step.llm_calls for step in read.steps)
        yield read

    def _reject(self, call: LoggedCall, reason: str) -> None:
        named = as_text(pick(call.row, "callId", "call_id", "stepId", "step_id"))
        self._rejections.add(Rejection(call.trajectory_id, "llm_call_logs", excerpt(named), reason))


class WaitingCalls:
    """Temporary file of logged calls whose trajectories have not arrived yet."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._places: dict[str, list[tuple[int, int]]] = {}

    def owners(self) -> Iterator[str]:
        """Yields the ids of trajectories whose calls came first."""
        return iter(self._places)

    def add(self, call: LoggedCall) -> None:
        if self._file is None:
            self._file = temporary_file()
        text = json.dumps(call.row).encode()
        self._places.setdefault(call.trajectory_id, []).append((self._file.seek(0, 2), len(text)))
        write(text, self._file)

    def pop(self, identity: str) -> list[Fields]:
        """Removes and returns the calls of a trajectory, in the order of their arrival."""
        found: list[Fields] = []
        for offset, length in self._places.pop(identity, ()):
            assert self._file is not None
            self._file.seek(offset)
            found.append(json.loads(self._file.read(length)))
        if not self._places and self._file is not None:
            self._file.truncate(0)
        return found

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
