"""Simulation of a market, pure and seeded, that goes on from window to window: no I/O, clock or global randomness.

Tickers are perpetuals whose drift comes from a hidden event; questions resolve by a hidden outcome and are priced by
an automated maker. At every tick one dispatch of a reliable source and one rumour reach all agents; both name a
direction, and only the source tells how far to trust it. Orders are executed by `mmo_rl.market.exchange`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mmo_rl.market.accounts import Account, Ledger
from mmo_rl.market.actions import Invalid, parse_action
from mmo_rl.market.exchange import Exchange
from mmo_rl.market.hidden import Hidden
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.view import ActionResult, Observation, Post, Quote
from mmo_rl.rng import rng
from mmo_rl.types import GroundTruth, QuestionOutcome, TickerOutcome


@dataclass(slots=True)
class _Past:
    """Material of a past window's ground truth: its tickers, and its question names with their final probability."""

    tickers: tuple[TickerOutcome, ...]
    questions: dict[str, float] = field(default_factory=dict)


class World:
    """Market that ``agents`` agents play at once.

    Call `observe` for each agent, then `step` with one text an agent, until `done`: that is a window. `next_window`
    goes on with the next one, in which positions, prices and open questions carry over. Everything hidden is drawn
    from ``seed`` alone, so it does not depend on the agents; a market that is stepped again with the same texts is the
    same market again, by which a life is resumed from a recording.
    """

    def __init__(self, *, spec: MarketSpec, seed: int, agents: int) -> None:
        self.spec = spec
        self._order_rng = rng(seed, "order")
        self._source = Hidden(spec=spec, seed=seed)
        cash_usd = spec.start_cash_usd
        if spec.least_cash_usd is not None:
            cash_usd = rng(seed, "cash").uniform(spec.least_cash_usd, spec.start_cash_usd)
        self._exchange = Exchange(spec=spec, agents=agents, cash_usd=cash_usd)
        self._accounts = self._exchange.accounts
        self._makers, self._questions = self._exchange.makers, self._exchange.questions
        self._posts: deque[tuple[int, Post]] = deque(maxlen=max(1, 2 * spec.posts))
        self._past: list[_Past] = []
        self._begin()

    def _begin(self) -> None:
        drawn = self._source.next()
        self._paths, self._news = drawn.paths, drawn.news
        self._exchange.begin(drawn.paths, drawn.opened)
        self._openings: dict[str, float] = {}
        self._public: tuple[tuple[Quote, ...], tuple[tuple[str, float], ...]] | None = None

    # --- observations and actions -------------------------------------------------------------------------------------

    @property
    def window(self) -> int:
        """Number of the present window of this life, from 0."""
        return self._exchange.window

    @property
    def tick(self) -> int:
        """Number of the present tick of the window, from 0."""
        return self._exchange.tick

    @property
    def done(self) -> bool:
        """True once the window is over."""
        return self._exchange.done

    def is_question(self, name: str) -> bool:
        """Checks that ``name`` is one of this market's open prediction questions."""
        return name in self._makers

    def observe(self, agent: int) -> Observation:
        """Returns the public state of this tick and the agent's own account."""
        account = self._accounts[agent]
        positions: dict[str, int] = {}
        for lot in account.lots:
            positions[lot.ticker] = positions.get(lot.ticker, 0) + lot.units
        for stake in account.stakes:
            positions[stake.ticker] = positions.get(stake.ticker, 0) + stake.units
        if self._public is None:
            self._public = self._publish()
        quotes, questions = self._public
        max_order, max_bet = self._exchange.affordable(agent)
        return Observation(
            tick=self.tick,
            ticks=self.spec.ticks,
            cash_usd=account.cash,
            equity_usd=self.equity(agent),
            max_order=max_order,
            max_bet=max_bet,
            quotes=quotes,
            questions=questions,
            news=() if self.done else self._news[self.tick],
            positions=positions,
            max_size=self.spec.max_size,
            posts=self._posts_for(agent) if self._posts else (),
            window=self.window,
            old=self._old(account) if self.window else (),
            may_post=self.spec.posts > 0,
        )

    def _old(self, account: Account) -> tuple[str, ...]:
        return tuple(dict.fromkeys(lot.ticker for lot in account.lots if lot.window < self.window))

    def _publish(self) -> tuple[tuple[Quote, ...], tuple[tuple[str, float], ...]]:
        quotes = []
        for name in self._paths:
            price = self._exchange.price(name)
            opening = self._openings.setdefault(name, price)
            quotes.append(Quote(name, price, (price / opening - 1.0) * 100.0))
        return tuple(quotes), tuple((name, maker.price(yes=True)) for name, maker in self._makers.items())

    def _posts_for(self, agent: int) -> tuple[Post, ...]:
        others = [post for author, post in self._posts if author != agent]
        return tuple(others[-self.spec.posts :])

    def step(self, texts: Sequence[str]) -> list[ActionResult]:
        """Executes one action an agent (``texts[i]`` is agent i's) in a seeded random order; then time moves on.

        Raises `ValueError` where the window is over or a text is missing; no content of a text raises.
        """
        if self.done:
            raise ValueError("this window is over: call next_window() first")
        if len(texts) != len(self._accounts):
            raise ValueError(f"expected {len(self._accounts)} texts, one an agent, got {len(texts)}")
        if self._public is None:
            self._public = self._publish()
        results: list[ActionResult | None] = [None] * len(self._accounts)
        turn = list(enumerate(texts))
        self._order_rng.shuffle(turn)
        for agent, text in turn:
            results[agent] = self._execute(agent, text)
        self._exchange.advance()
        self._public = None
        return [r for r in results if r is not None]

    def next_window(self) -> None:
        """Pays out resolved questions and begins the next window. Raises `ValueError` before this one is over."""
        if not self.done:
            raise ValueError(f"this window has {self.spec.ticks - self.tick} ticks left")
        self._past.append(self._window_past())
        self._exchange.settle()
        self._begin()

    def equity(self, agent: int) -> float:
        """Values an agent's account, see `Exchange.equity`."""
        return self._exchange.equity(agent)

    def pnl(self, agent: int) -> float:
        """Computes an agent's P&L of the window: equity less that when the window began, fees included."""
        return self.equity(agent) - self._accounts[agent].opening_usd

    def fees(self, agent: int) -> float:
        """Returns the fees that an agent has paid so far."""
        return self._accounts[agent].fees

    # --- for judges and yardsticks only ----------------------------------------------------------------------

    def truth(self, window_id: str, *, window: int | None = None) -> GroundTruth:
        """Returns a window's ground truth: first and last price of every ticker, news, and the outcomes of questions.

        It is that of the present window, or of the ``window``-th of this life, as far as it has happened: a question
        that is not due is UNRESOLVED, and may be resolved when this is called again later.
        """
        past = self._window_past() if window is None or window == self.window else self._past[window]
        return GroundTruth(
            window_id=window_id,
            tickers=past.tickers,
            questions=tuple(
                QuestionOutcome(name, f"Will {name} come true?", self._outcome(name), probability)
                for name, probability in past.questions.items()
            ),
        )

    def _outcome(self, name: str) -> Literal["YES", "NO", "UNRESOLVED"]:
        if not self._exchange.is_resolved(name):
            return "UNRESOLVED"
        return "YES" if self._questions[name].outcome else "NO"

    def _window_past(self) -> _Past:
        news: dict[str, list[str]] = {}
        for item in (i for tick in self._news[: self.tick + 1] for i in tick):
            news.setdefault(item.ticker, []).append(str(item))
        tickers = tuple(
            TickerOutcome(
                name, self._openings.get(name, path[0]), self._exchange.price(name), tuple(news.get(name, ()))
            )
            for name, path in self._paths.items()
        )
        return _Past(tickers, {name: maker.price(yes=True) for name, maker in self._makers.items()})

    def ledger(self) -> Ledger:
        """Draws up the balance of all money since the market began."""
        return self._exchange.ledger()

    def best_action(self, agent: int, *, contrary: bool = False) -> str:
        """Answers for an agent that knows the future: the order with the largest gain from now on (oracle yardstick).

        ``contrary`` takes the other side of it with the same size (contrarian oracle).
        """
        gains, spec, account = [], self.spec, self._accounts[agent]
        moves = {name: path[-1] / path[self.tick] - 1.0 for name, path in self._paths.items()}
        if not contrary:
            for lot in account.lots:  # bought for the end of an earlier window
                if lot.window < self.window and lot.side * moves[lot.ticker] < 0:
                    return f'{{"ticker":"{lot.ticker}","action":"CLOSE"}}'
        for name, move in moves.items():
            gain = (abs(move) - 2 * spec.fee) * spec.leverage * spec.unit_usd
            gains.append((gain, name, "BUY" if move > 0 else "SELL"))
        for name, maker in self._makers.items():
            yes = self._questions[name].outcome
            price = maker.price(yes=yes)
            gains.append((spec.question_unit_usd * (1.0 / price - 1.0), name, "BUY" if yes else "SELL"))
        gain, name, action = max(gains)
        size = self._exchange.affordable(agent)[0]
        if gain <= 0 or size < 1:
            return '{"ticker":"","action":"HOLD","size":0}'
        if contrary:
            action = "SELL" if action == "BUY" else "BUY"
        return f'{{"ticker":"{name}","action":"{action}","size":{size}}}'

    def _execute(self, agent: int, text: str) -> ActionResult:
        order = parse_action(text, max_size=self.spec.max_size, lenient=self.spec.lenient_answers)
        if isinstance(order, Invalid):
            return ActionResult(None, False, order.reason)
        if order.verb == "HOLD":
            return ActionResult(order, True)
        if order.verb == "POST":
            if not self.spec.posts:
                return ActionResult(order, False, "this market has no posts")
            self._posts.append((agent, Post(f"agent{agent}", order.text)))
            return ActionResult(order, True)
        return self._exchange.carry_out(agent, order)
