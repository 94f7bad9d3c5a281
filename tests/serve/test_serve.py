"""The server's application on a real socket with the shipped model, asked by the openai client."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from mmo_rl.chat.endpoint import Endpoint
from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED, ModelSpec
from mmo_rl.market.actions import Order, parse_action
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.spec import MarketSpec
from mmo_rl.policy.base import Completion, completion_seed
from mmo_rl.policy.endpoint import EndpointPolicy
from mmo_rl.policy.local import LocalPolicy
from mmo_rl.serve.app import Api, create_app, listen
from mmo_rl.serve.engine import Engine
from mmo_rl.serve.versions import Catalogue, ServedModel, ServedVersion

TINY = SHIPPED / "tiny"
SPEC = ModelSpec(name="tiny", base_model="tiny", context_length=512, max_completion_tokens=24, threads=2)
TICK = "t0\nPULSE +0\nNOVA +1\nORION +0\nKITE -2\nLAUNCH 54%\nMERGER 43%\nnews NOVA soars @wire\ncash 5 order 3 bet 3"
NEWS = [{"role": "system", "content": "You trade."}, {"role": "user", "content": TICK}]
PROMPTS = [({"role": "user", "content": f"t0\nNOVA +{n}\nnews ZEN sinks @anon" + " +1" * n},) for n in range(24)]


@contextmanager
def serving(checkpoints: Path | None = None, *, key: str | None = None, **changes: Any) -> Iterator[str]:
    """The base URL of a server in a thread of its own."""
    load: Callable[[ServedVersion], Any] = lambda version: load_model(version.path, threads=2)  # noqa: E731
    settings: dict[str, Any] = {"load": load, "max_batch": 16, "max_loaded": 2, "max_queue": 64, **changes}
    with listen("127.0.0.1", 0) as listening, Engine(**settings) as engine:
        models = [ServedModel("tiny", SPEC, checkpoints=checkpoints)]
        app = create_app(Api(engine, Catalogue(models), key=key))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def local() -> LocalPolicy:
    model, tokenizer = load_model(str(TINY), threads=2)
    return LocalPolicy(model=model, tokenizer=tokenizer, name="tiny", version=0, max_completion_tokens=24)


def state(url: str) -> dict[str, Any]:
    return dict(httpx.get(url.removesuffix("/v1") + "/health").json())


def post(url: str, **changes: Any) -> httpx.Response:
    body = {"model": "tiny", "messages": NEWS, **changes}
    return httpx.post(f"{url}/chat/completions", json={k: v for k, v in body.items() if v is not ...}, timeout=30)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_the_server_answers_as_the_local_policy_does(url: str, local: LocalPolicy, temperature: float) -> None:
    """The same seed, the same answers, though requests arrive in any order and are batched as they come."""
    expected = await local.complete(PROMPTS, temperature=temperature, seed=3)
    async with EndpointPolicy(model="tiny", endpoint=Endpoint(base_url=url, api_key_env=None)) as policy:
        answers = await policy.complete(PROMPTS, temperature=temperature, seed=3)
    assert [(a.text, a.token_ids, a.prompt_token_ids) for a in answers] == [
        (e.text, e.token_ids, e.prompt_token_ids) for e in expected
    ]
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
    assert temperature == 0 or len({a.text for a in answers}) > 3


async def test_a_seed_gives_the_same_answer_alone_and_among_others(client: openai.AsyncOpenAI) -> None:
    async def ask(seed: int, **changes: Any) -> str:
        request: dict[str, Any] = {"model": "tiny", "messages": NEWS, "seed": seed, **changes}
        return str((await client.chat.completions.create(**request)).choices[0].message.content)

    alone = [await ask(seed) for seed in range(4)]
    crowd = await asyncio.gather(*(ask(seed % 4, top_p=0.5 if seed > 3 else None) for seed in range(12)))
    assert list(crowd[:4]) == alone


async def test_a_streamed_answer_is_the_whole_one_in_parts(client: openai.AsyncOpenAI) -> None:
    request: dict[str, Any] = {"model": "tiny@0", "messages": NEWS, "seed": 5, "logprobs": True, "n": 2}
    request["extra_body"] = {"return_token_ids": True}
    whole = await client.chat.completions.create(**request)
    parts: dict[int, dict[str, list[Any]]] = {n: {"text": [], "ids": [], "logprobs": []} for n in (0, 1)}
    ends: dict[int, str] = {}
    usage = None
    async with await client.chat.completions.create(
        **request, stream=True, stream_options={"include_usage": True}
    ) as stream:
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                got = parts[choice.index]
                got["text"].append(choice.delta.content or "")
                got["ids"] += getattr(choice, "token_ids", None) or []
                got["logprobs"] += [c.logprob for c in choice.logprobs.content or []] if choice.logprobs else []
                if choice.finish_reason:
                    ends[choice.index] = choice.finish_reason
    assert usage == whole.usage
    for choice in whole.choices:
        got = parts[choice.index]
        assert "".join(got["text"]) == choice.message.content and len([t for t in got["text"] if t]) > 3
        assert got["ids"] == choice.token_ids  # type: ignore[attr-defined]
        assert choice.logprobs is not None and choice.logprobs.content is not None
        assert got["logprobs"] == pytest.approx([c.logprob for c in choice.logprobs.content], abs=1e-4)
        assert ends[choice.index] == choice.finish_reason
    assert whole.choices[0].token_ids != whole.choices[1].token_ids  # type: ignore[attr-defined]


def test_logprobs_are_those_of_the_model_at_any_temperature(url: str, local: LocalPolicy) -> None:
    import torch

    asked = {"logprobs": True, "top_logprobs": 3, "return_token_ids": True, "seed": 1}
    body = post(url, **asked, temperature=0.7, top_p=0.9).json()
    (choice,) = body["choices"]
    ids = torch.tensor([[*body["prompt_token_ids"], *choice["token_ids"]]])
    with torch.no_grad():
        logp = local.model(ids).logits.log_softmax(-1)[0, len(body["prompt_token_ids"]) - 1 : -1]
    content = choice["logprobs"]["content"]
    direct = logp.gather(1, ids[0, len(body["prompt_token_ids"]) :, None])[:, 0].tolist()
    assert [place["logprob"] for place in content] == pytest.approx(direct, abs=1e-4)
    likeliest = [value for row in logp.topk(3).values.tolist() for value in row]
    assert [o["logprob"] for place in content for o in place["top_logprobs"]] == pytest.approx(likeliest, abs=1e-4)
    assert bytes(b for place in content[:-1] for b in place["bytes"]).decode() == choice["message"]["content"]
    as_ids = post(url, **asked, return_tokens_as_token_ids=True).json()["choices"][0]
    assert [p["token"] for p in as_ids["logprobs"]["content"]] == [f"token_id:{t}" for t in as_ids["token_ids"]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_the_answer_before_it(url: str, stream: bool) -> None:
    plain = post(url, temperature=0).json()["choices"][0]["message"]["content"]
    stop = plain[9:13]
    answer = post(url, temperature=0, stop=[stop, "never"], stream=stream)
    if stream:
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        choices = [event["choices"][0] for event in events]
        text, reason = "".join(c["delta"].get("content", "") for c in choices), choices[-1]["finish_reason"]
    else:
        (choice,) = answer.json()["choices"]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    assert (text, reason) == (plain[: plain.index(stop)], "stop")


def test_the_length_is_bounded_by_the_request_and_by_the_model(url: str) -> None:
    for limit, written in (({"max_tokens": 3}, 3), ({"max_completion_tokens": 2}, 2)):
        body = post(url, **limit).json()
        assert body["usage"]["completion_tokens"] == written and body["choices"][0]["finish_reason"] == "length"
    assert post(url, max_tokens=5000, n=8).json()["usage"]["completion_tokens"] <= 8 * 24


@pytest.mark.parametrize(
    ("changes", "status", "param", "message"),
    [
        ({"model": "tny"}, 404, "model", "There are: tiny@0"),
        ({"model": "tiny@7"}, 404, "model", "There are: tiny@0"),
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": ...}, 400, "messages", "required"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages.0.content.str", "string"),
        ({"messages": [{"role": "user", "content": "news " * 600}]}, 400, "messages", "maximum context length is 512"),
        ({"messages": [{"role": "user", "content": "news " * 600}], "stream": True}, 400, "messages", "length is 512"),
        ({"temperature": "hot"}, 400, "temperature", "number"),
        ({"temperature": -1}, 400, "temperature", "greater than or equal to 0"),
        ({"seed": 1.5}, 400, "seed", "integer"),
        ({"n": 0}, 400, "n", "greater"),
        ({"frobnicate": 1}, 400, "frobnicate", "no such argument"),
        ({"top_logprobs": 3}, 400, None, "needs logprobs"),
        ({"tools": [{"type": "function"}]}, 400, None, "tools is not supported"),
        ({"stop": ""}, 400, None, "empty"),
    ],
)
def test_a_wrong_request_is_told_as_openai_tells_it(
    url: str, changes: dict[str, Any], status: int, param: str | None, message: str
) -> None:
    answer = post(url, **changes)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert message in error["message"] and error["type"] in ("invalid_request_error", "not_found_error")


def test_what_is_no_request_at_all_is_told_too(url: str) -> None:
    broken = httpx.post(f"{url}/chat/completions", content=b"{nonsense", headers={"content-type": "application/json"})
    assert broken.status_code == 400 and "not JSON" in broken.json()["error"]["message"]
    nowhere = httpx.post(f"{url}/completions", json={})
    assert nowhere.status_code == 404 and "/v1/chat/completions" in nowhere.json()["error"]["message"]
    assert httpx.get(f"{url}/chat/completions").status_code == 405


def test_what_asks_for_nothing_is_understood(url: str) -> None:
    parts = [
        {"role": "developer", "content": "You trade."},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
    ]
    assert post(
        url, messages=parts, user="me", presence_penalty=0, tools=[], response_format={"type": "text"}
    ).is_success


def test_the_key_is_asked_for_and_never_told() -> None:
    with serving(key="sesame") as url:
        for key in ("Bearer wrong", "Basic sesame", "sesame", "Bearer s\u00e9same"):
            answer = httpx.get(f"{url}/models", headers={"authorization": key.encode()})
            assert answer.status_code == 401 and "sesame" not in answer.text
        with openai.OpenAI(base_url=url, api_key="sesame") as client:
            assert [model.id for model in client.models.list()] == ["tiny", "tiny@0"]
        assert state(url)["status"] == "ok"


def test_versions_stand_side_by_side_and_new_ones_appear(tmp_path: Path) -> None:
    import torch

    model, tokenizer = load_model(str(TINY), threads=2)

    def publish(number: int) -> None:
        with torch.no_grad():
            model.lm_head.weight.mul_(-1.0 if number == 1 else -0.5)
        model.save_pretrained(tmp_path / "partial")
        tokenizer.save_pretrained(tmp_path / "partial")
        (tmp_path / "partial").rename(tmp_path / f"{number:04d}")

    def answer(name: str) -> tuple[str, str]:
        body = post(url, model=name, temperature=0, max_tokens=8).json()
        return body["model"], body["choices"][0]["message"]["content"]

    with serving(tmp_path, max_loaded=1) as url:
        assert answer("tiny")[0] == "tiny@0"
        publish(1)
        first = answer("tiny")
        assert first[0] == "tiny@1" and first[1] != answer("tiny@0")[1]
        publish(2)
        assert answer("tiny")[0] == "tiny@2" and answer("tiny@1") == first
        names = [row["id"] for row in httpx.get(f"{url}/models").json()["data"]]
        assert names == ["tiny", "tiny@0", "tiny@1", "tiny@2"]
        assert httpx.get(f"{url}/models/tiny").json()["root"] == "tiny@2"
        assert state(url)["loaded"] == ["tiny@1"]
        wanted = [f"tiny@{1 + n % 2}" for n in range(6)]
        with ThreadPoolExecutor(6) as pool:
            assert [name for name, _ in pool.map(answer, wanted)] == wanted
        shutil.rmtree(tmp_path / "0001")
        assert post(url, model="tiny@1").status_code == 404
        publish(3)
        (tmp_path / "0003" / "model.safetensors").write_bytes(b"damaged")
        broken = post(url, model="tiny")
        assert broken.status_code == 500 and "could not be loaded" in broken.json()["error"]["message"]
        assert answer("tiny@0")[0] == "tiny@0"


def test_a_model_that_cannot_answer_fails_its_requests_and_no_others() -> None:
    opened = []

    def load(version: ServedVersion) -> Any:
        opened.append(version)
        model, tokenizer = load_model(version.path, threads=2)
        return (model, None) if len(opened) == 1 else (model, tokenizer)

    with serving(load=load) as url:
        first = post(url, model="tiny")
        assert first.status_code == 500 and "could not be loaded" in first.json()["error"]["message"]
        assert post(url, model="tiny").status_code == 200


def test_too_many_are_refused_and_who_leaves_frees_the_place() -> None:
    opened = threading.Event()

    def slow(version: ServedVersion) -> Any:
        assert opened.wait(30)
        return load_model(version.path, threads=2)

    with serving(load=slow, max_queue=2) as url:
        with httpx.Client(timeout=0.3) as hasty:
            for _ in range(2):
                with pytest.raises(httpx.ReadTimeout):
                    hasty.post(f"{url}/chat/completions", json={"model": "tiny", "messages": NEWS})
        until(lambda: state(url)["queued"] == 0 and state(url)["cancelled_total"] == 2)
        refused = post(url, n=3)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        with httpx.Client(timeout=0.3) as hasty, pytest.raises(httpx.ReadTimeout):
            hasty.post(f"{url}/chat/completions", json={"model": "tiny", "messages": NEWS, "stream": True})
        until(lambda: state(url)["cancelled_total"] == 3)
        opened.set()
        assert post(url).status_code == 200
        told = state(url)
        assert (told["loaded"], told["running"], told["queued"]) == (["tiny@0"], 0, 0)
        assert told["tokens_total"] > 0 and told["tokens_per_s"] > 0


def test_a_stream_that_is_left_is_not_written_on() -> None:
    with serving(max_completion_tokens=400) as url:
        body = {"model": "tiny", "messages": NEWS, "stream": True, "n": 16, "temperature": 2.0}
        with httpx.Client(timeout=30) as client, client.stream("POST", f"{url}/chat/completions", json=body) as answer:
            next(answer.iter_lines())
        until(lambda: state(url)["running"] == 0)
        assert state(url)["cancelled_total"] > 0


async def test_the_version_is_read_from_the_name(url: str) -> None:
    async with EndpointPolicy(model="tiny@0", endpoint=Endpoint(base_url=url, api_key_env=None)) as policy:
        (answer,) = await policy.complete([PROMPTS[0]], temperature=0, seed=0)
    assert isinstance(answer, Completion) and answer.token_ids and answer.logprobs and policy.version == 0
    assert EndpointPolicy(model="tiny@12", endpoint=Endpoint(base_url=url, api_key_env=None)).version == 12
    assert EndpointPolicy(model="tiny@12", endpoint=Endpoint(base_url=url, api_key_env=None), version=3).version == 3
    assert EndpointPolicy(model="Qwen/Qwen3-14B", endpoint=Endpoint(base_url=url, api_key_env=None)).version == 0
    assert completion_seed(0, 1) != completion_seed(0, 2)


def test_answers_are_not_held_back_for_acknowledgements() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_example_that_is_printed_and_documented_is_answered_by_an_order(url: str) -> None:
    prompt = MarketArena(spec=MarketSpec()).example_prompt()
    answer = post(url, messages=list(prompt), temperature=0).json()["choices"][0]["message"]["content"]
    assert isinstance(parse_action(answer, max_size=5), Order), answer
    page = Path(__file__).parents[2].joinpath("docs", "serving.md").read_text("utf-8")
    shown = "".join(re.findall(r'^    "(.*)"$', page, re.MULTILINE)).replace("\\n", "\n")
    assert shown == prompt[-1]["content"]
