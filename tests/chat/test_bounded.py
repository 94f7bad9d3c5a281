"""Answers of a server that says too much, or packs it: they end at the limit, whatever their status."""

from __future__ import annotations

import gzip
import zlib

import httpx
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from mmo_rl.chat.bounded import AnswerTooLarge, BoundedTransport

LIMIT = 3_000_000
SMALL = b"a chat completion, " * 1000


async def fetch(server: HTTPServer, body: bytes, packed: str | None, status: int = 200) -> bytes:
    headers = {} if packed is None else {"content-encoding": packed}
    server.clear()
    server.expect_request("/v1").respond_with_handler(lambda request: Response(body, status, headers))
    async with httpx.AsyncClient(transport=BoundedTransport(limit=LIMIT)) as client:
        return (await client.get(server.url_for("/v1"))).content


@pytest.mark.parametrize(
    ("packed", "pack"),
    [(None, bytes), ("identity", bytes), ("gzip", gzip.compress), ("Deflate", zlib.compress)],
)
async def test_answers_below_the_limit_come_whole(httpserver: HTTPServer, packed: str | None, pack: type) -> None:
    assert await fetch(httpserver, pack(SMALL), packed) == SMALL
    assert await fetch(httpserver, pack(b""), packed) == b""


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
async def test_answers_above_it_end_there(httpserver: HTTPServer, packed: str | None, status: int) -> None:
    body = b"0" * (LIMIT + 1)
    pack = {None: bytes, "gzip": gzip.compress, "deflate": zlib.compress}[packed]
    with pytest.raises(AnswerTooLarge, match="longer than 3 MB"):
        await fetch(httpserver, pack(body), packed, status)


@pytest.mark.parametrize(("packed", "said"), [("br", "packed with br"), ("gzip", "cannot be unpacked")])
async def test_what_cannot_be_unpacked_in_pieces_is_refused(httpserver: HTTPServer, packed: str, said: str) -> None:
    with pytest.raises(AnswerTooLarge, match=said):
        await fetch(httpserver, SMALL, packed)
