"""Types that every room shares: frozen, no I/O, no third-party engine.

Suffixes in names: ``_s`` seconds, ``_usd`` US dollars, ``_pct`` percent. Times are aware UTC datetimes; spans are
half-open ``[start, end)``. Missing is ``None`` or `Unscored`, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypedDict

import msgspec

JsonDict = dict[str, Any]
JsonObjects = tuple[JsonDict, ...]
Message = Mapping[str, Any]
"""One chat message as the API of its time says it: ``role``; ``content``, a text, null or text parts; ``tool_calls``,
``tool_call_id``, ``name`` (`mmo_rl.messages` checks and renders it)."""
RecordedMs = Annotated[float, msgspec.Meta(ge=1e11, lt=4e12)]
"""Milliseconds since 1970, from 1973 to 2096: a smaller number counts seconds in recordings; up to the largest one a
float tells microseconds apart."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Parts:
    """Base of the collaborators that the composition root hands to a component beside the keys of its YAML file: each
    room's ``base.py`` has a frozen dataclass of them, and a constructor that needs any takes it as ``parts``."""

    __slots__ = ()


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


# --- recordings ----------------------------------------------------------------------------------------------


class _Recorded(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, gc=False):
    """A part of a step under the names that recordings give it, so that it is decoded without a copy of its own: a
    trajectory holds hundreds of them. Times are kept as recorded, in milliseconds since 1970."""


class LLMCall(_Recorded, frozen=True, kw_only=True):
    """One call of a language model as recorded: exactly the prompt it saw and the text it answered.

    Read its prompt from `messages`: ``chat``, where more was said than the two prompts hold, else these.
    ``prompt_token_ids``, ``token_ids`` and ``logprobs`` are present where the server gave them; ``token_ids`` and
    ``logprobs`` have one entry a completion token, the end-of-sequence token included. ``tool_calls`` belong to the
    answer, ``tools`` were offered.
    """

    model: str
    response: str
    system_prompt: str = ""
    user_prompt: str = ""
    chat: tuple[Message, ...] | None = msgspec.field(name="messages", default=None)
    purpose: str = "action"
    call_id: str | None = None
    model_version: str | None = None
    action_type: str | None = None
    reasoning: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    latency_ms: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    timestamp_ms: RecordedMs | None = msgspec.field(name="timestamp", default=None)
    tool_calls: JsonObjects | None = None
    tools: JsonObjects | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as chat messages."""
        if self.chat:
            return self.chat
        prompts = (("system", self.system_prompt), ("user", self.user_prompt))
        return tuple({"role": role, "content": text} for role, text in prompts if text)

    @property
    def timestamp(self) -> datetime | None:
        return None if self.timestamp_ms is None else _moment(self.timestamp_ms)


class PromptFields(TypedDict):
    system_prompt: str
    user_prompt: str
    chat: tuple[Message, ...] | None


def prompt_fields(messages: Sequence[Message]) -> PromptFields:
    """Splits chat messages into the fields of an `LLMCall`: the game's two prompts, and all messages where there are
    more than these."""
    texts = [m for m in messages if isinstance(m.get("content"), str)]
    system = next((m["content"] for m in texts if m.get("role") == "system"), "")
    user = next((m["content"] for m in reversed(texts) if m.get("role") == "user"), "")
    plain = [{"role": role, "content": text} for role, text in (("system", system), ("user", user)) if text]
    copies = [dict(message) for message in messages]
    return {"system_prompt": system, "user_prompt": user, "chat": None if copies == plain else tuple(copies)}


class Action(_Recorded, frozen=True):
    """Action of an agent in a step. ``correctness`` holds the future: it is for judges, never for policies."""

    action_type: str
    parameters: JsonDict
    success: bool
    result: JsonDict | None = None
    error: str | None = None
    reasoning: str | None = None
    correctness: JsonDict | None = None


class Step(_Recorded, frozen=True):
    """One observation -> decision -> action of one agent. ``number`` is 0-based and unique within its trajectory.
    From ``step_id`` on: what some recorders add, kept as it was."""

    number: int = msgspec.field(name="stepNumber")
    timestamp_ms: RecordedMs = msgspec.field(name="timestamp")
    environment_state: JsonDict
    action: Action
    llm_calls: tuple[LLMCall, ...] = ()
    provider_accesses: tuple[JsonDict, ...] = ()
    reward: float | None = None
    step_id: str | None = None
    observation: JsonDict | None = None
    done: bool | None = None
    metadata: JsonDict | None = None

    @property
    def timestamp(self) -> datetime:
        return _moment(self.timestamp_ms)


def _moment(milliseconds: float) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


FinalStatus = Literal["completed", "completed_with_errors", "terminated", "error", "timeout"]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The recorded steps of one agent inside one window. ``final_pnl`` in game dollars; ``None`` when not recorded.

    ``metadata`` may hold ground truth (``gameKnowledge``): it is for judges, never for policies. So are ``rewards``,
    the numbers that were recorded of the whole: ``totalReward`` (an ART line's reward), ``aiJudgeReward``,
    ``rewardJudgment``.
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
    rewards: Mapping[str, float] = field(default_factory=dict)


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
    """Outcome of one ticker in a window; prices in game dollars, the change in percent of the start price."""

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
    """Outcome of one prediction question. ``final_probability`` is that of YES, in [0, 1]."""

    question_id: str
    question: str
    outcome: Literal["YES", "NO", "UNRESOLVED"]
    final_probability: float | None = None


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Ground truth of a window: outcomes that its agents could not know. It reaches judges only."""

    window_id: str
    tickers: tuple[TickerOutcome, ...] = ()
    questions: tuple[QuestionOutcome, ...] = ()


# --- selection ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """A trajectory, its slice in a window, or several of an agent joined in one, as the sampler sees it: its
    statistics, never its steps. ``actions`` counts recorded steps. ``odd_window_id`` is the recorded window id where it
    was mapped or re-derived ("" where there was none), None where it was used as it is. ``parts`` are the ids of what
    was joined, in the order of time; empty where nothing was."""

    trajectory_id: str
    agent_id: str
    actions: int
    final_pnl: float | None = None
    role: str | None = None
    is_training_data: bool = True
    is_evaluation: bool = False
    odd_window_id: str | None = None
    parts: tuple[str, ...] = ()

    @property
    def trainable(self) -> bool:
        """True where it may be trained on, however many steps it has."""
        return self.is_training_data and not self.is_evaluation


class GroupCounts(msgspec.Struct, frozen=True, gc=False):
    """Counts of the recorded members of a window, or of one ``role`` in it: numbers, not a single id.

    ``available`` members of ``agents`` different agents may be trained on; the others are ``evaluation`` (or not meant
    for training) or have ``too_few_actions``. ``steps`` and the range of P&L (game dollars, None where none was
    recorded) are those of the available ones.
    """

    window: Window
    role: str | None
    available: int
    agents: int
    evaluation: int
    too_few_actions: int
    steps: int
    pnl_low: float | None
    pnl_high: float | None
    complete: bool = True

    @property
    def members(self) -> int:
        return self.available + self.evaluation + self.too_few_actions


@dataclass(frozen=True, slots=True)
class WindowStats:
    """Statistics of one window. ``complete`` is False while its end (plus the settle time) still lies ahead.
    ``left_out`` has the agent and role of each member that the source left out because the query's dropout takes it."""

    window: Window
    members: tuple[Member, ...]
    has_outcomes: bool = False
    complete: bool = True
    left_out: tuple[tuple[str, str | None], ...] = ()

    @property
    def everything(self) -> SelectedWindow:
        """All members, as a source's ``groups`` takes them."""
        ids = tuple(member.trajectory_id for member in self.members)
        return SelectedWindow(self.window, ids, parts={m.trajectory_id: m.parts for m in self.members if m.parts})

    def counts(self, *, min_actions: int = 0, by_role: bool = False) -> list[GroupCounts]:
        """The numbers of the window, by role or of all roles together, in the order of the roles' names."""
        found: dict[str | None, list[Member]] = {}
        for member in self.members:
            found.setdefault(member.role if by_role else None, []).append(member)
        counted = []
        for role in sorted(found, key=lambda role: (role is not None, role or "")):
            trainable = [m for m in found[role] if m.trainable]
            usable = [m for m in trainable if m.actions >= min_actions]
            pnl = [m.final_pnl for m in usable if m.final_pnl is not None]
            counted.append(
                GroupCounts(
                    window=self.window,
                    role=role,
                    available=len(usable),
                    agents=len({m.agent_id for m in usable}),
                    evaluation=len(found[role]) - len(trainable),
                    too_few_actions=len(trainable) - len(usable),
                    steps=sum(m.actions for m in usable),
                    pnl_low=min(pnl, default=None),
                    pnl_high=max(pnl, default=None),
                    complete=self.complete,
                )
            )
        return counted


@dataclass(frozen=True, slots=True)
class Draw:
    """Seeded random dropout that a source may apply before it sends members: those that would be dropped at ``rate``
    need not be sent. ``prefix`` at the beginning of an id has no part in the choice."""

    seed: int
    rate: float
    min_agents: int
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class WindowQuery:
    """Query for windows: of one scenario or of all, in a span or in the ``lookback_hours`` before the newest recorded
    window (so that an old recording is as readable as a live one).

    Members with fewer than ``min_actions`` steps are counted apart; ``by_role`` counts and joins within a role.
    ``only`` names the windows whose members are asked for (empty: all of them); ``draw`` lets the source leave out
    what dropout takes. Not ``exact``, trajectories that cross the end of their window are counted where they begin,
    without a look at their steps. ``simulated`` leaves out what was not played in the simulated market, where the
    source's own choice does not say more.
    """

    window_hours: float = 1.0
    lookback_hours: float = 168.0
    scenario_id: str | None = None
    span: Span | None = None
    min_actions: int = 0
    by_role: bool = False
    only: tuple[Window, ...] = ()
    draw: Draw | None = None
    exact: bool = True
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """Choice of an iteration's windows, without trajectory ids: ``groups`` are the (window id, role) that have
    enough agents. ``available`` and ``excluded`` count trajectories, as in `Selection`."""

    iteration: int
    windows: tuple[Window, ...]
    groups: frozenset[tuple[str, str | None]]
    windows_available: int
    available: int
    dropout_rate: float
    excluded: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SelectedWindow:
    """Trajectories of a window, or of one ``role`` in it, that an iteration trains on. ``parts`` maps the id of a
    joined trajectory to the ids of its parts, in the order of time."""

    window: Window
    trajectory_ids: tuple[str, ...]
    role: str | None = None
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def group_id(self) -> str:
        return self.window.id if self.role is None else f"{self.window.id}/{self.role}"

    @property
    def recorded_ids(self) -> tuple[str, ...]:
        """Ids of the trajectories (or slices) that are read."""
        return tuple(part for i in self.trajectory_ids for part in self.parts.get(i, (i,)))


@dataclass(frozen=True, slots=True)
class Selection:
    """Trajectories that an iteration trains on, and the number of those left out by reason.

    ``available`` and ``used`` count trajectories; ``dropout_rate`` in [0, max_dropout]; ``excluded`` counts
    trajectories by reason (``too_few_agents``, ``too_few_actions``, ``unfinished``, ``held_out``, ``already_used``,
    ``evaluation``, ``max_windows``...); ``dropped`` counts those that dropout took. ``agents`` has the number of
    trajectories of each agent before and after dropout. ``until`` is the end of the newest window that was looked at;
    None where a run looked only at its own play.
    """

    iteration: int
    windows: tuple[SelectedWindow, ...]
    windows_available: int
    available: int
    dropout_rate: float
    dropped: int
    excluded: Mapping[str, int]
    agents: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    until: datetime | None = None

    @property
    def trajectory_ids(self) -> tuple[str, ...]:
        return tuple(i for w in self.windows for i in w.trajectory_ids)

    @property
    def recorded_ids(self) -> tuple[str, ...]:
        """Ids of the recorded trajectories or slices, the parts of joined ones each by itself."""
        return tuple(i for w in self.windows for i in w.recorded_ids)

    @property
    def used(self) -> int:
        return len(self.trajectory_ids)

    def largest_share(self, *, after: bool) -> float | None:
        """Computes the share of the agent with the most trajectories, before or after dropout; in [0, 1]."""
        counts = [pair[after] for pair in self.agents.values()]
        return max(counts) / sum(counts) if sum(counts) else None


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
    """A judge's number in [0, 1] for one trajectory.

    ``decisions`` maps a step number to that step's own score in [0, 1], where credit is given by decision; a step
    without an entry is unscored. ``spread`` in [0, 1] is the range of the scores that this one was made of (repeats, or
    the judges of a panel); None where there was only one.
    """

    trajectory_id: str
    value: float
    explanation: str = ""
    decisions: Mapping[int, float] | None = None
    spread: float | None = None


@dataclass(frozen=True, slots=True)
class Unscored:
    """Missing judgment of one trajectory, with its reason. It is counted and never treated as 0. ``answer`` is the text
    of a judge that could not be used."""

    trajectory_id: str
    reason: str
    answer: str = ""


Judgment = Score | Unscored


@dataclass(frozen=True, slots=True)
class JudgeUsage:
    """Calls, tokens and cost of judging. ``cost_usd`` is None when no price is known (unknown is not 0)."""

    calls: int = 0
    cache_hits: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0


Tallies = Mapping[str, tuple[float, ...]]
"""Findings of a judge about itself, by name, as sums that add up over parts of a run: (count,), (sum, n) or the sums
of a regression; `mmo_rl.judge.findings.numbers` makes numbers of them."""


Credit = Literal["trajectory", "decision"]
"""Carrier of the reward: the trajectory, whose calls share its score, or each decision (`Score.decisions`)."""


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with one judgment a member, bound by trajectory id, and the ``credit`` that its trainer must obey."""

    group: Group
    judgments: Mapping[str, Judgment]
    credit: Credit

    @property
    def unscored_decisions(self) -> int:
        """The number of steps without a score of their own in scored members; 0 where credit is by trajectory."""
        if self.credit == "trajectory":
            return 0
        return sum(
            step.number not in (score.decisions or {})
            for member in self.group.members
            if isinstance(score := self.judgments.get(member.trajectory_id), Score)
            for step in member.steps
        )


# --- training -------------------------------------------------------------------------------------------------------


AssistantTurns = Literal["action", "all"]
"""Recorded calls whose answers are trained (`mmo_rl.policy_view.policy_calls`)."""


@dataclass(frozen=True, slots=True)
class PolicyCall:
    """Policy view of one LLM call: the prompt and the answer, and the policy's name and version where recorded; nothing
    else."""

    messages: tuple[Message, ...]
    response: str
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    model: str | None = None
    model_version: str | None = None
    tool_calls: JsonObjects | None = None
    tools: JsonObjects | None = None


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """Calls that share one reward: all of a trajectory's (``step`` None), or one decision's."""

    trajectory_id: str
    step: int | None
    calls: tuple[PolicyCall, ...]
    reward: float


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """A GRPO group: samples whose rewards are compared with each other. ``without_company``: decisions of moments in
    which one trajectory decided alone, compared within their window."""

    group_id: str
    samples: tuple[TrainingSample, ...]
    without_company: bool = False


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A servable policy: ``version`` is the iteration that produced it (0 is the base model), ``path`` its weights."""

    name: str
    version: int
    path: str


@dataclass(frozen=True, slots=True)
class Trained:
    """Result of one training call. ``tokens`` counts trained completion tokens, ``tokens_selected`` those of all
    completions that it was given (None: not counted), also of those whose reward is the mean of their group and which
    therefore have no gradient; ``metrics`` are flat numbers."""

    policy: PolicyVersion
    gradient_steps: int
    tokens: int
    groups_skipped_zero_variance: int
    metrics: Mapping[str, float]
    tokens_selected: int | None = None


# --- evaluation -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rollout:
    """One agent's stay in one window of one market. ``pnl`` in game dollars, ``errors`` counts failed actions,
    ``trades`` the openings and closings that succeeded; ``drawdown`` is the largest fall of the account from an
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
