"""Prompts of one moment are read once, and every answer is that of its prompt alone."""

from typing import Any

import pytest
import torch

from mmo_rl.lm.decode import Batch, Row
from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED


def asked(tokenizer: Any) -> list[list[int]]:
    """Six agents at each of two moments, and one who is asked something else."""
    texts = [f"t{t}\nNOVA +{t}\nORION +0\nKITE -2\nnews NOVA soars @wire\ncash {a}" for t in (1, 2) for a in range(6)]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (*texts, "news ZEN sinks @anon")]


def answers(batch: Batch, prompts: list[list[int]], *, two_joins: bool = False) -> list[Row]:
    rows = [Row(prompt, max_tokens=12, seed=number) for number, prompt in enumerate(prompts)]
    middle = 5 if two_joins else len(rows)
    batch.join(rows[:middle])
    batch.step()
    batch.join(rows[middle:])
    while batch.rows:
        batch.step()
    return rows


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("two_joins", [False, True])
def test_prompts_that_begin_alike_are_read_once_and_answered_as_if_alone(attention: str, two_joins: bool) -> None:
    model, tokenizer = load_model(str(SHIPPED / "tiny"))
    model.set_attn_implementation(attention)
    read: list[int] = []
    model.register_forward_pre_hook(lambda _, __, given: read.append(given["input_ids"].numel()), with_kwargs=True)
    prompts = asked(tokenizer)
    options = {"model": model, "end_ids": [tokenizer.eos_token_id], "pad_id": tokenizer.pad_token_id}
    together = answers(Batch(**options), prompts, two_joins=two_joins)
    if not two_joins:
        assert read[0] < 0.5 * sum(map(len, prompts))
    for number, prompt in enumerate(prompts):
        read.clear()
        batch, alone = Batch(**options), Row(prompt, max_tokens=12, seed=number)
        batch.join([alone])
        assert read == [len(prompt)]
        while batch.rows:
            batch.step()
        assert alone.token_ids == together[number].token_ids
        assert alone.logprobs == pytest.approx(together[number].logprobs, abs=1e-4)


def test_a_layer_with_a_window_sees_no_farther_back_in_a_tree() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.2,
        sliding_window=8,
    )
    model = MistralForCausalLM(config).eval()
    prompts = [[*range(3, 30), 40 + number] for number in range(4)]
    for number, row in enumerate(answers(Batch(model=model, end_ids=[], pad_id=0), prompts)):
        with torch.no_grad():
            logp = model(torch.tensor([prompts[number] + row.token_ids])).logits[0].log_softmax(-1)
        said = logp[len(row.prompt) - 1 : -1].gather(1, torch.tensor(row.token_ids)[:, None])[:, 0]
        assert row.logprobs == pytest.approx(said.tolist(), abs=1e-4)


def test_prompts_that_have_nothing_in_common_are_read_without_a_tree() -> None:
    model, _ = load_model(str(SHIPPED / "tiny"))
    shapes: list[torch.Size] = []
    model.register_forward_pre_hook(lambda _, __, given: shapes.append(given["input_ids"].shape), with_kwargs=True)
    prompts = [[first, 50, 51, 52] for first in (40, 41, 42)]
    Batch(model=model, end_ids=[], pad_id=0).join([Row(prompt, max_tokens=1, seed=0) for prompt in prompts])
    assert shapes == [(3, 4)]
