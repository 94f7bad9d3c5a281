"""Files of other formats are named with a command that converts them; calls without a trajectory are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.errors import SourceError
from mmo_rl.source.exports import UNOWNED, Exports, parse_candidate
from mmo_rl.source.rejections import Rejections
from mmo_rl.source.shapes import Candidate, parts
from mmo_rl.types import Trajectory


def scan(path: Path) -> tuple[Exports, Rejections]:
    rejections = Rejections()
    exports = Exports(str(path), max_bytes=10_000_000, rejections=rejections)
    exports.scan()
    return exports, rejections


@pytest.mark.parametrize(
    ("content", "name", "command"),
    [
        (b"PAR1\x15\x04\x00", "Parquet", "read_parquet"),
        (b"PK\x03\x04\x14\x00", "ZIP", "inspect log convert"),
        (b"trajectoryId,agentId,stepsJson\nt,a,[]\n", "CSV", "read_csv"),
    ],
)
def test_another_format_is_named(tmp_path: Path, content: bytes, name: str, command: str) -> None:
    path = tmp_path / "rows"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=name) as refused:
        scan(path)
    assert refused.value.hint is not None and command in refused.value.hint


def test_calls_without_their_trajectory_are_counted(tmp_path: Path) -> None:
    call = {"callId": "t-call-0-0", "stepId": "t-step-0", "trajectoryId": "t", "response": "HOLD", "userPrompt": "x"}
    step = {"timestamp": 1763125800123, "action": "HOLD"}
    row = {"trajectoryId": "u", "agentId": "a", "startTime": 1763125800000, "steps": [step]}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [call, {**call, "callId": "t-call-0-1"}, row])), "utf-8")
    _, rejections = scan(path)
    assert rejections.counts == {UNOWNED: 2}
    assert {found.trajectory_id for found in rejections.first} == {"t"}
    path.write_text(json.dumps(call), "utf-8")
    with pytest.raises(SourceError, match="without its trajectory"):
        scan(path)


def art(**changes: Any) -> Trajectory:
    line = {
        "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "HOLD"}],
        "trajectory_id": "t",
        "agent_id": "a",
        "start_time": 1763125800000,
        **changes,
    }
    (part,) = parts(line, "line")
    assert isinstance(part, Candidate)
    found = parse_candidate(part, ())
    assert isinstance(found, Trajectory), found
    return found


def test_ids_beside_the_messages_are_read() -> None:
    found = art()
    assert (found.trajectory_id, found.agent_id, found.start.year) == ("t", "a", 2025)


def test_choices_keep_their_tokens() -> None:
    listed = [{"token": "token_id:7", "logprob": -0.5}, {"token": "token_id:2", "logprob": 0}]
    choice = {"index": 0, "message": {"role": "assistant", "content": "HOLD"}, "logprobs": {"content": listed}}
    found = art(messages=None, messages_and_choices=[{"role": "user", "content": "x"}, choice])
    call = found.steps[0].llm_calls[0]
    assert (call.token_ids, call.logprobs, call.prompt_token_ids) == ((7, 2), (-0.5, 0.0), None)


@pytest.mark.parametrize("order", [(1, 3), (3, 1)])
def test_of_a_trajectory_that_is_there_twice_the_one_with_more_steps_counts(
    tmp_path: Path, order: tuple[int, int]
) -> None:
    rows = [
        {
            "trajectoryId": "t",
            "agentId": "a",
            "startTime": 1763125800000,
            "steps": [{"timestamp": 1763125800123 + n, "action": "HOLD"} for n in range(steps)],
        }
        for steps in order
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    exports, rejections = scan(path)
    found = exports.load("t")
    assert found is not None and len(found.steps) == 3
    assert rejections.counts == {"more than once": 1}
