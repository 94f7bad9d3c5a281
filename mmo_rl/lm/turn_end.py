"""Token that ends an assistant's turn, by the chat template; it need not be the tokenizer's end token.

Gemma's template writes <end_of_turn> and Phi-3.5's <|end|>, where ``eos_token`` is <eos> and <|endoftext|>.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ANSWER = "mmo-answer"
"""Content of the answer in the conversation that is rendered: no template changes it."""


def end_token(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None) -> int | None:
    """Returns the token that ends an answer in training: the one that the chat template writes after the assistant's
    content, else the first that the model's generation config names, else the tokenizer's end token."""
    written = template_end(tokenizer)
    if written is not None:
        return written
    named = named_ends(model)
    own: int | None = tokenizer.eos_token_id
    return named[0] if named and own not in named else own


def end_tokens(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None) -> frozenset[int]:
    """Returns all tokens that end an answer when playing: those of template, generation config and tokenizer."""
    ends = {template_end(tokenizer), tokenizer.eos_token_id, *named_ends(model)} - {None}
    return frozenset(end for end in ends if end is not None)


def template_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Returns the first special token that the chat template writes after the content of an answer that ends a
    conversation; None where it writes none."""
    return _template_end(tokenizer, str(tokenizer.chat_template))


def named_ends(model: PreTrainedModel | None) -> tuple[int, ...]:
    """Returns the end tokens that the model's generation config names, in its order."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = named if isinstance(named, list) else [named]
    return tuple(end for end in ends if end is not None)


@functools.lru_cache(maxsize=16)
def _template_end(tokenizer: PreTrainedTokenizerBase, template: str) -> int | None:
    """Renders a conversation and reads what follows the answer. ``template`` is in the key of the cache only."""
    from jinja2 import TemplateError

    chat = [{"role": "user", "content": "mmo-prompt"}, {"role": "assistant", "content": ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(chat, tokenize=False))
    except (TemplateError, TypeError, ValueError):
        return None
    _, found, after = text.rpartition(ANSWER)
    if not found:
        return None
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    return next((token for token in tokenizer(after, add_special_tokens=False)["input_ids"] if token in special), None)
