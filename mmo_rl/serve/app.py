"""Web application of `task=serve`: OpenAI's chat completions, the list of models, and the server's health."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse

from mmo_rl.errors import MmoRlError
from mmo_rl.serve.chat_api import ChatRequest, Json, choice, delta, error_body, usage
from mmo_rl.serve.engine import AnswerRequest, Engine, Overloaded, Piece
from mmo_rl.serve.gate import Gate, authorized
from mmo_rl.serve.versions import Catalogue, ServedVersion, UnknownModel
from mmo_rl.version import __version__

T = TypeVar("T")
CLIENT_LEFT = 499
LONGEST_TOKEN = 64
"""Characters: far above the average token of any tokenizer. Longer messages are refused before they are tokenised."""
KINDS = {400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refused(Exception):
    """Refusal of a request, in OpenAI's form of an error."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = KINDS.get(status, "server_error")
        self.body = error_body(message, kind=kind, code=code, param=param)


@dataclass(frozen=True)
class Api:
    """Engine, models and settings that the routes work with. ``key`` and ``hosts`` are those of `Gate`, ``max_body`` is
    in bytes; ``note`` is called with a short line for every answered request."""

    engine: Engine
    catalogue: Catalogue
    key: str | None = None
    hosts: frozenset[str] | None = None
    max_body: int = 4_000_000
    note: Callable[[str], None] | None = None
    clock: Callable[[], float] = time.time

    def find(self, name: str) -> ServedVersion:
        """Finds a version by its name. Raises `Refused`."""
        try:
            return self.catalogue.find(name)
        except UnknownModel as error:
            raise Refused(404, str(error), code="model_not_found", param="model") from None

    def health(self, request: Request) -> Json:
        """Returns the answer of ``/health``; only that it works to a client without the key."""
        if not authorized(self.key, request.headers.get("authorization", "")):
            return {"status": "ok"}
        return {"status": "ok", **self.engine.state()}

    def models(self) -> Json:
        """Returns the answer of ``/v1/models``."""
        return {"object": "list", "data": [_model(version, name) for version, name in self.catalogue.listed()]}

    async def chat(self, asked: ChatRequest, request: Request) -> Response:
        """Answers one request, whole or streamed. Raises `Refused`."""
        version = self.find(asked.model)
        characters, most = asked.characters(), version.spec.context_length * LONGEST_TOKEN
        if characters > most:
            raise Refused(
                400,
                f"This model's maximum context length is {version.spec.context_length} tokens, and the messages have "
                f"{characters} characters. Shorten the messages.",
                param="messages",
            )
        pieces = self._pieces(asked, version, client=request.client.host if request.client else "")
        head: Json = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(self.clock()), "model": version.id}
        if asked.stream:
            first = await _unless_gone(request, anext(pieces))
            if first is None:
                await pieces.aclose()
                return Response(status_code=CLIENT_LEFT)
            _raise_failure(first[1])
            events = self._events(asked, head, first, pieces)
            return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        async with aclosing(pieces):
            answers = await _unless_gone(request, _whole(pieces))
        if answers is None:
            return Response(status_code=CLIENT_LEFT)
        spent = usage(len(answers[0].prompt_token_ids), sum(len(a.token_ids) for a in answers))
        self._note(head, spent)
        choices = [choice(asked, index, answer) for index, answer in enumerate(answers)]
        body: Json = {**head, "object": "chat.completion", "choices": choices, "usage": spent}
        if asked.return_token_ids:
            body["prompt_token_ids"] = list(answers[0].prompt_token_ids)
        return JSONResponse(body)

    async def _pieces(
        self, asked: ChatRequest, version: ServedVersion, *, client: str
    ) -> AsyncGenerator[tuple[int, Piece], None]:
        """Yields the parts of all ``n`` answers as they come, with the number of their answer; closing the generator
        cancels the answers that are not finished."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()

        def deliver_to(index: int) -> Callable[[Piece], None]:
            def deliver(piece: Piece) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                    loop.call_soon_threadsafe(arrived.put_nowait, (index, piece))

            return deliver

        seed = secrets.randbits(31) if asked.seed is None else asked.seed
        jobs = [
            AnswerRequest(
                version=version,
                messages=asked.prompt(),
                deliver=deliver_to(index),
                client=client,
                seed=seed,
                choice=index,
                temperature=asked.sampling_temperature(),
                top_p=1.0 if asked.top_p is None else asked.top_p,
                max_tokens=asked.max_completion_tokens or asked.max_tokens,
                top_logprobs=asked.top_logprobs or 0,
                stop=asked.stops(),
                stream=bool(asked.stream),
                with_token_texts=bool(asked.logprobs) and not asked.return_tokens_as_token_ids,
            )
            for index in range(asked.n or 1)
        ]
        try:
            self.engine.submit(*jobs)
        except Overloaded as error:
            raise Refused(429, f"This server is busy: {error}", code="rate_limit_exceeded") from None
        unanswered = set(range(len(jobs)))
        try:
            while unanswered:
                index, piece = await arrived.get()
                if piece.last:
                    unanswered.discard(index)
                yield index, piece
        finally:
            for index in unanswered:
                self.engine.cancel(jobs[index])

    async def _events(
        self,
        asked: ChatRequest,
        head: Json,
        first: tuple[int, Piece],
        rest: AsyncGenerator[tuple[int, Piece], None],
    ) -> AsyncIterator[str]:
        """Yields the server-sent events of a streamed answer."""
        head = {**head, "object": "chat.completion.chunk"}
        options = asked.stream_options
        counted = options is not None and options.include_usage
        extra: Json = {"usage": None} if counted else {}
        prompt_ids = list(first[1].prompt_token_ids)
        written = 0
        opening: Json = {"prompt_token_ids": prompt_ids} if asked.return_token_ids else {}
        for index in range(asked.n or 1):
            role: Json = {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            yield _event({**head, "choices": [{**role, "logprobs": None}], **extra, **opening})
        async with aclosing(_chained(first, rest)) as pieces:
            async for index, piece in pieces:
                if piece.failure is not None:
                    yield _event(error_body(piece.failure[1], kind="server_error"))
                    return
                written += len(piece.token_ids)
                yield _event({**head, "choices": [delta(asked, index, piece)], **extra})
        spent = usage(len(prompt_ids), written)
        self._note(head, spent)
        if counted:
            yield _event({**head, "choices": [], "usage": spent})
        yield "data: [DONE]\n\n"

    def _note(self, head: Json, spent: dict[str, int]) -> None:
        """Notes an answered request."""
        if self.note is not None:
            self.note(f"{head['model']}: {spent['prompt_tokens']} + {spent['completion_tokens']} tokens")


def listen(host: str, port: int) -> socket.socket:
    """Opens a socket to serve at; port 0 takes a free one. Raises `OSError`.

    asyncio leaves Nagle's algorithm on for sockets that are handed to it: with a client that delays its
    acknowledgements, every answer would come 40 ms late. Connections inherit the option from here.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.create_server(address[:2], family=family, backlog=2048)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def create_app(api: Api) -> FastAPI:
    """Makes the application; its own documentation is at ``/docs``."""
    app = FastAPI(title="mmo-rl", version=__version__, description="Chat completions of trained policies.")
    app.add_middleware(Gate, key=api.key, hosts=api.hosts, max_body=api.max_body)
    v1 = APIRouter(prefix="/v1")

    @v1.post("/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Response:
        return await api.chat(asked, request)

    @v1.get("/models")
    def models() -> Json:
        return api.models()

    @v1.get("/models/{name:path}")
    def model(name: str) -> Json:
        return _model(api.find(name), name)

    @app.get("/health")
    def health(request: Request) -> Json:
        return api.health(request)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        headers = {"retry-after": "1"} if error.status == 429 else None
        return JSONResponse(error.body, error.status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"][1:]) or None
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "json_invalid":
            where, message = None, f"The body is not JSON: {problem['ctx']['error']}"
        elif problem["type"] == "extra_forbidden":
            message = "this server knows no such argument"
        body = error_body(f"{where}: {message}" if where else message, kind=KINDS[400], param=where)
        return JSONResponse(body, 400)

    async def no_such_route(request: Request, error: Exception) -> JSONResponse:
        status = getattr(error, "status_code", 404)
        message = (
            f"There is no {request.method} {request.url.path}; there are POST /v1/chat/completions, GET /v1/models "
            "and GET /health."
        )
        return JSONResponse(error_body(message, kind=KINDS[404]), status)

    for status in (404, 405):
        app.add_exception_handler(status, no_such_route)

    @app.exception_handler(MmoRlError)
    async def failed(request: Request, error: MmoRlError) -> JSONResponse:
        return JSONResponse(error_body(error.message, kind="server_error"), 500)

    app.include_router(v1)
    return app


def _model(version: ServedVersion, name: str | None) -> Json:
    """Returns OpenAI's description of a model."""
    return {
        "id": name or version.id,
        "object": "model",
        "created": version.created,
        "owned_by": "mmo-rl",
        "root": version.id,
        "max_model_len": version.spec.context_length,
    }


def _raise_failure(piece: Piece) -> None:
    """Raises `Refused` for a piece that is a failure."""
    if piece.failure is not None:
        status, message = piece.failure
        raise Refused(status, message, param="messages" if status == 400 else None)


async def _whole(pieces: AsyncIterator[tuple[int, Piece]]) -> list[Piece]:
    """Collects the answers by their number; without streaming each comes in one piece. Raises `Refused`."""
    answers: dict[int, Piece] = {}
    async for index, piece in pieces:
        _raise_failure(piece)
        answers[index] = piece
    return [answers[index] for index in sorted(answers)]


async def _chained(
    first: tuple[int, Piece], rest: AsyncGenerator[tuple[int, Piece], None]
) -> AsyncGenerator[tuple[int, Piece], None]:
    """Yields ``first`` and then the rest."""
    try:
        yield first
        async for item in rest:
            yield item
    finally:
        await rest.aclose()


async def _unless_gone(request: Request, work: Awaitable[T]) -> T | None:
    """Awaits ``work``; cancels it and returns None where the client disconnects before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _event(body: Json) -> str:
    """Formats a server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"
