"""Every fault at once, in a fifth of all answers: a score belongs to its id or is counted unscored; the run ends."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable

import pytest

from mmo_rl.types import Score, Unscored
from tests.harness.endpoint import Endpoint, Reply, Request, completion
from tests.judge.conftest import by_skill, make_group, make_judge, scores, stream

ERROR = {"error": {"message": "overloaded", "type": "server_error"}}


def entries(request: Request) -> list[tuple[object, object]]:
    return list(by_skill(request).items())


def first_score(value: object) -> Callable[[Request], Reply]:
    return lambda request: scores([(entries(request)[0][0], value), *entries(request)[1:]])


def text(request: Request) -> str:
    body = scores(entries(request)).body
    assert isinstance(body, dict)
    return str(body["choices"][0]["message"]["content"])


FAULTS: dict[str, Callable[[Request], Reply]] = {
    "permuted": lambda request: scores(list(reversed(entries(request)))),
    "repeated": lambda request: scores([entries(request)[0], *entries(request)[:-1]]),
    "left out": lambda request: scores(entries(request)[1:]),
    "7": first_score(7),
    "-3": first_score(-3),
    "NaN": first_score(float("nan")),
    "strings": lambda request: scores([(i, str(s)) for i, s in entries(request)]),
    "int ids": lambda request: scores([(int(str(i)), s) for i, s in entries(request)]),
    "fenced": lambda request: completion(f"```json\n{text(request)}\n```"),
    "truncated": lambda request: completion(text(request)[:-40], finish_reason="length"),
    "429": lambda request: Reply(429, ERROR, {"Retry-After": "0.02"}),
    "500": lambda request: Reply(500, ERROR),
    "hang": lambda request: Reply(then="hang"),
    "reset": lambda request: Reply(then="reset"),
    "cut": lambda request: Reply(body="x" * 100, then="cut"),
}


@pytest.mark.parametrize("repeats", [1, 3])
async def test_a_fifth_of_all_answers_is_faulty(endpoint: Endpoint, repeats: int) -> None:
    chance = random.Random(1)
    faults = itertools.cycle(chance.sample(sorted(FAULTS), len(FAULTS)))
    met: set[str] = set()

    def script(request: Request, number: int) -> Reply:
        if chance.random() >= 0.2:
            return scores(entries(request))
        fault = next(faults)
        met.add(fault)
        return FAULTS[fault](request)

    endpoint.script = script
    judge = make_judge(endpoint, repeats=repeats, concurrency=8, timeout_s=0.5, attempts=3, max_backoff_s=0.1)
    groups = [make_group([0.1, 0.5 + n / 1000, 0.9], hour=n % 24, prefix=f"w{n}-") for n in range(120)]
    async with asyncio.timeout(60):
        results = [scored async for scored in judge.score(stream(*groups))]
    await judge.aclose()
    assert [scored.group for scored in results] == groups
    unscored = 0
    for n, scored in enumerate(results):
        expected = {f"w{n}-0": 0.1, f"w{n}-1": 0.5 + n / 1000, f"w{n}-2": 0.9}
        assert scored.judgments.keys() == expected.keys()
        lost = [j for j in scored.judgments.values() if isinstance(j, Unscored)]
        assert len(lost) in (0, 3)
        assert all(j.reason.startswith(("invalid answer: ", "judge call failed: ")) for j in lost)
        unscored += bool(lost)
        if not lost:
            assert {i: j.value for i, j in scored.judgments.items() if isinstance(j, Score)} == expected
    assert unscored <= (0 if repeats > 1 else 12)
    assert met == set(FAULTS)


def test_every_scripted_answer_is_json_or_meant_not_to_be() -> None:
    request = Request(
        {}, {"messages": [{"content": ""}, {"content": '<trajectory-a id="1">\nskill=0.5\n</trajectory-a>'}]}
    )
    assert json.loads(text(request)) == {"scores": [{"trajectory_id": "1", "explanation": "why 1", "score": 0.5}]}
