"""Training rows: answers with their advantages and weights, and the histories that share a gradient step.

A group's rewards R become advantages, and each trajectory weighs the same, however many tokens it has:

    A = (R - mean(R)) / (std(R) + 1e-6)        w = 1 / (trained tokens of the trajectory)

with the population's standard deviation (Shao et al. 2024, arXiv:2402.03300). Over an iteration's trained tokens both
are then scaled: w so that its mean is 1, A so that the mean of |A| w is 1. These are the definitions of OpenPipe ART
(`art.preprocessing`), and so are the rows: histories that fit into ``packed_tokens`` together, a shared prompt counted
once, in a seeded order. `mmo_rl.lm.prefix_tree` decides how they are computed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmo_rl.lm.encode import Encoder, History
from mmo_rl.lm.prefix_tree import shared_length
from mmo_rl.numbers import is_logprob
from mmo_rl.types import PolicyCall, TrainingGroup

if TYPE_CHECKING:
    import torch

STD_FLOOR = 1e-6
"""Added to the standard deviation of a group's rewards, and to the number of a trajectory's trained tokens."""
UNKNOWN = float("nan")


@dataclass(slots=True)
class Answer:
    """One history to train. ``advantage`` is what stands in its place, of any loss; ``prompt`` numbers the prompt that
    it shares with others of its group, of ``prompt_length`` tokens."""

    history: History
    logprobs: Sequence[float]
    advantage: float
    weight: float
    group: int
    prompt: int = 0
    prompt_length: int = 0


@dataclass(frozen=True, slots=True)
class TokenData:
    """Per-token data of the objective, each a float32 tensor of shape [N]: ``logprobs_N`` of the policy that answered
    (NaN: unknown), ``advantages_N``, ``weights_N``, and where there is a penalty the base model's ``reference_N``."""

    logprobs_N: torch.Tensor
    advantages_N: torch.Tensor
    weights_N: torch.Tensor
    reference_N: torch.Tensor | None = None

    def at(self, index: torch.Tensor | slice) -> TokenData:
        """Returns the data of the tokens at ``index``."""
        reference_N = None if self.reference_N is None else self.reference_N[index]
        return TokenData(self.logprobs_N[index], self.advantages_N[index], self.weights_N[index], reference_N)


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Histories that are trained together; ``tokens`` counts theirs, shared prompts once."""

    histories: tuple[History, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Packed:
    """``rows`` in the order of training, of at most ``row_length`` tokens each, and the ``data`` of all their answers'
    tokens, one after another."""

    rows: tuple[PackedRow, ...]
    row_length: int
    data: TokenData

    @property
    def histories(self) -> list[History]:
        """The histories of all rows, in order."""
        return [history for row in self.rows for history in row.histories]

    @property
    def trained_tokens(self) -> int:
        """Answer tokens of all rows."""
        return len(self.data.weights_N)

    def steps(self, rows_per_step: int) -> Iterator[Packed]:
        """Yields ``rows_per_step`` rows at a time: the batches of the gradient steps."""
        first = 0
        for number in range(0, len(self.rows), rows_per_step):
            rows = self.rows[number : number + rows_per_step]
            count = sum(len(history.answer) for row in rows for history in row.histories)
            yield replace(self, rows=rows, data=self.data.at(slice(first, first + count)))
            first += count


def pack(
    groups: Sequence[TrainingGroup],
    *,
    encoder: Encoder,
    packed_tokens: int,
    seed: int,
    weight: Callable[[float], float] = lambda advantage: advantage,
    device: torch.device | str = "cpu",
) -> Packed | None:
    """Packs the groups' answers into rows of ``packed_tokens`` tokens, or as many as the longest history has.

    ``weight`` turns an advantage into what stands in its place; answers of weight 0 are left out. None where no answer
    has a token to train. The same groups and seed give the same rows in the same order.
    """
    draw = random.Random(seed)
    answers = [
        answer
        for number, group in enumerate(groups)
        for answer in _answers(group, number, encoder, draw, drop_zero=weight(0) == 0)
        if answer.history.answer
    ]
    if not answers:
        return None
    for answer in answers:
        answer.advantage = weight(answer.advantage)
    answers = _with_shared_prompts(answers, draw)
    length = max(packed_tokens, max(answer.history.length for answer in answers))
    rows = list(_rows(answers, length, draw))
    draw.shuffle(rows)
    return Packed(
        tuple(PackedRow(tuple(answer.history for answer in row), tokens) for row, tokens in rows),
        length,
        _token_data([answer for row, _ in rows for answer in row], device),
    )


def _answers(
    group: TrainingGroup, number: int, encoder: Encoder, draw: random.Random, *, drop_zero: bool
) -> list[Answer]:
    """Returns a group's answers with their advantages and weights, shuffled."""
    rewards = [sample.reward for sample in group.samples]
    mean = sum(rewards) / len(rewards)
    std = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / len(rewards))
    answers = []
    for sample in group.samples:
        advantage = (sample.reward - mean) / (std + STD_FLOOR)
        if advantage == 0 and drop_zero:
            continue
        histories = [encoder(call) for call in sample.calls]
        weight = 1 / (sum(len(history.answer) for history in histories) + STD_FLOOR)
        answers += [
            Answer(history, _known_logprobs(call, history), advantage, weight, number)
            for call, history in zip(sample.calls, histories, strict=True)
        ]
    _spend_id(draw)
    draw.shuffle(answers)
    return answers


def _known_logprobs(call: PolicyCall, history: History) -> Sequence[float]:
    """Returns the recorded log-probability of every answer token, NaN where it is not known or none (`is_logprob`)."""
    recorded = call.logprobs if history.recorded else None
    if recorded is None or len(recorded) != len(history.answer):
        return (UNKNOWN,) * len(history.answer)
    return [logprob if is_logprob(logprob) else UNKNOWN for logprob in recorded]


def _with_shared_prompts(answers: Sequence[Answer], draw: random.Random) -> list[Answer]:
    """Sorts each group's answers by their tokens, and has those share a prompt that begin alike for at least half of
    their own: agents that were asked at the same moment. The last token of a prompt is always an answer's own."""
    ordered = sorted(answers, key=lambda answer: (answer.group, answer.history.tokens))
    lengths: dict[int, int] = {}
    first: Answer | None = None
    for answer in ordered:
        own = max(0, len(answer.history.prompt) - 1)
        common = 0
        if first is not None and answer.group == first.group:
            common = min(lengths[first.prompt], own, shared_length(first.history.tokens, answer.history.tokens))
        if first is None or answer.group != first.group or 2 * common < own:
            first, common = answer, own
            draw.getrandbits(63)
            answer.prompt = len(lengths)
        else:
            answer.prompt = first.prompt
        lengths[answer.prompt] = common
    for answer in ordered:
        answer.prompt_length = lengths[answer.prompt]
    return ordered


def _rows(answers: Sequence[Answer], length: int, draw: random.Random) -> Iterator[tuple[list[Answer], int]]:
    """Yields rows of at most ``length`` tokens, each with its number of tokens."""
    row: list[Answer] = []
    prompts: set[int] = set()
    used = 0
    for answer in answers:
        own = answer.history.length - (answer.prompt_length if answer.prompt in prompts else 0)
        if row and used + own > length:
            yield row, used
            row, prompts, used, own = [], set(), 0, answer.history.length
        _spend_id(draw)
        row.append(answer)
        prompts.add(answer.prompt)
        used += own
    if row:
        yield row, used


def _token_data(answers: Sequence[Answer], device: torch.device | str) -> TokenData:
    """Returns the tensors of all answer tokens, with weights and advantages scaled to a mean size of 1."""
    import torch

    counts = torch.tensor([len(answer.history.answer) for answer in answers])
    weights_N = torch.tensor([answer.weight for answer in answers]).repeat_interleave(counts)
    weights_N /= weights_N.mean()
    advantages_N = torch.tensor([answer.advantage for answer in answers]).repeat_interleave(counts)
    advantages_N /= (advantages_N.abs() * weights_N).mean()
    logprobs_N = torch.tensor([logprob for answer in answers for logprob in answer.logprobs])
    return TokenData(logprobs_N.to(device), advantages_N.to(device), weights_N.to(device))


def _spend_id(draw: random.Random) -> None:
    """Draws what ART draws for an identifier: its generator decides the order of the rows, and a seed of an older run
    must go on giving the rows that it gave."""
    draw.randint(-(2**63), 2**63 - 1)
