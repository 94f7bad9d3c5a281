"""Trajectories and logged calls that come through a pipe, in any order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mmo_rl.source.exports import parts_of
from mmo_rl.source.piped import HELD_S, MAX_HELD, TOO_LATE, UNOWNED, Piped
from mmo_rl.source.rejections import Rejections
from mmo_rl.types import Trajectory


def bare(identity: str, steps: int = 1, **more: Any) -> dict[str, Any]:
    """A trajectory whose LLM calls were logged elsewhere."""
    listed = [{"stepNumber": n, "timestamp": 1748774940000 + n} for n in range(steps)]
    return {"trajectoryId": identity, "agentId": "a", "startTime": 1748774940000, "steps": listed, **more}


def call(identity: str, step: int = 0) -> dict[str, Any]:
    name = f"{identity}-call-{step}-0"
    return {"trajectoryId": identity, "callId": name, "userPrompt": "u", "response": f"of {identity} {step}"}


class Pipe:
    """What comes out of a pipe as lines go in; ``time`` in seconds."""

    def __init__(self) -> None:
        self.time = 0.0
        self.rejections = Rejections()
        self.piped = Piped(rejections=self.rejections, clock=lambda: self.time)

    def put(self, *lines: dict[str, Any]) -> list[Trajectory]:
        return [t for line in lines for part in parts_of(line, "line") for t in self.piped.take(part)]

    def close(self) -> list[Trajectory]:
        return list(self.piped.finish())


def answers(trajectory: Trajectory) -> list[list[str]]:
    return [[made.response for made in step.llm_calls] for step in trajectory.steps]


def test_calls_come_before_or_after_their_trajectory() -> None:
    pipe = Pipe()
    (first,) = pipe.put(call("first"), call("second", 1), bare("first"))
    assert answers(first) == [["of first 0"]]
    assert pipe.put(bare("second", steps=2), bare("silent"), call("second", 0)) == []
    second, silent = pipe.close()
    assert answers(second) == [["of second 0"], ["of second 1"]]
    assert answers(silent) == [[]], "play without a language model is play"
    assert not pipe.rejections.counts


def test_one_waits_for_its_calls_a_limited_time() -> None:
    pipe = Pipe()
    assert pipe.put(bare("early")) == []
    pipe.time = HELD_S
    (early,) = pipe.put(bare("late"))
    assert early.trajectory_id == "early"
    assert pipe.put(call("early")) == []
    (late,) = pipe.close()
    assert late.trajectory_id == "late"
    (rejected,) = pipe.rejections.first
    assert (rejected.trajectory_id, rejected.found, rejected.reason) == ("early", "early-call-0-0", TOO_LATE)


def test_few_wait_at_a_time() -> None:
    pipe = Pipe()
    given_back = pipe.put(*(bare(f"t{n}") for n in range(MAX_HELD + 3)))
    assert [t.trajectory_id for t in given_back] == ["t0", "t1", "t2"]
    assert len(pipe.close()) == MAX_HELD


def test_calls_of_no_trajectory_are_counted_one_by_one() -> None:
    pipe = Pipe()
    assert pipe.put(call("nobody", 0), call("nobody", 1)) == []
    assert pipe.close() == []
    assert pipe.rejections.counts == {UNOWNED: 2}
    assert {r.trajectory_id for r in pipe.rejections.first} == {"nobody"}


def test_calls_that_say_nothing_new_are_passed_over() -> None:
    pipe = Pipe()
    whole = bare("t", steps=0) | {"steps": [{"timestamp": 1748774940000, "llmCalls": [{"prompt": "p", "text": "t"}]}]}
    assert [t.trajectory_id for t in pipe.put(whole, call("t"))] == ["t"]
    refused = bare("none", steps=0)
    assert pipe.put(refused, call("none")) == []
    assert pipe.close() == []
    assert pipe.rejections.counts == {"no steps": 1}


def test_calls_that_cannot_be_read_cost_no_trajectory() -> None:
    pipe = Pipe()
    assert pipe.put(bare("t"), call("t") | {"response": None}) == []
    assert [answers(t) for t in pipe.close()] == [[[]]]
    assert pipe.rejections.counts == {"an LLM call without a response": 1}


@given(st.permutations([bare("x", 2), call("x", 0), call("x", 1), bare("y"), call("y"), call("z")]))
def test_any_order_gives_the_same(lines: Sequence[dict[str, Any]]) -> None:
    pipe = Pipe()
    found = {t.trajectory_id: answers(t) for t in [*pipe.put(*json.loads(json.dumps(lines))), *pipe.close()]}
    assert found == {"x": [["of x 0"], ["of x 1"]], "y": [["of y 0"]]}
    assert pipe.rejections.counts == {UNOWNED: 1}
