"""A scripted OpenAI-compatible endpoint on a real socket, and groups to judge."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from mmo_rl.clock import milliseconds
from mmo_rl.judge.base import JudgeParts
from mmo_rl.judge.ruler import RulerJudge
from mmo_rl.judge.template import Template
from mmo_rl.types import (
    Action,
    GroundTruth,
    Group,
    LLMCall,
    QuestionOutcome,
    ScoredGroup,
    Step,
    TickerOutcome,
    Trajectory,
    Window,
)

CONF = Path(__file__).parents[2] / "conf" / "judge" / "template"
START = datetime(2025, 1, 13, 14, tzinfo=UTC)


# --- the endpoint -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What the server received. ``ids`` and ``texts`` are read from the prompt as a judge would read them."""

    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def system(self) -> str:
        return str(self.body["messages"][0]["content"])

    @property
    def user(self) -> str:
        return str(self.body["messages"][1]["content"])

    @property
    def texts(self) -> dict[str, str]:
        found = re.findall(r'<trajectory-(\w+) id="(\d+)">\n(.*?)\n</trajectory-\1>', self.user, re.DOTALL)
        return {number: text for _, number, text in found}

    @property
    def ids(self) -> list[str]:
        return list(self.texts)


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: str | dict[str, Any] = ""
    headers: dict[str, str] = field(default_factory=dict)
    then: Literal["answer", "hang", "dribble", "reset", "cut"] = "answer"


Script = Callable[[Request, int], Reply]
"""Answers the request with the number it has (from 0)."""


def completion(content: str, *, finish_reason: str = "stop", usage: tuple[int, int] | None = (100, 20)) -> Reply:
    body: dict[str, Any] = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": content}}],
    }
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Reply(body=body)


def scores(entries: Sequence[tuple[object, object]], **extra: Any) -> Reply:
    listed = [{"trajectory_id": i, "explanation": f"why {i}", "score": s} for i, s in entries]
    return completion(json.dumps({"scores": listed}), **extra)


def by_skill(request: Request) -> dict[str, float]:
    """The score that each presented id deserves: the skill that `make_group` wrote into the member's text."""
    return {i: float(re.findall(r"skill=([0-9.]+)", text)[0]) for i, text in request.texts.items()}


def honest(request: Request, number: int) -> Reply:
    return scores(list(by_skill(request).items()))


class Endpoint:
    def __init__(self) -> None:
        self.script: Script = honest
        self.requests: list[Request] = []
        self.url = ""
        self._connections: dict[asyncio.StreamWriter, asyncio.Event] = {}

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        return server

    async def stop(self) -> None:
        left = dict(self._connections)
        for writer in left:
            writer.transport.abort()
        await asyncio.gather(*(ended.wait() for ended in left.values()))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = self._connections[writer] = asyncio.Event()
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is done
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            del self._connections[writer]
            ended.set()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        request = Request(headers, json.loads(body))
        assert head[0].startswith("POST /v1/chat/completions "), head[0]
        self.requests.append(request)
        reply = self.script(request, len(self.requests) - 1)
        if reply.then == "hang":
            await reader.read()  # until the client gives up
            return False
        if reply.then == "dribble":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        if reply.then == "reset":
            writer.transport.abort()
            return False
        payload = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        lines = [f"HTTP/1.1 {reply.status} Scripted", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(payload)}", *(f"{k}: {v}" for k, v in reply.headers.items()), "", ""]
        cut = len(payload) // 2 if reply.then == "cut" else len(payload)
        writer.write("\r\n".join(lines).encode() + payload[:cut])
        await writer.drain()
        return reply.then == "answer"


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    served = Endpoint()
    server = await served.serve()
    try:
        yield served
    finally:
        server.close()
        await served.stop()
        await server.wait_closed()


# --- groups -----------------------------------------------------------------------------------------------------------


def load_template(name: str) -> Template:
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert values.pop("_target_") == "mmo_rl.judge.template.Template"
    return Template(**values)


def make_trajectory(trajectory_id: str, *, response: str, window: Window | None = None) -> Trajectory:
    window = window or make_window()
    call = LLMCall(
        call_id=f"{trajectory_id}-call-0-0",
        model="policy",
        system_prompt="You trade.",
        user_prompt="ACME is at 100.",
        response=response,
        reasoning="thinking aloud",
    )
    action = Action(
        "BUY",
        {"ticker": "ACME"},
        success=True,
        reasoning="because",
        correctness={"perpCorrect": True, "actualOutcome": "CANARY-correctness"},
    )
    step = Step(0, milliseconds(window.start + timedelta(minutes=5)), {"agentBalance": 1000.0}, action, (call,))
    return Trajectory(
        trajectory_id=trajectory_id,
        agent_id=f"agent-of-{trajectory_id}",
        window_id=window.id,
        start=window.start,
        end=window.end,
        steps=(step,),
        final_pnl=777.125,
        metadata={"gameKnowledge": {"secret": "CANARY-knowledge"}},
    )


def make_window(hour: int = 14) -> Window:
    start = START.replace(hour=hour)
    return Window(start.strftime("%Y-%m-%dT%H:%M"), start, start + timedelta(hours=1))


def make_group(skills: Sequence[float], *, hour: int = 14, truth: bool = True, prefix: str = "t") -> Group:
    """Members ``t0``, ``t1``, ...; the skill of each is written into its own text, so a judge can bind them."""
    window = make_window(hour)
    known = GroundTruth(
        window.id,
        (TickerOutcome("ACME", 100.0, 123.5, news=("CANARY-news",)),),
        (QuestionOutcome("q1", "CANARY-question", "YES", 0.9),),
    )
    members = [
        make_trajectory(f"{prefix}{n}", response=f"skill={skill}", window=window) for n, skill in enumerate(skills)
    ]
    return Group(window.id, window, tuple(members), known if truth else None)


def make_long(
    skills: Sequence[float],
    *,
    steps: int,
    idle: range = range(0),
    observation: int = 0,
    prefix: str = "t",
) -> Group:
    """Members with ``steps`` decisions each, of which those in ``idle`` do nothing; what they saw is ``observation``
    characters long."""
    window = make_window()
    members = []
    for n, skill in enumerate(skills):
        taken = tuple(
            Step(
                number,
                milliseconds(window.start + timedelta(minutes=number / 10)),
                {},
                Action("HOLD" if number in idle else "BUY", {} if number in idle else {"ticker": "ACME"}, success=True),
                (
                    LLMCall(
                        call_id=f"{prefix}{n}-{number}",
                        model="policy",
                        user_prompt=f"news of minute {number} " + "." * observation,
                        response="ok",
                    ),
                ),
            )
            for number in range(steps)
        )
        first = make_trajectory(f"{prefix}{n}", response=f"skill={skill}", window=window)
        taken = (
            Step(
                0,
                milliseconds(window.start),
                {},
                Action("BUY", {"ticker": "ACME"}, success=True, result={"said": f"skill={skill}"}),
                taken[0].llm_calls,
            ),
            *taken[1:],
        )
        members.append(replace(first, steps=taken))
    known = GroundTruth(window.id, (TickerOutcome("ACME", 100.0, 123.5),))
    return Group(window.id, window, tuple(members), known)


async def stream(*groups: Group) -> AsyncIterator[Group]:
    for group in groups:
        yield group


def make_judge(endpoint: Endpoint, *, template: str = "context_rich", **changes: Any) -> RulerJudge:
    settings: dict[str, Any] = {"model": "fake-judge", "seed": 0, "base_url": endpoint.url, "api_key_env": None}
    return RulerJudge(
        template=load_template(template), **{**settings, "backoff_s": 0.01, **changes}, parts=JudgeParts()
    )


async def run(judge: RulerJudge, *groups: Group) -> list[ScoredGroup]:
    try:
        return [scored async for scored in judge.score(stream(*groups))]
    finally:
        await judge.aclose()
