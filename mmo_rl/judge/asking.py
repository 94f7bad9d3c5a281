"""Request for the judgments of one prompt: looked up in the cache, else asked of the model, checked and cached."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

from mmo_rl.chat.client import HOPELESS, CallFailed, ChatClient
from mmo_rl.chat.wire import Messages, Parameters, Reply
from mmo_rl.judge.base import JudgmentCache
from mmo_rl.judge.condense import Play, count_tokens
from mmo_rl.judge.presentation import Part
from mmo_rl.judge.prompt import (
    SCHEMA_VERSION,
    Answer,
    InvalidAnswer,
    build_messages,
    correction,
    parse_answer,
    presented_ids,
)
from mmo_rl.judge.spending import Ledger
from mmo_rl.types import Credit, Judgment, Score


class IncompleteAnswer(Exception):
    """Answer that was bad twice: ``answer`` is its text, ``scores`` what it says that can be used, by trajectory id."""

    def __init__(self, message: str, *, answer: str, scores: Mapping[str, Score]) -> None:
        super().__init__(message)
        self.answer = answer
        self.scores = scores


class Asker:
    """Client for the scores of one part at a time, at most ``concurrency`` requests at once.

    ``parameters`` are those of the chat completions API. The cache's key is everything in the request: the model,
    ``parameters``, the messages.
    """

    def __init__(
        self,
        *,
        client: ChatClient,
        ledger: Ledger,
        cache: JudgmentCache | None,
        model: str,
        parameters: Parameters,
        max_completion_tokens: int,
        credit: Credit,
        concurrency: int,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._cache = cache
        self._model = model
        self._parameters = parameters
        self._max_completion_tokens = max_completion_tokens
        self._credit: Credit = credit
        self._slots = asyncio.Semaphore(concurrency)
        self._useless: CallFailed | None = None

    async def ask(self, part: Part, order: Sequence[int], *, seed: int) -> dict[str, Score]:
        """Returns the scores by trajectory id, the members presented in ``order``.

        Raises `CallFailed`, `BudgetReached`, and `IncompleteAnswer` after the second bad answer.
        """
        members = [part.members[n] for n in order]
        messages, key = self.request(part, order, seed=seed)
        by_id = dict(zip(presented_ids(len(members)), members, strict=True))
        async with self._cache.hold(key) if self._cache is not None else nullcontext() as kept:
            scores = self._usable(kept, by_id)
            if scores is not None:
                self._ledger.hit()
            else:
                async with self._slots:
                    if self._useless is not None:
                        raise self._useless
                    try:
                        scores = await self._answered(messages, by_id)
                    except InvalidAnswer as invalid:
                        usable = [_bound(_score(answer), by_id) for answer in invalid.usable.values()]
                        scores_of = {score.trajectory_id: score for score in usable}
                        raise IncompleteAnswer(str(invalid), answer=invalid.answer, scores=scores_of) from None
                    except CallFailed as failure:
                        # Requests that wait for a slot fail with it.
                        if failure.cause in HOPELESS and not self._ledger.usage.calls:
                            self._useless = failure
                        raise
                if self._cache is not None:
                    await _finished(self._cache.put(key, scores))
        return {score.trajectory_id: score for score in (_bound(score, by_id) for score in scores)}

    def request(self, part: Part, order: Sequence[int], *, seed: int) -> tuple[Messages, str]:
        """Returns the messages that `ask` sends, and the cache key of their judgments."""
        shown = [part.members[n].shown for n in order]
        messages = build_messages(part.rubric, part.context, shown, seed=seed, credit=self._credit)
        return messages, self._key(messages)

    async def _answered(self, messages: Messages, by_id: Mapping[str, Play]) -> tuple[Score, ...]:
        """Asks the model, and once more with the faults of an invalid answer."""
        reply = await self._call(messages)
        try:
            return self._scores(reply, by_id)
        except InvalidAnswer as invalid:
            if invalid.in_vain:
                raise
            again = [*messages, *correction(reply.text, str(invalid), list(by_id))]
        return self._scores(await self._call(again), by_id)

    async def _call(self, messages: Messages) -> Reply:
        """Sends one request."""
        return await self._client.complete(
            messages,
            self._parameters,
            prompt_tokens=sum(count_tokens(message["content"]) + 10 for message in messages),
            completion_tokens=self._max_completion_tokens,
        )

    def _scores(self, reply: Reply, by_id: Mapping[str, Play]) -> tuple[Score, ...]:
        """Parses the scores of a reply, in the order of presentation. Raises `InvalidAnswer` with the refused text."""
        try:
            return self._read(reply, by_id)
        except InvalidAnswer as invalid:
            answer = reply.text or reply.reasoning
            raise InvalidAnswer(str(invalid), answer=answer, in_vain=invalid.in_vain, usable=invalid.usable) from None

    def _read(self, reply: Reply, by_id: Mapping[str, Play]) -> tuple[Score, ...]:
        if reply.finish_reason == "length":
            spent = "" if reply.completion_tokens is None else f" after {reply.completion_tokens:,} tokens"
            limit = f"judge.max_completion_tokens={self._max_completion_tokens}"
            if not reply.text.strip():
                raise InvalidAnswer(
                    f"it was cut off{spent} before it began: the token limit went to thinking (finish_reason=length);"
                    f" raise {limit}",
                    in_vain=True,
                )
            raise InvalidAnswer(
                f"it was cut off at the token limit{spent} (finish_reason=length, {limit}); keep explanations short"
            )
        if reply.refusal or reply.finish_reason == "content_filter":
            raise InvalidAnswer(f"it was refused ({reply.refusal or 'content_filter'})")
        steps = {i: list(play.steps) for i, play in by_id.items()} if self._credit == "decision" else None
        # A verdict without any other text stands among the thoughts of some servers.
        answers = parse_answer(reply.text if reply.text.strip() else reply.reasoning, list(by_id), steps)
        return tuple(_score(answers[i]) for i in by_id)

    def _usable(self, kept: tuple[Judgment, ...] | None, by_id: Mapping[str, Play]) -> tuple[Score, ...] | None:
        """Returns cached judgments as scores where they are of exactly these members, else None."""
        scores = tuple(judgment for judgment in kept or () if isinstance(judgment, Score))
        return scores if [score.trajectory_id for score in scores] == list(by_id) else None

    def _key(self, messages: Messages) -> str:
        """Hashes everything that the answer depends on."""
        request = [SCHEMA_VERSION, self._model, self._parameters, messages]
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _score(answer: Answer) -> Score:
    """Makes a score under the presented id."""
    return Score(answer.id, answer.score, answer.explanation, answer.decisions)


def _bound(score: Score, by_id: Mapping[str, Play]) -> Score:
    """Returns a score under its trajectory's own id, each decision's score given to all steps that it stands for."""
    play = by_id[score.trajectory_id]
    decisions = None
    if score.decisions is not None:
        decisions = {step: value for shown, value in score.decisions.items() for step in play.steps[shown]}
    return replace(score, trajectory_id=play.trajectory_id, decisions=decisions)


async def _finished(work: Awaitable[None]) -> None:
    """Awaits ``work`` to its end also where this task is cancelled meanwhile, so that a paid answer is kept."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
