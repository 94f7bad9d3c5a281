"""HTTP servers on loopback, each in a thread of its own, for tests that play another party on a real socket."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JsonHandler(BaseHTTPRequestHandler):
    """Base of handlers that read and answer JSON."""

    protocol_version = "HTTP/1.1"

    def read_body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        """Sends ``content``: a string as it is, everything else as JSON."""
        payload = encoded(content)
        self.send_head(status, len(payload), headers)
        self.wfile.write(payload)

    def send_head(self, status: int, length: int, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def encoded(content: Any) -> bytes:
    return (content if isinstance(content, str) else json.dumps(content)).encode()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.failures: list[BaseException] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keeps what a handler raised; a client that leaves is no error."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):
            self.failures.append(error)


@contextmanager
def http_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves inside the block; yields the URL, without a slash at its end. Raises what a handler raised."""
    server = _Server(handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    if server.failures:
        raise server.failures[0]
