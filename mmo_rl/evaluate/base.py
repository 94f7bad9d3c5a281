"""Protocols of the evaluate room: measuring one policy, and comparing two on the same markets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from mmo_rl.market.base import Arena, Scripted
from mmo_rl.policy.base import Policy
from mmo_rl.stats.interval import Interval
from mmo_rl.types import Measured, Parts, Rollout

Decoding = Literal["sampled", "greedy"]
OnTick = Callable[[int, int], None]
"""Called with (ticks played, ticks in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorParts(Parts):
    """Collaborators of an evaluator: the ``arena`` of the run's market, and the folder in which results of base models
    are kept (``measured``; None: nowhere)."""

    arena: Arena
    measured: Path | None = None


@runtime_checkable
class Evaluator(Protocol):
    """Plays a policy on held-out markets that are the same for every policy it is asked about.

    ``oracle`` plays the same markets with knowledge of the future: the yardstick that P&L is quoted as a share of.
    """

    async def evaluate(self, policy: Policy, decoding: Decoding, *, on_tick: OnTick | None = None) -> Measured: ...

    async def oracle(self) -> Measured: ...

    def rollouts(self) -> int:
        """The number of rollouts of one measurement: held-out markets times agents."""
        ...


@runtime_checkable
class Validating(Protocol):
    """Evaluator that also has markets for choosing among runs: none of them is a held-out market."""

    def validation(self) -> Evaluator | None:
        """Returns the evaluator on those markets; None where the config asks for none."""
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """Change of one judged decision (or trajectory, by the judge's credit) from base to trained policy.

    ``change`` in its log-probability, in nats; ``log_weight`` that of trained against recorded policy (None: the
    latter's log-probability is not known); ``group`` are those that it was compared with when it was judged.
    """

    window: str
    group: str
    reward: float
    change: float
    log_weight: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedVerdict:
    """Comparison of two policies on recorded decisions; ``refusal`` says why there is no ``reward_change``."""

    windows: int
    decisions: int
    rank_agreement: Interval | None
    margin: Interval | None
    reward_change: Interval | None
    effective: float | None
    refusal: str | None


@runtime_checkable
class RecordedComparer(Protocol):
    """Compares base and trained policy on held-out recorded windows; plays nothing."""

    def windows_at_most(self) -> int:
        """Returns the number of held-out windows that are read, the newest ones."""
        ...

    def verdict(self, changes: Sequence[Change]) -> RecordedVerdict: ...


@dataclass(frozen=True, slots=True)
class Contestant:
    """One side of a comparison: a policy, or a scripted ``strategy`` where that is not None."""

    name: str
    policy: Policy | None = None
    strategy: Scripted | str | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """Rollouts that one look adds, of A and of B. A market's number is its own over all scenarios and looks."""

    a: tuple[Rollout, ...]
    b: tuple[Rollout, ...]


@runtime_checkable
class PolicyComparer(Protocol):
    """Plays two policies, named ``a`` and ``b`` in the config, on the same held-out markets, in ``looks`` parts of
    ``markets`` markets of each of the ``scenarios`` (none: the run's own market) with ``agents`` agents each."""

    @property
    def a(self) -> str: ...

    @property
    def b(self) -> str: ...

    @property
    def scenarios(self) -> Sequence[str]: ...

    @property
    def markets(self) -> int: ...

    @property
    def agents(self) -> int: ...

    @property
    def paired(self) -> bool: ...

    @property
    def looks(self) -> int: ...

    @property
    def decoding(self) -> Decoding: ...

    @property
    def format(self) -> Literal["table", "json"]: ...

    @property
    def seed(self) -> int: ...

    def scenario_of(self, market: int, names: Sequence[str]) -> str:
        """The scenario of a market's number, of ``names`` in the order in which they were played."""
        ...

    async def play(
        self,
        look: int,
        arenas: Mapping[str, Arena],
        a: Contestant,
        b: Contestant,
        *,
        on_tick: OnTick | None = None,
    ) -> Look:
        """Plays one look in the arenas of all scenarios; raises what the policies and the arena do."""
        ...
