"""The `ruler` judge: a language model scores the members of a window relative to each other (RULER)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from mmo_rl.chat import OPENAI_BASE_URL, CallFailed, ChatClient, Reply, api_key, remedy
from mmo_rl.concurrency import gather_ordered
from mmo_rl.errors import ConfigError, JudgeError
from mmo_rl.judge.base import JudgmentCache
from mmo_rl.judge.prompt import (
    RESPONSE_FORMAT,
    SCHEMA_VERSION,
    InvalidAnswer,
    build_messages,
    correction,
    parse_answer,
    presented_ids,
)
from mmo_rl.judge.template import Rendered, Template
from mmo_rl.rng import rng
from mmo_rl.types import Group, JudgeUsage, Judgment, Score, ScoredGroup, Unscored

_log = logging.getLogger(__name__)


class RulerJudge:
    """Scores in [0, 1], relative within what one prompt shows, by any OpenAI-compatible endpoint.

    A group larger than ``max_per_window`` is split at random into parts of nearly equal size; the split and the order
    of presentation follow from ``seed`` and from what the members did. An answer that does not give each id exactly
    once, with a finite score in [0, 1], is sent back once with what was wrong; after that its members are `Unscored`.
    A request is tried ``attempts`` times (see `ChatClient`).

    ``api_key_env`` names the environment variable that holds the key. ``base_url`` None is OpenAI's own endpoint.
    Prices are in US dollars a million tokens; the cost is unknown (None) without them. ``cache`` keeps judgments by
    everything in the request (model, wording, template, order, content), not by the endpoint's address.

    Raises `ConfigError` where the key is not set and the endpoint is known to need one. As a context manager it raises
    `JudgeError` at once where nobody listens at the address; `score` raises it as told there.
    """

    def __init__(
        self,
        *,
        model: Annotated[str, Field(min_length=1)],
        template: Template,
        seed: int,
        base_url: str | None = None,
        api_key_env: str | None = "OPENAI_API_KEY",
        max_per_window: Annotated[int, Field(ge=2)] = 8,
        concurrency: Annotated[int, Field(ge=1, le=256)] = 8,
        timeout_s: Annotated[float, Field(gt=0)] = 120.0,
        attempts: Annotated[int, Field(ge=1, le=10)] = 4,
        backoff_s: Annotated[float, Field(gt=0)] = 1.0,
        max_backoff_s: Annotated[float, Field(gt=0)] = 60.0,
        max_completion_tokens: Annotated[int, Field(ge=64)] = 4096,
        temperature: Annotated[float, Field(ge=0, le=2)] | None = None,
        response_format: Literal["json_schema", "json_object", "none"] = "json_schema",
        price_prompt_usd_per_mtok: Annotated[float, Field(ge=0)] | None = None,
        price_completion_usd_per_mtok: Annotated[float, Field(ge=0)] | None = None,
        cache: JudgmentCache | None = None,
    ) -> None:
        self._model = model
        self._template = template
        self._seed = seed
        self._api_key_env = api_key_env
        self._max_per_window = max_per_window
        self._concurrency = concurrency
        self._parameters: dict[str, Any] = {"max_completion_tokens": max_completion_tokens}
        if temperature is not None:
            self._parameters["temperature"] = temperature
        if response_format != "none":
            schema = response_format == "json_schema"
            self._parameters["response_format"] = RESPONSE_FORMAT if schema else {"type": "json_object"}
        self._prices = (price_prompt_usd_per_mtok, price_completion_usd_per_mtok)
        self._cache = cache
        self._client = ChatClient(
            model=model,
            base_url=base_url or OPENAI_BASE_URL,
            api_key=api_key(
                api_key_env, base_url, setting="judge", instead="judge without a language model: judge=oracle"
            ),
            timeout_s=timeout_s,
            attempts=attempts,
            backoff_s=backoff_s,
            max_backoff_s=max_backoff_s,
        )
        self._slots = asyncio.Semaphore(concurrency)
        self._usage = JudgeUsage()
        self._warned = False

    @property
    def usage(self) -> JudgeUsage:
        """The running total. ``calls`` counts completions received; ``cost_usd`` is None once a call's is unknown."""
        return self._usage

    async def __aenter__(self) -> Self:
        try:
            await self._client.probe()
        except CallFailed as failure:
            self._raise_if_unusable(failure)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def score(self, groups: AsyncIterator[Group]) -> AsyncIterator[ScoredGroup]:
        """One `ScoredGroup` a group, in order, at most ``concurrency`` requests at once.

        Raises `JudgeError` as soon as the key or the address is refused, nobody listens or nobody answers in time
        while the endpoint has not given a single answer yet, and at the end where groups failed for want of the
        endpoint and none was scored.
        """
        scored = 0
        failures: Counter[str] = Counter()

        async def judge(group: Group) -> ScoredGroup:
            return await self._judge(group, failures)

        async with aclosing(gather_ordered(groups, judge, limit=self._concurrency)) as results:
            async for result in results:
                scored += sum(isinstance(j, Score) for j in result.judgments.values())
                yield result
        if failures and not scored:
            reason, count = failures.most_common(1)[0]
            raise JudgeError(
                f"the judge {self._model} scored nothing: {count} of {failures.total()} failures were: {reason}",
                hint="check judge.model and judge.base_url (an endpoint without JSON schemas needs "
                "judge.response_format=json_object), or use judge=oracle",
            )

    # --- one group ----------------------------------------------------------------------------------------------------

    async def _judge(self, group: Group, failures: Counter[str]) -> ScoredGroup:
        ids = [member.trajectory_id for member in group.members]
        if len(set(ids)) != len(ids):
            raise ValueError(f"group {group.group_id} holds a trajectory more than once")
        if self._template.uses_truth and group.truth is None and not self._warned:
            self._warned = True
            _log.warning("window %s has no recorded outcomes: it is judged without ground truth", group.window.id)

        try:
            rendered = self._template.render(group, group.members)
        except ConfigError as error:  # one odd recording must not cost the run
            failures[error.message] += 1
            return ScoredGroup(group, {trajectory_id: Unscored(trajectory_id, error.message) for trajectory_id in ids})
        texts = dict(zip(ids, rendered.trajectories, strict=True))

        async def judge(part: Sequence[str]) -> list[Judgment]:
            shown = replace(rendered, trajectories=tuple(texts[trajectory_id] for trajectory_id in part))
            return await self._judge_part(shown, part, failures)

        judged: dict[str, Judgment] = {}
        async with aclosing(gather_ordered(self._split(texts), judge, limit=self._concurrency)) as parts:
            async for judgments in parts:
                judged.update((judgment.trajectory_id, judgment) for judgment in judgments)
        return ScoredGroup(group, {trajectory_id: judged[trajectory_id] for trajectory_id in ids})

    def _split(self, texts: Mapping[str, str]) -> list[list[str]]:
        """The trajectory ids in parts, each in its order of presentation.

        Both follow from the seed and the texts alone, so the same play is the same request wherever it was recorded.
        """
        ordered = sorted(texts, key=lambda trajectory_id: (texts[trajectory_id], trajectory_id))
        rng(self._seed, "judge", "order", *sorted(texts.values())).shuffle(ordered)
        parts = -(-len(ordered) // self._max_per_window)
        return [ordered[len(ordered) * i // parts : len(ordered) * (i + 1) // parts] for i in range(parts)]

    async def _judge_part(self, shown: Rendered, part: Sequence[str], failures: Counter[str]) -> list[Judgment]:
        if len(part) < 2:
            return [Unscored(trajectory_id, "fewer than two members") for trajectory_id in part]
        messages = build_messages(shown, seed=self._seed)
        ids = presented_ids(len(part))
        key = self._key(messages)
        bound = dict(zip(ids, part, strict=True))
        if self._cache is not None:
            kept = await self._cache.get(key)
            if kept is not None and sorted(j.trajectory_id for j in kept) == sorted(ids):
                self._usage = replace(self._usage, cache_hits=self._usage.cache_hits + 1)
                return [replace(judgment, trajectory_id=bound[judgment.trajectory_id]) for judgment in kept]
        try:
            async with self._slots:
                scores = await self._ask(messages, ids)
        except CallFailed as failure:
            self._raise_if_unusable(failure)
            failures[failure.reason] += 1
            return [Unscored(trajectory_id, f"judge call failed: {failure.reason}") for trajectory_id in part]
        except InvalidAnswer as invalid:
            return [Unscored(trajectory_id, f"invalid answer: {invalid}") for trajectory_id in part]
        if self._cache is not None:
            await self._cache.put(key, scores)
        return [replace(score, trajectory_id=bound[score.trajectory_id]) for score in scores]

    async def _ask(self, messages: list[dict[str, str]], ids: Sequence[str]) -> tuple[Score, ...]:
        """The scores under the presented ids. Raises `CallFailed`, or `InvalidAnswer` after the second bad answer."""
        reply = await self._call(messages)
        try:
            return _scores(reply, ids)
        except InvalidAnswer as invalid:
            again = [*messages, *correction(reply.text, str(invalid), ids)]
        return _scores(await self._call(again), ids)

    async def _call(self, messages: list[dict[str, str]]) -> Reply:
        reply = await self._client.complete(messages, self._parameters)
        usage, cost = self._usage, self._cost(reply)
        self._usage = replace(
            usage,
            calls=usage.calls + 1,
            prompt_tokens=usage.prompt_tokens + (reply.prompt_tokens or 0),
            completion_tokens=usage.completion_tokens + (reply.completion_tokens or 0),
            cost_usd=None if usage.cost_usd is None or cost is None else usage.cost_usd + cost,
        )
        return reply

    def _cost(self, reply: Reply) -> float | None:
        prompt, completion = self._prices
        if prompt is None or completion is None or reply.prompt_tokens is None or reply.completion_tokens is None:
            return None
        return (reply.prompt_tokens * prompt + reply.completion_tokens * completion) / 1e6

    def _key(self, messages: list[dict[str, str]]) -> str:
        request = [SCHEMA_VERSION, self._model, self._parameters, messages]
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

    def _raise_if_unusable(self, failure: CallFailed) -> None:
        if self._usage.calls:
            return  # it has answered before: this failure costs its own group only
        hint = remedy(failure, setting="judge", variable=self._api_key_env)
        if hint is not None:
            raise JudgeError(
                f"the judge {self._model} cannot be used: {failure.reason}",
                hint=f"{hint}; or judge without a language model: judge=oracle",
            ) from failure


def _scores(reply: Reply, ids: Sequence[str]) -> tuple[Score, ...]:
    if reply.finish_reason == "length":
        raise InvalidAnswer("it was cut off at the token limit (finish_reason=length); keep explanations short")
    if reply.refusal or reply.finish_reason == "content_filter":
        raise InvalidAnswer(f"it was refused ({reply.refusal or 'content_filter'})")
    answers = parse_answer(reply.text, ids)
    return tuple(Score(number, answers[number].score, answers[number].explanation) for number in ids)
