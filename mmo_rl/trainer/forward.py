"""What a causal language model says about packed rows: log-probabilities of the trained tokens, and nothing more.

A packed row holds a shared prompt once and the answers to it one after another. A token sees its own answer and the
prompt before it; that is an attention mask of its own for every row, of rows x length x length flags.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmo_rl.errors import TrainerError

Rows = dict[str, Any]
"""Packed tensors by name, each of shape [rows, length], as `mmo_rl.trainer.art_adapter.pack` makes them."""


def require_packable(model: Any) -> None:
    """Raises `TrainerError` where a model can't be told which tokens of a packed row belong together."""
    import inspect

    kind = type(model).__name__
    known = inspect.signature(model.forward).parameters
    stateful = getattr(model, "_is_stateful", False) or "linear_attention" in (
        getattr(model.config, "layer_types", None) or ()
    )
    if stateful or not {"attention_mask", "position_ids"} <= known.keys() or model.get_output_embeddings() is None:
        raise TrainerError(
            f"{kind} can't train packed rows: they need attention in every layer, and positions that are given",
            hint="choose a transformer such as Llama, Qwen2, Qwen3, Mistral, Gemma or GPT-NeoX",
        )


def require_room(config: Any, context_length: int | None) -> None:
    """Raises `TrainerError` where ``context_length`` is more than the positions that a model of this transformers
    ``config`` knows, unless the config stretches them (YaRN and the like)."""
    own = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if own and context_length and context_length > own and "factor" not in rope:
        raise TrainerError(
            f"model.context_length={context_length}, but the model knows {own} positions: beyond them it would be "
            "trained on noise",
            hint=f"model.context_length={own}, or a model with a longer context (model.path=FOLDER)",
        )


def micro_batches(rows: Rows, tokens: int) -> Iterator[Rows]:
    """``rows`` in parts of at most ``tokens`` tokens each, padding included, but at least one row; parts without a
    trained token are left out."""
    count, length = rows["tokens"].shape
    size = max(1, tokens // length)
    for first in range(0, count, size):
        part = {name: tensor[first : first + size] for name, tensor in rows.items()}
        if part["assistant_mask"].any():
            yield part


def token_logprobs(model: Any, rows: Rows, *, bf16: bool = False) -> tuple[Any, Any]:
    """Log-probability of every next token that is trained (0 elsewhere), float32 of shape [rows, length], and the
    entropies at those places, in nats, one a trained token. Logits are made only where they are needed.

    ``bf16`` multiplies matrices in bfloat16 (autocast), whatever the weights are kept in.
    """
    import torch

    trained = torch.nn.functional.pad(rows["assistant_mask"][:, 1:], (0, 1), value=False)
    targets = torch.nn.functional.pad(rows["tokens"][:, 1:], (0, 1))[trained]

    def needed(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][trained][None], *inputs[1:])

    # The model's own forward pass goes on after the head: some scale or cap their logits there.
    hook = model.get_output_embeddings().register_forward_pre_hook(needed)
    try:
        with torch.autocast(rows["tokens"].device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = model(
                input_ids=rows["tokens"],
                attention_mask=_attention_mask(model, rows),
                position_ids=rows["input_pos"],
                use_cache=False,
            ).logits[0]
    finally:
        hook.remove()
    logp = logits.float().log_softmax(-1)
    chosen = logp.gather(1, targets[:, None])[:, 0]
    with torch.no_grad():
        entropy = -(logp.exp() * logp).sum(-1)
    return torch.zeros_like(rows["logprobs"]).masked_scatter(trained, chosen), entropy


def _attention_mask(model: Any, rows: Rows) -> Any:
    """[rows, 1, length, length]: flags, or where attention is not torch's own, what is added to its scores."""
    import torch

    groups, parents = rows["group_ids"], rows["parent_ids"]
    length = groups.shape[1]
    same = (groups[:, :, None] == groups[:, None, :]) | (parents[:, :, None] == groups[:, None, :])
    mask = (same & torch.ones(length, length, dtype=torch.bool, device=groups.device).tril())[:, None]
    if model.config._attn_implementation == "sdpa":
        return mask
    lowest = torch.finfo(model.dtype).min
    return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, lowest)


def score(model: Any, rows: Rows, *, micro_batch_tokens: int, bf16: bool = False) -> Any:
    """`token_logprobs` of many rows without gradients, shifted so that [r, i] is that of token i itself; NaN where
    no token is trained."""
    import torch

    scored = torch.full_like(rows["logprobs"], float("nan"))
    place = torch.arange(len(scored), device=scored.device)
    with torch.no_grad():
        for part in micro_batches(rows | {"place": place}, micro_batch_tokens):
            new = torch.nn.functional.pad(token_logprobs(model, part, bf16=bf16)[0][:, :-1], (1, 0))
            scored[part["place"]] = torch.where(part["assistant_mask"], new, float("nan"))
    return scored
