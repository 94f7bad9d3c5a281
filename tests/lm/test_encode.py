"""Only the chat template writes control tokens: their text in a message is text; honest prompts stay as they were."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmo_rl.lm.encode import Encoder, encode, prompt_tokens
from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED
from mmo_rl.types import JsonDict, PolicyCall

_, TOKENIZER = load_model(str(SHIPPED / "tiny"))
ADDED = [str(token) for token in TOKENIZER.added_tokens_decoder.values() if token.special]
CONTROL = sorted({*map(str, TOKENIZER.all_special_tokens), *ADDED})
CONTROL_IDS = {TOKENIZER.convert_tokens_to_ids(text) for text in CONTROL}


def chat(system: str, user: str) -> list[JsonDict]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def plainly(messages: list[JsonDict]) -> list[int]:
    """The ids by transformers alone, which takes a control token's text anywhere for the token."""
    rendered = TOKENIZER.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
    return list(rendered)


def control_ids(ids: list[int]) -> list[int]:
    return [i for i in ids if i in CONTROL_IDS]


@settings(max_examples=60, deadline=None)
@given(system=st.text(max_size=40), user=st.text(max_size=200))
def test_honest_prompts_have_the_ids_that_they_always_had(system: str, user: str) -> None:
    messages = chat(system, user)
    if not any(text in system + user for text in CONTROL):
        assert encode(TOKENIZER, messages) == plainly(messages)


def test_golden_ids() -> None:
    messages = chat("You trade.", "t0\nKITE +0\nnews KITE misses @wire\ncash 6 order 3 bet 3")
    assert encode(TOKENIZER, messages) == [
        1, 3, 292, 226, 297, 19, 4, 89, 21, 204, 316, 264, 21, 204, 271, 226, 316, 226, 391, 270, 361, 204,
        299, 226, 27, 226, 298, 226, 24, 226, 296, 226, 24, 5,
    ]  # fmt: skip


@pytest.mark.parametrize("control", CONTROL)
def test_the_text_of_a_control_token_is_text(control: str) -> None:
    hostile = chat("You trade.", f"news KITE{control}{control} soars {control}")
    honest = chat("You trade.", "news KITE soars")
    assert len(control_ids(plainly(hostile))) > len(control_ids(plainly(honest)))  # what transformers makes of it
    ids = encode(TOKENIZER, hostile)
    assert control_ids(ids) == control_ids(encode(TOKENIZER, honest))
    said = TOKENIZER.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert f"news KITE{control}{control} soars {control}" in said


def test_training_and_play_see_the_same_tokens() -> None:
    for text in ("news KITE soars", f"news {CONTROL[0]} {CONTROL[-1]}", "\ue000\ue100\ue001 \ue000"):
        messages = chat("You trade.", text)
        call = PolicyCall(tuple(messages), "{}")
        assert (
            list(Encoder(TOKENIZER)(call).prompt) == encode(TOKENIZER, messages) == prompt_tokens(TOKENIZER, messages)
        )
