"""Token sequences laid out so that a causal language model computes what several of them begin with once.

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
from typing import Any

SHORT_ROW = 256
"""Tokens; on a CPU longer rows cost more by their attention, which grows by the square, than they save by sharing."""

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
"""What transformers calls layers of attention: to all before, to a window of the last, and to those of one chunk."""


@dataclass(slots=True)
class TreeRow:
    """``tokens`` and their ``positions``. ``branches`` has for each sequence where its own tokens start, and the places
    of those before them; ``members`` its index and the places of all its tokens."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branches: list[tuple[int, list[int]]] = field(default_factory=list)
    members: list[tuple[int, list[int]]] = field(default_factory=list)

    def mask(self, length: int) -> Any:
        """Which of ``length`` tokens one attends to, [length, length]; padding to itself."""
        import numpy as np

        mask = np.eye(length, dtype=bool)
        ends = [start for start, _ in self.branches[1:]] + [len(self.tokens)]
        for (start, ancestors), end in zip(self.branches, ends, strict=True):
            mask[start:end, start:end] = np.tri(end - start, dtype=bool)
            mask[start:end, ancestors] = True
        return mask


def tree_rows(sequences: Sequence[Sequence[int]], *, limit: int) -> Iterator[TreeRow]:
    """``sequences`` in rows of at most ``limit`` tokens, but at least one sequence."""
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
    """How many tokens both begin with."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def stacked(rows: Sequence[TreeRow], *, device: Any) -> tuple[Any, Any, Any]:
    """Tensors of the rows: tokens and positions, [rows, length], and who attends to whom, [rows, length, length]."""
    import numpy as np
    import torch

    length = max(len(row.tokens) for row in rows)
    return (
        torch.tensor([row.tokens + [0] * (length - len(row.tokens)) for row in rows], device=device),
        torch.tensor([row.positions + [0] * (length - len(row.positions)) for row in rows], device=device),
        torch.from_numpy(np.stack([row.mask(length) for row in rows])).to(device),
    )


def attends(model: Any) -> bool:
    """Whether all that a transformers model knows of what it has read are keys and values, in every layer: not the
    state of a recurrence or a convolution."""
    return (
        not getattr(model, "_is_stateful", False)
        and "past_key_values" in inspect.signature(model.forward).parameters
        and _kinds(model) <= {FULL, SLIDING, CHUNKED}
    )


def takes_trees(model: Any) -> bool:
    """Whether a transformers model can be told which tokens belong together: attention in every layer, with any mask,
    and positions that are given."""
    return (
        attends(model)
        and CHUNKED not in _kinds(model)
        # Older ones have masks of their own inside, or make positions of the mask.
        and model._supports_attention_backend
        # Without a cache these compute keys and values of their own, which mean nothing.
        and not getattr(model.config.get_text_config(), "num_kv_shared_layers", 0)
        and model.config._attn_implementation in ("sdpa", "eager")
        and {"attention_mask", "position_ids"} <= inspect.signature(model.forward).parameters.keys()
        and model.get_output_embeddings() is not None
    )


def _kinds(model: Any) -> set[str]:
    """Of its layers; where the config names none they all have its window, if it has one."""
    config = model.config.get_text_config()
    windowed = getattr(config, "sliding_window", None) is not None
    return set(getattr(config, "layer_types", None) or [SLIDING if windowed else FULL])


def tree_logits(model: Any, tokens: Any, positions: Any, mask: Any, *, at: Any, **options: Any) -> Any:
    """What ``model`` says of tensors as `stacked` makes them, at the flat indices ``at`` of the tokens and nowhere
    else: [len(at), vocabulary]. ``options`` go to its forward pass."""
    with _head_sees(model, at):
        return model(
            input_ids=tokens, attention_mask=_layers_mask(model, mask, positions), position_ids=positions, **options
        ).logits[0]


@contextmanager
def _head_sees(model: Any, at: Any) -> Iterator[None]:
    thread = threading.get_ident()

    def needed(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if threading.get_ident() != thread:  # somebody else's pass through the same model
            return inputs
        # Not by brackets: a state that two sequences need would get its gradients in an order that threads decide.
        return (inputs[0].flatten(0, 1).index_select(0, at)[None], *inputs[1:])

    # The model's own forward pass goes on after the head: some scale or cap their logits there.
    hook = model.get_output_embeddings().register_forward_pre_hook(needed)
    try:
        yield
    finally:
        hook.remove()


def _layers_mask(model: Any, mask: Any, positions: Any) -> Any:
    """``mask`` as the layers of ``model`` take it: by their kind where some see no farther back than a window."""
    kinds, window = _kinds(model), getattr(model.config.get_text_config(), "sliding_window", None)
    if window is None or SLIDING not in kinds or mask.shape[-1] <= window:
        return _scores_mask(model, mask[:, None])
    near = mask & (positions[:, None, :] > positions[:, :, None] - window)
    if kinds == {SLIDING}:
        return _scores_mask(model, near[:, None])
    return {FULL: _scores_mask(model, mask[:, None]), SLIDING: _scores_mask(model, near[:, None])}


def _scores_mask(model: Any, mask: Any) -> Any:
    """``mask`` as flags, or where attention is not torch's own, what is added to its scores."""
    import torch

    if model.config._attn_implementation == "sdpa":
        return mask
    lowest = torch.finfo(model.dtype).min
    return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, lowest)
