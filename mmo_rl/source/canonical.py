"""Fast decoder of steps that are exactly as the game writes them; `parse` reads every variant."""

from __future__ import annotations

import msgspec

from mmo_rl.messages import message_fault
from mmo_rl.types import Step

_DECODER = msgspec.json.Decoder(tuple[Step, ...])


def canonical_steps(text: bytes | str) -> tuple[Step, ...] | None:
    """Decodes a trajectory's steps as `parse_trajectory` would read them.

    None where there is no step, or one holds something that the game does not write: `parse_trajectory` decides then.
    """
    try:
        steps = _DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if not steps or len({step.number for step in steps}) != len(steps):
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
