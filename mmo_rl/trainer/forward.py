"""What a causal language model says about packed rows: log-probabilities of the trained tokens, and nothing more."""

from __future__ import annotations

from typing import Any

from mmo_rl.errors import TrainerError
from mmo_rl.lm.prefix_tree import takes_trees, tree_logits
from mmo_rl.trainer.parts import Part, Rows, parts_of


def require_packable(model: Any) -> None:
    """Raises `TrainerError` where a model can't be told which tokens of a packed row belong together."""
    if not takes_trees(model):
        raise TrainerError(
            f"{type(model).__name__} can't train packed rows: they need attention in every layer, and positions that "
            "are given",
            hint="choose a transformer such as Llama, Qwen2, Qwen3, Mistral, Gemma or GPT-NeoX",
        )


def require_room(config: Any, context_length: int | None) -> None:
    """Raises `TrainerError` where ``context_length`` is more than the positions that a model of this transformers
    ``config`` knows, unless the config stretches them (YaRN and the like)."""
    config = config.get_text_config()
    own = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if own and context_length and context_length > own and "factor" not in rope:
        raise TrainerError(
            f"model.context_length={context_length}, but the model knows {own} positions: beyond them it would be "
            "trained on noise",
            hint=f"model.context_length={own}, or a model with a longer context (model.path=FOLDER)",
        )


def token_logprobs(model: Any, part: Part, *, bf16: bool = False) -> tuple[Any, Any]:
    """Of every trained token of ``part``, in its order, the log-probability and the entropy of the distribution it was
    drawn from, in nats: two float32 tensors of shape [trained tokens]. Logits are made only where they are needed.

    ``bf16`` multiplies matrices in bfloat16 (autocast), whatever the weights are kept in.
    """
    import torch

    with torch.autocast(part.tokens.device.type, dtype=torch.bfloat16, enabled=bf16):
        logits = tree_logits(model, part.tokens, part.positions, part.mask, at=part.source, use_cache=False)
    logp = logits.float().log_softmax(-1)
    with torch.no_grad():
        entropy = -(logp.exp() * logp).sum(-1)
    return logp.gather(1, part.expected[:, None])[:, 0], entropy


def score(model: Any, rows: Rows, *, micro_batch_tokens: int, bf16: bool = False) -> Any:
    """The log-probability of every trained token of packed ``rows``, without gradients; NaN where none is trained."""
    import torch

    scored = torch.full_like(rows["logprobs"], float("nan"))
    with torch.no_grad():
        for part in parts_of(rows, tokens=micro_batch_tokens):
            scored.view(-1)[part.target] = token_logprobs(model, part, bf16=bf16)[0]
    return scored
