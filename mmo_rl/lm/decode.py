"""Writing many answers at once with one transformers model and its key-value cache.

Rows of a `Batch` join and leave between two steps. Each draws from a generator of its own by inverting the cumulative
distribution, so that what it answers follows from its prompt and seed; the rows beside it only change the last digits
of its logits, and a token only where the draw falls between these digits.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mmo_rl.lm.prefix_tree import SHORT_ROW, TreeRow, stacked, takes_trees, tree_logits, tree_rows
from mmo_rl.rng import rng

if TYPE_CHECKING:
    import torch

SHARE_BELOW = 0.8
"""Prompts are read as a prefix tree where it has fewer than this share of their tokens: its mask takes time too."""

SHARE_TO = 1024
"""Tokens; longer prompts are read one by one, as the mask of a tree grows by the square of its rows."""

COMPACT_BELOW = 0.75
"""Ended rows are cut out of the cache when fewer than this share still write: each cut copies the cache."""


@dataclass(eq=False, slots=True)
class Row:
    """One answer in the making, of at most ``max_tokens`` tokens.

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


class Batch:
    """Rows that one model writes together, left-padded. ``end_ids`` end an answer."""

    def __init__(self, *, model: Any, end_ids: Collection[int], pad_id: int) -> None:
        self._model = model
        self._shares = takes_trees(model)
        self._end_ids = frozenset(end_ids)
        self._pad_id = pad_id
        self._clear()

    def _clear(self) -> None:
        self._rows: list[Row] = []
        self._cache: Any = None
        self._mask: Any = None
        self._tokens: Any = None
        self._positions: Any = None

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return self._end_ids

    @property
    def rows(self) -> list[Row]:
        """Those that still write."""
        return [row for row in self._rows if row.finish_reason is None]

    def join(self, rows: Sequence[Row]) -> None:
        """Reads the prompts of new rows and gives each its first token."""
        import torch

        if not rows:
            return
        longest = max(len(row.prompt) for row in rows)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for number, row in enumerate(rows):
            mask[number, longest - len(row.prompt) :] = 1
        mask = mask.to(self._model.device)
        with torch.inference_mode():
            tree = self._tree([row.prompt for row in rows], longest)
            logits, cache = self._read(rows, mask) if tree is None else self._read_tree(tree, mask)
            chosen = self._append(list(rows), logits)
            self._leave(0)
            self._merge(list(rows), chosen, mask, mask.sum(-1, keepdim=True), cache)
            self._leave(COMPACT_BELOW)

    def step(self) -> None:
        """One more token for every row that still writes."""
        import torch

        with torch.inference_mode():
            self._leave(COMPACT_BELOW)
            if not self._rows:
                return
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._rows), 1)], dim=1)
            logits = self._forward(self._tokens, self._mask, self._positions, self._cache)
            self._tokens = self._append(self._rows, logits)
            self._positions = self._positions + 1

    def _tree(self, prompts: Sequence[list[int]], longest: int) -> list[TreeRow] | None:
        """The prompts as a prefix tree, where reading it is less work than reading them."""
        if not self._shares or longest > SHARE_TO:
            return None
        tree = list(tree_rows(prompts, limit=max(SHORT_ROW, 2 * longest)))
        shared = max(len(row.tokens) for row in tree) * len(tree)
        return tree if shared < SHARE_BELOW * longest * len(prompts) else None

    def _read(self, rows: Sequence[Row], mask: Any) -> tuple[Any, Any]:
        """What the model says after each prompt, [rows, vocabulary], and the cache of all their tokens."""
        import torch

        from mmo_rl.lm.cache import roomy_cache

        tokens = torch.full(mask.shape, self._pad_id, dtype=torch.long)
        for number, row in enumerate(rows):
            tokens[number, tokens.shape[1] - len(row.prompt) :] = torch.tensor(row.prompt)
        cache = roomy_cache()
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        return self._forward(tokens.to(mask.device), mask, positions, cache), cache

    def _read_tree(self, tree: Sequence[TreeRow], mask: Any) -> tuple[Any, Any]:
        """The same of a tree of the prompts, in which each is a path: its keys and values are copied from there."""
        import torch

        from mmo_rl.lm.cache import roomy_cache

        tokens, positions, sees = stacked(tree, device=mask.device)
        paths = {
            index: [number * tokens.shape[1] + place for place in path]
            for number, row in enumerate(tree)
            for index, path in row.members
        }
        where = torch.zeros(mask.shape, dtype=torch.long)
        for index, path in paths.items():
            where[index, where.shape[1] - len(path) :] = torch.tensor(path)
        where = where.to(mask.device)
        cache = roomy_cache()
        logits = tree_logits(self._model, tokens, positions, sees, at=where[:, -1], past_key_values=cache)
        for layer in cache.layers:
            layer.keys, layer.values = _along(layer.keys, where), _along(layer.values, where)
        return logits, cache

    def _forward(self, tokens: Any, mask: Any, positions: Any, cache: Any) -> Any:
        """What the model says after the last of these tokens, [rows, vocabulary]; they are added to the cache."""
        output = self._model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _append(self, rows: list[Row], logits: Any) -> Any:
        """Appends the next token to each row that still writes; gives back the chosen ones, shape [rows, 1]."""
        logp = logits.float().log_softmax(-1)
        chosen = choose(logp, rows)
        ids, chosen_logp = chosen.tolist(), logp.gather(1, chosen[:, None])[:, 0].tolist()
        likeliest = max(row.top_logprobs for row in rows)
        top = logp.topk(min(likeliest, logp.shape[-1])) if likeliest else None
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
        return chosen[:, None]

    def _leave(self, below: float) -> None:
        """Cuts ended rows out where fewer than the share ``below`` still write (0: where there are any)."""
        import torch

        keep = [number for number, row in enumerate(self._rows) if row.finish_reason is None]
        if not keep:
            self._clear()
        elif len(keep) < len(self._rows) and (below == 0 or len(keep) < below * len(self._rows)):
            index = torch.tensor(keep, device=self._mask.device)
            self._rows = [self._rows[number] for number in keep]
            self._mask, self._tokens = self._mask[index], self._tokens[index]
            self._positions = self._positions[index]
            padding = int(self._mask.any(0).int().argmax())
            self._mask = self._mask[:, padding:]
            for layer in self._cache.layers:
                layer.keys = layer.keys[index][:, :, padding:]
                layer.values = layer.values[index][:, :, padding:]

    def _merge(self, rows: list[Row], tokens: Any, mask: Any, positions: Any, cache: Any) -> None:
        import torch

        if not self._rows:
            self._rows, self._cache, self._mask = rows, cache, mask
            self._tokens, self._positions = tokens, positions
            return
        length = max(mask.shape[1], self._mask.shape[1])
        for layer, joining in zip(self._cache.layers, cache.layers, strict=True):
            layer.keys = torch.cat([_widened(layer.keys, length), _widened(joining.keys, length)])
            layer.values = torch.cat([_widened(layer.values, length), _widened(joining.values, length)])
        pad = torch.nn.functional.pad
        masks = [pad(one, (length - one.shape[1], 0)) for one in (self._mask, mask)]
        self._rows, self._mask = [*self._rows, *rows], torch.cat(masks)
        self._tokens = torch.cat([self._tokens, tokens])
        self._positions = torch.cat([self._positions, positions])


def choose(logp: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """The next token of every row, shape [rows], from ``logp`` of shape [rows, vocabulary].

    A sampled row takes the first token whose cumulative probability exceeds a number that its own generator draws.
    """
    import torch

    if all(row.temperature == 0 for row in rows):
        return logp.argmax(-1)
    # A greedy row among sampled ones draws too, which costs nothing, and keeps its argmax.
    temperature = torch.tensor([row.temperature or 1.0 for row in rows], dtype=logp.dtype, device=logp.device)
    probabilities = (logp / temperature[:, None]).softmax(-1)
    if any(row.top_p < 1 for row in rows):
        top_p = torch.tensor([row.top_p for row in rows], dtype=logp.dtype, device=logp.device)
        probabilities = _nucleus(probabilities, top_p)
    cumulative = probabilities.double().cumsum(-1)
    drawn = torch.tensor([row.draw.random() for row in rows], dtype=torch.double, device=logp.device)
    tokens = torch.searchsorted(cumulative, (drawn * cumulative[:, -1])[:, None], right=True)[:, 0]
    tokens = tokens.clamp_max(logp.shape[-1] - 1)
    greedy = torch.tensor([row.temperature == 0 for row in rows], device=logp.device)
    return torch.where(greedy, logp.argmax(-1), tokens)


def _nucleus(probabilities: Any, top_p: Any) -> Any:
    """Without the tokens beyond the smallest set of likeliest ones that hold ``top_p`` (Holtzman et al. 2020)."""
    ordered, index = probabilities.sort(-1, descending=True)
    beyond = (ordered.cumsum(-1) - ordered >= top_p[:, None]) & (top_p < 1)[:, None]
    beyond[:, 0] = False
    return probabilities.masked_fill(beyond.scatter(-1, index, beyond), 0.0)


def _along(states: Any, where: Any) -> Any:
    """[rows, heads, length, size] of a tree's rows to [sequences, heads, length, size] at flat indices of tokens."""
    return states.transpose(1, 2).flatten(0, 1)[where].transpose(1, 2).contiguous()


def _widened(states: Any, length: int) -> Any:
    import torch

    return torch.nn.functional.pad(states, (0, 0, length - states.shape[2], 0))
