"""Packed rows on their way through the model: their histories as a prefix tree, so many tokens of it at a time.

ART packs the histories of a group behind the prompt that they share, in rows as long as a user likes. They are laid out
anew for the model's pass (`mmo_rl.lm.prefix_tree`): prompts of one moment have most of their tokens in common, whoever
asks, and attention over a row costs the square of its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmo_rl.lm.prefix_tree import SHORT_ROW, TreeRow, stacked, tree_rows

Rows = dict[str, Any]
"""Packed tensors by name, each of shape [rows, length], as `mmo_rl.trainer.art_adapter.pack` makes them."""

PADDING = -1
"""The group id of what fills a packed row up."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of the tree.

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


def parts_of(rows: Rows, *, tokens: int) -> Iterator[Part]:
    """The histories of packed ``rows`` in parts of at most ``tokens`` tokens each, padding included, but at least one
    row of the tree. Every trained token is predicted once. A row has up to `SHORT_ROW` tokens, on a GPU as many as a
    packed one, and where the longest history asks for it up to twice that history's, but never more than a packed one
    has."""
    flat = rows["tokens"].flatten().tolist()
    places = list(_histories(rows))
    histories = [[flat[place] for place in history] for history in places]
    packed, device = rows["tokens"].shape[1], rows["tokens"].device
    short = SHORT_ROW if device.type == "cpu" else packed
    limit = min(packed, max(short, 2 * max((len(history) for history in histories), default=0)))
    trained = rows["assistant_mask"].flatten().tolist()
    made: list[TreeRow] = []
    longest = 0
    for row in tree_rows(histories, limit=limit):
        longest = max(longest, len(row.tokens))
        if made and (len(made) + 1) * longest > tokens:
            yield from _part(made, places, trained, device)
            made, longest = [], len(row.tokens)
        made.append(row)
    if made:
        yield from _part(made, places, trained, device)


def _histories(rows: Rows) -> Iterator[list[int]]:
    """The flat indices of every history's tokens in packed rows. The tokens of one group id are a segment, which goes
    on from that of its parent id, where the row has one; a history ends with a segment that no other goes on from."""
    length = rows["tokens"].shape[1]
    both = zip(rows["group_ids"].tolist(), rows["parent_ids"].tolist(), strict=True)
    for number, (groups, parents) in enumerate(both):
        places: dict[int, list[int]] = {}
        for place, group in enumerate(groups, start=number * length):
            places.setdefault(group, []).append(place)
        places.pop(PADDING, None)
        parent_of = {
            group: parent
            for group, parent in zip(groups, parents, strict=True)
            if group != parent and parent in places and group in places
        }
        inner = set(parent_of.values())
        for segment in places:
            if segment in inner:
                continue
            history: list[int] = []
            at: int | None = segment
            while at is not None:
                history = places[at] + history
                at = parent_of.get(at)
            yield history


def _part(
    made: Sequence[TreeRow], places: Sequence[Sequence[int]], trained: Sequence[int], device: Any
) -> Iterator[Part]:
    """One part; none where nothing in it is trained."""
    import torch

    tokens, positions, mask = stacked(made, device=device)
    predicted = [
        (number * tokens.shape[1] + path[n - 1], row.tokens[path[n]], target)
        for number, row in enumerate(made)
        for member, path in row.members
        for n, target in enumerate(places[member])
        if n and trained[target]
    ]
    if predicted:
        source, expected, target = torch.tensor(predicted, device=device).T
        yield Part(tokens, positions, mask, source, expected, target)
