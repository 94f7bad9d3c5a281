"""The fast way to read steps gives what the tolerant one gives, or nothing."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mmo_rl.source.canonical import canonical_steps
from mmo_rl.source.parse import parse_trajectory
from mmo_rl.types import Trajectory

CALL = {
    "model": "m", "modelVersion": "", "systemPrompt": "s", "userPrompt": "u", "response": "HOLD", "reasoning": "r",
    "temperature": 1, "maxTokens": 150, "latencyMs": 12, "purpose": "action", "actionType": "HOLD", "callId": "",
    "timestamp": 1763125800500, "topP": 0.5, "promptTokens": 3, "promptTokenIds": [1, 2], "tokenIds": [3],
    "logprobs": [-1],
}  # fmt: skip
ACTION = {
    "actionType": "BUY", "parameters": {"a": [1, None]}, "success": False, "result": {"b": 1}, "error": "no",
    "reasoning": "r", "correctness": {"predictionCorrect": True},
}  # fmt: skip
STEP = {
    "stepNumber": 3, "timestamp": 1763125800123, "environmentState": {"agentPnL": 0.0, "x": {"y": None}},
    "providerAccesses": [{"providerName": "p", "data": {}}], "llmCalls": [CALL, {**CALL, "systemPrompt": ""}],
    "action": ACTION, "reward": 0, "stepId": "t-step-3", "observation": {}, "done": True, "metadata": {},
}  # fmt: skip
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)


def tolerant(text: str) -> Any:
    row = {"trajectoryId": "t", "agentId": "a", "stepsJson": json.loads(text), "startTime": 1763125800000}
    parsed = parse_trajectory(row)
    return parsed.steps if isinstance(parsed, Trajectory) else None


def test_what_the_game_writes_is_read_fast() -> None:
    text = json.dumps([STEP, {**STEP, "stepNumber": 4, "llmCalls": []}])
    fast = canonical_steps(text.encode())
    assert fast is not None
    assert fast == tolerant(text)
    assert [len(call.messages) for call in fast[0].llm_calls] == [2, 1]
    assert isinstance(fast[0].llm_calls[0].logprobs, tuple)


@given(st.sampled_from(["step", "action", "call"]), st.data())
def test_whatever_else_is_written_is_read_alike_or_left_to_the_tolerant_way(part: str, data: st.DataObject) -> None:
    whole: dict[str, Any] = {"step": STEP, "action": ACTION, "call": CALL}[part]
    names = [*whole, "number", "llm_calls", "type", "prompt", "messages", "steps", "output"]
    changed = {**whole, data.draw(st.sampled_from(names)): data.draw(ODD)}
    if gone := data.draw(st.none() | st.sampled_from(list(whole))):
        changed.pop(gone, None)
    step = {"step": changed, "action": {**STEP, "action": changed}, "call": {**STEP, "llmCalls": [changed]}}[part]
    text = json.dumps([step])
    fast = canonical_steps(text)
    assert fast is None or repr(fast) == repr(tolerant(text))


def test_what_is_no_list_of_steps_is_left_to_the_tolerant_way() -> None:
    for text in ("", "[]", "{}", "null", "[1]", "[{", "[" * 100_000, json.dumps([STEP, STEP])):
        assert canonical_steps(text) is None


def test_keys_of_newer_recorders_are_read_fast() -> None:
    call = {**CALL, "metadata": {"provider": "x"}, "newest": 1}
    step = {**STEP, "llmCalls": [call], "action": {**ACTION, "actionName": "BUY"}, "stepWeight": 0.5}
    text = json.dumps([step])
    fast = canonical_steps(text)
    assert fast is not None and fast == tolerant(text)
    named = json.dumps([{**step, "llmCalls": [{**call, "metadata": {"modelVersion": "v"}}]}])
    assert canonical_steps(named) is None
