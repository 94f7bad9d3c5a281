"""One chat completion from any OpenAI-compatible endpoint: bounded in time, retried where that can help."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import os
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mmo_rl.chat.limits import RateLimit
from mmo_rl.chat.wire import (
    LiteLLMTransport,
    Messages,
    NotACompletion,
    OpenAITransport,
    Provider,
    Reply,
    Transport,
    describe,
    parse_reply,
)
from mmo_rl.clock import utc_now
from mmo_rl.errors import ConfigError

if TYPE_CHECKING:
    import tenacity

_log = logging.getLogger(__name__)

OPENAI_BASE_URL = "https://api.openai.com/v1"

Cause = Literal["key", "address", "down", "slow", "refused"]
"""Why a call failed: the key was refused; nothing such at this address; nobody listens; no answer in time; this
request failed (which says little about the next one)."""

HOPELESS: frozenset[Cause] = frozenset({"key", "address", "down", "slow"})
"""Causes that make every call fail where none has been answered yet."""


def api_key(variable: str | None, base_url: str | None, *, setting: str, instead: str) -> str | None:
    """The key in the environment variable ``variable``; None for an endpoint of one's own without one. Raises
    `ConfigError` where OpenAI's own endpoint would be asked without a key; ``setting`` is the config group to correct
    (``judge``), ``instead`` what to do without an endpoint."""
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key and base_url is None:
        raise ConfigError(
            f"{variable} is not set" if variable else f"{setting}.api_key_env names no variable",
            hint=f"export {variable or 'OPENAI_API_KEY'}=...; or name another endpoint with {setting}.base_url; "
            f"or {instead}",
        )
    return key or None


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


class CallFailed(Exception):
    """No reply could be had for this request, after every retry that made sense. ``status`` is the HTTP status, None
    where there was none."""

    def __init__(self, reason: str, cause: Cause, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cause: Cause = cause
        self.status = status


class Meter(Protocol):
    """Keeps count of what requests cost, and room for those under way."""

    async def reserve(self, prompt_tokens: int, completion_tokens: int) -> Any: ...

    def release(self, room: Any, *, billed: bool) -> None: ...

    def settle(self, room: Any, *, prompt_tokens: int | None, completion_tokens: int | None) -> None: ...


class ChatClient:
    """Asks ``model`` at ``base_url``; ``api_key`` is never shown.

    A request is tried ``attempts`` times where it was limited (429), failed on the server's side (5xx, 408, 409), was
    cut off or took longer than ``timeout_s``; between two tries it waits as long as ``Retry-After`` asks (and so do
    all other requests), or ``backoff_s`` doubled each time with jitter, and never longer than ``max_backoff_s``: a
    server that asks for more is not waited for. Each try has its turn in ``limits``, and room in ``meter``
    where there is one.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str | None,
        api_key: str | None,
        provider: Provider = "openai",
        timeout_s: float,
        attempts: int,
        backoff_s: float,
        max_backoff_s: float,
        limits: RateLimit | None = None,
        meter: Meter | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._base_url = base_url or ("" if provider == "litellm" else OPENAI_BASE_URL)
        self._where = self._base_url or model.partition("/")[0]
        self._key = api_key
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._max_backoff_s = max_backoff_s
        self._limits = limits or RateLimit()
        self._meter = meter
        self._clock = clock
        # Endpoints of one's own usually ask for no key, but the openai package insists on a value.
        self._transport: Transport = (
            LiteLLMTransport(model=model, base_url=base_url, api_key=api_key or "none", timeout_s=timeout_s)
            if provider == "litellm"
            else OpenAITransport(model=model, base_url=self._base_url, api_key=api_key or "none", timeout_s=timeout_s)
        )

    async def complete(
        self, messages: Messages, parameters: dict[str, Any], *, prompt_tokens: int = 0, completion_tokens: int = 0
    ) -> Reply:
        """One reply to ``messages``; ``parameters`` are those of the chat completions API, the token counts the most
        that the request takes. Raises `CallFailed`, and what ``meter`` raises where there is no room for it."""
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
            return await retrying(self._once, messages, parameters, prompt_tokens, completion_tokens)
        except (openai.APIError, TimeoutError, NotACompletion) as error:
            raise self._failed(error) from error

    async def probe(self) -> None:
        """Finds out whether somebody listens at the address, without asking anything; behind a proxy nothing is tried.

        Raises `CallFailed` where nobody does.
        """
        if not self._base_url:
            return  # litellm knows the address
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
        await self._transport.aclose()

    async def _once(
        self, messages: Messages, parameters: dict[str, Any], prompt_tokens: int, completion_tokens: int
    ) -> Reply:
        import openai

        room = None if self._meter is None else await self._meter.reserve(prompt_tokens, completion_tokens)
        billed = False
        try:
            await self._limits.admit(prompt_tokens)
            billed = True
            # The client's own timeout is between two bytes; a server that dribbles would never reach it.
            async with asyncio.timeout(self._timeout_s):
                body = await self._transport.send(messages, parameters)
            reply = parse_reply(body)
        except (openai.APIStatusError, NotACompletion):
            self._release(room, billed=False)
            raise
        except BaseException as error:
            refused = isinstance(error, openai.APIConnectionError) and _refused(error)
            self._release(room, billed=billed and not refused)
            raise
        self._settle(room, reply, prompt_tokens)
        return reply

    def _release(self, room: Any, *, billed: bool) -> None:
        if self._meter is not None:
            self._meter.release(room, billed=billed)

    def _settle(self, room: Any, reply: Reply, estimated: int) -> None:
        if self._meter is not None:
            self._meter.settle(room, prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens)
        if reply.prompt_tokens is not None:
            self._limits.correct(estimated=estimated, used=reply.prompt_tokens + (reply.completion_tokens or 0))

    # --- retries ------------------------------------------------------------------------------------------------------

    def _is_transient(self, error: BaseException) -> bool:
        import openai

        if isinstance(error, openai.APIStatusError):
            if error.code == "insufficient_quota" or (self._asked_wait_s(error) or 0.0) > self._max_backoff_s:
                return False
            return error.status_code in {408, 409, 425, 429} or error.status_code >= 500
        return isinstance(error, openai.APIConnectionError | TimeoutError | NotACompletion)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        import tenacity

        error = state.outcome.exception() if state.outcome else None
        asked = self._asked_wait_s(error)
        if asked is not None:
            self._limits.pause(asked)
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
        _log.info("call failed (%s); trying again in %.1f s", describe(error, key=self._key), wait_s)

    # --- failures -----------------------------------------------------------------------------------------------------

    def _failed(self, error: Exception) -> CallFailed:
        import httpx
        import openai

        reason = describe(error, key=self._key)
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            if isinstance(error.__cause__, httpx.ConnectTimeout):
                return CallFailed(f"no connection to {self._where} within {self._timeout_s:g} s", "down")
            return CallFailed(f"no answer from {self._where} within {self._timeout_s:g} s", "slow")
        if isinstance(error, openai.APIConnectionError):
            return CallFailed(f"{self._where}: {reason}", "down" if _refused(error) else "refused")
        if isinstance(error, openai.APIStatusError):
            cause: Cause = "refused"
            if error.status_code in {401, 403} or error.code == "insufficient_quota":
                cause = "key"
            elif error.status_code in {404, 405}:
                cause = "address"
            return CallFailed(reason, cause, error.status_code)
        return CallFailed(reason, "refused")


def _refused(error: BaseException) -> bool:
    """Whether the request never reached anybody."""
    import httpx

    return isinstance(error.__cause__, httpx.ConnectError | httpx.UnsupportedProtocol)
