"""The market: a pure, seeded simulation that goes on from window to window. No I/O, no clock, no global randomness.

Tickers are perpetuals whose drift comes from a hidden event; questions resolve by a hidden outcome and are priced by
an automated maker. At every tick one dispatch of a reliable source and one rumour reach all agents; both name a
direction, and only the source tells how far to trust it. Rules follow the game's: margin = size / leverage,
PnL = ±(p - e) / e · size, liquidation at e · (1 ∓ 0.9 / leverage), a fee on the size at open and at close.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mmo_rl.market.accounts import Account, Ledger, Lot, PerpBook, Stake, total
from mmo_rl.market.actions import Invalid, Order, parse_action, shown
from mmo_rl.market.hidden import Hidden, HiddenQuestion
from mmo_rl.market.makers import MAKERS, Maker, PriceLimitError
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.view import ActionResult, NewsItem, Observation, Post, Quote
from mmo_rl.rng import rng
from mmo_rl.types import GroundTruth, QuestionOutcome, TickerOutcome

__all__ = ["ActionResult", "NewsItem", "Observation", "Post", "Quote", "World"]

_MAX_IMPACT = 2.0
"""Orders may not push a ticker further from its course than this, in logs."""
_HOURS_A_YEAR = 8760.0


@dataclass(slots=True)
class _Past:
    """What a window's ground truth is made of once it lies behind: question names with their final probability."""

    tickers: tuple[TickerOutcome, ...]
    questions: dict[str, float] = field(default_factory=dict)


class World:
    """One market, seen by ``agents`` agents at once.

    Call `observe` for each agent, then `step` with one text an agent, until `done`: that is a window. `next_window`
    goes on with the next one, in which positions, prices and open questions carry over. Everything hidden is drawn
    from ``seed`` alone, so it does not depend on what the agents do; a market that is stepped again with the same
    texts is the same market again, which is how a life is resumed from a recording.
    """

    def __init__(self, *, spec: MarketSpec, seed: int, agents: int) -> None:
        self.spec = spec
        self.window = -1
        self.tick = 0
        self._order_rng = rng(seed, "order")
        self._source = Hidden(spec=spec, seed=seed)
        self._questions: dict[str, HiddenQuestion] = {}
        self._makers: dict[str, Maker] = {}
        self._accounts = [Account(spec.start_cash_usd, spec.start_cash_usd) for _ in range(agents)]
        self._posts: deque[tuple[int, Post]] = deque(maxlen=max(1, 2 * spec.posts))
        self._past: list[_Past] = []
        self._settled_makers = self._liquidated = self._funding = 0.0
        self._begin()
        self._impact = dict.fromkeys(self._paths, 0.0)
        self._books = {name: PerpBook() for name in self._paths}

    def _begin(self) -> None:
        self.window += 1
        self.tick = 0
        drawn = self._source.next()
        self._drifts, self._paths, self._news = drawn.drifts, drawn.paths, drawn.news
        for name, question in drawn.opened.items():
            self._questions[name] = question
            self._makers[name] = MAKERS[self.spec.maker](liquidity=self.spec.liquidity_usd, probability=question.prior)
        self._openings: dict[str, float] = {}
        self._public: tuple[tuple[Quote, ...], tuple[tuple[str, float], ...]] | None = None

    # --- what agents see and do -------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether the window is over."""
        return self.tick >= self.spec.ticks

    def is_question(self, name: str) -> bool:
        """Whether ``name`` is one of this market's open prediction questions."""
        return name in self._makers

    def observe(self, agent: int) -> Observation:
        """The public state of this tick and the agent's own account."""
        account = self._accounts[agent]
        positions: dict[str, int] = {}
        for lot in account.lots:
            positions[lot.ticker] = positions.get(lot.ticker, 0) + lot.units
        for stake in account.stakes:
            positions[stake.ticker] = positions.get(stake.ticker, 0) + stake.units
        if self._public is None:
            self._public = self._publish()
        quotes, questions = self._public
        return Observation(
            tick=self.tick,
            ticks=self.spec.ticks,
            cash_usd=account.cash,
            equity_usd=self.equity(agent),
            unit_usd=self.spec.unit_usd,
            quotes=quotes,
            questions=questions,
            news=() if self.done else self._news[self.tick],
            positions=positions,
            max_size=self.spec.max_size,
            posts=self._posts_for(agent) if self._posts else (),
            window=self.window,
        )

    def _publish(self) -> tuple[tuple[Quote, ...], tuple[tuple[str, float], ...]]:
        quotes = []
        for name in self._paths:
            price = self._price(name)
            opening = self._openings.setdefault(name, price)
            quotes.append(Quote(name, price, (price / opening - 1.0) * 100.0))
        return tuple(quotes), tuple((name, maker.price(yes=True)) for name, maker in self._makers.items())

    def _posts_for(self, agent: int) -> tuple[Post, ...]:
        others = [post for author, post in self._posts if author != agent]
        return tuple(others[-self.spec.posts :])

    def step(self, texts: Sequence[str]) -> list[ActionResult]:
        """One action an agent (``texts[i]`` is agent i's), executed in a seeded random order; then time moves on.

        Raises `ValueError` where the window is over or a text is missing; whatever a text says, it raises nothing.
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
        self.tick += 1
        self._public = None
        if self.spec.impact_decay:
            self._impact = {name: i * (1.0 - self.spec.impact_decay) for name, i in self._impact.items()}
        if self.spec.funding_rate:
            self._fund()
        self._liquidate()
        return [r for r in results if r is not None]

    def next_window(self) -> None:
        """Pays out what was resolved and begins the next window. Raises `ValueError` before this one is over."""
        if not self.done:
            raise ValueError(f"this window has {self.spec.ticks - self.tick} ticks left")
        self._past.append(self._window_past())
        for name in [n for n in self._makers if self._questions[n].due <= self.window]:
            yes, maker = self._questions[name].outcome, self._makers.pop(name)
            self._settled_makers += maker.taken() - maker.outstanding(yes=yes)
            for account in self._accounts:
                won = [s.shares for s in account.stakes if s.ticker == name and (s.units > 0) == yes]
                account.cash += total(won)
                account.stakes = [s for s in account.stakes if s.ticker != name]
        for agent, account in enumerate(self._accounts):
            account.opening_usd = self.equity(agent)
        self._begin()

    def equity(self, agent: int) -> float:
        """Cash plus what every holding would bring now, fees included; a resolved question pays 1 or 0 a share."""
        account, fee = self._accounts[agent], self.spec.fee
        lots = stakes = 0.0
        if account.lots:
            for lot, pnl in zip(account.lots, self._lot_pnls(account.lots), strict=True):
                lots += lot.margin_usd + pnl - fee * lot.size_usd - lot.funding_usd
        if account.stakes:
            stakes = total(self._stake_values(account.stakes))
        return account.cash + lots + stakes

    def pnl(self, agent: int) -> float:
        """Equity less that when the window began, fees included."""
        return self.equity(agent) - self._accounts[agent].opening_usd

    def fees(self, agent: int) -> float:
        """Fees paid so far."""
        return self._accounts[agent].fees

    # --- what only judges and yardsticks may see ----------------------------------------------------------------------

    def truth(self, window_id: str, *, window: int | None = None) -> GroundTruth:
        """First and last price of every ticker, the news about it, and how every question came out.

        Of the present window, or of the ``window``-th of this life. Nothing that has not happened yet is told: a
        question that is not due is UNRESOLVED; ask again later.
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
        question = self._questions[name]
        resolved = question.due < self.window or (question.due == self.window and self.done)
        return ("YES" if question.outcome else "NO") if resolved else "UNRESOLVED"

    def _window_past(self) -> _Past:
        news: dict[str, list[str]] = {}
        for item in (i for tick in self._news[: self.tick + 1] for i in tick):
            news.setdefault(item.ticker, []).append(str(item))
        tickers = tuple(
            TickerOutcome(name, self._openings.get(name, path[0]), self._price(name), tuple(news.get(name, ())))
            for name, path in self._paths.items()
        )
        return _Past(tickers, {name: maker.price(yes=True) for name, maker in self._makers.items()})

    def ledger(self) -> Ledger:
        """Where the agents' money went since the market began. The house's side comes from its own books, not from
        the accounts."""
        start, spec = self.spec.start_cash_usd, self.spec
        lots = [lot for account in self._accounts for lot in account.lots]
        makers = self._settled_makers
        for name, maker in self._makers.items():
            if self._is_resolved(name):
                makers += maker.taken() - maker.outstanding(yes=self._questions[name].outcome)
            else:
                held = [[s for s in account.stakes if s.ticker == name] for account in self._accounts]
                makers += maker.taken() - math.fsum(value for stakes in held for value in self._stake_values(stakes))
        marked = math.fsum(lot.pnl(self._price(lot.ticker)) for lot in lots)
        return Ledger(
            agents=math.fsum(self.equity(agent) - start for agent in range(len(self._accounts))),
            fees=math.fsum(account.fees for account in self._accounts),
            fees_due=math.fsum(spec.fee * lot.size_usd for lot in lots),
            perps=math.fsum(book.gain(self._price(name)) for name, book in self._books.items()),
            makers=makers,
            liquidations=self._liquidated,
            funding=self._funding,
            slippage=marked - math.fsum(pnl for account in self._accounts for pnl in self._lot_pnls(account.lots)),
        )

    def best_action(self, agent: int, *, contrary: bool = False) -> str:
        """What an agent who knew the future would do now: the largest gain still to be had (the oracle yardstick).

        ``contrary`` takes the other side of it with the same size (the contrarian oracle).
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
        size = min(spec.max_size, int(account.cash / (spec.unit_usd * (1 + spec.fee * spec.leverage))))
        if gain <= 0 or size < 1:
            return '{"ticker":"","action":"HOLD","size":0}'
        if contrary:
            action = "SELL" if action == "BUY" else "BUY"
        return f'{{"ticker":"{name}","action":"{action}","size":{size}}}'

    # --- the rules ------------------------------------------------------------------------------------------------

    def _price(self, name: str) -> float:
        price = self._paths[name][self.tick]
        return price * math.exp(self._impact[name]) if self.spec.impact else price

    def _execute(self, agent: int, text: str) -> ActionResult:
        account = self._accounts[agent]
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
        if order.ticker in self._paths:
            return self._close_lots(account, order) if order.verb == "CLOSE" else self._open_lot(account, order)
        if order.ticker in self._makers:
            return self._sell_stakes(account, order) if order.verb == "CLOSE" else self._buy_stake(account, order)
        return ActionResult(order, False, f"{shown(order.ticker, 20)} is not listed")

    def _open_lot(self, account: Account, order: Order) -> ActionResult:
        leverage, limit = order.leverage or self.spec.leverage, self.spec.max_leverage
        if limit is None and leverage != self.spec.leverage:
            return ActionResult(order, False, f"leverage is {self.spec.leverage:g} here, got {leverage:g}")
        if limit is not None and leverage > limit:
            return ActionResult(order, False, f"leverage is at most {limit:g} here, got {leverage:g}")
        margin = order.size * self.spec.unit_usd
        size_usd = margin * leverage
        fee = self.spec.fee * size_usd
        if margin + fee > account.cash:
            return ActionResult(order, False, f"costs {margin + fee:.0f}, cash is {account.cash:.0f}")
        units = order.size if order.verb == "BUY" else -order.size
        push = self._push(units, size_usd)
        if abs(self._impact[order.ticker] + push) > _MAX_IMPACT:
            return ActionResult(order, False, f"{order.ticker} takes no more orders of that side now")
        # The average price along the way: as if the order came in small pieces.
        price = self._price(order.ticker) * math.exp(push / 2.0)
        lot = Lot(order.ticker, units, price, size_usd, margin, window=self.window)
        self._impact[order.ticker] += push
        self._books[order.ticker].open(lot)
        account.cash -= margin + fee
        account.fees += fee
        account.lots.append(lot)
        return ActionResult(order, True, price=price, amount_usd=size_usd)

    def _push(self, units: int, size_usd: float) -> float:
        """The log move that an order of this side and size makes."""
        return math.copysign(self.spec.impact * size_usd / 10_000.0, units)

    def _close_lots(self, account: Account, order: Order) -> ActionResult:
        closing = [lot for lot in account.lots if lot.ticker == order.ticker]
        if not closing:
            return ActionResult(order, False, f"no position in {order.ticker}")
        account.lots = [lot for lot in account.lots if lot.ticker != order.ticker]
        pnl = total(self._lot_pnls(closing)) - total(lot.funding_usd for lot in closing)
        price = self._price(order.ticker)
        for lot in reversed(closing):
            price = self._unwind(lot)
        fee = total(self.spec.fee * lot.size_usd for lot in closing)
        account.fees += fee
        account.cash += total(lot.margin_usd for lot in closing) + pnl - fee
        return ActionResult(order, True, price=price, amount_usd=total(lot.size_usd for lot in closing), pnl_usd=pnl)

    def _unwind(self, lot: Lot) -> float:
        """Closes one lot in the house's book, at the price that its own impact leaves; returns that price."""
        push = self._push(-lot.units, lot.size_usd)
        price = self._price(lot.ticker) * math.exp(push / 2.0)
        self._impact[lot.ticker] += push
        self._books[lot.ticker].close(lot, price)
        return price

    def _lot_pnls(self, lots: Sequence[Lot]) -> list[float]:
        """What each lot would earn if all were closed now, the newest first, as a round trip must gain nothing."""
        if not self.spec.impact:
            paths, tick = self._paths, self.tick
            return [lot.pnl(paths[lot.ticker][tick]) for lot in lots]
        pushed: dict[str, float] = {}
        pnls = []
        for lot in reversed(lots):
            push, before = self._push(-lot.units, lot.size_usd), pushed.get(lot.ticker, 0.0)
            pnls.append(lot.pnl(self._price(lot.ticker) * math.exp(before + push / 2.0)))
            pushed[lot.ticker] = before + push
        return pnls[::-1]

    def _buy_stake(self, account: Account, order: Order) -> ActionResult:
        if order.leverage is not None and order.leverage != 1.0:
            return ActionResult(order, False, f"{order.ticker} is a question: it has no leverage")
        amount = order.size * self.spec.question_unit_usd
        fee = self.spec.fee * amount
        if amount + fee > account.cash:
            return ActionResult(order, False, f"costs {amount + fee:.0f}, cash is {account.cash:.0f}")
        yes = order.verb == "BUY"
        try:
            shares = self._makers[order.ticker].buy(yes=yes, amount=amount)
        except PriceLimitError:
            return ActionResult(order, False, f"{order.ticker} has no shares left at a price below 1")
        account.cash -= amount + fee
        account.fees += fee
        account.stakes.append(Stake(order.ticker, order.size if yes else -order.size, shares))
        return ActionResult(order, True, price=amount / shares, amount_usd=amount)

    def _sell_stakes(self, account: Account, order: Order) -> ActionResult:
        closing = [stake for stake in account.stakes if stake.ticker == order.ticker]
        if not closing:
            return ActionResult(order, False, f"no position in {order.ticker}")
        account.stakes = [stake for stake in account.stakes if stake.ticker != order.ticker]
        maker = self._makers[order.ticker]
        proceeds = total(maker.sell(yes=stake.units > 0, shares=stake.shares) for stake in closing)
        fee = self.spec.fee * proceeds
        account.fees += fee
        account.cash += proceeds - fee
        return ActionResult(order, True, price=proceeds / total(s.shares for s in closing), amount_usd=proceeds)

    def _is_resolved(self, name: str) -> bool:
        return self.done and self._questions[name].due <= self.window

    def _stake_values(self, stakes: Sequence[Stake]) -> Iterable[float]:
        """What each stake is worth. Where questions outlive a window they count at what selling them would bring:
        at the marginal price an agent could raise its own P&L by buying just before the end."""
        if self.spec.question_windows > 1:
            sides: dict[tuple[str, bool], float] = {}
            for stake in stakes:
                side = (stake.ticker, stake.units > 0)
                sides[side] = sides.get(side, 0.0) + stake.shares
            return [
                shares * (self._questions[name].outcome == yes)
                if self._is_resolved(name)
                else self._makers[name].worth(yes=yes, shares=shares)
                for (name, yes), shares in sides.items()
            ]
        return [stake.shares * self._share_value(stake) for stake in stakes]

    def _share_value(self, stake: Stake) -> float:
        if self.done:
            return float(self._questions[stake.ticker].outcome == (stake.units > 0))
        return self._makers[stake.ticker].price(yes=stake.units > 0)

    def _fund(self) -> None:
        """Longs pay shorts (the other way round where the rate is negative); the house takes or gives the rest."""
        share = self.spec.funding_rate * self.spec.hours / (_HOURS_A_YEAR * self.spec.ticks)
        for account in self._accounts:
            for lot in account.lots:
                lot.funding_usd += lot.side * lot.size_usd * share
                self._funding += lot.side * lot.size_usd * share

    def _liquidate(self) -> None:
        """A lot that has lost 90 % of its margin is closed by the house, which keeps the rest of the margin."""
        prices = {name: self._price(name) for name in self._paths}
        for account in self._accounts:
            if not account.lots:
                continue
            failed = [lot for lot in account.lots if lot.pnl(prices[lot.ticker]) <= -0.9 * lot.margin_usd]
            if failed:
                account.lots = [lot for lot in account.lots if lot not in failed]
            for lot in failed:
                price = self._unwind(lot)
                self._liquidated += lot.margin_usd + lot.pnl(price) - lot.funding_usd
