import dataclasses
import socket
import threading
from typing import Any

import pytest

from mmo_rl.chat import endpoint as chat
from mmo_rl.errors import ConfigError, PolicyError
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.spec import MarketSpec
from mmo_rl.policy.base import Completion
from mmo_rl.policy.endpoint import EndpointPolicy
from tests.harness.endpoint import Endpoint, Reply, Request, completion, refusal

HOLD = '{"ticker":"","action":"HOLD","size":0}'


def make(endpoint: Endpoint | str, **changes: Any) -> EndpointPolicy:
    """A policy at ``endpoint``; ``changes`` are to its own keys and to those of its sub-node."""
    settings: dict[str, Any] = {
        "base_url": endpoint if isinstance(endpoint, str) else endpoint.url,
        "api_key_env": None,
        "timeout_s": 5.0,
        "attempts": 3,
        "backoff_s": 0.01,
    }
    inner = {field.name for field in dataclasses.fields(chat.Endpoint)}
    settings |= {name: value for name, value in changes.items() if name in inner}
    own = {name: value for name, value in changes.items() if name not in inner}
    return EndpointPolicy(**{"model": "m", **own}, endpoint=chat.Endpoint(**settings))


async def ask(policy: EndpointPolicy, *texts: str, seed: int = 0, temperature: float = 1.0) -> list[Completion]:
    async with policy:
        return await policy.complete(
            [({"role": "user", "content": text},) for text in texts], temperature=temperature, seed=seed
        )


def echo(request: Request, number: int) -> Reply:
    return completion(request.last)


async def test_answers_come_in_order_and_never_more_at_once_than_allowed(endpoint: Endpoint) -> None:
    together = threading.Barrier(4)

    def script(request: Request, number: int) -> Reply:
        together.wait(10)  # passes only where four are asked at once
        return echo(request, number)

    endpoint.script = script
    answers = await ask(make(endpoint, concurrency=4), *map(str, range(20)))
    assert [a.text for a in answers] == [str(n) for n in range(20)]
    assert all(a.error is None for a in answers)
    assert endpoint.busiest == 4


async def test_the_request_follows_the_arguments_and_repeats_with_the_seed(endpoint: Endpoint) -> None:
    endpoint.script = echo
    for seed in (1, 1, 2):
        await ask(make(endpoint, concurrency=1, max_completion_tokens=9), "a", "b", seed=seed, temperature=0.0)
    seeds = [request.body["seed"] for request in endpoint.requests]
    assert seeds[:2] == seeds[2:4] and seeds[0] != seeds[1] and seeds[4] not in seeds[:4]
    body = endpoint.requests[0].body
    assert (body["model"], body["temperature"], body["max_completion_tokens"]) == ("m", 0.0, 9)
    assert body["messages"] == [{"role": "user", "content": "a"}]


async def test_token_ids_and_logprobs_are_kept_as_vllm_gives_them(endpoint: Endpoint) -> None:
    content = [{"token": "a", "logprob": -0.5}, {"token": "</s>", "logprob": -0.25}]
    choice = {"logprobs": {"content": content}, "token_ids": [7, 2]}
    endpoint.script = lambda request, number: completion("a", choice=choice, prompt_token_ids=[1, 5])
    moments = iter((10.0, 10.25))
    (answer,) = await ask(make(endpoint, clock=lambda: next(moments)), "x")
    assert answer == Completion("a", (1, 5), (7, 2), (-0.5, -0.25)) and answer.latency_ms == 250
    assert endpoint.requests[0].body["logprobs"] is True and endpoint.requests[0].body["return_token_ids"] is True


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"logprobs": {"content": [{"token": "a", "logprob": -0.5}]}}, (None, (-0.5,))),
        ({"logprobs": {"content": [{"token": "a", "logprob": -0.5}]}, "token_ids": [7, 2]}, ((7, 2), None)),
        ({"logprobs": {"content": [{"token": "token_id:7", "logprob": -0.5}]}}, ((7,), (-0.5,))),
        ({"logprobs": {"content": [{"token": "token_id:x", "logprob": -0.5}]}}, (None, (-0.5,))),
        ({"logprobs": None, "token_ids": None}, (None, None)),
        ({"logprobs": {"content": [{"token": "a", "logprob": None}]}, "token_ids": ["7"]}, (None, None)),
        ({"logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]}}, (None, None)),
    ],
    ids=["openai", "miscounted", "named", "misnamed", "nothing", "damaged", "completions-form"],
)
async def test_only_whole_token_data_is_kept(endpoint: Endpoint, choice: Any, expected: Any) -> None:
    endpoint.script = lambda request, number: completion("a", choice=choice)
    (answer,) = await ask(make(endpoint), "x")
    assert (answer.token_ids, answer.logprobs) == expected and answer.error is None


async def test_an_endpoint_that_refuses_token_ids_is_asked_without(endpoint: Endpoint) -> None:
    def strict(request: Request, number: int) -> Reply:
        unknown = request.body.keys() & {"return_token_ids", "logprobs"}
        return refusal(400, f"Unrecognized request argument: {min(unknown)}") if unknown else echo(request, number)

    endpoint.script = strict
    answers = await ask(make(endpoint, concurrency=1), "a", "b", "c")
    assert [a.text for a in answers] == ["a", "b", "c"]
    assert len(endpoint.requests) == 5, "found out once, and remembered"


async def test_one_prompt_that_is_refused_costs_the_others_nothing(endpoint: Endpoint) -> None:
    def script(request: Request, number: int) -> Reply:
        if request.last == "long":
            return refusal(400, "This model's maximum context length is 512 tokens")
        return completion("a", choice={"logprobs": {"content": [{"token": "a", "logprob": -0.5}]}})

    endpoint.script = script
    answers = await ask(make(endpoint, concurrency=1), "long", "a", "long", "b")
    assert [a.logprobs for a in answers] == [None, (-0.5,), None, (-0.5,)]
    assert answers[0].error is not None and "maximum context length" in answers[0].error


async def test_retry_after_is_kept_and_a_passing_failure_is_not_seen(endpoint: Endpoint) -> None:
    def script(request: Request, number: int) -> Reply:
        if number == 0:
            return Reply(429, {"error": {"message": "slow down"}}, {"retry-after": "0"})
        return refusal(503, "restarting") if number == 1 else echo(request, number)

    endpoint.script = script
    (answer,) = await ask(make(endpoint, backoff_s=0.01), "a")
    assert answer.text == "a" and len(endpoint.requests) == 3


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion(""), "gave no answer"),
        (completion(None, finish_reason="content_filter"), "refused"),
        (completion(None, finish_reason="length"), "max_completion_tokens"),
        (Reply(200, "<html>login</html>"), "not a chat completion"),
        (refusal(500, "out of memory"), "out of memory"),
    ],
)
async def test_an_answer_that_cannot_be_had_is_a_failed_step_with_a_reason(
    endpoint: Endpoint, reply: Reply, reason: str
) -> None:
    endpoint.script = lambda request, number: reply if "t2\n" in request.last else completion(HOLD)
    async with make(endpoint, attempts=2) as policy:
        (episode,) = await MarketArena(spec=MarketSpec(ticks=4)).play(
            policy, market_seeds=[1], seats=[None, "balanced"], temperature=1.0, seed=0
        )
    steps = episode.steps[0]
    assert [step.success for step in steps] == [True, True, False, True]
    assert steps[2].error is not None and reason in steps[2].error


async def test_an_endpoint_that_cannot_be_used_is_told_before_anything_is_played(endpoint: Endpoint) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with pytest.raises(PolicyError, match="nobody answers") as caught:
            await ask(make(dead), "a")
        assert caught.value.hint is not None and "policy.endpoint.base_url" in caught.value.hint
    for status, hint in ((401, "key"), (404, "policy.model")):
        endpoint.script = lambda request, number, status=status: refusal(status, "no")  # type: ignore[misc]
        with pytest.raises(PolicyError, match=f"HTTP {status}") as caught:
            await ask(make(endpoint), "a", "b")
        assert caught.value.hint is not None and hint in caught.value.hint


async def test_the_key_comes_from_the_variable_alone(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.script = echo
    monkeypatch.setenv("MY_KEY", "sesame")
    await ask(make(endpoint, api_key_env="MY_KEY"), "a")
    assert [request.headers["authorization"] for request in endpoint.requests] == ["Bearer sesame"]
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigError, match="MY_KEY is not set") as caught:
        await ask(EndpointPolicy(model="m", endpoint=chat.Endpoint(api_key_env="MY_KEY")), "a")
    assert caught.value.hint is not None and "policy.endpoint.base_url" in caught.value.hint


async def test_a_key_that_may_not_ask_for_logprobs_is_asked_without(endpoint: Endpoint) -> None:
    def script(request: Request, number: int) -> Reply:
        if "logprobs" in request.body:
            return refusal(403, "You are not allowed to request logprobs from this model")
        return echo(request, number)

    endpoint.script = script
    answers = await ask(make(endpoint, concurrency=1), "a", "b")
    assert [answer.text for answer in answers] == ["a", "b"] and answers[0].logprobs is None
