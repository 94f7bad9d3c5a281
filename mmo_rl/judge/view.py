"""Judge view: the form of a trajectory that a judge's template may show, ground truth included.

These types are for judges only. What a policy is trained on is `mmo_rl.types.PolicyCall`, which cannot hold any of
this. Trajectory, agent and scenario ids are left out on purpose: they say nothing about the play, and a judge must not
recognise an agent by its name.
"""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from mmo_rl.messages import answer_text, content_text
from mmo_rl.types import GroundTruth, Group, JsonDict, LLMCall, Step, Trajectory, Window
from mmo_rl.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, slots=True)
class CallView:
    """LLM call of a step. ``prompt`` is the last user message, the part that differs from call to call."""

    purpose: str
    system: str | None
    prompt: str | None
    response: str
    reasoning: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class StepView:
    """Step of a trajectory. ``minute`` counts from the window's start; ``idle`` steps did nothing, successfully.

    ``correctness`` (recorded) and ``came_true`` (the outcome of the instrument traded, from the window's outcomes) are
    ground truth.
    """

    number: int
    minute: float
    action: str
    parameters: JsonDict
    success: bool
    result: JsonDict | None
    error: str | None
    reasoning: str | None
    correctness: JsonDict | None
    came_true: JsonDict | None
    idle: bool
    balance: float | str | None
    pnl: float | str | None
    state: JsonDict
    calls: tuple[CallView, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class TrajectoryView:
    """Trajectory of one agent. ``final_pnl`` and ``game_knowledge`` are ground truth; None where not recorded."""

    steps: tuple[StepView, ...]
    errors: int
    final_pnl: float | None
    final_balance: float | None
    final_status: str
    role: str | None
    game_knowledge: Any


@dataclasses.dataclass(frozen=True, slots=True)
class TickerView:
    ticker: str
    start_price: float
    end_price: float
    change_pct: float | None
    sentiment: str
    news: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class QuestionView:
    question: str
    outcome: str
    final_probability: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class TruthView:
    tickers: tuple[TickerView, ...]
    questions: tuple[QuestionView, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class WindowView:
    id: str
    minutes: float


FIELDS: dict[type, frozenset[str]] = {
    view: frozenset(field.name for field in dataclasses.fields(view))
    for view in (CallView, StepView, TrajectoryView, TickerView, QuestionView, TruthView, WindowView)
}
"""The fields of each view, which a template may name."""


def trajectory_view(
    trajectory: Trajectory, window: Window, truth: GroundTruth | None, vocabulary: Vocabulary
) -> TrajectoryView:
    """Builds the judge view of one trajectory."""
    return TrajectoryView(
        steps=tuple(_step_view(step, window, truth, vocabulary) for step in trajectory.steps),
        errors=sum(not step.action.success for step in trajectory.steps),
        final_pnl=trajectory.final_pnl,
        final_balance=trajectory.final_balance,
        final_status=trajectory.final_status,
        role=trajectory.role,
        game_knowledge=trajectory.metadata.get("gameKnowledge"),
    )


def truth_view(truth: GroundTruth | None) -> TruthView | None:
    """Builds the view of a window's ground truth; None where none was recorded."""
    if truth is None or not (truth.tickers or truth.questions):
        return None
    return TruthView(
        tickers=tuple(
            TickerView(
                t.ticker,
                t.start_price,
                t.end_price,
                None if t.start_price == 0 else round(t.change_pct, 4),
                t.sentiment,
                t.news,
            )
            for t in truth.tickers
        ),
        questions=tuple(QuestionView(q.question, q.outcome, q.final_probability) for q in truth.questions),
    )


def window_view(group: Group) -> WindowView:
    """Builds the view of a group's window: its id and length."""
    minutes = (group.window.end - group.window.start).total_seconds() / 60.0
    return WindowView(group.window.id, int(minutes) if minutes.is_integer() else minutes)


def _step_view(step: Step, window: Window, truth: GroundTruth | None, vocabulary: Vocabulary) -> StepView:
    """Builds the view of one step."""
    action, state = step.action, step.environment_state
    return StepView(
        number=step.number,
        minute=round((step.timestamp - window.start).total_seconds() / 60.0, 2),
        action=action.action_type,
        parameters=action.parameters,
        success=action.success,
        result=action.result,
        error=action.error,
        reasoning=action.reasoning,
        correctness=action.correctness,
        came_true=_came_true(vocabulary.instrument(action), truth),
        idle=action.success and vocabulary.kind(action.action_type) == "wait",
        balance=state.get("agentBalance"),
        pnl=state.get("agentPnL"),
        state=state,
        calls=tuple(_call_view(call) for call in step.llm_calls),
    )


def _came_true(name: str | None, truth: GroundTruth | None) -> JsonDict | None:
    """Looks up the outcome of the instrument that an action names; None where none is recorded."""
    if truth is None or name is None:
        return None
    for ticker in truth.tickers:
        if ticker.ticker == name:
            return {"start_price": ticker.start_price, "end_price": ticker.end_price}
    for question in truth.questions:
        if question.question_id == name:
            return {"outcome": question.outcome, "final_probability": question.final_probability}
    return None


def _call_view(call: LLMCall) -> CallView:
    """Builds the view of one LLM call."""
    last = {message["role"]: content_text(message.get("content")) for message in call.messages}
    answer = answer_text(call.response, call.tool_calls)
    return CallView(call.purpose, last.get("system"), last.get("user"), answer, call.reasoning)


# --- encoding -------------------------------------------------------------------------------------------------------

# What could close a fence, start a line of its own, hide text from a human reader or break UTF-8: angle brackets and
# ampersands, C1 controls and line separators, zero-width, bidirectional and tag characters, lone surrogates.
_UNSAFE = re.compile("[<>&\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]")


def encode(value: object) -> str:
    """Encodes a value as JSON on one line in which no character can end the fence around it.

    Everything that a template inserts goes through here, so recorded text reaches a judge only inside a JSON string.
    Raises `TypeError` for what is neither plain data nor a view.
    """
    text = _ENCODER.encode(value)
    return _UNSAFE.sub(lambda match: _escape(match.group()), text)


def _escape(character: str) -> str:
    """Writes a character as a JSON escape."""
    if ord(character) < 0x10000:
        return f"\\u{ord(character):04x}"
    return json.dumps(character)[1:-1]


def _plain(value: object) -> object:
    """Converts a view or a date for the encoder."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime | date | Decimal):
        return str(value)
    raise TypeError(f"a judge template cannot show a value of type {type(value).__name__}")


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=_plain)


def clip(value: object, characters: int) -> object:
    """Shortens a value whose text is longer to its beginning and the number of characters left out."""
    if value is None:
        return None
    text = value if isinstance(value, str) else encode(value)
    if len(text) <= characters:
        return value
    return f"{text[:characters]}... [{len(text) - characters} more characters]"
