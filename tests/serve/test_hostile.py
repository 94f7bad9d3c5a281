"""Requests that would stall the server or tell what they should not: each is refused, and the others are answered."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED, ModelSpec
from mmo_rl.serve.app import Api, create_app, listen
from mmo_rl.serve.engine import AnswerRequest, Engine, Overloaded, Piece
from mmo_rl.serve.gate import Gate, Message, Receive, Scope, Send, TimedProtocol
from mmo_rl.serve.versions import Catalogue, ServedModel, ServedVersion

SPEC = ModelSpec(name="tiny", base_model="tiny", context_length=512, max_completion_tokens=24, threads=1)
ASKED = [{"role": "user", "content": "t0\nNOVA +1\ncash 5"}]
HELD = "held back"


class Hasty(TimedProtocol):
    headers_s = 0.3


@pytest.fixture(scope="module")
def open_tokenizer() -> threading.Event:
    """Prompts with ``HELD`` in them are tokenised once it is set."""
    return threading.Event()


@pytest.fixture(scope="module")
def url(open_tokenizer: threading.Event) -> Iterator[str]:
    def load(version: ServedVersion) -> Any:
        model, tokenizer = load_model(version.path, threads=1)
        render = tokenizer.apply_chat_template

        def held(messages: Any, **options: Any) -> Any:
            if any(HELD in message["content"] for message in messages):
                assert open_tokenizer.wait(30)
            return render(messages, **options)

        tokenizer.apply_chat_template = held  # type: ignore[method-assign]
        return model, tokenizer

    hosts = frozenset({"127.0.0.1", "localhost", "::1"})
    with listen("127.0.0.1", 0) as listening, Engine(load=load, max_batch=16, max_loaded=1, max_queue=64) as engine:
        models = [ServedModel("tiny", SPEC)]
        app = create_app(Api(engine, Catalogue(models), key="sesame", hosts=hosts, max_body=100_000))
        server = uvicorn.Server(uvicorn.Config(app, http=Hasty, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            open_tokenizer.set()
            server.should_exit = True
            thread.join()


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"authorization": "Bearer sesame"}, timeout=30) as client:
        yield client


def ask(client: httpx.Client, **changes: Any) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"model": "tiny", "messages": ASKED, **changes})


def answer_to(url: str, sent: bytes) -> bytes:
    """The first bytes that the server says to some; none where it closes the connection."""
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10) as connection:
        connection.sendall(sent)
        return connection.recv(65536)


def test_the_key_is_checked_before_a_body_is_read(url: str) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99000\r\n"
    assert answer_to(url, head + b"authorization: Bearer wrong\r\n\r\n").startswith(b"HTTP/1.1 401")


def test_a_body_has_a_limit_announced_or_not(url: str, client: httpx.Client) -> None:
    assert ask(client, messages=[{"role": "user", "content": "x" * 200_000}]).status_code == 413
    told = client.post("/v1/chat/completions", content=(b"x" * 10_000 for _ in range(30)))
    assert told.status_code == 413 and "0.1 MB" in told.json()["error"]["message"]
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer sesame\r\n"
    assert answer_to(url, head + b"content-length: " + b"9" * 400 + b"\r\n\r\n").startswith(b"HTTP/1.1 4")
    assert ask(client).is_success


def test_a_connection_that_asks_for_nothing_is_closed(url: str) -> None:
    assert answer_to(url, b"POST /v1/chat/comp") == b""


async def test_a_body_that_does_not_arrive_is_given_up() -> None:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("never asked")

    async def receive() -> Message:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    gate = Gate(app, key=None, hosts=None, max_body=1000, body_s=0.1)
    await gate({"type": "http", "path": "/v1/models", "headers": []}, receive, send)
    assert sent[0]["status"] == 408 and b"0.1 s" in sent[1]["body"]


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8000", 200), ("localhost", 200), ("[::1]:80", 200), ("game.example", 421), ("[::2]:80", 421)],
)
def test_a_page_of_another_site_reaches_nothing(client: httpx.Client, host: str, status: int) -> None:
    assert client.get("/v1/models", headers={"host": host}).status_code == status


def test_without_the_key_nothing_is_told_of_models(url: str, client: httpx.Client) -> None:
    assert ask(client).is_success
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    assert client.get("/health").json()["loaded"] == ["tiny@0"]
    for path in ("/docs", "/openapi.json", "/v1/models", "/nowhere"):
        assert httpx.get(url + path).status_code == 401
    assert client.get("/openapi.json").is_success


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"model": "tiny@" + "9" * 5000}, 404, "not served here"),
        ({"stop": "x" * 2000}, 400, "1000 characters"),
        ({"stop": ["a", "x" * 2000]}, 400, "stop"),
        ({"seed": 10**30}, 400, "seed"),
        ({"messages": [{"role": "user", "content": "x" * 50_000}]}, 400, "50000 characters"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, ""),
    ],
)
def test_numbers_and_texts_out_of_all_bounds_are_told(
    client: httpx.Client, changes: dict[str, Any], status: int, message: str
) -> None:
    body = json.dumps({"model": "tiny", "messages": ASKED, **changes}).encode()
    told = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert told.status_code == status and message in told.json()["error"]["message"]


def test_a_temperature_near_zero_is_greedy(client: httpx.Client) -> None:
    texts = {
        ask(client, temperature=t, seed=s).json()["choices"][0]["message"]["content"]
        for t, s in ((0, 1), (1e-300, 2), (1e-9, 3))
    }
    assert len(texts) == 1


def test_a_prompt_that_takes_long_to_tokenise_holds_nobody_up(
    client: httpx.Client, url: str, open_tokenizer: threading.Event
) -> None:
    ended: list[float] = []

    def slow() -> None:
        with httpx.Client(base_url=url, headers=client.headers, timeout=60) as other:
            assert ask(other, messages=[{"role": "user", "content": HELD}]).is_success
        ended.append(time.monotonic())

    thread = threading.Thread(target=slow)
    thread.start()
    try:
        for _ in range(3):
            assert ask(client).is_success
        assert not ended
    finally:
        open_tokenizer.set()
        thread.join()
    assert ended


def test_clients_are_answered_in_turn_and_none_fills_the_queue() -> None:
    loaded = threading.Event()
    answered: list[str] = []
    everything = threading.Event()

    def load(version: ServedVersion) -> Any:
        assert loaded.wait(30)
        return load_model(version.path, threads=1)

    version = ServedVersion("tiny@0", str(SHIPPED / "tiny"), SPEC, (0, 0), 0)

    def job(client: str) -> AnswerRequest:
        def deliver(piece: Piece) -> None:
            answered.append(client)
            if len(answered) == 9:
                everything.set()

        return AnswerRequest(version, (ASKED[0],), deliver, seed=0, client=client, max_tokens=2)  # type: ignore[arg-type]

    with Engine(load=load, max_batch=1, max_loaded=1, max_queue=10) as engine:
        for _ in range(8):
            engine.submit(job("greedy"))
        with pytest.raises(Overloaded, match="8 of your answers"):
            engine.submit(job("greedy"))
        engine.submit(job("patient"))
        loaded.set()
        assert everything.wait(30)
    assert answered.index("patient") <= 2
