"""Behaviour cloning of a small Llama from scratch, which makes the shipped `tiny` model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mmo_rl.lm.tokenizer import train_tokenizer
from mmo_rl.messages import content_text
from mmo_rl.types import Message

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

Example = tuple[tuple[Message, ...], str]


def clone(
    stages: Sequence[Sequence[Example]],
    *,
    seed: int,
    hidden_size: int = 128,
    layers: int = 2,
    heads: int = 4,
    intermediate_size: int = 352,
    vocab_size: int = 512,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    on_step: Callable[[int, int, float], None] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Trains a Llama-architecture causal LM and its tokenizer on (prompt, answer) pairs.

    ``stages`` are passed over once, in order, each shuffled: easy examples first. The loss is on the answers only;
    ``on_step(done, total, loss)`` is called after every batch. Returns the transformers model and tokenizer.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    examples = [example for stage in stages for example in stage]
    texts = (
        text
        for prompt, answer in examples[-10_000:]
        for text in (*(content_text(m.get("content")) for m in prompt), answer)
    )
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    batches = [
        batch
        for number, stage in enumerate(stages)
        for batch in _batches(stage, batch_size, random.Random(f"{seed}:{number}"))
    ]
    for step, batch in enumerate(batches):
        warm, remaining = min(1.0, (step + 1) / 50), 1.0 - step / len(batches)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * warm * (0.1 + 0.9 * remaining)
        loss = _loss(model, tokenizer, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, len(batches), loss.item())
    return model.eval(), tokenizer


def _batches(stage: Sequence[Example], size: int, draw: random.Random) -> list[list[Example]]:
    """Shuffles the examples into batches of ``size``; a rest is left out."""
    order = list(range(len(stage)))
    draw.shuffle(order)
    return [[stage[i] for i in order[first : first + size]] for first in range(0, len(order) - size + 1, size)]


def _loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, batch: Sequence[Example]) -> torch.Tensor:
    """Computes the cross-entropy of the answers' tokens, the end token included; logits are made only for those."""
    import torch

    prompts = tokenizer(
        tokenizer.apply_chat_template(
            [[dict(m) for m in prompt] for prompt, _ in batch], tokenize=False, add_generation_prompt=True
        ),
        add_special_tokens=False,
    )["input_ids"]
    answers = tokenizer([a + tokenizer.eos_token for _, a in batch], add_special_tokens=False)["input_ids"]
    rows = [p + a for p, a in zip(prompts, answers, strict=True)]
    longest = max(map(len, rows))
    tokens_RT = torch.full((len(rows), longest), tokenizer.pad_token_id)
    mask_RT = torch.zeros((len(rows), longest), dtype=torch.long)
    trained_RT = torch.zeros((len(rows), longest), dtype=torch.bool)
    for r, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        tokens_RT[r, : len(row)] = torch.tensor(row)
        mask_RT[r, : len(row)] = 1
        trained_RT[r, len(prompt) : len(row)] = True
    states_RTE = model.model(input_ids=tokens_RT, attention_mask=mask_RT, use_cache=False).last_hidden_state
    logits_NV = model.lm_head(states_RTE[:, :-1][trained_RT[:, 1:]])
    return torch.nn.functional.cross_entropy(logits_NV, tokens_RT[:, 1:][trained_RT[:, 1:]])
