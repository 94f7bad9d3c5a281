"""The token that ends a turn is the chat template's, in training, playing and serving."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.lm.decode import new_batch
from mmo_rl.lm.encode import Encoder
from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED
from mmo_rl.lm.turn_end import end_token, end_tokens
from mmo_rl.policy.local import LocalPolicy
from mmo_rl.types import PolicyCall

TINY = SHIPPED / "tiny"
PAD, BOS, END = 0, 1, 2
PROMPT = ({"role": "user", "content": "t0\nNOVA +1\nnews NOVA soars @wire"},)
CALL = PolicyCall(messages=PROMPT, response='{"ticker":"NOVA"}')


def model_of(folder: Path, *, template: str | None = None, eos: str = "<|pad|>", generation: Any = None) -> Any:
    """The shipped model as others are published: its tokenizer's end token is another than its template writes."""
    shutil.copytree(TINY, folder)
    tokenizer = folder / "tokenizer_config.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | {"eos_token": eos}))
    config = folder / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": generation}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return load_model(str(folder))


ROLES = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}AFTER{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}ELSE{% endif %}"
)


def template(after: str, *, at_the_end: str = "") -> str:
    return ROLES.replace("AFTER", after).replace("ELSE", "{% else %}" + at_the_end)


def test_answers_train_to_end_with_the_token_of_the_template(tmp_path: Path) -> None:
    model, tokenizer = model_of(tmp_path / "m", generation=[0, 2])
    assert tokenizer.eos_token_id == PAD
    assert end_token(tokenizer, model) == END
    assert Encoder(tokenizer)(CALL).answer[-1] == END
    assert end_tokens(tokenizer, model) == {PAD, END} == new_batch(model, tokenizer).end_ids


@pytest.mark.parametrize(
    ("after", "at_the_end"),
    [("\n<|end|>\n", ""), ("<|end|>\n", "<|pad|>"), (" <|end|>", "")],
    ids=["after a newline", "then the text's end", "after a space"],
)
def test_the_first_special_token_after_the_answer_ends_it(tmp_path: Path, after: str, at_the_end: str) -> None:
    _, tokenizer = model_of(tmp_path / "m", template=template(after, at_the_end=at_the_end))
    assert end_token(tokenizer) == END


@pytest.mark.parametrize(
    "written",
    [template("\n"), "{{ raise_exception('no') }}", "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"],
    ids=["none", "refusing", "changing the content"],
)
def test_without_one_in_the_template_generation_config_and_tokenizer_tell_it(tmp_path: Path, written: str) -> None:
    model, tokenizer = model_of(tmp_path / "m", template=written, generation=[END, BOS])
    assert end_token(tokenizer, model) == END  # of the generation config: the tokenizer's is none of its ends
    assert end_token(tokenizer) == PAD
    model.generation_config.eos_token_id = [END, PAD]
    assert end_token(tokenizer, model) == PAD
    model.generation_config.eos_token_id = None
    assert end_token(tokenizer, model) == PAD


async def test_playing_stops_at_it_and_it_is_no_part_of_the_text(tmp_path: Path) -> None:
    model, tokenizer = model_of(tmp_path / "m", generation=None)
    policy = LocalPolicy(model=model, tokenizer=tokenizer, name="m", version=0, max_completion_tokens=64)
    (answer,) = await policy.complete([PROMPT], temperature=0, seed=0)
    assert answer.token_ids is not None and answer.token_ids[-1] == END and len(answer.token_ids) < 64
    assert "<|end|>" not in answer.text
    shipped, own = load_model(str(TINY))
    same = LocalPolicy(model=shipped, tokenizer=own, name="m", version=0, max_completion_tokens=64)
    assert [answer] == await same.complete([PROMPT], temperature=0, seed=0)
