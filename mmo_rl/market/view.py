"""Observations of agents, and the results of their actions."""

from __future__ import annotations

from dataclasses import dataclass

from mmo_rl.market.actions import Order
from mmo_rl.market.names import UP_PHRASES


@dataclass(frozen=True, slots=True)
class NewsItem:
    """Line of news about one instrument; only its ``source`` tells a dispatch from a rumour."""

    ticker: str
    phrase: str
    source: str

    @property
    def direction(self) -> int:
        """+1 where the phrase says up (or YES), -1 where it says down (or NO)."""
        return 1 if self.phrase in UP_PHRASES else -1

    def __str__(self) -> str:
        return f"{self.ticker} {self.phrase} {self.source}"


@dataclass(frozen=True, slots=True)
class Quote:
    """Price of a ticker now and its change since the window began, in percent."""

    ticker: str
    price: float
    change_pct: float


@dataclass(frozen=True, slots=True)
class Post:
    """Message of an agent to all others, one line of printable ASCII."""

    author: str
    text: str

    def __str__(self) -> str:
        return f"{self.author}: {self.text}"


@dataclass(frozen=True, slots=True)
class Observation:
    """Observation of one agent at one tick: nothing later than the tick, nothing hidden.

    ``max_order`` and ``max_bet`` are the largest sizes that the cash pays for now, fees included: of an order on a
    ticker at the market's own leverage, and of one on a question, both 0 to ``max_size``. ``positions`` maps an
    instrument to the signed units held (negative: short or NO). ``posts`` are the newest of other agents, oldest first;
    ``window`` counts the windows of this market's life from 0. ``old`` names the tickers in which the agent holds a
    position from an earlier window, the oldest first.
    """

    tick: int
    ticks: int
    cash_usd: float
    equity_usd: float
    max_order: int
    max_bet: int
    quotes: tuple[Quote, ...]
    questions: tuple[tuple[str, float], ...]
    news: tuple[NewsItem, ...]
    positions: dict[str, int]
    max_size: int = 3
    posts: tuple[Post, ...] = ()
    window: int = 0
    old: tuple[str, ...] = ()
    may_post: bool = False

    def affordable(self, name: str) -> int:
        """Returns the largest size of an order on this ticker or question that the cash pays for."""
        return self.max_order if any(quote.ticker == name for quote in self.quotes) else self.max_bet


@dataclass(frozen=True, slots=True)
class ActionResult:
    """Result of an agent's action. ``price`` is the price paid (tickers: dollars; questions: average price a share of
    the side bought, in (0, 1)); ``order`` is None where the answer was no order."""

    order: Order | None
    success: bool
    error: str | None = None
    price: float | None = None
    amount_usd: float | None = None
    pnl_usd: float | None = None
