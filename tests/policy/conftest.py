"""A scripted OpenAI-compatible endpoint on a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Answer = tuple[int, Any, dict[str, str]]
"""Status, body (JSON, or text as it is) and headers."""


@dataclass
class Endpoint:
    """``script(body, number)`` answers the request with that number; ``busiest`` is the largest number at once."""

    url: str = ""
    script: Callable[[dict[str, Any], int], Answer] = lambda body, number: completion("{}")
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    open: int = 0
    busiest: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def completion(content: str | None, *, finish_reason: str = "stop", choice: Any = None, top: Any = None) -> Answer:
    message = {"role": "assistant", "content": content}
    body = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": message, **(choice or {})}],
        **(top or {}),
    }
    return 200, body, {}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    served = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with served.lock:
                number = len(served.requests)
                served.requests.append(body)
                served.keys.append(self.headers["authorization"])
                served.open += 1
                served.busiest = max(served.busiest, served.open)
            status, content, headers = served.script(body, number)
            with served.lock:
                served.open -= 1
            payload = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    server.shutdown()
    server.server_close()
    thread.join()
