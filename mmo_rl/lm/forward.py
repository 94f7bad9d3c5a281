"""Log-probabilities that a causal language model gives to the answers of histories, computed as a prefix tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmo_rl.errors import TrainerError
from mmo_rl.lm.encode import History
from mmo_rl.lm.parts import Part, parts_of
from mmo_rl.lm.prefix_tree import takes_trees, tree_logits

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def require_trees(model: PreTrainedModel) -> None:
    """Raises `TrainerError` for a model that cannot be told which tokens of a row belong together."""
    if not takes_trees(model):
        raise TrainerError(
            f"{type(model).__name__} can't be trained here: histories are computed as a prefix tree, which needs "
            "attention in every layer, and positions that are given",
            hint="choose a transformer such as Llama, Qwen2, Qwen3, Mistral, Gemma or GPT-NeoX",
        )


def require_positions(config: PretrainedConfig, context_length: int) -> None:
    """Raises `TrainerError` where ``context_length`` is more than the positions that a model of this transformers
    ``config`` knows, unless the config stretches them (YaRN and the like)."""
    config = config.get_text_config()
    own = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if own and context_length > own and "factor" not in rope:
        raise TrainerError(
            f"model.context_length={context_length}, but the model knows {own} positions: beyond them it would be "
            "trained on noise",
            hint=f"model.context_length={own}, or a model with a longer context (model.path=FOLDER)",
        )


def token_logprobs(model: PreTrainedModel, part: Part, *, bf16: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the log-probability of every predicted token of ``part`` and the entropy of the distribution that it
    was drawn from, in nats: two float32 tensors of shape [N]. Logits are made only where they are needed.

    ``bf16`` multiplies matrices in bfloat16 (autocast), whatever the weights are kept in.
    """
    import torch

    with torch.autocast(part.tokens_RT.device.type, dtype=torch.bfloat16, enabled=bf16):
        logits_NV = tree_logits(
            model, part.tokens_RT, part.positions_RT, part.mask_RTT, at_N=part.source_N, use_cache=False
        )
    logp_NV = logits_NV.float().log_softmax(-1)
    with torch.no_grad():
        entropy_N = -(logp_NV.exp() * logp_NV).sum(-1)
    return logp_NV.gather(1, part.expected_N[:, None])[:, 0], entropy_N


def score(
    model: PreTrainedModel,
    histories: Sequence[History],
    *,
    micro_batch_tokens: int,
    longest_row: int,
    bf16: bool = False,
) -> torch.Tensor:
    """Computes the log-probabilities of all answer tokens of ``histories``, one after another, without gradients: [N];
    NaN for a token that nothing comes before."""
    import torch

    count = sum(len(history.answer) for history in histories)
    scored_N = torch.full((count,), float("nan"), device=model.device)
    with torch.no_grad():
        for part in parts_of(histories, tokens=micro_batch_tokens, longest_row=longest_row, device=model.device):
            scored_N[part.target_N] = token_logprobs(model, part, bf16=bf16)[0]
    return scored_N
