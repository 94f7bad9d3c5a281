"""Batched decoding: many answers written at once by one transformers model with a key-value cache.

Rows of a `Batch` join and leave between two steps. Each draws from a generator of its own by inverting the cumulative
distribution, so that what it answers follows from its prompt and seed; the rows beside it only change the last digits
of its logits, and a token only where the draw falls between these digits.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mmo_rl.lm.prefix_tree import SHORT_ROW, TreeRow, stack, takes_trees, tree_logits, tree_rows
from mmo_rl.lm.turn_end import end_tokens
from mmo_rl.rng import rng

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

SHARE_BELOW = 0.8
"""Prompts are read as a prefix tree where it has fewer than this share of their tokens: its mask takes time too."""

SHARE_TO = 1024
"""Tokens; longer prompts are read one by one, as the mask of a tree grows by the square of its rows."""

COMPACT_BELOW = 0.75
"""Ended rows are cut out of the cache when fewer than this share still write: each cut copies the cache."""


@dataclass(eq=False, slots=True)
class Row:
    """An answer that is being written, of at most ``max_tokens`` tokens.

    ``temperature`` 0 is greedy; ``top_p`` in (0, 1] keeps the smallest set of likeliest tokens that hold so much.
    ``logprobs`` are those of the model's own distribution, before temperature and top_p, as a trainer expects them;
    ``top`` the ``top_logprobs`` likeliest (id, logprob) of each place. ``finish_reason`` is None while it writes;
    ``cancelled`` where somebody set it so: the row is left out from the next step on.
    """

    prompt: list[int]
    max_tokens: int
    seed: int
    choice: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_logprobs: int = 0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    finish_reason: Literal["stop", "length", "cancelled"] | None = None
    draw: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.draw = rng(self.seed, "answer", self.choice)

    @property
    def text_ids(self) -> list[int]:
        """The tokens that make the text: without the one that ended the answer, which need not be a special token."""
        return self.token_ids[:-1] if self.finish_reason == "stop" else self.token_ids


@dataclass(slots=True)
class _State:
    """The rows that are written together, left-padded, and the tensors of the next step.

    ``mask_RT`` says which of the cached tokens are real; ``tokens_R1`` are the newest tokens, not in the cache yet, at
    ``positions_R1``.
    """

    rows: list[Row]
    cache: Cache
    mask_RT: torch.Tensor
    tokens_R1: torch.Tensor
    positions_R1: torch.Tensor


class Batch:
    """Rows that one model writes together. ``end_ids`` end an answer."""

    def __init__(self, *, model: PreTrainedModel, end_ids: Collection[int], pad_id: int) -> None:
        self._model = model
        self._shares = takes_trees(model)
        self._end_ids = frozenset(end_ids)
        self._pad_id = pad_id
        self._state: _State | None = None

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return self._end_ids

    @property
    def rows(self) -> list[Row]:
        """The rows that are not finished."""
        return [] if self._state is None else [row for row in self._state.rows if row.finish_reason is None]

    def join(self, rows: Sequence[Row]) -> None:
        """Reads the prompts of new rows and gives each its first token."""
        import torch

        if not rows:
            return
        longest = max(len(row.prompt) for row in rows)
        mask_RT = torch.zeros((len(rows), longest), dtype=torch.long)
        for number, row in enumerate(rows):
            mask_RT[number, longest - len(row.prompt) :] = 1
        mask_RT = mask_RT.to(self._model.device)
        with torch.inference_mode():
            tree = self._tree([row.prompt for row in rows], longest)
            logits_RV, cache = self._read(rows, mask_RT) if tree is None else self._read_tree(tree, mask_RT)
            tokens_R1 = self._append(list(rows), logits_RV)
            self._remove_finished(0)
            self._merge(_State(list(rows), cache, mask_RT, tokens_R1, mask_RT.sum(-1, keepdim=True)))
            self._remove_finished(COMPACT_BELOW)

    def step(self) -> None:
        """Adds one token to every row that is not finished."""
        import torch

        with torch.inference_mode():
            self._remove_finished(COMPACT_BELOW)
            state = self._state
            if state is None:
                return
            state.mask_RT = torch.cat([state.mask_RT, state.mask_RT.new_ones(len(state.rows), 1)], dim=1)
            logits_RV = self._forward(state.tokens_R1, state.mask_RT, state.positions_R1, state.cache)
            state.tokens_R1 = self._append(state.rows, logits_RV)
            state.positions_R1 = state.positions_R1 + 1

    def _tree(self, prompts: Sequence[list[int]], longest: int) -> list[TreeRow] | None:
        """Returns the prompts as a prefix tree, where reading it is less work than reading them."""
        if not self._shares or longest > SHARE_TO:
            return None
        tree = list(tree_rows(prompts, limit=max(SHORT_ROW, 2 * longest)))
        shared = max(len(row.tokens) for row in tree) * len(tree)
        return tree if shared < SHARE_BELOW * longest * len(prompts) else None

    def _read(self, rows: Sequence[Row], mask_RT: torch.Tensor) -> tuple[torch.Tensor, Cache]:
        """Computes the logits after each prompt, [R, V], and the cache of all their tokens."""
        import torch

        from mmo_rl.lm.cache import roomy_cache

        tokens_RT = torch.full(mask_RT.shape, self._pad_id, dtype=torch.long)
        for number, row in enumerate(rows):
            tokens_RT[number, tokens_RT.shape[1] - len(row.prompt) :] = torch.tensor(row.prompt)
        cache = roomy_cache()
        positions_RT = (mask_RT.cumsum(-1) - 1).clamp_min(0)
        return self._forward(tokens_RT.to(mask_RT.device), mask_RT, positions_RT, cache), cache

    def _read_tree(self, tree: Sequence[TreeRow], mask_RT: torch.Tensor) -> tuple[torch.Tensor, Cache]:
        """Computes the same from a prefix tree of the prompts: keys and values of each are copied from its path."""
        import torch

        from mmo_rl.lm.cache import roomy_cache

        tokens, positions, mask = stack(tree, device=mask_RT.device)
        paths = {
            index: [number * tokens.shape[1] + place for place in path]
            for number, row in enumerate(tree)
            for index, path in row.members
        }
        source_RT = torch.zeros(mask_RT.shape, dtype=torch.long)
        for index, path in paths.items():
            source_RT[index, source_RT.shape[1] - len(path) :] = torch.tensor(path)
        source_RT = source_RT.to(mask_RT.device)
        cache = roomy_cache()
        logits_RV = tree_logits(self._model, tokens, positions, mask, at_N=source_RT[:, -1], past_key_values=cache)
        for layer in cache.layers:
            layer.keys, layer.values = _along(layer.keys, source_RT), _along(layer.values, source_RT)
        return logits_RV, cache

    def _forward(
        self, tokens_RT: torch.Tensor, mask_RT: torch.Tensor, positions_RT: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """Computes the logits after the last of these tokens, [R, V]; adds the tokens to the cache."""
        logits: torch.Tensor = self._model(
            input_ids=tokens_RT,
            attention_mask=mask_RT,
            position_ids=positions_RT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]

    def _append(self, rows: list[Row], logits_RV: torch.Tensor) -> torch.Tensor:
        """Appends the next token to each row that is not finished; returns the chosen ones, [R, 1]."""
        logp_RV = logits_RV.float().log_softmax(-1)
        chosen_R = choose(logp_RV, rows)
        ids, chosen_logp = chosen_R.tolist(), logp_RV.gather(1, chosen_R[:, None])[:, 0].tolist()
        likeliest = max(row.top_logprobs for row in rows)
        top = logp_RV.topk(min(likeliest, logp_RV.shape[-1])) if likeliest else None
        for number, row in enumerate(rows):
            if row.finish_reason is not None:
                continue
            row.token_ids.append(ids[number])
            row.logprobs.append(chosen_logp[number])
            if top is not None:
                count = row.top_logprobs
                pairs = zip(top.indices[number, :count].tolist(), top.values[number, :count].tolist(), strict=True)
                row.top.append(list(pairs))
            if ids[number] in self._end_ids:
                row.finish_reason = "stop"
            elif len(row.token_ids) >= row.max_tokens:
                row.finish_reason = "length"
        return chosen_R[:, None]

    def _remove_finished(self, below: float) -> None:
        """Cuts finished rows out of the tensors where fewer than the share ``below`` are not finished (0: where any
        is)."""
        import torch

        state = self._state
        if state is None:
            return
        keep = [number for number, row in enumerate(state.rows) if row.finish_reason is None]
        if not keep:
            self._state = None
        elif len(keep) < len(state.rows) and (below == 0 or len(keep) < below * len(state.rows)):
            index = torch.tensor(keep, device=state.mask_RT.device)
            state.rows = [state.rows[number] for number in keep]
            state.mask_RT, state.tokens_R1 = state.mask_RT[index], state.tokens_R1[index]
            state.positions_R1 = state.positions_R1[index]
            padding = int(state.mask_RT.any(0).int().argmax())
            state.mask_RT = state.mask_RT[:, padding:]
            for layer in state.cache.layers:
                layer.keys = layer.keys[index][:, :, padding:]
                layer.values = layer.values[index][:, :, padding:]

    def _merge(self, joining: _State) -> None:
        """Adds rows that have read their prompts to those that are being written."""
        import torch

        state = self._state
        if state is None:
            self._state = joining
            return
        length = max(joining.mask_RT.shape[1], state.mask_RT.shape[1])
        for layer, other in zip(state.cache.layers, joining.cache.layers, strict=True):
            layer.keys = torch.cat([_widened(layer.keys, length), _widened(other.keys, length)])
            layer.values = torch.cat([_widened(layer.values, length), _widened(other.values, length)])
        pad = torch.nn.functional.pad
        masks = [pad(one.mask_RT, (length - one.mask_RT.shape[1], 0)) for one in (state, joining)]
        state.rows, state.mask_RT = [*state.rows, *joining.rows], torch.cat(masks)
        state.tokens_R1 = torch.cat([state.tokens_R1, joining.tokens_R1])
        state.positions_R1 = torch.cat([state.positions_R1, joining.positions_R1])


def new_batch(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Returns an empty batch of a loaded model; its answers end with any of its `end_tokens`."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Batch(model=model, end_ids=end_tokens(tokenizer, model), pad_id=pad)


def choose(logp_RV: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """Chooses the next token of every row, [R], from log-probabilities.

    A sampled row takes the first token whose cumulative probability exceeds a number that its own generator draws.
    """
    import torch

    if all(row.temperature == 0 for row in rows):
        return logp_RV.argmax(-1)
    # A greedy row among sampled ones draws too, which costs nothing, and keeps its argmax.
    temperature_R = torch.tensor([row.temperature or 1.0 for row in rows], dtype=logp_RV.dtype, device=logp_RV.device)
    probabilities_RV = (logp_RV / temperature_R[:, None]).softmax(-1)
    if any(row.top_p < 1 for row in rows):
        top_p_R = torch.tensor([row.top_p for row in rows], dtype=logp_RV.dtype, device=logp_RV.device)
        probabilities_RV = _nucleus(probabilities_RV, top_p_R)
    cumulative_RV = probabilities_RV.double().cumsum(-1)
    drawn_R = torch.tensor([row.draw.random() for row in rows], dtype=torch.double, device=logp_RV.device)
    tokens_R = torch.searchsorted(cumulative_RV, (drawn_R * cumulative_RV[:, -1])[:, None], right=True)[:, 0]
    tokens_R = tokens_R.clamp_max(logp_RV.shape[-1] - 1)
    greedy_R = torch.tensor([row.temperature == 0 for row in rows], device=logp_RV.device)
    return torch.where(greedy_R, logp_RV.argmax(-1), tokens_R)


def _nucleus(probabilities_RV: torch.Tensor, top_p_R: torch.Tensor) -> torch.Tensor:
    """Sets tokens beyond the smallest set of likeliest ones that hold ``top_p_R`` to 0 (Holtzman et al. 2020)."""
    ordered_RV, index_RV = probabilities_RV.sort(-1, descending=True)
    beyond_RV = (ordered_RV.cumsum(-1) - ordered_RV >= top_p_R[:, None]) & (top_p_R < 1)[:, None]
    beyond_RV[:, 0] = False
    return probabilities_RV.masked_fill(beyond_RV.scatter(-1, index_RV, beyond_RV), 0.0)


def _along(states_RHTD: torch.Tensor, source_RT: torch.Tensor) -> torch.Tensor:
    """Gathers the states of a tree's rows at flat indices of their tokens: a sequence a row."""
    return states_RHTD.transpose(1, 2).flatten(0, 1)[source_RT].transpose(1, 2).contiguous()


def _widened(states_RHTD: torch.Tensor, length: int) -> torch.Tensor:
    """Pads the states on the left to ``length`` tokens."""
    import torch

    return torch.nn.functional.pad(states_RHTD, (0, 0, length - states_RHTD.shape[2], 0))
