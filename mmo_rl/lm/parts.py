"""Histories on their way through a model: laid out as a prefix tree, a bounded number of its tokens at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from mmo_rl.lm.encode import History
from mmo_rl.lm.prefix_tree import SHORT_ROW, TreeRow, stack, tree_rows

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of the tree, as tensors, and the tokens that they predict.

    ``mask_RTT`` says which tokens a token attends to (padding: to itself). The state at flat index ``source_N[i]`` of
    ``tokens_RT`` predicts the token ``expected_N[i]``, which is answer token number ``target_N[i]`` of all histories.
    """

    tokens_RT: torch.Tensor
    positions_RT: torch.Tensor
    mask_RTT: torch.Tensor
    source_N: torch.Tensor
    expected_N: torch.Tensor
    target_N: torch.Tensor


def parts_of(
    histories: Sequence[History], *, tokens: int, longest_row: int, device: torch.device | str
) -> Iterator[Part]:
    """Lays ``histories`` out in parts of at most ``tokens`` tokens, padding included, but at least one row of the tree.

    Every answer token is predicted once. A row has up to `SHORT_ROW` tokens, on a GPU up to ``longest_row``, and where
    the longest history asks for it up to twice that history's, but never more than ``longest_row``.
    """
    import torch

    device = torch.device(device)
    sequences = [history.tokens for history in histories]
    first_target = list(accumulate((len(history.answer) for history in histories), initial=0))
    short = SHORT_ROW if device.type == "cpu" else longest_row
    limit = min(longest_row, max(short, 2 * max(map(len, sequences), default=0)))
    rows: list[TreeRow] = []
    length = 0
    for row in tree_rows(sequences, limit=limit):
        length = max(length, len(row.tokens))
        if rows and (len(rows) + 1) * length > tokens:
            yield from _part(rows, histories, first_target, device)
            rows, length = [], len(row.tokens)
        rows.append(row)
    if rows:
        yield from _part(rows, histories, first_target, device)


def _part(
    rows: Sequence[TreeRow], histories: Sequence[History], first_target: Sequence[int], device: torch.device
) -> Iterator[Part]:
    """Yields one part; none where its rows predict nothing."""
    import torch

    tokens_RT, positions_RT, mask_RTT = stack(rows, device=device)
    length = tokens_RT.shape[1]
    predicted: list[tuple[int, int, int]] = []
    for number, row in enumerate(rows):
        for member, path in row.members:
            prompt, answer = len(histories[member].prompt), histories[member].answer
            # Nothing comes before the first token of an empty prompt: it is not predicted.
            for n in range(0 if prompt else 1, len(answer)):
                source = number * length + path[prompt + n - 1]
                predicted.append((source, answer[n], first_target[member] + n))
    if predicted:
        source_N, expected_N, target_N = torch.tensor(predicted, device=device).T
        yield Part(tokens_RT, positions_RT, mask_RTT, source_N, expected_N, target_N)
