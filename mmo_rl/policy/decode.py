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

from mmo_rl.rng import rng

if TYPE_CHECKING:
    import torch

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
    def rows(self) -> list[Row]:
        """Those that still write."""
        return [row for row in self._rows if row.finish_reason is None]

    def join(self, rows: Sequence[Row]) -> None:
        """Reads the prompts of new rows and gives each its first token."""
        import torch
        from transformers import DynamicCache

        if not rows:
            return
        device, longest = self._model.device, max(len(row.prompt) for row in rows)
        tokens = torch.full((len(rows), longest), self._pad_id, dtype=torch.long)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for number, row in enumerate(rows):
            tokens[number, longest - len(row.prompt) :] = torch.tensor(row.prompt)
            mask[number, longest - len(row.prompt) :] = 1
        tokens, mask = tokens.to(device), mask.to(device)
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        cache = DynamicCache()
        with torch.inference_mode():
            chosen = self._forward(list(rows), tokens, mask, positions, cache)
            self._leave(0)
            self._merge(list(rows), chosen, mask, positions[:, -1:] + 1, cache)
            self._leave(COMPACT_BELOW)

    def step(self) -> None:
        """One more token for every row that still writes."""
        import torch

        with torch.inference_mode():
            self._leave(COMPACT_BELOW)
            if not self._rows:
                return
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._rows), 1)], dim=1)
            self._tokens = self._forward(self._rows, self._tokens, self._mask, self._positions, self._cache)
            self._positions = self._positions + 1

    def _forward(self, rows: list[Row], tokens: Any, mask: Any, positions: Any, cache: Any) -> Any:
        """Appends the next token to each row that still writes; gives back the chosen ones, shape [rows, 1]."""
        output = self._model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logp = output.logits[:, -1].float().log_softmax(-1)
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
    temperature = torch.tensor([row.temperature or 1.0 for row in rows], device=logp.device)
    probabilities = (logp / temperature[:, None]).softmax(-1)
    if any(row.top_p < 1 for row in rows):
        probabilities = _nucleus(probabilities, torch.tensor([row.top_p for row in rows], device=logp.device))
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


def _widened(states: Any, length: int) -> Any:
    import torch

    return torch.nn.functional.pad(states, (0, 0, length - states.shape[2], 0))
