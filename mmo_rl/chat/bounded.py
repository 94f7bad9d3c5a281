"""HTTP transport whose answers have a largest size: a server that says too much, or packs it, fills no memory."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

import httpx

LARGEST_ANSWER = 64_000_000
"""Bytes of an unpacked answer: a million tokens with their ids and logprobs take less."""
PIECE = 1_000_000


class AnswerTooLarge(httpx.DecodingError):
    """Error for an answer above the limit, or packed in a way that cannot be unpacked piece by piece."""


class BoundedTransport(httpx.AsyncHTTPTransport):
    """Transport that unpacks answers itself, and stops at ``limit`` bytes (None: `LARGEST_ANSWER`): httpx unpacks
    whatever comes."""

    def __init__(self, *, limit: int | None = None) -> None:
        super().__init__()
        self._limit = LARGEST_ANSWER if limit is None else limit

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request. The body of the answer raises `AnswerTooLarge` as it is read."""
        response = await super().handle_async_request(request)
        packed = response.headers.get("content-encoding", "identity").strip().lower()
        headers = [(k, v) for k, v in response.headers.raw if k.lower() not in (b"content-encoding", b"content-length")]
        assert isinstance(response.stream, httpx.AsyncByteStream)
        return httpx.Response(
            response.status_code,
            headers=headers,
            stream=_Unpacked(response.stream, packed, self._limit),
            extensions=response.extensions,
        )


class _Unpacked(httpx.AsyncByteStream):
    """Body in pieces of at most `PIECE` bytes when unpacked."""

    def __init__(self, stream: httpx.AsyncByteStream, packed: str, limit: int) -> None:
        self._stream, self._packed, self._limit = stream, packed, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        async for piece in self._pieces():
            read += len(piece)
            if read > self._limit:
                raise AnswerTooLarge(f"the answer is longer than {self._limit / 1e6:g} MB")
            yield piece

    async def _pieces(self) -> AsyncIterator[bytes]:
        if self._packed in ("", "identity"):
            async for raw in self._stream:
                yield raw
            return
        if self._packed not in ("gzip", "x-gzip", "deflate"):
            raise AnswerTooLarge(f"the answer is packed with {self._packed[:20]}, which was not asked for")
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of either form, by its first bytes
        async for raw in self._stream:
            left = raw
            while left and not unpacker.eof:
                try:
                    yield unpacker.decompress(left, PIECE)
                except zlib.error as error:
                    raise AnswerTooLarge(f"the answer cannot be unpacked: {error}") from None
                left = unpacker.unconsumed_tail

    async def aclose(self) -> None:
        """Closes the connection's stream."""
        await self._stream.aclose()
