"""The ruler judge against an endpoint that misbehaves: every score belongs to its id, or its member is unscored."""

from __future__ import annotations

import asyncio
import json
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.errors import ConfigError, JudgeError
from mmo_rl.judge.ruler import RulerJudge
from mmo_rl.report.base import ReportParts
from mmo_rl.report.local_report import LocalReport
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.types import Group, Score, ScoredGroup, Unscored
from tests.harness.endpoint import Endpoint, Reply, Request, completion
from tests.judge import conftest
from tests.judge.conftest import by_skill, honest, make_group, scores, stream

SKILLS = [0.1, 0.9, 0.4, 0.6]
BY_ID = {f"t{n}": skill for n, skill in enumerate(SKILLS)}


make_judge = partial(conftest.make_judge, timeout_s=5.0, attempts=3)


async def run(judge: RulerJudge, *groups: Group) -> list[ScoredGroup]:
    try:
        async with asyncio.timeout(20):
            return [scored async for scored in judge.score(stream(*groups))]
    finally:
        await judge.aclose()


def values(scored: ScoredGroup) -> dict[str, float | None]:
    return {i: j.value if isinstance(j, Score) else None for i, j in scored.judgments.items()}


def reasons(scored: ScoredGroup) -> set[str]:
    assert set(scored.judgments) == {member.trajectory_id for member in scored.group.members}
    assert all(isinstance(judgment, Unscored) for judgment in scored.judgments.values())
    return {judgment.reason for judgment in scored.judgments.values() if isinstance(judgment, Unscored)}


# --- answers that bind ------------------------------------------------------------------------------------------------


def permuted(request: Request, number: int) -> Reply:
    return scores(list(reversed(by_skill(request).items())))


def int_ids(request: Request, number: int) -> Reply:
    return scores([(int(i), s) for i, s in by_skill(request).items()])


def string_scores(request: Request, number: int) -> Reply:
    return scores([(i, str(s)) for i, s in by_skill(request).items()])


def fenced(request: Request, number: int) -> Reply:
    return completion(f"```json\n{honest_text(request)}\n```")


def thinking(request: Request, number: int) -> Reply:
    return completion(f'<think>\n{{"scores": []}} or not?\n</think>\n{honest_text(request)}')


def honest_text(request: Request) -> str:
    body = honest(request, 0).body
    assert isinstance(body, dict)
    return str(body["choices"][0]["message"]["content"])


def closing_tag_alone(request: Request, number: int) -> Reply:
    return completion(f'{{"scores": []}} or not?\n</think>\n{honest_text(request)}')


def a_sentence_and_a_fence(request: Request, number: int) -> Reply:
    return completion(f"Here are the scores:\n\n```json\n{honest_text(request)}\n```\nI hope that this helps.")


@pytest.mark.parametrize(
    "script",
    [honest, permuted, int_ids, string_scores, fenced, thinking, closing_tag_alone, a_sentence_and_a_fence],
)
async def test_each_score_belongs_to_its_id(endpoint: Endpoint, script: Any) -> None:
    endpoint.script = script
    judge = make_judge(endpoint)
    [scored] = await run(judge, make_group(SKILLS))
    assert values(scored) == BY_ID
    assert len(endpoint.requests) == 1
    shown = {text.split("skill=")[1][:3]: number for number, text in endpoint.requests[0].texts.items()}
    for judgment in scored.judgments.values():
        assert isinstance(judgment, Score)
        assert judgment.explanation == f"why {shown[str(judgment.value)]}"
        assert judgment.decisions is None


# --- answers that do not ----------------------------------------------------------------------------------------------


def with_first(entry: tuple[object, object] | None) -> Any:
    def script(request: Request, number: int) -> Reply:
        rest: list[tuple[object, object]] = [(i, 0.5) for i in request.ids[1:]]
        return scores(rest if entry is None else [entry, *rest])

    return script


def raw(content: str, **extra: Any) -> Any:
    return lambda request, number: completion(content, **extra)


def cut_off(request: Request, number: int) -> Reply:
    return completion(honest_text(request), finish_reason="length")


def refused(request: Request, number: int) -> Reply:
    reply = completion("")
    assert isinstance(reply.body, dict)
    reply.body["choices"][0]["message"].update(content=None, refusal="I would rather not")
    return reply


BAD = {
    "repeated id": (with_first(("2", 0.5)), "trajectory ID 2 appears more than once; trajectory ID 1 is missing"),
    "missing id": (with_first(None), "trajectory ID 1 is missing"),
    "unknown id": (with_first(("t0", 0.5)), 'unknown trajectory ID "t0"'),
    "7": (with_first(("1", 7)), "the score of trajectory ID 1 is 7"),
    "-3": (with_first(("1", -3)), "the score of trajectory ID 1 is -3"),
    "NaN": (with_first(("1", float("nan"))), "the score of trajectory ID 1 is NaN"),
    "Infinity": (with_first(("1", float("inf"))), "the score of trajectory ID 1 is Infinity"),
    "null": (with_first(("1", None)), "the score of trajectory ID 1 is null"),
    "true": (with_first(("1", True)), "the score of trajectory ID 1 is true"),
    "80%": (with_first(("1", "80%")), 'the score of trajectory ID 1 is "80%"'),
    "nan string": (with_first(("1", "nan")), 'the score of trajectory ID 1 is "nan"'),
    "huge integer": (raw('{"scores": [{"trajectory_id": "1", "score": 1' + "0" * 5000 + "}]}"), "not JSON"),
    "deep nesting": (raw("[" * 100_000), "not JSON"),
    "half a JSON": (raw('{"scores": [{"trajectory_id": "1", "sco'), "it is not JSON"),
    "prose": (raw("They were all quite good."), "it is not JSON"),
    "no list": (raw('{"score": 1}'), 'it has no list "scores"'),
    "empty": (raw(""), "it is empty"),
    "truncated": (cut_off, "finish_reason=length"),
    "filtered": (raw("", finish_reason="content_filter"), "refused (content_filter)"),
    "refused": (refused, "I would rather not"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_answer_is_asked_for_once_more_then_unscored(endpoint: Endpoint, case: str) -> None:
    endpoint.script, expected = BAD[case]
    judge = make_judge(endpoint)
    [scored] = await run(judge, make_group(SKILLS))
    [reason] = reasons(scored)
    assert reason.startswith("invalid answer: ")
    assert expected in reason
    assert len(endpoint.requests) == 2
    told = endpoint.requests[1].body["messages"]
    assert told[:2] == endpoint.requests[0].body["messages"]
    assert [message["role"] for message in told[2:]] == ["assistant", "user"]
    assert expected in told[3]["content"]
    assert judge.usage.calls == 2


@pytest.mark.parametrize(("case", "kept"), [("80%", 3), ("missing id", 3), ("repeated id", 2), ("prose", 0)])
async def test_the_scores_that_nothing_is_wrong_with_are_kept_where_that_is_asked_for(
    endpoint: Endpoint, case: str, kept: int
) -> None:
    endpoint.script, expected = BAD[case]
    [scored] = await run(make_judge(endpoint, partial=True), make_group(SKILLS))
    lost = [j for j in scored.judgments.values() if isinstance(j, Unscored)]
    assert len(lost) == len(SKILLS) - kept
    assert all(expected in unscored.reason for unscored in lost)
    assert len(endpoint.requests) == 2


async def test_a_repeat_that_was_answered_fills_what_a_partial_one_lacks(endpoint: Endpoint) -> None:
    partial = with_first(("1", "80%"))
    endpoint.script = lambda request, number: (honest if number == 0 else partial)(request, number)
    [scored] = await run(make_judge(endpoint, partial=True, repeats=2), make_group(SKILLS))
    assert all(isinstance(judgment, Score) for judgment in scored.judgments.values())


async def test_an_answer_above_the_limit_is_asked_for_once_and_costs_its_group_alone(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmo_rl.chat.bounded.LARGEST_ANSWER", 2000)
    endpoint.script = lambda request, number: (
        honest(request, number) if "skill=0.9" in request.user else completion("x" * 5000)
    )
    first, second = await run(
        make_judge(endpoint), make_group([0.9, 0.1], prefix="a"), make_group([0.2, 0.3], prefix="b", hour=15)
    )
    assert all(isinstance(judgment, Score) for judgment in first.judgments.values())
    [reason] = reasons(second)
    assert "the answer is longer than 0.002 MB" in reason
    assert len(endpoint.requests) == 2


async def test_half_an_emoji_and_nul_in_an_answer_can_be_stored(endpoint: Endpoint) -> None:
    def script(request: Request, number: int) -> Reply:
        listed = [{"trajectory_id": i, "explanation": "half \ud83d, nul \0", "score": 0.5} for i in request.ids]
        return completion(json.dumps({"scores": listed}, ensure_ascii=False))

    endpoint.script = script
    [scored] = await run(make_judge(endpoint), make_group(SKILLS))
    for judgment in scored.judgments.values():
        assert isinstance(judgment, Score)
        assert judgment.explanation.encode("utf-8") and "\0" not in judgment.explanation


@pytest.mark.parametrize("case", BAD)
async def test_the_second_answer_counts(endpoint: Endpoint, case: str) -> None:
    bad, _ = BAD[case]
    endpoint.script = lambda request, number: bad(request, number) if number == 0 else honest(request, number)
    [scored] = await run(make_judge(endpoint), make_group(SKILLS))
    assert values(scored) == BY_ID


async def test_a_bad_answer_costs_its_own_group_only(endpoint: Endpoint) -> None:
    broken = with_first(None)
    endpoint.script = lambda r, n: broken(r, n) if "skill=0.25" in r.user else honest(r, n)
    groups = [make_group([0.1, 0.2], hour=1), make_group([0.25, 0.75], hour=2), make_group([0.3, 0.4], hour=3)]
    results = await run(make_judge(endpoint), *groups)
    assert [scored.group.window.id for scored in results] == [group.window.id for group in groups]
    assert values(results[0]) == {"t0": 0.1, "t1": 0.2}
    assert "missing" in reasons(results[1]).pop()
    assert values(results[2]) == {"t0": 0.3, "t1": 0.4}


# --- calls that fail --------------------------------------------------------------------------------------------------

ERROR = {"error": {"message": "overloaded", "type": "server_error", "code": None}}

TRANSIENT = {
    "500": Reply(500, ERROR),
    "503": Reply(503, "<html>busy</html>"),
    "429": Reply(429, ERROR),
    "429 with Retry-After": Reply(429, ERROR, {"Retry-After": "0.01"}),
    "429 with a date gone by": Reply(429, ERROR, {"Retry-After": "Mon, 13 Jan 2025 14:00:00 GMT"}),
    "reset": Reply(then="reset"),
    "cut": Reply(body="x" * 100, then="cut"),
    "hang": Reply(then="hang"),
    "not a completion": Reply(body="<html>sign in</html>"),
    "no choices": Reply(body={"choices": []}),
}


@pytest.mark.parametrize("case", TRANSIENT)
async def test_a_passing_failure_is_waited_out(endpoint: Endpoint, case: str) -> None:
    endpoint.script = lambda request, number: TRANSIENT[case] if number == 0 else honest(request, number)
    judge = make_judge(endpoint, timeout_s=0.4)
    [scored] = await run(judge, make_group(SKILLS))
    assert values(scored) == BY_ID
    assert len(endpoint.requests) == 2
    assert judge.usage.calls == 1


@pytest.mark.parametrize("case", TRANSIENT)
async def test_a_lasting_failure_ends_with_a_reason(endpoint: Endpoint, case: str) -> None:
    """After a first good answer: the rest of the run goes on, unscored."""

    def script(request: Request, number: int) -> Reply:
        return honest(request, number) if "skill=0.25" in request.user else TRANSIENT[case]

    endpoint.script = script
    judge = make_judge(endpoint, timeout_s=0.2, concurrency=1)
    first, second = await run(judge, make_group([0.25, 0.75], hour=1), make_group(SKILLS, hour=2))
    assert values(first) == {"t0": 0.25, "t1": 0.75}
    [reason] = reasons(second)
    assert reason.startswith("judge call failed: ")
    assert len(endpoint.requests) == 1 + 3


async def test_retry_after_is_honoured_and_bounded(endpoint: Endpoint) -> None:
    loop = asyncio.get_running_loop()
    asked: list[float] = []

    def script(request: Request, number: int) -> Reply:
        asked.append(loop.time())
        return Reply(429, ERROR, {"Retry-After": "0.5"}) if number == 0 else honest(request, number)

    endpoint.script = script
    await run(make_judge(endpoint), make_group(SKILLS))
    assert asked[1] - asked[0] >= 0.5

    endpoint.requests.clear()
    endpoint.script = lambda request, number: Reply(429, ERROR, {"Retry-After": "86400"})
    with pytest.raises(JudgeError, match="HTTP 429: overloaded"):
        await run(make_judge(endpoint, max_backoff_s=60.0), make_group(SKILLS))
    assert len(endpoint.requests) == 1


async def test_a_server_that_dribbles_meets_the_deadline(endpoint: Endpoint) -> None:
    """Each byte resets a read timeout; the deadline is for the whole call."""

    endpoint.script = lambda request, number: Reply(then="dribble")
    with pytest.raises(JudgeError, match=r"no answer from .* within 0\.3 s"):
        await run(make_judge(endpoint, timeout_s=0.3, attempts=1), make_group(SKILLS))


# --- a judge that cannot be used at all -------------------------------------------------------------------------------


async def test_wrong_key_says_which_variable(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-wrong-secret")
    body = {"error": {"message": "Incorrect API key provided", "type": "auth", "code": "invalid_api_key"}}
    endpoint.script = lambda request, number: Reply(401, body)
    judge = make_judge(endpoint, api_key_env="JUDGE_KEY")
    with pytest.raises(JudgeError) as caught:
        await run(judge, *(make_group(SKILLS, hour=hour) for hour in range(10)))
    message = str(caught.value)
    assert "HTTP 401: Incorrect API key provided" in message
    assert "export JUDGE_KEY=" in message
    assert "judge=oracle" in message
    assert "sk-wrong-secret" not in message + repr(judge) + repr(caught.value.__cause__)
    assert endpoint.requests[0].headers["authorization"] == "Bearer sk-wrong-secret"
    assert len(endpoint.requests) <= 8  # those in flight, none of them again


async def test_a_key_that_the_endpoint_quotes_is_not_told(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing but its being the key tells that it is one."""
    monkeypatch.setenv("MINE", "opensesame")
    caplog.set_level("INFO")
    endpoint.script = lambda request, number: Reply(401 if number else 429, {"error": {"message": "opensesame?"}})
    with pytest.raises(JudgeError) as caught:
        await run(make_judge(endpoint, api_key_env="MINE"), make_group(SKILLS))
    assert "HTTP 401: ***?" in str(caught.value) and "HTTP 429: ***?" in caplog.text
    assert "opensesame" not in str(caught.value) + caplog.text


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(403, ERROR), "HTTP 403"),
        (Reply(404, {"error": {"message": "The model `fake-judge` does not exist"}}), "judge.model"),
        (Reply(429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}), "quota"),
        (Reply(400, {"error": {"message": "response_format is not supported"}}), "judge.response_format=json_object"),
        (Reply(500, ERROR), "overloaded"),
        (Reply(then="reset"), "scored nothing"),
        (Reply(then="hang"), "judge.endpoint.timeout_s"),
        (Reply(body="<html>sign in</html>"), "not a chat completion"),
    ],
    ids=str,
)
async def test_an_endpoint_that_never_answers_is_an_error(endpoint: Endpoint, reply: Reply, expected: str) -> None:
    endpoint.script = lambda request, number: reply
    with pytest.raises(JudgeError) as caught:
        await run(make_judge(endpoint, timeout_s=0.2), make_group(SKILLS, hour=1), make_group(SKILLS, hour=2))
    assert expected in str(caught.value)
    assert "judge=oracle" in str(caught.value)


async def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(JudgeError, match="cannot be used") as caught:
        await run(make_judge(url), make_group(SKILLS))
    assert url in str(caught.value)
    assert "judge.endpoint.base_url" in str(caught.value)


async def test_it_is_known_before_anything_starts_that_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    for address in (url, "localhost:8000/v1", "http://127.0.0.1:port/v1", "http:///v1"):
        with pytest.raises(JudgeError, match=r"judge\.endpoint\.base_url"):
            await make_judge(address).__aenter__()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    async with make_judge("http://judge.invalid/v1"):
        pass  # the proxy knows the way, perhaps


async def test_looking_whether_somebody_listens_asks_nothing(endpoint: Endpoint) -> None:
    async with make_judge(endpoint):
        assert endpoint.requests == []


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/v1", "localhost:8000/v1"])
async def test_an_address_that_leads_nowhere(url: str) -> None:
    with pytest.raises(JudgeError, match=r"judge\.endpoint\.base_url"):
        await run(make_judge(url, attempts=1), make_group(SKILLS))


async def test_the_key_is_asked_for_before_anything_starts(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ConfigError) as caught:
        async with make_judge("", base_url=None, api_key_env="JUDGE_KEY"):
            pass
    assert "export JUDGE_KEY=" in str(caught.value)
    async with make_judge(endpoint, api_key_env="JUDGE_KEY"):  # one's own endpoint needs none
        pass


async def test_a_key_revoked_half_way_costs_the_rest_only(endpoint: Endpoint) -> None:
    endpoint.script = lambda request, number: honest(request, number) if number == 0 else Reply(401, ERROR)
    judge = make_judge(endpoint, concurrency=1)
    first, second = await run(judge, make_group(SKILLS, hour=1), make_group(SKILLS, hour=2))
    assert values(first) == BY_ID
    assert reasons(second) == {"judge call failed: HTTP 401: overloaded"}


async def test_the_request_carries_the_schema(endpoint: Endpoint) -> None:
    await run(make_judge(endpoint, temperature=0.0, max_completion_tokens=500), make_group(SKILLS))
    body = endpoint.requests[0].body
    assert body["model"] == "fake-judge"
    assert body["temperature"] == 0.0
    assert body["max_completion_tokens"] == 500
    assert body["response_format"]["json_schema"]["strict"] is True
    assert json.loads(json.dumps(body["response_format"]))["json_schema"]["schema"]["required"] == ["scores"]


def in_another_place(place: str) -> Any:
    """An honest verdict that is no plain ``content``."""

    def script(request: Request, number: int) -> Reply:
        text = honest_text(request)
        reply = completion("")
        assert isinstance(reply.body, dict)
        half = len(text) // 2
        parts = [{"type": "text", "text": text[:half]}, {"type": "text", "text": text[half:]}]
        message: dict[str, Any] = {"parts": {"content": parts}}.get(place, {"content": None, place: text})
        reply.body["choices"][0]["message"].update(message)
        return reply

    return script


@pytest.mark.parametrize("place", ["parts", "reasoning_content", "reasoning"])
async def test_a_verdict_in_text_parts_or_among_the_thoughts_is_read(endpoint: Endpoint, place: str) -> None:
    endpoint.script = in_another_place(place)
    [scored] = await run(make_judge(endpoint), make_group(SKILLS))
    assert values(scored) == BY_ID and len(endpoint.requests) == 1


async def test_a_limit_that_went_to_thinking_is_named_and_not_asked_for_again(endpoint: Endpoint) -> None:
    def thought(request: Request, number: int) -> Reply:
        reply = completion("", finish_reason="length", usage=(10, 777))
        assert isinstance(reply.body, dict)
        reply.body["choices"][0]["message"].update(content=None, reasoning_content="Let me compare them one by one")
        return reply

    endpoint.script = thought
    [scored] = await run(make_judge(endpoint), make_group(SKILLS))
    [reason] = reasons(scored)
    assert "777 tokens" in reason and "raise judge.max_completion_tokens=" in reason and "thinking" in reason
    assert len(endpoint.requests) == 1


async def test_the_refused_answer_is_kept_beside_the_judgments(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = raw("They were all quite good.")
    [scored] = await run(make_judge(endpoint), make_group(SKILLS))
    report = LocalReport(parts=ReportParts(folder=RunFolder(tmp_path)))
    rows = report.judgments(0, [scored])
    assert {row["answer"] for row in rows} == {"They were all quite good."}
    endpoint.script = honest
    [scored] = await run(make_judge(endpoint), make_group(SKILLS))
    assert not any("answer" in row for row in report.judgments(1, [scored]))


@pytest.mark.parametrize(
    ("reply", "expected", "never"),
    [
        (
            Reply(429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}),
            "plan and billing",
            "valid key",
        ),
        (
            Reply(429, {"error": {"message": "come back later"}}, {"Retry-After": "86400"}),
            "asked to wait until 20",
            "valid key",
        ),
        (
            Reply(400, {"error": {"message": "This model's maximum context length is 4096 tokens"}}),
            "judge.context_tokens=N",
            "response_format",
        ),
    ],
    ids=["quota", "retry-after", "context"],
)
async def test_the_advice_fits_the_failure(endpoint: Endpoint, reply: Reply, expected: str, never: str) -> None:
    endpoint.script = lambda request, number: reply
    with pytest.raises(JudgeError) as caught:
        await run(make_judge(endpoint), make_group(SKILLS))
    assert expected in str(caught.value) and never not in str(caught.value)
