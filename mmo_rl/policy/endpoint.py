"""Policy behind an OpenAI-compatible endpoint, which is asked many prompts at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Self

from pydantic import Field

from mmo_rl.chat.client import CallFailed, ChatClient, remedy
from mmo_rl.chat.endpoint import Endpoint
from mmo_rl.chat.wire import Reply
from mmo_rl.concurrency import gather_ordered
from mmo_rl.errors import PolicyError
from mmo_rl.policy.base import Completion, completion_seed
from mmo_rl.types import Message

_log = logging.getLogger(__name__)

DEFAULT = Endpoint(concurrency=32, timeout_s=60.0)
"""Endpoint of a policy whose config says nothing of it: OpenAI's own."""

_EXTRAS: tuple[Mapping[str, object], ...] = (
    # vLLM builds the chosen tokens' logprobs only where top_logprobs is a number, and 0 is one to OpenAI too.
    {"logprobs": True, "top_logprobs": 0, "extra_body": {"return_token_ids": True}},
    {"logprobs": True, "top_logprobs": 0},
    {},
)
"""Parameters that ask for token ids and logprobs, best first: an endpoint that refuses one is asked with the next."""


class EndpointPolicy:
    """Policy that ``model`` at ``endpoint`` answers; ``max_completion_tokens`` limits an answer.

    Token ids (``return_token_ids``, as vLLM has it) and logprobs are asked for where ``ask_logprobs``, and recorded
    where the server gives them; a server that refuses such a request is asked without. Logprobs that the server counts
    differently from its token ids are dropped. ``version`` is recorded with the play (None: the N of ``NAME@N``, as
    ``task=serve`` names its versions, else 0).

    As a context manager it raises `ConfigError` where the endpoint's key is not set and the endpoint is known to need
    one, and `PolicyError` where no server listens.
    """

    def __init__(
        self,
        *,
        model: Annotated[str, Field(min_length=1)],
        endpoint: Endpoint = DEFAULT,
        max_completion_tokens: Annotated[int, Field(ge=1)] = 256,
        ask_logprobs: bool = True,
        version: Annotated[int, Field(ge=0)] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = model
        self.version = _version_in(model) if version is None else version
        self._endpoint = endpoint
        self._max_completion_tokens = max_completion_tokens
        self._settled: int | None = None if ask_logprobs else len(_EXTRAS) - 1
        self._answered = False
        self._clock = clock
        self._client = ChatClient(
            model=model,
            endpoint=endpoint,
            node="policy.endpoint",
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
        """Closes the connections."""
        await self._client.aclose()

    async def complete(
        self, prompts: Sequence[Sequence[Message]], *, temperature: float, seed: int
    ) -> list[Completion]:
        """Asks for a completion of each prompt, in order; one that could not be had is empty and has an ``error``.

        Raises `PolicyError` where the endpoint cannot be used: it has not given an answer yet, and refuses the key, the
        model or the address, does not listen, or does not answer in time; or it has gone away since, and not one of
        the prompts could be delivered.
        """
        lost: list[CallFailed] = []

        async def ask(numbered: tuple[int, Sequence[Message]]) -> Completion:
            number, prompt = numbered
            parameters: dict[str, object] = {
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

        async with aclosing(gather_ordered(enumerate(prompts), ask, limit=self._endpoint.concurrency)) as answers:
            completions = [completion async for completion in answers]
        if lost and len(lost) == len(prompts):
            raise self._unusable(lost[0]) from lost[0]
        return completions

    async def _ask(self, messages: list[dict[str, str]], parameters: dict[str, object]) -> Completion:
        """Asks for one completion, with the first extras that the endpoint takes. Raises `CallFailed`."""
        tried = self._settled or 0
        while True:
            began_s = self._clock()
            try:
                reply = await self._client.complete(messages, {**parameters, **_EXTRAS[tried]})
            except CallFailed as failure:
                settled = len(_EXTRAS) - 1 if self._settled is None else self._settled
                unsaid = failure.status in {400, 422, 501}
                unsaid |= failure.status == 403 and "logprob" in failure.reason.lower()  # "not allowed to request ..."
                if not unsaid or tried >= settled:
                    raise
                _log.info("%s: asked again without %s", failure.reason, sorted(_EXTRAS[tried]))
                tried += 1
            else:
                self._answered = True
                # One long prompt that is refused for its length must not cost all the others their logprobs.
                self._settled = tried
                return _completion(reply, latency_ms=round(1000.0 * (self._clock() - began_s)))

    def _unusable(self, failure: CallFailed) -> PolicyError:
        """Makes the error for an endpoint that cannot be used at all."""
        hint = remedy(failure, node="policy.endpoint", variable=self._endpoint.api_key_env)
        return PolicyError(f"the policy {self.name} cannot be used: {failure.reason}", hint=hint)


def _version_in(model: str) -> int:
    """Returns the N of a model named ``NAME@N``, else 0."""
    _, _, number = model.rpartition("@")
    return int(number) if number.isdecimal() and "@" in model else 0


def _completion(reply: Reply, *, latency_ms: int) -> Completion:
    """Makes a completion of a reply; one without text has an error."""
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
