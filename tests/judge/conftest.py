"""An endpoint that judges honestly, and groups to judge."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmo_rl.chat.endpoint import Endpoint
from mmo_rl.clock import milliseconds
from mmo_rl.config.renamed import KEYS
from mmo_rl.judge.base import JudgeParts, JudgmentCache
from mmo_rl.judge.ruler import RulerJudge
from mmo_rl.judge.spending import Budget, Prices
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
from tests.harness.endpoint import Endpoint as ScriptedEndpoint
from tests.harness.endpoint import Reply, Request, completion, serving

CONF = Path(__file__).parents[2] / "conf" / "judge" / "template"
START = datetime(2025, 1, 13, 14, tzinfo=UTC)


# --- the endpoint -----------------------------------------------------------------------------------------------------


def scores(entries: Sequence[tuple[object, object]], **extra: Any) -> Reply:
    listed = [{"trajectory_id": i, "explanation": f"why {i}", "score": s} for i, s in entries]
    return completion(json.dumps({"scores": listed}), **extra)


def by_skill(request: Request) -> dict[str, float]:
    """The score that each presented id deserves: the skill that `make_group` wrote into the member's text."""
    return {i: float(re.findall(r"skill=([0-9.]+)", text)[0]) for i, text in request.texts.items()}


def honest(request: Request, number: int) -> Reply:
    return scores(list(by_skill(request).items()))


@pytest.fixture
def endpoint() -> Iterator[ScriptedEndpoint]:
    with serving(ScriptedEndpoint(script=honest)) as served:
        yield served


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


def make_judge(
    endpoint: ScriptedEndpoint | str,
    *,
    template: str = "context_rich",
    cache: JudgmentCache | None = None,
    **settings: Any,
) -> RulerJudge:
    """A judge at the endpoint or address; ``settings`` may name keys of the sub-nodes by their former flat names."""
    url = endpoint if isinstance(endpoint, str) else endpoint.url
    settings = {"model": "fake-judge", "seed": 0, "base_url": url, "api_key_env": None, "backoff_s": 0.01, **settings}
    nodes: dict[str, dict[str, Any]] = {"endpoint": {}, "budget": {}, "prices": {}}
    for former, key in KEYS["judge"].items():
        if former in settings:
            node, _, field = key.partition(".")
            nodes[node][field] = settings.pop(former)
    return RulerJudge(
        template=load_template(template),
        endpoint=Endpoint(**nodes["endpoint"]),
        budget=Budget(**nodes["budget"]),
        prices=Prices(**nodes["prices"]),
        parts=JudgeParts(cache=cache),
        **settings,
    )


async def run(judge: RulerJudge, *groups: Group) -> list[ScoredGroup]:
    try:
        return [scored async for scored in judge.score(stream(*groups))]
    finally:
        await judge.aclose()
