"""View of a trajectory, step by step: what the agent saw, thought and answered, what it did, and what it got."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from mmo_rl.messages import content_text
from mmo_rl.types import GroundTruth, JsonDict, LLMCall, Score, Step, Trajectory, Window
from mmo_rl.view.library import NotThere, Seen
from mmo_rl.vocabulary import Vocabulary

LONGEST_STATE = 4000
"""Characters of an environment state on a page; the rest is left out and counted."""


@dataclass(frozen=True, slots=True)
class Said:
    """A message: role, text, and its tool calls or the call that it answers as text."""

    role: str
    text: str
    tools: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer: its id, its log probability (nats, None: not recorded), and that as a shade in [0, 1]: 0
    was certain, 1 had a probability of at most 1 in 150."""

    id: int
    logprob: float | None
    shade: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CallView:
    """One call of a language model: the prompt, which the policy saw, and its answer."""

    purpose: str
    model: str
    prompt: tuple[Said, ...]
    answer: str
    tool_calls: tuple[str, ...]
    reasoning: str
    tokens: tuple[Token, ...]
    latency_ms: int | None


@dataclass(frozen=True, slots=True)
class Beside:
    """The step of another agent at the same moment: its number in the window, agent, trajectory id and step."""

    number: int
    agent_id: str
    trajectory_id: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """One step. ``value`` is the oracle's score of the decision in [0, 1], and ``came_true`` the outcome of what was
    traded: neither was known to the agent."""

    number: int
    minute: float
    action: str
    parameters: str
    success: bool
    result: str
    error: str
    reasoning: str
    balance: str
    pnl: str
    state: str
    calls: tuple[CallView, ...]
    value: float | None
    came_true: str
    beside: tuple[Beside, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryView:
    """One agent's play in a window."""

    trajectory_id: str
    agent_id: str
    final_status: str
    steps: tuple[StepView, ...]


def trajectory_view(seen: Seen, trajectory_id: str, vocabulary: Vocabulary) -> TrajectoryView:
    """Builds the view of one member of a group. Raises `NotThere`."""
    group = seen.group
    member = next((m for m in group.members if m.trajectory_id == trajectory_id), None)
    member = member or next((m for m in group.members if m.agent_id == trajectory_id), None)
    if member is None:
        raise NotThere(f"window {group.group_id} has no trajectory {trajectory_id}")
    judgment = seen.oracle.get(member.trajectory_id)
    values = judgment.decisions or {} if isinstance(judgment, Score) else {}
    others = [other for other in group.members if other is not member]
    return TrajectoryView(
        trajectory_id=member.trajectory_id,
        agent_id=member.agent_id,
        final_status=member.final_status,
        steps=tuple(_step(step, group.window, group.truth, vocabulary, values, others) for step in member.steps),
    )


def _step(
    step: Step,
    window: Window,
    truth: GroundTruth | None,
    vocabulary: Vocabulary,
    values: Mapping[int, float],
    others: list[Trajectory],
) -> StepView:
    action, state = step.action, step.environment_state
    return StepView(
        number=step.number,
        minute=(step.timestamp - window.start).total_seconds() / 60.0,
        action=action.action_type,
        parameters=pretty(action.parameters),
        success=action.success,
        result=pretty(action.result) if action.result else "",
        error=action.error or "",
        reasoning=action.reasoning or "",
        balance=_amount(state.get("agentBalance")),
        pnl=_amount(state.get("agentPnL")),
        state=pretty({"environmentState": state, "providerAccesses": list(step.provider_accesses)}),
        calls=tuple(map(_call, step.llm_calls)),
        value=values.get(step.number),
        came_true=_came_true(vocabulary.instrument(action), truth),
        beside=tuple(_beside(step, others)),
    )


def _call(call: LLMCall) -> CallView:
    logprobs = call.logprobs or ()
    ids = call.token_ids or ()
    return CallView(
        purpose=call.purpose,
        model=call.model + (f"@{call.model_version}" if call.model_version else ""),
        prompt=tuple(
            Said(
                str(m.get("role", "")),
                content_text(m.get("content")),
                tuple(
                    [*map(_tool_call, m.get("tool_calls") or ())]
                    + ([f"answers {m['tool_call_id']}"] if m.get("tool_call_id") else [])
                ),
            )
            for m in call.messages
        ),
        answer=call.response,
        tool_calls=tuple(map(_tool_call, call.tool_calls or ())),
        reasoning=call.reasoning or "",
        tokens=tuple(_token(i, logprobs[n] if n < len(logprobs) else None) for n, i in enumerate(ids)),
        latency_ms=call.latency_ms,
    )


def _token(identity: int, logprob: float | None) -> Token:
    return Token(identity, logprob, 0.0 if logprob is None else min(1.0, -logprob / 5.0))


def _tool_call(call: JsonDict) -> str:
    function = call.get("function")
    if not isinstance(function, Mapping):
        return pretty(call)
    return f"{function.get('name')}({function.get('arguments', '')})"


def _beside(step: Step, others: list[Trajectory]) -> list[Beside]:
    """The last step of each other agent at or before this one's moment."""
    found = []
    for place, other in enumerate(others, start=1):
        before = [s for s in other.steps if s.timestamp_ms <= step.timestamp_ms]
        if before:
            found.append(Beside(place, other.agent_id, other.trajectory_id, before[-1].number))
    return found


def _came_true(name: str | None, truth: GroundTruth | None) -> str:
    if truth is None or name is None:
        return ""
    for t in truth.tickers:
        if t.ticker == name:
            return f"{name} went from {t.start_price:,.4g} to {t.end_price:,.4g}"
    for q in truth.questions:
        if q.question_id == name:
            return f"{name} was resolved {q.outcome}" if q.outcome != "UNRESOLVED" else f"{name} is unresolved"
    return ""


def _amount(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, int | float) and not isinstance(value, bool) else ""


def pretty(value: object) -> str:
    """Writes recorded data as JSON for people, cut where it is long."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    if len(text) <= LONGEST_STATE:
        return text
    return f"{text[:LONGEST_STATE]}\n... {len(text) - LONGEST_STATE:,} more characters"
