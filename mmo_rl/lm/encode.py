"""Token ids of chats and of recorded calls, by a tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmo_rl.errors import TrainerError
from mmo_rl.lm.turn_end import end_token
from mmo_rl.messages import answer_message, template_messages
from mmo_rl.types import JsonDict, Message, PolicyCall, TrainingGroup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> list[int]:
    """Returns the token ids of a chat, ready for an answer."""
    text = tokenizer.apply_chat_template(template_messages(prompt), tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


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
        rendered = self.tokenizer.apply_chat_template(
            prompt_messages(call), tools=_tools(call), add_generation_prompt=True, tokenize=True, return_dict=False
        )
        prompt = tuple(rendered)
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
