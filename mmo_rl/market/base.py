"""Protocols and data of play: arenas, seats, scripted strategies, and the steps and episodes that play yields."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NotRequired, Protocol, TypedDict

from mmo_rl.database.base import Recorder, Stay
from mmo_rl.market.view import Observation
from mmo_rl.policy.base import Completion, Policy
from mmo_rl.types import GroundTruth, Message, Parts, Window


class AccountState(TypedDict):
    """Recorded state of an agent's account at a tick, in the contract's names; money in game dollars."""

    agentBalance: float
    agentPnL: float
    openPositions: int
    activeMarkets: int


class TickerQuote(TypedDict):
    """Recorded price of a ticker, and its change since the window began in percent."""

    price: float
    changePct: float


class QuestionQuote(TypedDict):
    """Recorded price of a question's YES share, in (0, 1)."""

    yesPrice: float


class MarketState(TypedDict):
    """Recorded state of the market as one agent saw it at a tick; ``posts`` only where there were any."""

    tick: int
    tickers: Mapping[str, TickerQuote]
    questions: Mapping[str, QuestionQuote]
    news: Sequence[str]
    posts: NotRequired[Sequence[str]]


@dataclass(frozen=True, slots=True)
class PlayedStep:
    """One tick of one agent. ``state`` and ``market`` hold what the agent could see; ``action_type``, ``parameters``
    and ``result`` are in the names of the recorded contract; money in game dollars."""

    tick: int
    state: AccountState
    market: MarketState
    messages: tuple[Message, ...]
    completion: Completion
    action_type: str
    parameters: dict[str, object]
    success: bool
    result: dict[str, object] | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Episode:
    """One window of one market: ``steps[agent]`` in tick order, ``pnl[agent]`` and ``balance[agent]`` at its end, and
    its ground truth (whose ``window_id`` is empty: the recorder names the window)."""

    ticks: int
    steps: tuple[tuple[PlayedStep, ...], ...]
    pnl: tuple[float, ...]
    balance: tuple[float, ...]
    truth: GroundTruth


OnWindow = Callable[[Sequence[Episode]], Awaitable[None]]
"""Callback with the episodes of one market so far, the newest last; questions are resolved in them as far as they are
by now."""
Replay = Sequence[Sequence[Sequence[str]]]
"""Texts that were answered before, by window, tick and agent."""


class Strategy(Protocol):
    """Scripted strategy: reads an observation and answers with the text of one action, as a language model does.

    A function of (observation, rng) is one, and so is an object with ``__call__``. The answer is JSON such as
    ``{"ticker": "NOVA", "action": "BUY", "size": 2}`` (see `mmo_rl.market.prompt`); any other text is a failed action.
    ``rng`` is the seeded randomness of the market's scripts: a strategy uses no other, so that the same seed is the
    same play. An answer may depend on earlier observations of the same agent: each seat of each market has an object
    of its own.

    In a market that goes on from window to window a strategy also holds positions of earlier ones
    (`Observation.old`); `mmo_rl.market.housekeeping.with_housekeeping` closes them for strategies that
    do not. An example::

        class Careful:
            '''Follows a dispatch that it has seen twice.'''

            def __init__(self) -> None:
                self.seen: set[str] = set()

            def __call__(self, observation: Observation, rng: random.Random) -> str:
                for item in observation.news:
                    if item.source == "@wire" and item.ticker in self.seen:
                        return order(item.ticker, item.direction, 1)
                    self.seen.add(item.ticker)
                return HOLD
    """

    def __call__(self, observation: Observation, rng: random.Random, /) -> str: ...


@dataclass(frozen=True, slots=True)
class Script:
    """Scripted strategy under the ``name`` by which it is recorded. ``new`` makes the strategy of one seat."""

    name: str
    new: Callable[[], Strategy]


@dataclass(frozen=True, slots=True)
class Yardstick:
    """Player that knows the future: the best order there is, or with ``contrary`` the other side of it."""

    name: str
    contrary: bool = False


Scripted = Script | Yardstick
Seat = Scripted | str | None
"""Player of a seat: a scripted strategy, None for the policy, or a name: of one of several policies that play against
each other (``rivals``), else of a shipped strategy."""


class Arena(Protocol):
    """Arena in which policies and scripts play whole windows of simulated markets, many side by side.

    A market is fixed by its seed alone, so the same seeds are the same markets for every policy. With ``windows`` each
    market goes on for so many windows, in which positions, prices and open questions carry over; its episodes follow
    each other in the result. ``replay`` holds the answers of the first windows of the only market, in which no
    policy is asked. ``on_window`` is awaited as each window of it ends. `rules` are plain values: with the same ones
    a seed is the same market.
    """

    @property
    def ticks(self) -> int:
        """The ticks of a window."""
        ...

    def rules(self) -> Mapping[str, object]: ...

    def example_prompt(self) -> tuple[Message, ...]:
        """Returns the messages that a policy is shown first in a market: what it was trained to answer."""
        ...

    async def play(
        self,
        policy: Policy | None,
        *,
        market_seeds: Sequence[int],
        seats: Sequence[Seat],
        temperature: float,
        seed: int,
        on_tick: Callable[[int, int], None] | None = None,
        windows: int = 1,
        rivals: Mapping[str, Policy] | None = None,
        replay: Replay = (),
        on_window: OnWindow | None = None,
    ) -> list[Episode]: ...


@dataclass(frozen=True, slots=True)
class Collected:
    """Recorded windows, and one stay an agent and window. ``resumed`` of the windows had been recorded by an earlier
    run of the same command."""

    windows: tuple[Window, ...]
    stays: tuple[Stay, ...]
    resumed: int = 0

    @property
    def pnl(self) -> tuple[float, ...]:
        """P&L of each stay, in game dollars."""
        return tuple(stay.pnl for stay in self.stays)

    @property
    def error_rate(self) -> float:
        """Failed actions as a share of all, in [0, 1]."""
        return sum(stay.errors for stay in self.stays) / sum(stay.steps for stay in self.stays)


class Collector(Protocol):
    """Collector of play: records new windows of the simulated market.

    An iteration of a run plays ``windows`` windows of ``window_hours`` each, in which the ``seats`` play at once.
    """

    @property
    def windows(self) -> int: ...

    @property
    def window_hours(self) -> float: ...

    @property
    def seats(self) -> Sequence[Seat]: ...

    def player_names(self, policy: Policy | None) -> Mapping[str, str]:
        """Returns the name of the strategy or policy of each seat, by the agent's recorded id."""
        ...

    async def collect(
        self,
        policy: Policy | None,
        *,
        iteration: int,
        scenario_id: str,
        start: datetime,
        on_tick: Callable[[int, int], None] | None = None,
    ) -> Collected:
        """Plays and records the windows of one iteration; repeating an iteration replaces its recording."""
        ...

    async def collect_missing(
        self,
        policy: Policy | None,
        *,
        scenario_id: str,
        start: datetime,
        on_tick: Callable[[int, int], None] | None = None,
        on_windows: Callable[[int, int], None] | None = None,
    ) -> Collected:
        """Plays and records those of ``windows`` windows that the scenario has not recorded whole."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorParts(Parts):
    """Collaborators of a collector: the ``arena`` that policies play in, the ``recorder`` of their play, and the
    function that finds a scripted player by its name (``find_player``; it raises `ConfigError` for an unknown one)."""

    arena: Arena
    recorder: Recorder
    find_player: Callable[[str], Scripted]
