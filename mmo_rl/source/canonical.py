"""Steps exactly as the game writes them, decoded several times faster than `parse` reads every variant.

`canonical_steps` gives what `parse_trajectory` would give, or None where a step holds anything that is not as the game
writes it: then the tolerant way decides.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from mmo_rl.source.values import MILLISECONDS_FROM, as_message
from mmo_rl.types import Step

LATEST = 4 * 10**12  # milliseconds, the year 2096: until then seconds as a float tell microseconds apart
Ignored = Any


class _Strict(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """Attributes are those of the public types, so that msgspec converts one to the other."""


class _Call(_Strict):
    model: str
    response: str
    purpose: str | None = None
    system_prompt: str | None = None
    user_prompt: str | None = None
    messages: Any = None
    call_id: str | None = None
    model_version: str | None = None
    action_type: str | None = None
    reasoning: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    latency_ms: int | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    timestamp: Any = None
    prompt_tokens: Ignored = None
    completion_tokens: Ignored = None
    total_tokens: Ignored = None


class _Action(_Strict):
    action_type: str
    parameters: dict[str, Any]
    success: bool
    result: dict[str, Any] | None = None
    error: str | None = None
    reasoning: str | None = None
    correctness: dict[str, Any] | None = None


class _Step(_Strict):
    step_number: int
    timestamp: Any
    environment_state: dict[str, Any]
    action: _Action
    llm_calls: list[_Call] = []
    provider_accesses: tuple[dict[str, Any], ...] = ()
    reward: float | None = None
    step_id: Ignored = None
    observation: Ignored = None
    done: Ignored = None
    metadata: Ignored = None
    number: Any = None


_DECODER = msgspec.json.Decoder(list[_Step])


def canonical_steps(text: bytes | str, identity: str) -> tuple[Step, ...] | None:
    """The steps of a trajectory; None where they are not as the game writes them, or none at all."""
    try:
        steps = _DECODER.decode(text)
        numbers = {step.step_number for step in steps}
        if not steps or len(numbers) != len(steps):
            return None
        for step in steps:
            if step.number is not None or not step.action.action_type:
                return None
            step.number = step.step_number
            step.timestamp = _time(step.timestamp)
            if step.action.error is not None:
                step.action.error = as_message(step.action.error)
            for index, call in enumerate(step.llm_calls):
                _complete(call, f"{identity}-call-{step.number}-{index}")
        return msgspec.convert(steps, tuple[Step, ...], from_attributes=True)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, _Other):
        return None


class _Other(Exception):
    """What was found is for the tolerant way to judge."""


def _time(found: Any) -> datetime:
    if type(found) is not int or not MILLISECONDS_FROM <= found < LATEST:
        raise _Other
    return datetime.fromtimestamp(found / 1000, UTC)


def _complete(call: _Call, default_id: str) -> None:
    if call.messages is not None:
        raise _Other
    system, user = call.system_prompt, call.user_prompt
    if system and user:
        call.messages = ({"role": "system", "content": system}, {"role": "user", "content": user})
    elif user:
        call.messages = ({"role": "user", "content": user},)
    elif system:
        call.messages = ({"role": "system", "content": system},)
    else:
        raise _Other
    if call.timestamp is not None:
        call.timestamp = _time(call.timestamp)
    if call.token_ids is not None and call.logprobs is not None and len(call.token_ids) != len(call.logprobs):
        raise _Other
    call.call_id = call.call_id or default_id
    call.purpose = call.purpose or "action"
    call.model_version = call.model_version or None
