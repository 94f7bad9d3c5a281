"""Log-probabilities that a model gives to whole recorded answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmo_rl.lm.base import BaseModel
from mmo_rl.lm.encode import Encoder
from mmo_rl.lm.forward import score
from mmo_rl.lm.load import context_of, load_version
from mmo_rl.numbers import is_logprob
from mmo_rl.types import PolicyCall, PolicyVersion

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MICRO_BATCH_TOKENS = 2560


class AnswerScorer:
    """Scorer of recorded answers by the weights of one version of ``spec``, on ``device``."""

    def __init__(self, version: PolicyVersion, spec: BaseModel, *, device: str = "cpu") -> None:
        model, tokenizer = load_version(version.path, spec, device=device)
        self._model: PreTrainedModel = model
        self._encoder = Encoder(tokenizer)
        self._context_length = context_of(model, spec.context_length)

    def logprobs(self, calls: Sequence[PolicyCall]) -> list[float | None]:
        """Sums the log-probabilities of each answer's tokens; None for one that does not fit into the context."""
        histories = [self._encoder(call) for call in calls]
        fitting = [h for h in histories if h.length <= self._context_length and h.answer]
        if not fitting:
            return [None] * len(calls)
        scored_N = score(
            self._model,
            fitting,
            micro_batch_tokens=MICRO_BATCH_TOKENS,
            longest_row=max(history.length for history in fitting),
        )
        sums = iter(part.double().sum().item() for part in scored_N.split([len(h.answer) for h in fitting]))
        return [next(sums) if h.length <= self._context_length and h.answer else None for h in histories]

    def behaviour(self, calls: Sequence[PolicyCall]) -> list[float | None]:
        """Sums the recorded log-probabilities of each answer; None where they are not known for these tokens."""
        found: list[float | None] = []
        for call in calls:
            known = call.logprobs or ()
            usable = self._encoder(call).recorded and len(known) == len(call.token_ids or ()) > 0
            found.append(sum(known) if usable and all(map(is_logprob, known)) else None)
        return found
