"""Checks of a request before its body is read: host name, bearer token, size, and the time that it takes to arrive."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from fastapi.responses import JSONResponse
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from mmo_rl.serve.chat_api import error_body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
"""Types of the ASGI specification, version 3."""

HEADERS_S = 30.0
"""Time that a new connection has for the headers of its first request."""
BODY_S = 60.0
"""Time that the body of a request has to arrive."""
OPEN_PATHS = ("/health",)
"""Paths that need no key; what they tell without one names no model."""


class Gate:
    """ASGI middleware that lets requests through to ``app`` with their whole body.

    ``key``: bearer token that every path but `OPEN_PATHS` asks for, None: none. ``hosts``: names that a request's
    ``Host`` may have, None: any; a web page of another site that resolves to this machine is refused by them.
    ``max_body`` in bytes.
    """

    def __init__(
        self, app: ASGIApp, *, key: str | None, hosts: Collection[str] | None, max_body: int, body_s: float = BODY_S
    ) -> None:
        self._app = app
        self._key = key
        self._hosts = hosts
        self._max_body = max_body
        self._body_s = body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers an ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope["path"], headers)
        if refusal is None:
            try:
                async with asyncio.timeout(self._body_s):
                    body = await self._body(receive)
            except TimeoutError:
                refusal = _refused(408, f"The body did not arrive within {self._body_s:g} s.")
            else:
                if body is None:
                    refusal = self._too_large()
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, replay, send)

    def _refusal(self, path: str, headers: dict[bytes, str]) -> JSONResponse | None:
        host = headers.get(b"host", "").rsplit("]", 1)[0].lstrip("[")
        name = host if ":" in host and headers.get(b"host", "").startswith("[") else host.split(":", 1)[0]
        if self._hosts is not None and name.lower() not in self._hosts:
            return _refused(421, "This server answers to its own address only; serve.host names another.")
        if path not in OPEN_PATHS and not authorized(self._key, headers.get(b"authorization", "")):
            return _refused(401, "This server asks for a key: Authorization: Bearer KEY", code="invalid_api_key")
        length = headers.get(b"content-length", "0")
        if length.isdecimal() and (len(length) > 18 or int(length) > self._max_body):
            return self._too_large()
        return None

    async def _body(self, receive: Receive) -> bytes | None:
        """Reads the body; None where it is longer than allowed."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b"".join(parts)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_body:
                return None
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> JSONResponse:
        return _refused(
            413, f"A request may be {self._max_body / 1e6:g} MB long. Shorten the messages, or serve.max_body_mb=..."
        )


def authorized(key: str | None, header: str) -> bool:
    """Tells if an ``Authorization`` header holds the key; True where none is asked for."""
    scheme, _, given = header.partition(" ")
    same = key is None or hmac.compare_digest(given.strip().encode(), key.encode())
    return same and (key is None or scheme.lower() == "bearer")


class TimedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """HTTP protocol that closes a connection on which no request begins: uvicorn's own time-out counts from the end of
    an answer only."""

    headers_s = HEADERS_S

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Starts the clock of a new connection."""
        super().connection_made(transport)

        def close_unless_begun() -> None:
            if self.cycle is None:
                transport.close()

        self._headers_due = asyncio.get_running_loop().call_later(self.headers_s, close_unless_begun)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clock."""
        self._headers_due.cancel()
        super().connection_lost(exc)


def _refused(status: int, message: str, *, code: str | None = None) -> JSONResponse:
    kind = "authentication_error" if status == 401 else "invalid_request_error"
    # What of the body has not been read would be taken for the next request.
    headers = {"connection": "close", **({"www-authenticate": "Bearer"} if status == 401 else {})}
    return JSONResponse(error_body(message, kind=kind, code=code), status, headers=headers)
