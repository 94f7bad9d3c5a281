"""Packed rows laid out anew for the model's pass: what several histories begin with is computed once.

ART packs the histories of a group behind the one prompt that all of them share, in rows as long as a user likes. But
prompts of one market moment have most of their tokens in common, whoever asks, and attention over a row costs the
square of its length. So the histories of a gradient step are sorted by their tokens, which makes neighbours of those
that begin alike, and are put into short rows, to which each adds only what the one before it does not begin with: a
prefix tree, written depth first. A token attends to those before it in its own history, and its position is its place
there, so its state is that which the history alone would give (to rounding).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Rows = dict[str, Any]
"""Packed tensors by name, each of shape [rows, length], as `mmo_rl.trainer.art_adapter.pack` makes them."""

PADDING = -1
"""The group id of what fills a packed row up."""

SHORT_ROW = 256
"""Tokens; on a CPU longer rows cost more by their attention than they save by what they share."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a tree.

    ``tokens`` and ``positions`` have the shape [rows, length], ``mask`` (which tokens one attends to; padding to
    itself) [rows, length, length]. The state at flat index ``source[i]`` of ``tokens`` predicts the trained token
    ``expected[i]``, which is at flat index ``target[i]`` of the packed rows.
    """

    tokens: Any
    positions: Any
    mask: Any
    source: Any
    expected: Any
    target: Any


@dataclass(slots=True)
class _Row:
    """Tokens and their positions; ``branches`` has for each history where its own tokens start, and the places of
    those before them; ``predicted`` a place, the token that it predicts, and where that is in the packed rows."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branches: list[tuple[int, list[int]]] = field(default_factory=list)
    predicted: list[tuple[int, int, int]] = field(default_factory=list)

    def mask(self, length: int) -> Any:
        """Which of ``length`` tokens one attends to, [length, length]; padding to itself."""
        import numpy as np

        mask = np.eye(length, dtype=bool)
        ends = [start for start, _ in self.branches[1:]] + [len(self.tokens)]
        for (start, ancestors), end in zip(self.branches, ends, strict=True):
            mask[start:end, start:end] = np.tri(end - start, dtype=bool)
            mask[start:end, ancestors] = True
        return mask


def parts_of(rows: Rows, *, tokens: int) -> Iterator[Part]:
    """The histories of packed ``rows`` as a prefix tree, in parts of at most ``tokens`` tokens each, padding included,
    but at least one row. Every trained token is predicted once. A row has up to `SHORT_ROW` tokens, on a GPU as many
    as a packed one, and where the longest history asks for it up to twice that history's, but never more than a
    packed one has."""
    flat = rows["tokens"].flatten().tolist()
    trained = rows["assistant_mask"].flatten().tolist()
    histories = sorted(([flat[place] for place in places], places) for places in _histories(rows))
    packed = rows["tokens"].shape[1]
    short = SHORT_ROW if rows["tokens"].device.type == "cpu" else packed
    limit = min(packed, max(short, 2 * max((len(history) for history, _ in histories), default=0)))
    made: list[_Row] = []
    for row in _rows_of(histories, trained, limit):
        longest = max(len(row.tokens), *(len(other.tokens) for other in made)) if made else 0
        if made and (len(made) + 1) * longest > tokens:
            yield _part(made, device=rows["tokens"].device)
            made = []
        made.append(row)
    if made:
        yield _part(made, device=rows["tokens"].device)


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _histories(rows: Rows) -> Iterator[list[int]]:
    """The flat indices of every history's tokens in packed rows. The tokens of one group id are a segment, which goes
    on from that of its parent id, where the row has one; a history ends with a segment that no other goes on from."""
    length = rows["tokens"].shape[1]
    both = zip(rows["group_ids"].tolist(), rows["parent_ids"].tolist(), strict=True)
    for number, (groups, parents) in enumerate(both):
        places: dict[int, list[int]] = {}
        for place, group in enumerate(groups, start=number * length):
            places.setdefault(group, []).append(place)
        parent_of = {
            group: parent
            for group, parent in zip(groups, parents, strict=True)
            if group != parent and parent in places and group != PADDING
        }
        for segment in places.keys() - set(parent_of.values()) - {PADDING}:
            history: list[int] = []
            at: int | None = segment
            while at is not None:
                history = places[at] + history
                at = parent_of.get(at)
            yield history


def _rows_of(histories: Sequence[tuple[list[int], list[int]]], trained: Sequence[int], limit: int) -> Iterator[_Row]:
    """Rows of at most ``limit`` tokens of sorted ``histories`` (tokens, and their places in the packed rows)."""
    row = _Row()
    before: list[int] = []
    path: list[int] = []
    for tokens, places in histories:
        shared = shared_length(before, tokens)
        if row.tokens and len(row.tokens) + len(tokens) - shared > limit:
            if row.predicted:
                yield row
            row, shared = _Row(), 0
        start = len(row.tokens)
        path = path[:shared] + list(range(start, start + len(tokens) - shared))
        row.branches.append((start, path[:shared]))
        row.tokens += tokens[shared:]
        row.positions += range(shared, len(tokens))
        row.predicted += [(path[n - 1], tokens[n], place) for n, place in enumerate(places) if n and trained[place]]
        before = tokens
    if row.predicted:
        yield row


def _part(made: Sequence[_Row], *, device: Any) -> Part:
    import numpy as np
    import torch

    length = max(len(row.tokens) for row in made)
    predicted = [
        (n * length + place, token, target) for n, row in enumerate(made) for place, token, target in row.predicted
    ]
    source, expected, target = torch.tensor(predicted, device=device).T
    return Part(
        tokens=torch.tensor([row.tokens + [0] * (length - len(row.tokens)) for row in made], device=device),
        positions=torch.tensor([row.positions + [0] * (length - len(row.positions)) for row in made], device=device),
        mask=torch.from_numpy(np.stack([row.mask(length) for row in made])).to(device),
        source=source,
        expected=expected,
        target=target,
    )
