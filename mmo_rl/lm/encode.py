"""Token ids of chats and of recorded calls, by a tokenizer's own chat template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmo_rl.errors import TrainerError
from mmo_rl.lm.turn_end import end_token
from mmo_rl.messages import answer_message, template_messages
from mmo_rl.types import JsonDict, Message, PolicyCall, TrainingGroup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_OPEN, _CLOSE, _FIRST = "\ue000", "\ue001", 0xE100
_HIDDEN = re.compile(f"{_OPEN}([{chr(_FIRST)}-\uf8ff]){_CLOSE}")
"""Characters for private use that stand for a control token's text while the chat template is rendered."""


def encode(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> list[int]:
    """Returns the token ids of a chat, ready for an answer."""
    return prompt_tokens(tokenizer, template_messages(prompt))


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[JsonDict], tools: Sequence[JsonDict] | None = None
) -> list[int]:
    """Returns the token ids of chat messages by the chat template, ready for an answer.

    The text of a control token in a message (``<|im_start|>`` in news or posts) is tokenised as the characters that it
    is: only the template writes control tokens. Prompts without such text have the ids that they always had.
    """
    control = _control_texts(tokenizer)
    hidden = [_hide(message, control) for message in messages]
    text = str(
        tokenizer.apply_chat_template(
            hidden, tools=None if tools is None else list(tools), tokenize=False, add_generation_prompt=True
        )
    )
    ids: list[int] = []
    for place, part in enumerate(_HIDDEN.split(text)):
        # Of a control token's text neither half is one.
        known = control[ord(part) - _FIRST] if place % 2 and ord(part) - _FIRST < len(control) else ""
        for piece in (known[: len(known) // 2], known[len(known) // 2 :]) if place % 2 else (part,):
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"] if piece else []
    return ids


def _control_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Lists the texts of the control tokens, the longest first; of a single character none can be told apart."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {str(token) for token in tokenizer.all_special_tokens} | {str(t) for t in added.values() if t.special}
    return sorted((text for text in special if len(text) > 1), key=len, reverse=True)


def _hide(value: Any, control: Sequence[str]) -> Any:
    """Copies a message with each control token's text in it replaced; the role is the template's."""
    if isinstance(value, str):
        for number, text in enumerate(control):
            if text in value:
                value = value.replace(text, f"{_OPEN}{chr(_FIRST + number)}{_CLOSE}")
        return value
    if isinstance(value, Mapping):
        return {key: inner if key == "role" else _hide(inner, control) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_hide(inner, control) for inner in value]
    return value


def prompt_messages(call: PolicyCall) -> list[JsonDict]:
    """Returns the prompt as chat templates read it: a recorded message may carry further keys."""
    return template_messages(call.messages)


@dataclass(frozen=True, slots=True)
class History:
    """Token ids of one recorded call: its ``prompt`` and its ``answer``, end token included.

    ``recorded``: the answer's ids are those that were recorded. They count as this tokenizer's where the recorded ids
    of the prompt are the ones that it gives or, without those, where they spell the recorded text.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    recorded: bool = False

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.answer)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids of prompt and answer."""
        return self.prompt + self.answer


class Encoder:
    """Token ids of recorded calls. Rendering a prompt is slow: every call is rendered once.

    ``end_id`` is the token that ends an answer whose ids were not recorded (None: that of the chat template).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, end_id: int | None = None) -> None:
        self.tokenizer = tokenizer
        self._end_id = end_token(tokenizer) if end_id is None else end_id
        self._known: dict[int, tuple[PolicyCall, History]] = {}

    def __call__(self, call: PolicyCall) -> History:
        """Returns the tokens of ``call``."""
        if id(call) not in self._known:
            self._known[id(call)] = call, self._encode(call)
        return self._known[id(call)][1]

    def answer_tokens(self, groups: Sequence[TrainingGroup]) -> int:
        """Counts the tokens of all answers in the groups, those without an advantage included."""
        return sum(len(self(call).answer) for group in groups for sample in group.samples for call in sample.calls)

    def _encode(self, call: PolicyCall) -> History:
        """Renders the prompt; takes the recorded ids of the answer where they are this tokenizer's."""
        prompt = tuple(prompt_tokens(self.tokenizer, prompt_messages(call), _tools(call)))
        # Ids of another tokenizer or chat template mean nothing here: then the text is what was recorded.
        if call.token_ids is not None:
            known = self._spells(call) if call.prompt_token_ids is None else tuple(call.prompt_token_ids) == prompt
            if known:
                return History(prompt, tuple(call.token_ids), recorded=True)
        if call.tool_calls:
            return History(prompt, self._tool_calls(call))
        answer = self.tokenizer(call.response, add_special_tokens=False)["input_ids"]
        return History(prompt, (*answer, *(() if self._end_id is None else (self._end_id,))))

    def _tool_calls(self, call: PolicyCall) -> tuple[int, ...]:
        """Renders an answer of tool calls by the chat template, up to the token that ends the turn."""
        messages, answer = prompt_messages(call), template_messages([answer_message(call.response, call.tool_calls)])
        render, tools = self.tokenizer.apply_chat_template, _tools(call)
        before = str(render(messages, tools=tools, add_generation_prompt=True, tokenize=False))
        whole = str(render([*messages, *answer], tools=tools, tokenize=False))
        names = [str(each.get("function", each).get("name", "")) for each in call.tool_calls or ()]
        text = whole.removeprefix(before)
        if not whole.startswith(before) or not all(name in text for name in names):
            raise TrainerError(
                f"the chat template of the model does not write tool calls, and an answer calls {', '.join(names)}",
                hint="take a model whose chat template has tools (model.path=...), or other play (source.where.model)",
            )
        ids: list[int] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if self._end_id is not None:
            ids = ids[: ids.index(self._end_id)] if self._end_id in ids else ids
            ids.append(self._end_id)
        return tuple(ids)

    def _spells(self, call: PolicyCall) -> bool:
        """Tells whether the ids of an answer make its text; they may go on after it, as with a text that ended it."""
        ids = call.token_ids or ()
        if not all(0 <= token < len(self.tokenizer) for token in ids):
            return False
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return not ids or bool(call.tool_calls) or call.response.strip() in text


def _tools(call: PolicyCall) -> list[JsonDict] | None:
    return [dict(tool) for tool in call.tools] if call.tools else None
