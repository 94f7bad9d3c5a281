"""One chat completion from any OpenAI-compatible endpoint: bounded in time, retried where that can help."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import math
import os
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from mmo_rl.clock import utc_now
from mmo_rl.errors import ConfigError

if TYPE_CHECKING:
    import openai
    import tenacity

_log = logging.getLogger(__name__)

OPENAI_BASE_URL = "https://api.openai.com/v1"

Cause = Literal["key", "address", "down", "slow", "refused"]
"""Why a call failed: the key was refused; nothing such at this address; nobody listens; no answer in time; this
request failed (which says little about the next one)."""


def api_key(variable: str | None, base_url: str | None, *, setting: str, instead: str) -> str:
    """The key in the environment variable ``variable``; ``none`` for an endpoint of one's own without one, since the
    client insists on a value. Raises `ConfigError` where OpenAI's own endpoint would be asked without a key;
    ``setting`` is the config group to correct (``judge``), ``instead`` what to do without an endpoint."""
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key and base_url is None:
        raise ConfigError(
            f"{variable} is not set" if variable else f"{setting}.api_key_env names no variable",
            hint=f"export {variable or 'OPENAI_API_KEY'}=...; or name another endpoint with {setting}.base_url; "
            f"or {instead}",
        )
    return key or "none"


def remedy(failure: CallFailed, *, setting: str, variable: str | None) -> str | None:
    """What to type where an endpoint cannot be used at all; None where the failure concerns one request only."""
    return {
        "key": f"put a valid key into {variable}: export {variable}=..."
        if variable
        else f"name the variable that holds the key: {setting}.api_key_env=OPENAI_API_KEY",
        "address": f"check {setting}.model and {setting}.base_url (it usually ends in /v1)",
        "down": f"start the endpoint or correct {setting}.base_url",
        "slow": f"raise {setting}.timeout_s, or check {setting}.base_url",
    }.get(failure.cause)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. ``text`` is empty and ``finish_reason`` None where the endpoint gave none; token counts are None
    where it did not count. Token ids (vLLM's ``return_token_ids``) and logprobs (``logprobs``, one a completion token)
    are None unless the request asked for them and the endpoint gave them whole."""

    text: str
    finish_reason: str | None
    refusal: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


class CallFailed(Exception):
    """No reply could be had for this request, after every retry that made sense. ``status`` is the HTTP status, None
    where there was none."""

    def __init__(self, reason: str, cause: Cause, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cause: Cause = cause
        self.status = status


class ChatClient:
    """Asks ``model`` at ``base_url``; ``api_key`` is never shown.

    A request is tried ``attempts`` times where it was limited (429), failed on the server's side (5xx, 408, 409), was
    cut off or took longer than ``timeout_s``; between two tries it waits as long as ``Retry-After`` asks, or
    ``backoff_s`` doubled each time with jitter, and never longer than ``max_backoff_s``: a server that asks for more is
    not waited for.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str,
        api_key: str,
        timeout_s: float,
        attempts: int,
        backoff_s: float,
        max_backoff_s: float,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._model = model
        self._base_url = base_url
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._max_backoff_s = max_backoff_s
        self._clock = clock
        self._client: openai.AsyncOpenAI | None = None

    async def complete(self, messages: list[dict[str, str]], parameters: dict[str, Any]) -> Reply:
        """One reply to ``messages``; ``parameters`` are those of the chat completions API. Raises `CallFailed`."""
        import openai
        import tenacity

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=self._wait,
            retry=tenacity.retry_if_exception(self._is_transient),
            before_sleep=self._note,
            reraise=True,
        )
        try:
            return await retrying(self._once, messages, parameters)
        except (openai.APIError, TimeoutError, _NotACompletion) as error:
            raise self._failed(error) from error

    async def probe(self) -> None:
        """Finds out whether somebody listens at the address, without asking anything; behind a proxy nothing is tried.

        Raises `CallFailed` where nobody does.
        """
        try:
            parts = urllib.parse.urlsplit(self._base_url)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError as error:
            raise CallFailed(f"{self._base_url!r} is not an address: {error}", "down") from error
        if scheme not in {"http", "https"} or not host:
            raise CallFailed(f"{self._base_url!r} is not an address such as http://127.0.0.1:8000/v1", "down")
        if urllib.request.getproxies().keys() & {scheme, "all"} and not urllib.request.proxy_bypass(host):
            return
        try:
            async with asyncio.timeout(min(self._timeout_s, 10.0)):
                _, writer = await asyncio.open_connection(host, port or (443 if scheme == "https" else 80))
        except OSError as error:  # TimeoutError is one
            raise CallFailed(
                f"nobody answers at {self._base_url} ({error or 'no connection in time'})", "down"
            ) from error
        writer.close()

    async def aclose(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def _once(self, messages: list[dict[str, str]], parameters: dict[str, Any]) -> Reply:
        if self._client is None:
            import openai

            # Retries are ours: the client's own would multiply with them and cannot be bounded in time.
            self._client = openai.AsyncOpenAI(
                api_key=self._api_key, base_url=self._base_url, timeout=self._timeout_s, max_retries=0
            )
        # The client's timeout is between two bytes; a server that dribbles would never reach it.
        async with asyncio.timeout(self._timeout_s):
            response = await self._client.chat.completions.with_raw_response.create(
                model=self._model,
                messages=messages,
                **parameters,
            )
        return _reply(response.text)

    # --- retries ------------------------------------------------------------------------------------------------------

    def _is_transient(self, error: BaseException) -> bool:
        import openai

        if isinstance(error, openai.APIStatusError):
            if error.code == "insufficient_quota" or (self._asked_wait_s(error) or 0.0) > self._max_backoff_s:
                return False
            return error.status_code in {408, 409, 425, 429} or error.status_code >= 500
        return isinstance(error, openai.APIConnectionError | TimeoutError | _NotACompletion)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        import tenacity

        error = state.outcome.exception() if state.outcome else None
        asked = self._asked_wait_s(error)
        if asked is not None:
            return asked
        backoff = tenacity.wait_exponential(multiplier=self._backoff_s) + tenacity.wait_random(0, self._backoff_s)
        return min(backoff(state), self._max_backoff_s)

    def _asked_wait_s(self, error: BaseException | None) -> float | None:
        """What the server's Retry-After asks for: seconds, or the time until a date; None where it says nothing."""
        import openai

        if not isinstance(error, openai.APIStatusError):
            return None
        asked = error.response.headers.get("retry-after")
        if asked is None:
            return None
        try:
            return max(0.0, float(asked))
        except ValueError:
            pass
        try:
            moment = email.utils.parsedate_to_datetime(asked)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - self._clock()).total_seconds())

    def _note(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        wait_s = state.next_action.sleep if state.next_action else 0.0
        _log.info("call failed (%s); trying again in %.1f s", _describe(error), wait_s)

    # --- failures -----------------------------------------------------------------------------------------------------

    def _failed(self, error: Exception) -> CallFailed:
        import httpx
        import openai

        reason = _describe(error)
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            if isinstance(error.__cause__, httpx.ConnectTimeout):
                return CallFailed(f"no connection to {self._base_url} within {self._timeout_s:g} s", "down")
            return CallFailed(f"no answer from {self._base_url} within {self._timeout_s:g} s", "slow")
        if isinstance(error, openai.APIConnectionError):
            refused = isinstance(error.__cause__, httpx.ConnectError | httpx.UnsupportedProtocol)
            return CallFailed(f"{self._base_url}: {reason}", "down" if refused else "refused")
        if isinstance(error, openai.APIStatusError):
            cause: Cause = "refused"
            if error.status_code in {401, 403} or error.code == "insufficient_quota":
                cause = "key"
            elif error.status_code in {404, 405}:
                cause = "address"
            return CallFailed(reason, cause, error.status_code)
        return CallFailed(reason, "refused")


class _NotACompletion(Exception):
    """A successful status without a chat completion in it, such as a proxy's login page."""


def _describe(error: BaseException | None) -> str:
    """The error in one short line, the server's own words included."""
    import openai

    if isinstance(error, openai.APIStatusError):
        body = error.body
        said = body.get("message") if isinstance(body, dict) else error.response.text
        return f"HTTP {error.status_code}: {' '.join(str(said or error.response.reason_phrase).split())[:300]}"
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return "no answer in time"
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        return f"{type(cause).__name__}: {cause}" if cause is not None and str(cause) else "the connection was cut off"
    return str(error)


def _reply(body: str) -> Reply:
    import json

    try:
        data = json.loads(body)
        choice = data["choices"][0]
        message = choice["message"]
        content = message.get("content")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        start = " ".join(body.split())[:80]
        raise _NotACompletion(f"the answer is not a chat completion: {start!r}") from error
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text=content if isinstance(content, str) else "",
        finish_reason=choice.get("finish_reason"),
        refusal=message.get("refusal"),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        prompt_token_ids=_ids(data.get("prompt_token_ids")),
        token_ids=_ids(choice.get("token_ids")),
        logprobs=_logprobs(choice.get("logprobs")),
    )


def _ids(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not value or any(_count(item) is None for item in value):
        return None
    return tuple(value)


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
