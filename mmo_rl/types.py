"""The nouns that every room shares: frozen, no I/O, no third-party engine.

Suffixes in names: ``_s`` seconds, ``_usd`` US dollars, ``_pct`` percent. Times are aware UTC datetimes; spans are
half-open ``[start, end)``. Missing is ``None`` or `Unscored`, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

JsonDict = dict[str, Any]
Message = Mapping[str, str]
"""One chat message: ``{"role": "system" | "user" | "assistant", "content": text}``."""


# --- time -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open interval of time ``[start, end)``, aware UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of game time in which all agents faced the same market; ``id`` is its UTC start, YYYY-MM-DDTHH:MM."""

    id: str
    start: datetime
    end: datetime


# --- what was recorded ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LLMCall:
    """One call of a language model as recorded: exactly the prompt it saw and the text it answered.

    ``prompt_token_ids``, ``token_ids`` and ``logprobs`` are present where the server gave them; ``token_ids`` and
    ``logprobs`` have one entry a completion token, the end-of-sequence token included.
    """

    call_id: str
    model: str
    messages: tuple[Message, ...]
    response: str
    purpose: str = "action"
    model_version: str | None = None
    action_type: str | None = None
    reasoning: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    latency_ms: int | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    timestamp: datetime | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """What an agent did in a step. ``correctness`` holds the future: it is for judges, never for policies."""

    action_type: str
    parameters: JsonDict
    success: bool
    result: JsonDict | None = None
    error: str | None = None
    reasoning: str | None = None
    correctness: JsonDict | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One observation -> decision -> action of one agent. ``number`` is 0-based and unique within its trajectory."""

    number: int
    timestamp: datetime
    environment_state: JsonDict
    action: Action
    llm_calls: tuple[LLMCall, ...] = ()
    provider_accesses: tuple[JsonDict, ...] = ()
    reward: float | None = None


FinalStatus = Literal["completed", "completed_with_errors", "terminated", "error", "timeout"]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The recorded steps of one agent inside one window. ``final_pnl`` in game dollars; ``None`` when not recorded.

    ``metadata`` may hold ground truth (``gameKnowledge``): it is for judges, never for policies.
    """

    trajectory_id: str
    agent_id: str
    window_id: str
    start: datetime
    end: datetime
    steps: tuple[Step, ...]
    final_pnl: float | None
    final_balance: float | None = None
    final_status: str = "completed"
    role: str | None = None
    scenario_id: str | None = None
    is_training_data: bool = True
    is_evaluation: bool = False
    metrics: JsonDict = field(default_factory=dict)
    metadata: JsonDict = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row or part of one that could not be read: counted and reported, never silently dropped."""

    trajectory_id: str | None
    field: str
    found: str
    reason: str


# --- ground truth ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TickerOutcome:
    """What one ticker did in a window; prices in game dollars, the change in percent of the start price."""

    ticker: str
    start_price: float
    end_price: float
    news: tuple[str, ...] = ()

    @property
    def change_pct(self) -> float:
        return (self.end_price / self.start_price - 1.0) * 100.0

    @property
    def sentiment(self) -> Literal["BULLISH", "BEARISH", "NEUTRAL"]:
        if self.end_price == self.start_price:
            return "NEUTRAL"
        return "BULLISH" if self.end_price > self.start_price else "BEARISH"


@dataclass(frozen=True, slots=True)
class QuestionOutcome:
    """What one prediction question came to. ``final_probability`` is that of YES, in [0, 1]."""

    question_id: str
    question: str
    outcome: Literal["YES", "NO", "UNRESOLVED"]
    final_probability: float | None = None


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Everything the agents of a window could not know. It reaches judges only."""

    window_id: str
    tickers: tuple[TickerOutcome, ...] = ()
    questions: tuple[QuestionOutcome, ...] = ()


# --- selection ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """A trajectory, or its slice in a window, as the sampler sees it: its statistics, never its steps. ``actions``
    counts recorded steps. ``odd_window_id`` is the recorded window id where it was mapped or re-derived ("" where there
    was none), None where it was used as it is."""

    trajectory_id: str
    agent_id: str
    actions: int
    final_pnl: float | None = None
    role: str | None = None
    is_training_data: bool = True
    is_evaluation: bool = False
    odd_window_id: str | None = None


@dataclass(frozen=True, slots=True)
class WindowStats:
    """Statistics of one window. ``complete`` is False while its end (plus the settle time) still lies ahead."""

    window: Window
    members: tuple[Member, ...]
    has_outcomes: bool = False
    complete: bool = True


@dataclass(frozen=True, slots=True)
class WindowQuery:
    """Which windows to look at: of one scenario or of all, in a span or in the ``lookback_hours`` before the newest
    recorded window (so that an old recording is as readable as a live one)."""

    window_hours: float = 1.0
    lookback_hours: float = 168.0
    scenario_id: str | None = None
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class SelectedWindow:
    window: Window
    trajectory_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which trajectories an iteration trains on, and what was left out and why.

    ``available`` and ``used`` count trajectories; ``dropout_rate`` in [0, max_dropout]; ``excluded`` counts
    trajectories by reason (``too_few_agents``, ``too_few_actions``, ``unfinished``, ``held_out``, ``already_used``,
    ``evaluation``, ``max_windows``...); ``dropped`` counts those that dropout took.
    """

    iteration: int
    windows: tuple[SelectedWindow, ...]
    windows_available: int
    available: int
    dropout_rate: float
    dropped: int
    excluded: Mapping[str, int]

    @property
    def trajectory_ids(self) -> tuple[str, ...]:
        return tuple(i for w in self.windows for i in w.trajectory_ids)

    @property
    def used(self) -> int:
        return len(self.trajectory_ids)


@dataclass(frozen=True, slots=True)
class Group:
    """Trajectories that are compared with each other, and the ground truth of their window (None: not recorded)."""

    group_id: str
    window: Window
    members: tuple[Trajectory, ...]
    truth: GroundTruth | None


# --- judging --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Score:
    """A judge's number in [0, 1] for one trajectory. ``decisions`` maps a step number to that step's own score in
    [0, 1], where the judge gave credit by decision."""

    trajectory_id: str
    value: float
    explanation: str = ""
    decisions: Mapping[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Unscored:
    """A judgment that could not be had. It is counted and never treated as 0."""

    trajectory_id: str
    reason: str


Judgment = Score | Unscored


@dataclass(frozen=True, slots=True)
class JudgeUsage:
    """What judging cost. ``cost_usd`` is None when no price is known (unknown is not 0)."""

    calls: int = 0
    cache_hits: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with one judgment a member, bound by trajectory id."""

    group: Group
    judgments: Mapping[str, Judgment]


# --- training -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PolicyCall:
    """The policy view of one LLM call: what the policy saw and answered, and nothing else."""

    messages: tuple[Message, ...]
    response: str
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """Calls that share one reward: all of a trajectory's (``step`` None), or one decision's."""

    trajectory_id: str
    step: int | None
    calls: tuple[PolicyCall, ...]
    reward: float


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """A GRPO group: samples whose rewards are compared with each other."""

    group_id: str
    samples: tuple[TrainingSample, ...]


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A servable policy: ``version`` is the iteration that produced it (0 is the base model), ``path`` its weights."""

    name: str
    version: int
    path: str


@dataclass(frozen=True, slots=True)
class Trained:
    """What one training call did. ``tokens`` counts trained completion tokens; ``metrics`` are flat numbers."""

    policy: PolicyVersion
    gradient_steps: int
    tokens: int
    groups_skipped_zero_variance: int
    metrics: Mapping[str, float]


# --- evaluation -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rollout:
    """One agent's stay in one window of one market. ``pnl`` in game dollars, ``errors`` counts failed actions,
    ``trades`` those that succeeded and were more than to hold; ``drawdown`` is the largest fall of the account from an
    earlier peak, in game dollars, at least 0. None where that was not measured."""

    market: int
    agent: int
    pnl: float
    actions: int
    errors: int
    trades: int | None = None
    drawdown: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A policy's results on a fixed set of held-out markets, one `Rollout` an agent and market."""

    policy: str
    decoding: Literal["sampled", "greedy"]
    rollouts: tuple[Rollout, ...]

    @property
    def pnl(self) -> float:
        """Mean P&L of an agent in a market, in game dollars."""
        return sum(r.pnl for r in self.rollouts) / len(self.rollouts)

    @property
    def win_rate(self) -> float:
        """Share of rollouts that ended with a P&L above 0, in [0, 1]."""
        return sum(r.pnl > 0 for r in self.rollouts) / len(self.rollouts)

    @property
    def error_rate(self) -> float:
        """Failed actions as a share of all actions, in [0, 1]."""
        return sum(r.errors for r in self.rollouts) / max(1, sum(r.actions for r in self.rollouts))
