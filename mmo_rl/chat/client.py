"""Client for chat completions of any OpenAI-compatible endpoint, with deadlines, retries and rate limits."""

from __future__ import annotations

import asyncio
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal, Protocol

from mmo_rl.chat.endpoint import OPENAI_BASE_URL, Endpoint
from mmo_rl.chat.limits import RateLimit
from mmo_rl.chat.wire import (
    LiteLLMTransport,
    Messages,
    NotACompletion,
    OpenAITransport,
    Parameters,
    Reply,
    Transport,
    describe,
    parse_reply,
    retry_after_s,
)
from mmo_rl.clock import utc_now
from mmo_rl.concurrency import Backoff, retry

Cause = Literal["key", "quota", "later", "address", "down", "slow", "refused"]
"""Cause of a failed call: the key was refused; its account has nothing left; the server asked for a longer wait than
``max_backoff_s``; nothing such at this address; no server listens; no answer in time; this
request failed (which says little about the next one)."""

HOPELESS: frozenset[Cause] = frozenset({"key", "quota", "later", "address", "down", "slow"})
"""Causes that make every call fail where none has been answered yet."""


class CallFailed(Exception):
    """Failure of a request after its last try. ``status`` is the HTTP status, None where there was none."""

    def __init__(self, reason: str, cause: Cause, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cause: Cause = cause
        self.status = status


class Reservation(Protocol):
    """Room that a meter holds for one request under way; ended once, by one of the two."""

    def settle(self, *, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """Accounts for an answer with these token counts (None: the endpoint did not count)."""
        ...

    def release(self, *, billed: bool) -> None:
        """Accounts for a failure; ``billed`` where the endpoint may have charged for it all the same."""
        ...


class Meter(Protocol):
    """Meter of the cost of requests, with room for those under way."""

    async def reserve(self, prompt_tokens: int, completion_tokens: int) -> Reservation: ...


class ChatClient:
    """Client that sends requests for ``model`` to ``endpoint``; ``meter`` reserves room for each try.

    A try fails transiently where it was limited (429), failed on the server's side (5xx, 408, 409), was cut off or took
    longer than the endpoint's ``timeout_s``. Between two tries the client waits as long as ``Retry-After`` asks (and so
    do all other requests), else by the endpoint's backoff with jitter; a server that asks for more than
    ``max_backoff_s`` is not asked again. The key is read from the environment at the first use and never shown. For
    messages: ``node`` is the endpoint's config node, ``instead`` the way to do without it.
    """

    def __init__(
        self,
        *,
        model: str,
        endpoint: Endpoint,
        node: str,
        instead: str,
        meter: Meter | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._model = model
        self._endpoint = endpoint
        self._node = node
        self._instead = instead
        self._base_url = endpoint.base_url or ("" if endpoint.provider == "litellm" else OPENAI_BASE_URL)
        self._where = self._base_url or model.partition("/")[0]
        self._backoff = Backoff(
            first_s=endpoint.backoff_s, longest_s=endpoint.max_backoff_s, attempts=endpoint.attempts
        )
        self._limits = RateLimit(
            requests_per_minute=endpoint.requests_per_minute, tokens_per_minute=endpoint.tokens_per_minute
        )
        self._meter = meter
        self._clock = clock
        self._key: str | None = None
        self._opened: Transport | None = None

    async def complete(
        self, messages: Messages, parameters: Parameters, *, prompt_tokens: int = 0, completion_tokens: int = 0
    ) -> Reply:
        """Returns one reply to ``messages``; ``parameters`` are those of the chat completions API, the token counts the
        most that the request takes. Raises `CallFailed`, and what ``meter`` raises where there is no room for it."""
        import openai

        try:
            return await retry(
                lambda: self._once(messages, parameters, prompt_tokens, completion_tokens),
                self._backoff,
                transient=self._is_transient,
                requested_s=self._requested_s,
                on_wait=self._pause_others,
                describe=lambda error: f"call failed ({describe(error, key=self._key)})",
            )
        except (openai.APIError, TimeoutError, NotACompletion) as error:
            raise self._failed(error) from error

    async def open(self) -> None:
        """Reads the key, then probes the address.

        Raises `ConfigError` where the key is missing, `CallFailed` where no server listens.
        """
        self._transport()
        await self.probe()

    async def probe(self) -> None:
        """Connects to the address without a request; behind a proxy nothing is tried.

        Raises `CallFailed` where no server listens.
        """
        if not self._base_url:
            return  # only litellm knows the address
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
            async with asyncio.timeout(min(self._endpoint.timeout_s, 10.0)):
                _, writer = await asyncio.open_connection(host, port or (443 if scheme == "https" else 80))
        except OSError as error:  # TimeoutError is one
            raise CallFailed(
                f"nobody answers at {self._base_url} ({error or 'no connection in time'})", "down"
            ) from error
        writer.close()

    async def aclose(self) -> None:
        if self._opened is not None:
            await self._opened.aclose()

    def _transport(self) -> Transport:
        """Returns the connection to the endpoint; made, with the key, at the first use."""
        if self._opened is None:
            endpoint = self._endpoint
            self._key = endpoint.api_key(node=self._node, instead=self._instead)
            # Endpoints of one's own usually ask for no key, but the openai package insists on a value.
            key = self._key or "none"
            self._opened = (
                LiteLLMTransport(
                    model=self._model, base_url=endpoint.base_url, api_key=key, timeout_s=endpoint.timeout_s
                )
                if endpoint.provider == "litellm"
                else OpenAITransport(
                    model=self._model, base_url=self._base_url, api_key=key, timeout_s=endpoint.timeout_s
                )
            )
        return self._opened

    async def _once(
        self, messages: Messages, parameters: Parameters, prompt_tokens: int, completion_tokens: int
    ) -> Reply:
        """Sends a request once, and settles or releases the room that it took."""
        import openai

        transport = self._transport()
        room = None if self._meter is None else await self._meter.reserve(prompt_tokens, completion_tokens)
        billed = False
        try:
            await self._limits.admit(prompt_tokens)
            billed = True
            # The client's own timeout is between two bytes; a server that dribbles would never reach it.
            async with asyncio.timeout(self._endpoint.timeout_s):
                body = await transport.send(messages, parameters)
            reply = parse_reply(body)
        except (openai.APIStatusError, NotACompletion):
            if room is not None:
                room.release(billed=False)
            raise
        except BaseException as error:
            refused = isinstance(error, openai.APIConnectionError) and _refused(error)
            if room is not None:
                room.release(billed=billed and not refused)
            raise
        if room is not None:
            room.settle(prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens)
        if reply.prompt_tokens is not None:
            self._limits.correct(estimated=prompt_tokens, used=reply.prompt_tokens + (reply.completion_tokens or 0))
        return reply

    # --- retries ------------------------------------------------------------------------------------------------------

    def _is_transient(self, error: Exception) -> bool:
        """Tells if the same request may succeed later."""
        import openai

        if _too_large(error):
            return False
        if isinstance(error, openai.APIStatusError):
            if error.code == "insufficient_quota":
                return False
            return error.status_code in {408, 409, 425, 429} or error.status_code >= 500
        return isinstance(error, openai.APIConnectionError | TimeoutError | NotACompletion)

    def _requested_s(self, error: Exception) -> float | None:
        """Reads the wait that the server asks for."""
        return retry_after_s(error, now=self._clock())

    def _pause_others(self, error: Exception, seconds: float) -> None:
        """Makes all other requests wait too, where the server asked for it."""
        if self._requested_s(error) is not None:
            self._limits.pause(seconds)

    # --- failures -----------------------------------------------------------------------------------------------------

    def _failed(self, error: Exception) -> CallFailed:
        """Returns the failure that an error of the last try comes to."""
        import httpx
        import openai

        reason = describe(error, key=self._key)
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            if isinstance(error.__cause__, httpx.ConnectTimeout):
                return CallFailed(f"no connection to {self._where} within {self._endpoint.timeout_s:g} s", "down")
            return CallFailed(f"no answer from {self._where} within {self._endpoint.timeout_s:g} s", "slow")
        if _too_large(error):
            return CallFailed(f"{self._where}: {error.__cause__}", "refused")
        if isinstance(error, openai.APIConnectionError):
            return CallFailed(f"{self._where}: {reason}", "down" if _refused(error) else "refused")
        if isinstance(error, openai.APIStatusError):
            cause: Cause = "refused"
            wait_s = self._requested_s(error)
            if error.code == "insufficient_quota":
                cause = "quota"
            elif wait_s is not None and wait_s > self._endpoint.max_backoff_s:
                until = self._clock() + timedelta(seconds=min(wait_s, _LONGEST_WAIT_S))
                reason += f"; asked to wait until {until:%Y-%m-%d %H:%M} UTC"
                cause = "later"
            elif error.status_code in {401, 403}:
                cause = "key"
            elif error.status_code in {404, 405}:
                cause = "address"
            return CallFailed(reason, cause, error.status_code)
        return CallFailed(reason, "refused")


_LONGEST_WAIT_S = 366 * 86400.0
"""A wait longer than this is a mistake of the server: no date is made of it."""


def _too_large(error: Exception) -> bool:
    """Tells if an answer was above the limit of its size: asking again brings the same."""
    from mmo_rl.chat.bounded import AnswerTooLarge

    return isinstance(error.__cause__, AnswerTooLarge)


def _refused(error: BaseException) -> bool:
    """Tells if the request reached no server."""
    import httpx

    return isinstance(error.__cause__, httpx.ConnectError | httpx.UnsupportedProtocol)


def remedy(failure: CallFailed, *, node: str, variable: str | None) -> str | None:
    """Returns what to type where an endpoint cannot be used at all; None where the failure concerns one request only.

    ``node`` is the endpoint's config node (``judge.endpoint``), ``variable`` the one that holds the key.
    """
    return {
        "quota": f"the account of {variable or 'the endpoint'} has no quota left: see its plan and billing, or name"
        f" another endpoint with {node}.base_url; the same command goes on",
        "later": "the same command goes on then; what was answered is kept",
        "key": f"put a valid key into {variable}: export {variable}=..."
        if variable
        else f"name the variable that holds the key: {node}.api_key_env=OPENAI_API_KEY",
        "address": f"check {node.partition('.')[0]}.model and {node}.base_url (it usually ends in /v1)",
        "down": f"start the endpoint or correct {node}.base_url",
        "slow": f"raise {node}.timeout_s, or check {node}.base_url",
    }.get(failure.cause)
