"""A scripted OpenAI-compatible endpoint on a real socket, for policies and judges."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.harness.http import JsonHandler, encoded, http_server


@dataclass(frozen=True)
class Request:
    """A received request, its header names in lower case. ``ids`` and ``texts`` are read from the prompt as a judge
    would read them."""

    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def system(self) -> str:
        return str(self.body["messages"][0]["content"])

    @property
    def user(self) -> str:
        return str(self.body["messages"][1]["content"])

    @property
    def last(self) -> str:
        """The content of the last message."""
        return str(self.body["messages"][-1]["content"])

    @property
    def texts(self) -> dict[str, str]:
        found = re.findall(r'<trajectory-(\w+) id="(\d+)">\n(.*?)\n</trajectory-\1>', self.user, re.DOTALL)
        return {number: text for _, number, text in found}

    @property
    def ids(self) -> list[str]:
        return list(self.texts)


@dataclass(frozen=True)
class Reply:
    """An answer, or what goes wrong instead of one."""

    status: int = 200
    body: str | dict[str, Any] = ""
    headers: dict[str, str] = field(default_factory=dict)
    then: Literal["answer", "hang", "dribble", "reset", "cut"] = "answer"


Script = Callable[[Request, int], Reply]
"""Answers the request with the number it has (from 0); called in a thread of the request's own."""


def completion(
    content: str | None,
    *,
    finish_reason: str = "stop",
    usage: tuple[int, int] | None = (100, 20),
    choice: dict[str, Any] | None = None,
    **top: Any,
) -> Reply:
    """A chat completion with these tokens of prompt and answer; ``choice`` and ``top`` are added to the choice and the
    body."""
    message = {"role": "assistant", "content": content}
    body: dict[str, Any] = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": message, **(choice or {})}],
        **top,
    }
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Reply(body=body)


def refusal(status: int, message: str, **headers: str) -> Reply:
    """An error as OpenAI's services word it."""
    return Reply(status, {"error": {"message": message, "type": "x", "code": None}}, headers)


@dataclass
class Endpoint:
    """``script`` answers; ``busiest`` is the largest number of requests that were answered at once."""

    script: Script = lambda request, number: completion("{}")
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    busiest: int = 0
    _busy: int = 0
    _connections: set[socket.socket] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer_to(self, request: Request) -> Reply:
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
        try:
            return self.script(request, number)
        finally:
            with self._lock:
                self._busy -= 1

    @contextmanager
    def connection(self, client: socket.socket) -> Iterator[None]:
        self._connections.add(client)
        try:
            yield
        finally:
            self._connections.discard(client)

    def disconnect(self) -> None:
        """Ends the connections that are still open, those that hang too."""
        for client in tuple(self._connections):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(endpoint: Endpoint) -> Iterator[Endpoint]:
    """Serves the endpoint at its ``url`` inside the block."""

    class Handler(JsonHandler):
        def handle(self) -> None:
            with endpoint.connection(self.connection):
                super().handle()

        def do_POST(self) -> None:
            body = json.loads(self.read_body())
            if self.path != "/v1/chat/completions":
                self.answer(404, {"error": {"message": f"no {self.path} here"}})
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = endpoint.answer_to(Request(headers, body))
            if reply.then == "answer":
                self.answer(reply.status, reply.body, reply.headers)
            else:
                self.close_connection = True
                {"hang": self.hang, "dribble": self.dribble, "reset": self.reset, "cut": self.cut}[reply.then](reply)

        def hang(self, _: Reply) -> None:
            self.rfile.read()  # until the client gives up

        def dribble(self, reply: Reply) -> None:
            self.send_head(reply.status, 1_000_000)
            while True:  # until the client gives up
                self.wfile.write(b" ")
                time.sleep(0.02)

        def reset(self, _: Reply) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.connection.detach())

        def cut(self, reply: Reply) -> None:
            payload = encoded(reply.body)
            self.send_head(reply.status, len(payload), reply.headers)
            self.wfile.write(payload[: len(payload) // 2])

    with http_server(Handler) as url:
        endpoint.url = f"{url}/v1"
        try:
            yield endpoint
        finally:
            endpoint.disconnect()
