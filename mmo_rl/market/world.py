"""The market: a pure, seeded simulation of one window. No I/O, no clock, no global randomness.

Tickers are perpetuals whose drift comes from a hidden event; questions resolve by a hidden outcome and are priced by
an LMSR maker. At every tick one dispatch of a reliable source and one rumour reach all agents; both name a direction,
and only the source tells how far to trust it. Rules follow the game's: margin = size / leverage,
PnL = ±(p - e) / e · size, liquidation at e · (1 ∓ 0.9 / leverage), a fee on the size at open and at close.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmo_rl.market.actions import Invalid, Order, parse_action
from mmo_rl.market.lmsr import LmsrMaker
from mmo_rl.market.spec import (
    DOWN_PHRASES,
    QUESTIONS,
    RELIABLE_SOURCES,
    RUMOUR_SOURCES,
    TICKERS,
    UP_PHRASES,
    MarketSpec,
)
from mmo_rl.rng import rng
from mmo_rl.types import GroundTruth, QuestionOutcome, TickerOutcome


@dataclass(frozen=True, slots=True)
class NewsItem:
    """One line of news about one instrument; ``source`` is all that tells a dispatch from a rumour."""

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
    """A ticker's price now and its change since the window began, in percent."""

    ticker: str
    price: float
    change_pct: float


@dataclass(frozen=True, slots=True)
class Observation:
    """All that an agent may know at a tick: nothing later than the tick, nothing hidden.

    ``unit_usd`` is what a unit of size costs at most, before fees; ``positions`` maps an instrument to the signed units
    held (negative: short or NO).
    """

    tick: int
    ticks: int
    cash_usd: float
    equity_usd: float
    unit_usd: float
    quotes: tuple[Quote, ...]
    questions: tuple[tuple[str, float], ...]
    news: tuple[NewsItem, ...]
    positions: dict[str, int]


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What became of an agent's text. ``price`` is the price paid (tickers: dollars; questions: average price a share
    of the side bought, in (0, 1))."""

    order: Order | None
    success: bool
    error: str | None = None
    price: float | None = None
    amount_usd: float | None = None
    pnl_usd: float | None = None


@dataclass(slots=True)
class _Lot:
    ticker: str
    units: int  # signed
    entry: float
    size_usd: float  # notional
    margin_usd: float


@dataclass(slots=True)
class _Stake:
    ticker: str
    units: int  # signed: YES > 0
    shares: float


@dataclass(slots=True)
class _Account:
    cash: float
    lots: list[_Lot] = field(default_factory=list)
    stakes: list[_Stake] = field(default_factory=list)
    fees: float = 0.0


class World:
    """One window of one market, seen by ``agents`` agents at once.

    Call `observe` for each agent, then `step` with one text an agent, until `done`. Everything hidden (drifts,
    outcomes, the whole price path) is drawn at construction from ``seed`` alone, so it does not depend on what the
    agents do.
    """

    def __init__(self, *, spec: MarketSpec, seed: int, agents: int) -> None:
        self.spec = spec
        self.tick = 0
        self._order_rng = rng(seed, "order")
        draw = rng(seed, "hidden")
        self._drifts: dict[str, float] = {}
        self._paths: dict[str, list[float]] = {}
        for name in draw.sample(TICKERS, spec.tickers):
            drift = draw.choice((-1, 1)) * draw.uniform(spec.drift_low, spec.drift_high) + spec.drift_bias
            self._drifts[name] = drift
            self._paths[name] = self._draw_path(draw, drift)
        self._outcomes: dict[str, bool] = {}
        self._makers: dict[str, LmsrMaker] = {}
        for name in draw.sample(QUESTIONS, spec.questions):
            prior = draw.uniform(0.35, 0.65)
            self._outcomes[name] = draw.random() < prior
            self._makers[name] = LmsrMaker(liquidity=spec.liquidity_usd, probability=prior)
        self._news = self._draw_news(rng(seed, "news"))
        self._accounts = [_Account(spec.start_cash_usd) for _ in range(agents)]

    def _draw_path(self, draw: random.Random, drift: float) -> list[float]:
        """Prices at ticks 0 to ``ticks``: geometric Brownian motion around the hidden drift."""
        price, path = draw.uniform(40.0, 200.0), []
        n = self.spec.ticks
        path.append(price)
        for _ in range(n):
            price *= math.exp(drift / n + self.spec.noise / math.sqrt(n) * draw.gauss(0.0, 1.0))
            path.append(price)
        return path

    def _draw_news(self, draw: random.Random) -> list[tuple[NewsItem, ...]]:
        """Two lines a tick about two different instruments, in random order: one dispatch and one rumour."""
        truth = {name: drift > 0 for name, drift in self._drifts.items()} | self._outcomes
        lines = []
        for _ in range(self.spec.ticks):
            subjects = draw.sample(list(truth), min(2, len(truth)))
            kinds = [(RELIABLE_SOURCES, self.spec.reliable_accuracy), (RUMOUR_SOURCES, self.spec.rumour_accuracy)]
            tick = []
            for subject, (sources, accuracy) in zip(subjects, kinds, strict=False):
                up = truth[subject] == (draw.random() < accuracy)
                tick.append(NewsItem(subject, draw.choice(UP_PHRASES if up else DOWN_PHRASES), draw.choice(sources)))
            draw.shuffle(tick)
            lines.append(tuple(tick))
        return lines

    # --- what agents see and do -------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        return self.tick >= self.spec.ticks

    def is_question(self, name: str) -> bool:
        """Whether ``name`` is one of this market's prediction questions."""
        return name in self._outcomes

    def observe(self, agent: int) -> Observation:
        """The public state of this tick and the agent's own account."""
        account = self._accounts[agent]
        positions: dict[str, int] = {}
        holdings = [*((lot.ticker, lot.units) for lot in account.lots), *((s.ticker, s.units) for s in account.stakes)]
        for name, units in holdings:
            positions[name] = positions.get(name, 0) + units
        return Observation(
            tick=self.tick,
            ticks=self.spec.ticks,
            cash_usd=account.cash,
            equity_usd=self.equity(agent),
            unit_usd=self.spec.unit_usd,
            quotes=tuple(
                Quote(name, path[self.tick], (path[self.tick] / path[0] - 1.0) * 100.0)
                for name, path in self._paths.items()
            ),
            questions=tuple((name, maker.price(yes=True)) for name, maker in self._makers.items()),
            news=self._news[self.tick] if not self.done else (),
            positions=positions,
        )

    def step(self, texts: Sequence[str]) -> list[ActionResult]:
        """One action an agent (``texts[i]`` is agent i's), executed in a seeded random order; then time moves on."""
        results: list[ActionResult | None] = [None] * len(self._accounts)
        turn = list(enumerate(texts))
        self._order_rng.shuffle(turn)
        for agent, text in turn:
            results[agent] = self._execute(self._accounts[agent], text)
        self.tick += 1
        self._liquidate()
        return [r for r in results if r is not None]

    def equity(self, agent: int) -> float:
        """Cash plus what every holding is worth now; at the end questions pay 1 or 0 a share."""
        account = self._accounts[agent]
        lots = sum(lot.margin_usd + self._lot_pnl(lot) - self.spec.fee * lot.size_usd for lot in account.lots)
        stakes = sum(stake.shares * self._share_value(stake) for stake in account.stakes)
        return account.cash + lots + stakes

    def pnl(self, agent: int) -> float:
        """Equity less the cash the agent began with, fees included."""
        return self.equity(agent) - self.spec.start_cash_usd

    def fees(self, agent: int) -> float:
        """Fees paid so far."""
        return self._accounts[agent].fees

    # --- what only judges and yardsticks may see ----------------------------------------------------------------------

    def truth(self, window_id: str) -> GroundTruth:
        """First and last price of every ticker, the news about it, and how every question came out."""
        news: dict[str, list[str]] = {}
        for item in (i for tick in self._news for i in tick):
            news.setdefault(item.ticker, []).append(str(item))
        return GroundTruth(
            window_id=window_id,
            tickers=tuple(
                TickerOutcome(name, path[0], path[-1], tuple(news.get(name, ()))) for name, path in self._paths.items()
            ),
            questions=tuple(
                QuestionOutcome(
                    name, f"Will {name} come true?", "YES" if yes else "NO", self._makers[name].price(yes=True)
                )
                for name, yes in self._outcomes.items()
            ),
        )

    def best_action(self, agent: int) -> str:
        """What an agent who knew the future would do now: the largest gain still to be had (the oracle yardstick)."""
        gains = []
        spec = self.spec
        for name, path in self._paths.items():
            move = path[-1] / path[self.tick] - 1.0
            gain = (abs(move) - 2 * spec.fee) * spec.leverage * spec.unit_usd
            gains.append((gain, name, "BUY" if move > 0 else "SELL"))
        for name, yes in self._outcomes.items():
            price = self._makers[name].price(yes=yes)
            gains.append((spec.question_unit_usd * (1.0 / price - 1.0), name, "BUY" if yes else "SELL"))
        gain, name, action = max(gains)
        size = min(spec.max_size, int(self._accounts[agent].cash / (spec.unit_usd * (1 + spec.fee * spec.leverage))))
        if gain <= 0 or size < 1:
            return '{"ticker":"","action":"HOLD","size":0}'
        return f'{{"ticker":"{name}","action":"{action}","size":{size}}}'

    # --- the rules ------------------------------------------------------------------------------------------------

    def _execute(self, account: _Account, text: str) -> ActionResult:
        order = parse_action(text, max_size=self.spec.max_size)
        if isinstance(order, Invalid):
            return ActionResult(None, False, order.reason)
        if order.verb == "HOLD":
            return ActionResult(order, True)
        if order.ticker in self._paths:
            return self._close_lots(account, order) if order.verb == "CLOSE" else self._open_lot(account, order)
        if order.ticker in self._makers:
            return self._sell_stakes(account, order) if order.verb == "CLOSE" else self._buy_stake(account, order)
        return ActionResult(order, False, f"{order.ticker[:20]} is not listed")

    def _open_lot(self, account: _Account, order: Order) -> ActionResult:
        margin = order.size * self.spec.unit_usd
        size_usd = margin * self.spec.leverage
        fee = self.spec.fee * size_usd
        if margin + fee > account.cash:
            return ActionResult(order, False, f"costs {margin + fee:.0f}, cash is {account.cash:.0f}")
        price = self._paths[order.ticker][self.tick]
        account.cash -= margin + fee
        account.fees += fee
        units = order.size if order.verb == "BUY" else -order.size
        account.lots.append(_Lot(order.ticker, units, price, size_usd, margin))
        return ActionResult(order, True, price=price, amount_usd=size_usd)

    def _close_lots(self, account: _Account, order: Order) -> ActionResult:
        closing = [lot for lot in account.lots if lot.ticker == order.ticker]
        if not closing:
            return ActionResult(order, False, f"no position in {order.ticker}")
        account.lots = [lot for lot in account.lots if lot.ticker != order.ticker]
        pnl = sum(self._lot_pnl(lot) for lot in closing)
        fee = sum(self.spec.fee * lot.size_usd for lot in closing)
        account.fees += fee
        account.cash += sum(lot.margin_usd for lot in closing) + pnl - fee
        price = self._paths[order.ticker][self.tick]
        return ActionResult(order, True, price=price, amount_usd=sum(lot.size_usd for lot in closing), pnl_usd=pnl)

    def _buy_stake(self, account: _Account, order: Order) -> ActionResult:
        amount = order.size * self.spec.question_unit_usd
        fee = self.spec.fee * amount
        if amount + fee > account.cash:
            return ActionResult(order, False, f"costs {amount + fee:.0f}, cash is {account.cash:.0f}")
        yes = order.verb == "BUY"
        shares = self._makers[order.ticker].buy(yes=yes, amount=amount)
        account.cash -= amount + fee
        account.fees += fee
        account.stakes.append(_Stake(order.ticker, order.size if yes else -order.size, shares))
        return ActionResult(order, True, price=amount / shares, amount_usd=amount)

    def _sell_stakes(self, account: _Account, order: Order) -> ActionResult:
        closing = [stake for stake in account.stakes if stake.ticker == order.ticker]
        if not closing:
            return ActionResult(order, False, f"no position in {order.ticker}")
        account.stakes = [stake for stake in account.stakes if stake.ticker != order.ticker]
        maker = self._makers[order.ticker]
        proceeds = sum(maker.sell(yes=stake.units > 0, shares=stake.shares) for stake in closing)
        fee = self.spec.fee * proceeds
        account.fees += fee
        account.cash += proceeds - fee
        return ActionResult(order, True, price=proceeds / sum(s.shares for s in closing), amount_usd=proceeds)

    def _lot_pnl(self, lot: _Lot) -> float:
        price = self._paths[lot.ticker][self.tick]
        return math.copysign(1.0, lot.units) * (price / lot.entry - 1.0) * lot.size_usd

    def _share_value(self, stake: _Stake) -> float:
        if self.done:
            return float(self._outcomes[stake.ticker] == (stake.units > 0))
        return self._makers[stake.ticker].price(yes=stake.units > 0)

    def _liquidate(self) -> None:
        """A lot that has lost 90 % of its margin is closed by the house, which keeps the rest of the margin."""
        for account in self._accounts:
            account.lots = [lot for lot in account.lots if self._lot_pnl(lot) > -0.9 * lot.margin_usd]
