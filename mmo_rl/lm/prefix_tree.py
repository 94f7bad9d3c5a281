"""Prefix trees of token sequences: a causal language model computes each shared beginning once.

Agents that are asked at one moment see nearly the same prompt. Sorted by their tokens, sequences that begin alike are
neighbours; put into a row one after another, each adds only what the one before it does not begin with: a prefix tree,
written depth first. A token attends to those before it in its own sequence, and its position is its place there, so its
state is that which the sequence alone would give (to rounding).
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

SHORT_ROW = 256
"""Tokens; on a CPU longer rows cost more by their attention, which grows by the square, than they save by sharing."""

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
"""Kinds of attention layers in transformers: to all tokens before, to a window of the last, to those of one chunk."""


@dataclass(slots=True)
class TreeRow:
    """One row of the tree: ``tokens`` and their ``positions``.

    ``branches`` has for each sequence the place where its own tokens start, and the places of those before them;
    ``members`` its index and the places of all its tokens.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branches: list[tuple[int, list[int]]] = field(default_factory=list)
    members: list[tuple[int, list[int]]] = field(default_factory=list)

    def mask(self, length: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """Returns the attention mask of ``length`` tokens, [length, length]; padding attends to itself."""
        import numpy as np

        mask = np.eye(length, dtype=bool)
        ends = [start for start, _ in self.branches[1:]] + [len(self.tokens)]
        for (start, ancestors), end in zip(self.branches, ends, strict=True):
            mask[start:end, start:end] = np.tri(end - start, dtype=bool)
            mask[start:end, ancestors] = True
        return mask


def tree_rows(sequences: Sequence[Sequence[int]], *, limit: int) -> Iterator[TreeRow]:
    """Lays ``sequences`` out in rows of at most ``limit`` tokens, but at least one sequence."""
    row = TreeRow()
    before: Sequence[int] = ()
    path: list[int] = []
    for index in sorted(range(len(sequences)), key=lambda index: (sequences[index], index)):
        tokens = sequences[index]
        shared = shared_length(before, tokens)
        if row.tokens and len(row.tokens) + len(tokens) - shared > limit:
            yield row
            row, shared = TreeRow(), 0
        start = len(row.tokens)
        path = path[:shared] + list(range(start, start + len(tokens) - shared))
        row.branches.append((start, path[:shared]))
        row.members.append((index, path))
        row.tokens += tokens[shared:]
        row.positions += range(shared, len(tokens))
        before = tokens
    if row.tokens:
        yield row


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Counts the tokens that both begin with."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def stack(rows: Sequence[TreeRow], *, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns tensors of the rows: tokens and positions, [R, T], and the attention mask, [R, T, T]."""
    import numpy as np
    import torch

    length = max(len(row.tokens) for row in rows)
    return (
        torch.tensor([row.tokens + [0] * (length - len(row.tokens)) for row in rows], device=device),
        torch.tensor([row.positions + [0] * (length - len(row.positions)) for row in rows], device=device),
        torch.from_numpy(np.stack([row.mask(length) for row in rows])).to(device),
    )


def attends(model: PreTrainedModel) -> bool:
    """Tells whether keys and values are all that a transformers model keeps of what it has read, in every layer: no
    state of a recurrence or a convolution."""
    return (
        not getattr(model, "_is_stateful", False)
        and "past_key_values" in inspect.signature(model.forward).parameters
        and _layer_kinds(model) <= {FULL, SLIDING, CHUNKED}
    )


def takes_trees(model: PreTrainedModel) -> bool:
    """Tells whether a transformers model can compute a prefix tree: attention in every layer, with any mask, and
    positions that are given."""
    return bool(
        attends(model)
        and CHUNKED not in _layer_kinds(model)
        # Older ones have masks of their own inside, or make positions of the mask.
        and model._supports_attention_backend
        # Without a cache these compute keys and values of their own, which mean nothing.
        and not getattr(model.config.get_text_config(), "num_kv_shared_layers", 0)
        and model.config._attn_implementation in ("sdpa", "eager")
        and {"attention_mask", "position_ids"} <= inspect.signature(model.forward).parameters.keys()
        and model.get_output_embeddings() is not None
    )


def _layer_kinds(model: PreTrainedModel) -> set[str]:
    """Returns the kinds of attention in its layers; all have its window, if it has one, where the config names none."""
    config = model.config.get_text_config()
    windowed = getattr(config, "sliding_window", None) is not None
    return set(getattr(config, "layer_types", None) or [SLIDING if windowed else FULL])


def tree_logits(
    model: PreTrainedModel,
    tokens_RT: torch.Tensor,
    positions_RT: torch.Tensor,
    mask_RTT: torch.Tensor,
    *,
    at_N: torch.Tensor,
    **options: object,
) -> torch.Tensor:
    """Computes the logits, [N, V], at the flat indices ``at_N`` of tensors as `stacked` makes them, and nowhere else.
    ``options`` go to the model's forward pass."""
    with _head_sees(model, at_N):
        logits_NV: torch.Tensor = model(
            input_ids=tokens_RT,
            attention_mask=_layers_mask(model, mask_RTT, positions_RT),
            position_ids=positions_RT,
            **options,
        ).logits[0]
        return logits_NV


@contextmanager
def _head_sees(model: PreTrainedModel, at_N: torch.Tensor) -> Iterator[None]:
    """Gives the output embeddings the states at flat indices ``at_N`` only, while the context lasts."""
    thread = threading.get_ident()

    def select(_: object, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if threading.get_ident() != thread:  # somebody else's pass through the same model
            return inputs
        # Not by brackets: a state that two sequences need would get its gradients in an order that threads decide.
        return (inputs[0].flatten(0, 1).index_select(0, at_N)[None], *inputs[1:])

    # The model's own forward pass goes on after the head: some scale or cap their logits there.
    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


def _layers_mask(
    model: PreTrainedModel, mask_RTT: torch.Tensor, positions_RT: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Returns the mask as the layers of ``model`` take it: by their kind where some see no farther back than a
    window."""
    kinds, window = _layer_kinds(model), getattr(model.config.get_text_config(), "sliding_window", None)
    if window is None or SLIDING not in kinds or mask_RTT.shape[-1] <= window:
        return _scores_mask(model, mask_RTT[:, None])
    near_RTT = mask_RTT & (positions_RT[:, None, :] > positions_RT[:, :, None] - window)
    if kinds == {SLIDING}:
        return _scores_mask(model, near_RTT[:, None])
    return {FULL: _scores_mask(model, mask_RTT[:, None]), SLIDING: _scores_mask(model, near_RTT[:, None])}


def _scores_mask(model: PreTrainedModel, mask: torch.Tensor) -> torch.Tensor:
    """Returns the mask as flags, or, for attention that is not torch's own, as what is added to its scores."""
    import torch

    if model.config._attn_implementation == "sdpa":
        return mask
    lowest = torch.finfo(model.dtype).min
    return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, lowest)
