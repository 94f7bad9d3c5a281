"""What goes over the wire to a language model and what comes back: one request, one reply, and errors in one line."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import openai

Messages = list[dict[str, str]]
Provider = Literal["openai", "litellm"]

LINE = 320
"""Characters of an error that are told."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. ``text`` is empty and ``finish_reason`` None where the endpoint gave none; token counts are None
    where it did not count. Token ids (vLLM's ``return_token_ids``, or the names of tokens) and logprobs
    (``logprobs``, one a completion token) are None unless the request asked for them and the endpoint gave them
    whole."""

    text: str
    finish_reason: str | None
    refusal: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


class NotACompletion(Exception):
    """A successful status without a chat completion in it, such as a proxy's login page."""


class Transport(Protocol):
    """Sends one request, without retries; raises the errors of the `openai` package (litellm's are among them)."""

    async def send(self, messages: Messages, parameters: dict[str, Any]) -> str: ...

    async def aclose(self) -> None: ...


class OpenAITransport:
    """An OpenAI-compatible endpoint."""

    def __init__(self, *, model: str, base_url: str, api_key: str, timeout_s: float) -> None:
        self._model = model
        self._settings = (base_url, api_key, timeout_s)
        self._client: openai.AsyncOpenAI | None = None

    async def send(self, messages: Messages, parameters: dict[str, Any]) -> str:
        if self._client is None:
            import openai

            base_url, api_key, timeout_s = self._settings
            # Retries are the caller's: the client's own would multiply with them and cannot be bounded in time.
            self._client = openai.AsyncOpenAI(api_key=api_key, base_url=base_url, timeout=timeout_s, max_retries=0)
        response = await self._client.chat.completions.with_raw_response.create(
            model=self._model, messages=messages, **parameters
        )
        return str(response.text)

    async def aclose(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()


class LiteLLMTransport:
    """Whatever litellm can reach: ``model`` names the provider (``anthropic/claude-sonnet-4-5``)."""

    def __init__(self, *, model: str, base_url: str | None, api_key: str, timeout_s: float) -> None:
        self._fixed: dict[str, Any] = {
            "model": model,
            "api_base": base_url,
            "api_key": api_key,
            "timeout": timeout_s,
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": True,
        }

    async def send(self, messages: Messages, parameters: dict[str, Any]) -> str:
        import os

        # litellm fetches its price table at import unless told otherwise; what is installed is used here.
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm

        litellm.suppress_debug_info = True
        response = await litellm.acompletion(messages=messages, **self._fixed, **parameters)
        return str(response.model_dump_json(warnings=False))

    async def aclose(self) -> None:
        """litellm keeps its connections for the process."""


def parse_reply(body: str) -> Reply:
    """The reply in a response body. Raises `NotACompletion`."""
    try:
        data = json.loads(body)
        choice = data["choices"][0]
        message = choice["message"]
        content = message.get("content")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        start = " ".join(body.split())[:80]
        raise NotACompletion(f"the answer is not a chat completion: {start!r}") from error
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text=content if isinstance(content, str) else "",
        finish_reason=choice.get("finish_reason"),
        refusal=message.get("refusal"),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        prompt_token_ids=_ids(data.get("prompt_token_ids")),
        token_ids=_ids(choice.get("token_ids")) or _named_ids(choice.get("logprobs")),
        logprobs=_logprobs(choice.get("logprobs")),
    )


def describe(error: BaseException | None, *, key: str | None = None) -> str:
    """The error in one short line, the server's own words included, but not the ``key``, which some quote."""
    told = _described(error)
    return " ".join((told.replace(key, "***") if key else told).split())[:LINE]


def _described(error: BaseException | None) -> str:
    import openai

    if isinstance(error, openai.APIStatusError):
        body = error.body
        said = body.get("message") if isinstance(body, dict) else (error.response.text or error.message)
        return f"HTTP {error.status_code}: {said or error.response.reason_phrase}"
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return "no answer in time"
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        return f"{type(cause).__name__}: {cause}" if cause is not None and str(cause) else "the connection was cut off"
    return str(error)


def _ids(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not value or any(_count(item) is None for item in value):
        return None
    return tuple(value)


def _named_ids(value: object) -> tuple[int, ...] | None:
    """Token ids from logprobs that name tokens ``token_id:N``, as vLLM does with ``return_tokens_as_token_ids``."""
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, list) or not content:
        return None
    names = [str(entry.get("token")) if isinstance(entry, dict) else "" for entry in content]
    numbers = [name.removeprefix("token_id:") for name in names if name.startswith("token_id:")]
    if len(numbers) != len(names) or not all(number.isdecimal() for number in numbers):
        return None
    return tuple(int(number) for number in numbers)


def _logprobs(value: object) -> tuple[float, ...] | None:
    """Those of the chosen tokens, from the chat form ``{"content": [{"logprob": ...}]}``."""
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, list) or not content:
        return None
    found = [entry.get("logprob") if isinstance(entry, dict) else None for entry in content]
    if any(isinstance(item, bool) or not isinstance(item, int | float) or not math.isfinite(item) for item in found):
        return None
    return tuple(float(item) for item in found if item is not None)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
