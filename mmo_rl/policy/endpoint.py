"""A language model behind any OpenAI-compatible endpoint, many prompts at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Self

from pydantic import Field

from mmo_rl.chat.client import CallFailed, ChatClient, remedy
from mmo_rl.chat.endpoint import Endpoint
from mmo_rl.chat.wire import Reply
from mmo_rl.concurrency import gather_ordered
from mmo_rl.errors import PolicyError
from mmo_rl.policy.base import Completion, completion_seed
from mmo_rl.types import Message

_log = logging.getLogger(__name__)

_WISHES: tuple[dict[str, Any], ...] = (
    # vLLM builds the chosen tokens' logprobs only where top_logprobs is a number, and 0 is one to OpenAI too.
    {"logprobs": True, "top_logprobs": 0, "return_token_ids": True},
    {"logprobs": True, "top_logprobs": 0},
    {},
)
"""What is asked for beside the answer, best first: an endpoint that refuses one is asked for the next."""


class EndpointPolicy:
    """Answers by ``model`` at ``base_url`` (None: OpenAI's own endpoint), at most ``concurrency`` requests at once.

    Token ids (``return_token_ids``, as vLLM has it) and logprobs are asked for where ``ask_logprobs``, and recorded
    where the server gives them; a server that refuses such a request is asked without. Logprobs that the server counts
    differently from its token ids are dropped. A request is tried ``attempts`` times (see `ChatClient`);
    ``timeout_s`` is the deadline of each try. ``version`` is recorded with the play (None: the N of ``NAME@N``, as
    ``task=serve`` names its versions, else 0).

    ``api_key_env`` names the environment variable that holds the key. As a context manager it raises `ConfigError`
    where the key is not set and the endpoint is known to need one, and `PolicyError` where no server listens.
    """

    def __init__(
        self,
        *,
        model: Annotated[str, Field(min_length=1)],
        base_url: str | None = None,
        api_key_env: str | None = "OPENAI_API_KEY",
        concurrency: Annotated[int, Field(ge=1, le=1024)] = 32,
        timeout_s: Annotated[float, Field(gt=0)] = 60.0,
        attempts: Annotated[int, Field(ge=1, le=10)] = 4,
        backoff_s: Annotated[float, Field(gt=0)] = 1.0,
        max_backoff_s: Annotated[float, Field(gt=0)] = 60.0,
        max_completion_tokens: Annotated[int, Field(ge=1)] = 256,
        ask_logprobs: bool = True,
        version: Annotated[int, Field(ge=0)] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = model
        self.version = _version_in(model) if version is None else version
        self._endpoint = Endpoint(
            base_url=base_url,
            api_key_env=api_key_env,
            concurrency=concurrency,
            timeout_s=timeout_s,
            attempts=attempts,
            backoff_s=backoff_s,
            max_backoff_s=max_backoff_s,
        )
        self._concurrency = concurrency
        self._max_completion_tokens = max_completion_tokens
        self._settled: int | None = None if ask_logprobs else len(_WISHES) - 1
        self._answered = False
        self._clock = clock
        self._client = ChatClient(
            model=model,
            endpoint=self._endpoint,
            node="policy",
            instead="play a model on this machine: policy=local",
        )

    async def __aenter__(self) -> Self:
        try:
            await self._client.open()
        except CallFailed as failure:
            raise self._unusable(failure) from failure
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def complete(
        self, prompts: Sequence[Sequence[Message]], *, temperature: float, seed: int
    ) -> list[Completion]:
        """One completion a prompt, in order; an answer that could not be had is an empty one with ``error``.

        Raises `PolicyError` where the endpoint cannot be used: it refuses the key, the model or the address, nobody
        listens, or nobody answers in time, and it has not given a single answer yet; or not one prompt of several could
        be delivered because it went away since.
        """
        lost: list[CallFailed] = []

        async def ask(numbered: tuple[int, Sequence[Message]]) -> Completion:
            number, prompt = numbered
            parameters = {
                "temperature": temperature,
                "seed": completion_seed(seed, number),
                "max_completion_tokens": self._max_completion_tokens,
            }
            try:
                return await self._ask([dict(m) for m in prompt], parameters)
            except CallFailed as failure:
                if not self._answered and failure.cause != "refused":
                    raise self._unusable(failure) from failure
                if failure.cause == "down":
                    lost.append(failure)
                return Completion("", error=f"no answer: {failure.reason}")

        async with aclosing(gather_ordered(enumerate(prompts), ask, limit=self._concurrency)) as answers:
            completions = [completion async for completion in answers]
        if lost and len(lost) == len(prompts):
            raise self._unusable(lost[0]) from lost[0]
        return completions

    async def _ask(self, messages: list[dict[str, str]], parameters: dict[str, Any]) -> Completion:
        wish = self._settled or 0
        while True:
            began_s = self._clock()
            try:
                reply = await self._client.complete(messages, parameters | _extra(_WISHES[wish]))
            except CallFailed as failure:
                settled = len(_WISHES) - 1 if self._settled is None else self._settled
                if failure.status not in {400, 422, 501} or wish >= settled:
                    raise
                _log.info("%s: asked again without %s", failure.reason, sorted(_WISHES[wish]))
                wish += 1
            else:
                self._answered = True
                # One long prompt that is refused for its length must not cost all the others their logprobs.
                self._settled = wish
                return _completion(reply, latency_ms=round(1000.0 * (self._clock() - began_s)))

    def _unusable(self, failure: CallFailed) -> PolicyError:
        hint = remedy(failure, node="policy", variable=self._endpoint.api_key_env)
        return PolicyError(f"the policy {self.name} cannot be used: {failure.reason}", hint=hint)


def _version_in(model: str) -> int:
    _, _, number = model.rpartition("@")
    return int(number) if number.isdecimal() and "@" in model else 0


def _extra(wish: dict[str, Any]) -> dict[str, Any]:
    """The client sends what it has no name for as ``extra_body``."""
    ours = {k: v for k, v in wish.items() if k == "return_token_ids"}
    return {k: v for k, v in wish.items() if k not in ours} | ({"extra_body": ours} if ours else {})


def _completion(reply: Reply, *, latency_ms: int) -> Completion:
    error = None
    if not reply.text:
        error = "the model gave no answer"
        if reply.refusal or reply.finish_reason == "content_filter":
            error = f"the model refused to answer ({(reply.refusal or 'content_filter')[:200]})"
        elif reply.finish_reason == "length":
            error = "the model gave no answer before its token limit (policy.max_completion_tokens)"
    ids, logprobs = reply.token_ids, reply.logprobs
    if ids is not None and logprobs is not None and len(ids) != len(logprobs):
        logprobs = None
    return Completion(reply.text, reply.prompt_token_ids, ids, logprobs, error=error, latency_ms=latency_ms)
