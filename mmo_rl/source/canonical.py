"""Fast decoder of steps that are exactly as the game writes them; `parse` reads every variant."""

from __future__ import annotations

import msgspec

from mmo_rl.messages import message_fault
from mmo_rl.types import Action, LLMCall, Step

_DECODER = msgspec.json.Decoder(tuple[Step, ...])
_OF_STEP, _OF_ACTION, _OF_CALL = (
    frozenset(field.encode_name for field in msgspec.structs.fields(part)) for part in (Step, Action, LLMCall)
)
READ_OF_METADATA = frozenset({"modelVersion", "unknown", "toolCalls", "tools"})
VARIANTS = frozenset(
    (
        "action_type",
        "type",
        "action",
        "params",
        "llm_calls",
        "calls",
        "llm",
        "provider_accesses",
        "providerLogs",
        "providerAccess",
        "environment_state",
        "step_number",
        "step",
        "step_id",
        "output",
        "text",
        "system_prompt",
        "user_prompt",
        "prompt",
        "model_version",
        "call_id",
        "messagesJson",
        "messages_json",
        "max_tokens",
        "top_p",
        "latency_ms",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_token_ids",
        "token_ids",
        "tool_calls",
    )
)
"""Other names of what `parse_trajectory` reads: steps that use one are left to it. No other key is read."""


def canonical_steps(text: bytes | str) -> tuple[Step, ...] | None:
    """Decodes a trajectory's steps as `parse_trajectory` would read them.

    None where there is no step, or one holds something that the game does not write: `parse_trajectory` decides then.
    """
    try:
        steps: tuple[Step, ...] | None = _DECODER.decode(text)
    except msgspec.ValidationError:
        steps = _without_unknown(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if steps is None or not steps or len({step.number for step in steps}) != len(steps):
        return None
    for step in steps:
        if not step.action.action_type:
            return None
        for call in step.llm_calls:
            if not call.purpose or not (call.user_prompt or call.system_prompt or call.chat):
                return None
            if call.chat is not None and (not call.chat or any(map(message_fault, call.chat))):
                return None
            if call.tool_calls == () or call.tools == ():
                return None
            if call.logprobs is not None and call.token_ids is not None and len(call.logprobs) != len(call.token_ids):
                return None
    return steps


def _without_unknown(text: bytes | str) -> tuple[Step, ...] | None:
    """Decodes steps without the keys that no variant of the format reads; None where others are left."""
    try:
        found = msgspec.json.decode(text, type=list[dict[str, object]])
        for step in found:
            action, calls = step.get("action"), step.get("llmCalls")
            if not (_reduce(step, _OF_STEP) and (not isinstance(action, dict) or _reduce(action, _OF_ACTION))):
                return None
            for call in calls if isinstance(calls, list) else ():
                if not isinstance(call, dict):
                    return None
                metadata = call.get("metadata", {})
                if not isinstance(metadata, dict) or not metadata.keys().isdisjoint(READ_OF_METADATA):
                    return None
                call.pop("metadata", None)
                if not _reduce(call, _OF_CALL):
                    return None
        return msgspec.convert(found, tuple[Step, ...])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _reduce(part: dict[str, object], known: frozenset[str]) -> bool:
    """Removes the keys to be left out; tells if the others are known."""
    unknown = part.keys() - known
    for key in unknown:
        if key in VARIANTS:
            return False
        del part[key]
    return True
