"""Reader of verifiers 0.1 results (``results.jsonl``): a rollout a line, its tokens where ``trajectory`` was saved.

Source: ``verifiers.types.RolloutOutput``, ``verifiers.types.TrajectoryStep``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from mmo_rl.source.formats.common import SCENARIO, WINDOW, Row, action_of, first_of, tool_call, totals, without_none
from mmo_rl.source.values import Fields, as_fields, as_list, as_number, as_text, pick
from mmo_rl.types import Rejection


def recognises(value: Fields) -> bool:
    return "example_id" in value and isinstance(value.get("prompt"), list) and "completion" in value


def rows(value: Fields, place: str) -> Iterator[Row | Rejection]:
    """Yields the row of a rollout. Without ids in it, its id is that of its content, and each rollout is an agent."""
    identity = _identity(value)
    completion = as_list(value.get("completion"))
    if not completion:
        error = as_fields(value.get("error")).get("error")
        yield Rejection(identity, f"{place}: completion", str(error or ""), "a rollout without a completion")
        return
    info = _object(value.get("info"))
    timing = as_fields(value.get("timing"))
    yield without_none(
        {
            "trajectoryId": identity,
            "agentId": first_of(("agentId", "agent_id", "agent"), info) or f"rollout-{identity[-12:]}",
            "archetype": pick(info, "role", "archetype"),
            "scenarioId": first_of(SCENARIO, info) or f"example-{value.get('example_id')}",
            "windowId": first_of(WINDOW, info),
            "startTime": as_number(timing.get("start_time")) or as_fields(timing.get("generation")).get("start"),
            "endTime": as_number(as_fields(timing.get("generation")).get("end")) or None,
            "steps": list(_steps(value)),
            **totals(value.get("metrics"), info, value),
            "totalReward": as_number(value.get("reward")),
            "finalStatus": "error" if value.get("error") else "completed",
            "metadata": without_none({"format": "verifiers 0.1", "info": value.get("info")}),
        }
    )


def _identity(value: Fields) -> str:
    first = as_fields(next(iter(as_list(value.get("trajectory"))), None))
    named = as_text(first.get("trajectory_id")) or as_text(value.get("trajectory_id"))
    return named or f"verifiers-{hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]}"


def _object(value: object) -> Fields:
    if isinstance(value, str):
        try:
            return as_fields(json.loads(value))
        except ValueError:
            return {}
    return as_fields(value)


def _steps(value: Fields) -> Iterator[Row]:
    said = [_message(as_fields(m)) for m in as_list(value.get("completion"))]
    prompt = [_message(as_fields(m)) for m in as_list(value.get("prompt"))]
    recorded = [as_fields(step) for step in as_list(value.get("trajectory"))]
    answers = [m for m in said if m.get("role") == "assistant"]
    known = recorded if len(recorded) == len(answers) else [{} for _ in answers]
    tools = [_tool(as_fields(tool)) for tool in as_list(value.get("tool_defs"))] or None
    results = {as_text(m.get("tool_call_id")): m.get("content") for m in said if m.get("role") == "tool"}
    place = 0
    for message in said:
        if message.get("role") == "assistant":
            step = known[place]
            place += 1
            calls = [call for call in as_list(message.get("tool_calls")) if isinstance(call, dict)]
            exact = [_message(as_fields(m)) for m in as_list(step.get("prompt"))]
            call = {
                "messages": exact or list(prompt),
                "response": message.get("content"),
                "toolCalls": calls or None,
                "tools": tools,
                **_tokens(as_fields(step.get("tokens"))),
            }
            made = {"llmCalls": [without_none(call)], "action": action_of(calls, results), "reward": step.get("reward")}
            yield without_none(made)
        prompt.append(message)


def _tokens(tokens: Fields) -> Row:
    ids, mask = as_list(tokens.get("completion_ids")), as_list(tokens.get("completion_mask"))
    if not ids or not all(mask):
        return {}
    found = {"promptTokenIds": "prompt_ids", "tokenIds": "completion_ids", "logprobs": "completion_logprobs"}
    return {name: tokens.get(key) or None for name, key in found.items()}


def _message(message: Fields) -> Row:
    calls = [_call(call) for call in as_list(message.get("tool_calls"))]
    kept = {key: message[key] for key in ("role", "content", "tool_call_id", "name") if message.get(key) is not None}
    return {"content": None, **kept, **({"tool_calls": calls} if calls else {})}


def _call(found: object) -> Row:
    """Reads a tool call, an object or its JSON text, flat or in OpenAI's form."""
    call = _object(found)
    function = as_fields(call.get("function")) or call
    return tool_call(call.get("id"), function.get("name"), function.get("arguments", ""))


def _tool(tool: Fields) -> Row:
    kept = {key: tool[key] for key in ("name", "description", "parameters", "strict") if tool.get(key) is not None}
    return {"type": "function", "function": kept}
