"""Tool calls, null content and text parts go from recording to parser, policy view, export and token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import mmo_rl
from mmo_rl.database.rows import call_json, call_row
from mmo_rl.errors import TrainerError
from mmo_rl.lm.encode import Encoder
from mmo_rl.messages import message_fault, template_messages
from mmo_rl.policy_view import policy_calls
from mmo_rl.source.canonical import canonical_steps
from mmo_rl.source.parse import parse_trajectory
from mmo_rl.types import Rejection, Trajectory

ASK = {"id": "c1", "type": "function", "function": {"name": "quote", "arguments": '{"ticker": "NOVA"}'}}
BUY = {"id": "c2", "type": "function", "function": {"name": "buy", "arguments": '{"ticker": "NOVA"}'}}
TOOLS = [{"type": "function", "function": {"name": "buy", "parameters": {"type": "object"}}}]
MESSAGES = [
    {"role": "system", "content": "trade"},
    {"role": "user", "content": [{"type": "text", "text": "NOVA"}, {"type": "text", "text": "at 100"}]},
    {"role": "assistant", "content": None, "tool_calls": [ASK]},
    {"role": "tool", "content": "101", "tool_call_id": "c1", "name": "quote"},
]
CALL = {"model": "m", "messages": MESSAGES, "response": "", "toolCalls": [BUY], "tools": TOOLS}
STEP: dict[str, Any] = {
    "stepNumber": 0,
    "timestamp": 1763125800123,
    "environmentState": {},
    "action": {"actionType": "BUY", "parameters": {}, "success": True},
}


def parse(call: dict[str, Any]) -> Trajectory | Rejection:
    steps = [{**STEP, "llmCalls": [call]}]
    return parse_trajectory({"trajectoryId": "t", "agentId": "a", "startTime": 1763125800000, "steps": steps})


def test_tool_calls_reach_the_policy_view_as_they_were_said() -> None:
    found = parse({**CALL, "response": None})
    assert isinstance(found, Trajectory)
    (call,) = policy_calls(found.steps[0])
    assert list(call.messages) == MESSAGES
    assert (call.tool_calls, call.tools, call.response) == ((BUY,), tuple(TOOLS), "")
    assert canonical_steps(json.dumps([{**STEP, "llmCalls": [CALL]}])) == found.steps


def test_what_is_written_is_read_again_from_the_step_and_from_the_log() -> None:
    found = parse(CALL)
    assert isinstance(found, Trajectory)
    call = found.steps[0].llm_calls[0]
    again = parse(json.loads(json.dumps(call_json(call))))
    logged = parse(call_row("t", found.steps[0], 0, call, now=found.start))
    for other in (again, logged):
        assert isinstance(other, Trajectory)
        (read,) = policy_calls(other.steps[0])
        assert read == policy_calls(found.steps[0])[0]


def test_a_picture_is_refused_by_name() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "x"}}]
    found = parse({**CALL, "messages": [{"role": "user", "content": parts}]})
    assert isinstance(found, Rejection)
    assert found.reason == "a content part that is no text: image_url"


@pytest.mark.parametrize("found", [{"role": "user"}, {"content": "x"}, "x", {"role": "user", "content": 3}])
def test_what_is_no_message_is_refused(found: object) -> None:
    assert message_fault(found) == "not a message"


def test_a_template_reads_text_and_arguments_as_an_object() -> None:
    read = template_messages(MESSAGES)
    assert [message["content"] for message in read] == ["trade", "NOVA\nat 100", "", "101"]
    assert read[2]["tool_calls"][0]["function"]["arguments"] == {"ticker": "NOVA"}
    assert read[3]["tool_call_id"] == "c1"


def load_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(Path(mmo_rl.__file__).parent / "lm" / "models" / "tiny")


TEMPLATE = (
    "{% for t in tools or [] %}<{{ t.function.name }}>{% endfor %}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_tool_calls_reach_the_tokens() -> None:
    tokenizer = load_tokenizer()
    tokenizer.chat_template = TEMPLATE
    found = parse(CALL)
    assert isinstance(found, Trajectory)
    (call,) = policy_calls(found.steps[0])
    history = Encoder(tokenizer, end_id=tokenizer.eos_token_id)(call)
    prompt = tokenizer.decode(history.prompt)
    assert prompt.startswith("<buy>[system]trade") and 'quote({"ticker": "NOVA"})' in prompt and "101" in prompt
    assert tokenizer.decode(history.answer) == 'buy({"ticker": "NOVA"})' + tokenizer.eos_token


def test_a_template_without_tools_is_named() -> None:
    tokenizer = load_tokenizer()
    tokenizer.chat_template = TEMPLATE.replace("m.tool_calls or []", "[]")
    found = parse(CALL)
    assert isinstance(found, Trajectory)
    with pytest.raises(TrainerError, match="does not write tool calls, and an answer calls buy"):
        Encoder(tokenizer, end_id=tokenizer.eos_token_id)(policy_calls(found.steps[0])[0])
