"""Chat messages as the API of their time says them: text, null or text parts, tool calls, tool results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from mmo_rl.types import JsonDict, Message

TEMPLATE_KEYS = ("tool_calls", "tool_call_id", "name")
"""Keys of a message that a chat template reads beside its role and content."""


def message_fault(found: object) -> str | None:
    """Names the fault of a recorded message; None where it is one: its content is text, null, or a list of texts."""
    if not isinstance(found, Mapping) or not isinstance(found.get("role"), str):
        return "not a message"
    content, calls = found.get("content"), found.get("tool_calls")
    if calls is not None and not (isinstance(calls, list | tuple) and all(isinstance(c, Mapping) for c in calls)):
        return "tool_calls is not a list of calls"
    if isinstance(content, list | tuple):
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if not isinstance(part, Mapping) or kind != "text" or not isinstance(part.get("text"), str):
                return f"a content part that is no text: {kind if isinstance(kind, str) else 'unknown'}"
        return None
    if isinstance(content, str) or (content is None and ("content" in found or calls)):
        return None
    return "not a message"


def content_text(content: object) -> str:
    """Returns the text of a message's content: parts joined by line ends, as servers do; empty for null."""
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        return "\n".join(part["text"] for part in content if isinstance(part, Mapping) and "text" in part)
    return ""


def template_messages(messages: Sequence[Message]) -> list[JsonDict]:
    """Returns messages as chat templates read them: content as text, the arguments of tool calls as objects."""
    return [_template_message(message) for message in messages]


def _template_message(message: Message) -> JsonDict:
    found: JsonDict = {"role": message["role"], "content": content_text(message.get("content"))}
    found |= {key: message[key] for key in TEMPLATE_KEYS if message.get(key)}
    if "tool_calls" in found:
        found["tool_calls"] = [_template_call(call) for call in found["tool_calls"]]
    return found


def _template_call(call: Mapping[str, object]) -> JsonDict:
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return dict(call)
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return dict(call)
    return {**call, "function": {**function, "arguments": arguments}}


def answer_message(response: str, tool_calls: Sequence[Mapping[str, object]] | None) -> JsonDict:
    """Returns an answer as the message of the assistant: null content where it is tool calls alone."""
    if not tool_calls:
        return {"role": "assistant", "content": response}
    return {"role": "assistant", "content": response or None, "tool_calls": [dict(call) for call in tool_calls]}


def answer_text(response: str, tool_calls: Sequence[Mapping[str, object]] | None) -> str:
    """Returns an answer for readers: its text, then a line of JSON for every tool call."""
    lines = [json.dumps(call.get("function", call), ensure_ascii=False) for call in tool_calls or ()]
    return "\n".join(filter(None, [response, *lines]))
