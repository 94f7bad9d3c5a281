"""Protocols of the sampler room, its rules, and the results of a readiness check: frozen types without I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Literal, Protocol, TypedDict, Unpack

from mmo_rl.moments import SAME_MARKET, MomentRule
from mmo_rl.types import Choice, GroupCounts, Member, Parts, Selection, WindowQuery, WindowStats

# --- sampling -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRules:
    """Rules by which windows and trajectories are chosen; `mmo_rl.sampler.windows.WindowSampler` explains each of them.

    ``until`` is aware UTC (None: up to the newest window); ``by_role``: agents are compared within their role;
    ``moments``: decisions are compared with those of the same moment.
    """

    window_hours: float
    lookback_hours: float
    until: datetime | None
    by_role: bool
    min_agents: int
    min_actions: int
    max_windows: int
    max_per_window: int
    order: Literal["oldest", "recent", "random"]
    reuse: bool
    target_trajectories: int
    max_dropout: float
    dropout: str
    holdout: float
    seed: int
    moments: MomentRule = SAME_MARKET


class RuleChanges(TypedDict, total=False):
    """Rules that a variant of a sampler may have different (`Sampler.with_rules`)."""

    max_windows: int
    reuse: bool
    target_trajectories: int
    max_dropout: float
    holdout: float


class Sampler(Protocol):
    """Sampler that chooses windows from their numbers, then trajectories from their statistics; pure and seeded.

    ``choose`` needs no id, ``draw`` the members of the chosen windows alone (``members_query`` asks for them);
    ``select`` is both, where all members are at hand. ``used_windows`` has the ids of the windows that this run trained
    on, each as often as it did. ``prefix`` is the beginning of the trajectory ids of a world that was made for one run.
    It has no part in any choice, so that the same run chooses the same trajectories in whatever world it is repeated.
    ``with_rules`` gives the same sampler with other rules.
    """

    @property
    def rules(self) -> SamplingRules: ...

    def with_rules(self, **changes: Unpack[RuleChanges]) -> Sampler: ...

    def query(self, scenario_id: str | None) -> WindowQuery: ...

    def choose(self, counts: Sequence[GroupCounts], iteration: int, used_windows: Collection[str] = ()) -> Choice: ...

    def members_query(self, query: WindowQuery, choice: Choice, *, prefix: str = "") -> WindowQuery: ...

    def draw(self, choice: Choice, windows: Sequence[WindowStats], *, prefix: str = "") -> Selection: ...

    def select(
        self, windows: Sequence[WindowStats], iteration: int, used_windows: Collection[str] = (), *, prefix: str = ""
    ) -> Selection: ...


class Dropout(Protocol):
    """Strategy of dropout: gives every trajectory of the groups of an iteration a number in [0, 1), by id.

    Trajectories whose number is at least the dropout rate stay. ``fractions`` are uniform in [0, 1), by id, and the
    only chance there is.
    """

    def __call__(
        self, groups: Sequence[Sequence[Member]], fractions: Mapping[str, float], /
    ) -> Mapping[str, float]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerParts(Parts):
    """Collaborators of a sampler: the function that finds a dropout strategy by its name (``find_rule``; it raises
    `ConfigError` for an unknown one)."""

    find_rule: Callable[[str], Dropout]


# --- readiness ------------------------------------------------------------------------------------------------------

AGENT_THRESHOLDS = (2, 3, 5, 8)
"""Numbers of agents for which a readiness check counts the complete windows that have as many."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Readiness of one window; ``reason`` tells the first rule that it misses, None where it is ready.

    Counts are of members that may be trained on, ``active_agents`` of those with enough steps; ``pnl_low`` and
    ``pnl_high`` in game dollars, None where no P&L was recorded. ``trainable_calls`` and ``with_logprobs`` count LLM
    calls, None where no step was read. Where agents are compared within their role (``roles``: active agents by role,
    else None), ``active_agents`` is that of the largest role, and ``usable`` trajectories are those of roles with
    enough agents. ``mixes_insiders``: agents that know more (role ``insider``) are compared with others.
    ``failed_share`` in [0, 1] of the actions that were read failed.
    """

    window_id: str
    agents: int
    active_agents: int
    trajectories: int
    slices: int
    steps: int
    pnl_low: float | None
    pnl_high: float | None
    has_outcomes: bool
    trainable_calls: int | None
    with_logprobs: int | None
    complete: bool
    reason: str | None
    usable: int = 0
    mixes_insiders: bool = False
    failed_share: float | None = None
    roles: Mapping[str, int] | None = None

    @property
    def ready(self) -> bool:
        return self.reason is None

    @property
    def lacks_actions(self) -> bool:
        """True where enough agents played, and too few of them took ``min_actions`` steps."""
        return self.reason is not None and self.reason.endswith("steps")


@dataclass(frozen=True, slots=True)
class RecordedWindow:
    """A window as it was recorded, before trajectories were sliced: each trajectory counts where it began, and
    ``crossing`` of them go on into a later window. ``end`` is written like a window id."""

    window_id: str
    end: str
    agents: int
    trajectories: int
    crossing: int


@dataclass(frozen=True, slots=True)
class WindowIds:
    """Numbers of trajectories by the source of their window: the ``recorded`` id, an id in another format that was
    ``mapped``, or one ``derived`` from the start time. ``examples`` counts the most frequent ids of the latter two."""

    recorded: int
    mapped: int
    derived: int
    examples: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ClockFaults:
    """Numbers of trajectories whose recorded times contradict each other, by fault."""

    ends_before_it_starts: int = 0
    outside_its_span: int = 0
    out_of_order: int = 0
    in_the_future: int = 0


@dataclass(frozen=True, slots=True)
class StepQuality:
    """Counts over the trajectories (or slices) that could be read.

    ``calls`` counts recorded LLM calls, ``trainable_calls`` those that a policy can be trained on, ``with_logprobs``
    those of them whose token ids and their logprobs were recorded, ``logprobs_without_ids`` those with logprobs that
    training cannot use for lack of the ids; ``duplicates`` trajectories that repeat another one of their window under
    an id of their own; ``trades`` actions that open, close or name an instrument, ``unknown_actions`` those of them
    whose name has no meaning, by name. Shares are in [0, 1], None of nothing.
    """

    trajectories: int = 0
    steps: int = 0
    steps_with_calls: int = 0
    calls: int = 0
    calls_with_prompt: int = 0
    trainable_calls: int = 0
    failed_actions: int = 0
    with_logprobs: int = 0
    logprobs_without_ids: int = 0
    actions_with_result: int = 0
    duplicates: int = 0
    trades: int = 0
    clock: ClockFaults = ClockFaults()
    unknown_actions: Mapping[str, int] = field(default_factory=dict)

    @property
    def share_of_steps_with_calls(self) -> float | None:
        return self.steps_with_calls / self.steps if self.steps else None

    @property
    def share_of_calls_with_prompt(self) -> float | None:
        return self.calls_with_prompt / self.calls if self.calls else None

    @property
    def share_of_actions_with_result(self) -> float | None:
        return self.actions_with_result / self.steps if self.steps else None

    def as_json(self) -> dict[str, object]:
        """Returns the counts and shares as plain values."""
        counts = asdict(self)
        clock = counts.pop("clock")
        return counts | {
            "share_of_steps_with_calls": self.share_of_steps_with_calls,
            "share_of_calls_with_prompt": self.share_of_calls_with_prompt,
            "share_of_actions_with_result": self.share_of_actions_with_result,
            "clock": clock,
        }


@dataclass(frozen=True, slots=True)
class OlderWindows:
    """Windows older than ``lookback_hours`` reaches, of which ``windows_with_agents`` have enough active agents;
    ``override`` is the setting that includes all of them."""

    windows: int
    windows_with_agents: int
    trajectories: int
    lookback_hours: float
    override: str

    def __str__(self) -> str:
        return (
            f"{self.windows:,} older window{'s' * (self.windows != 1)} outside"
            f" sampler.lookback_hours={self.lookback_hours:g}"
            f" ({self.override} includes {'them' if self.windows != 1 else 'it'})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessReport:
    """Result of a readiness check of all windows that a sampler looks at.

    ``quality`` is None where no step was read; ``rejected`` counts recorded rows that cannot be read, by reason, and
    ``rejected_in`` is the file that lists them; ``outside_lookback`` is None where no older window exists.
    """

    per_window: tuple[Readiness, ...]
    recorded_windows: tuple[RecordedWindow, ...] = ()
    window_ids: WindowIds = WindowIds(0, 0, 0, {})
    quality: StepQuality | None = None
    rejected: Mapping[str, int]
    rejected_in: str | None = None
    outside_lookback: OlderWindows | None = None

    @property
    def usable(self) -> list[Readiness]:
        """The windows that can be trained on."""
        return [window for window in self.per_window if window.ready]

    @property
    def ready(self) -> bool:
        """True where any window can be trained on."""
        return any(window.ready for window in self.per_window)

    @property
    def windows_ready_with_outcomes(self) -> int:
        return sum(window.has_outcomes for window in self.usable)

    @property
    def trajectories(self) -> int:
        return sum(window.trajectories for window in self.per_window)

    @property
    def trajectories_ready(self) -> int:
        return sum(window.usable for window in self.usable)

    @property
    def steps(self) -> int:
        return sum(window.steps for window in self.per_window)

    @property
    def at_least_agents(self) -> dict[int, int]:
        """The number of complete windows with at least as many active agents, by `AGENT_THRESHOLDS`."""
        return {
            least: sum(window.complete and window.active_agents >= least for window in self.per_window)
            for least in AGENT_THRESHOLDS
        }

    def as_json(self) -> dict[str, object]:
        """Returns the report as plain values, as ``check.format=json`` prints it."""
        return {
            "ready": self.ready,
            "windows": len(self.per_window),
            "windows_ready": len(self.usable),
            "windows_ready_with_outcomes": self.windows_ready_with_outcomes,
            "trajectories": self.trajectories,
            "trajectories_ready": self.trajectories_ready,
            "steps": self.steps,
            "at_least_agents": {str(least): count for least, count in self.at_least_agents.items()},
            "recorded_windows": [asdict(window) for window in self.recorded_windows],
            "window_ids": asdict(self.window_ids),
            "quality": None if self.quality is None else self.quality.as_json(),
            "rejected": dict(self.rejected),
            "per_window": [{"ready": window.ready, **asdict(window)} for window in self.per_window],
            "rejected_in": self.rejected_in,
            "outside_lookback": None if self.outside_lookback is None else asdict(self.outside_lookback),
        }
