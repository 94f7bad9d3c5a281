"""Exchange of the simulated market: execution, prices, margins, fees, funding, liquidation and valuation.

Rules follow the game's: margin = size / leverage, PnL = ±(p - e) / e · size, liquidation at e · (1 ∓ 0.9 / leverage), a
fee on the size at open and at close.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from mmo_rl.market.accounts import Account, Ledger, Lot, PerpBook, Stake, total
from mmo_rl.market.actions import Order, shown
from mmo_rl.market.hidden import HiddenQuestion
from mmo_rl.market.makers import MAKERS, Maker, PriceLimitError
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.view import ActionResult

_MAX_IMPACT = 2.0
"""Largest distance, in logs, to which orders may push a ticker from its hidden path."""
_HOURS_A_YEAR = 8760.0


class Exchange:
    """Accounts of ``agents`` agents, each with ``cash_usd`` to begin with, and the house that trades with them.

    ``tick`` of ``window`` is now; ``paths`` are this window's prices without the agents' impact, ``questions`` all
    there have been, ``makers`` price those that are open.
    """

    def __init__(self, *, spec: MarketSpec, agents: int, cash_usd: float) -> None:
        self.spec = spec
        self._cash_usd = cash_usd
        self.window = -1
        self.tick = 0
        self.paths: Mapping[str, list[float]] = {}
        self.questions: dict[str, HiddenQuestion] = {}
        self.makers: dict[str, Maker] = {}
        self.accounts = [Account(cash_usd, cash_usd) for _ in range(agents)]
        self._impact: dict[str, float] = {}
        self._books: dict[str, PerpBook] = {}
        self._settled_makers = self._liquidated = self._funding = 0.0

    def begin(self, paths: Mapping[str, list[float]], opened: Mapping[str, HiddenQuestion]) -> None:
        """Begins the next window with its prices and the questions that open in it. The tickers are always the same."""
        self.window += 1
        self.tick = 0
        self.paths = paths
        if not self._books:
            self._impact = dict.fromkeys(paths, 0.0)
            self._books = {name: PerpBook() for name in paths}
        for name, question in opened.items():
            self.questions[name] = question
            self.makers[name] = MAKERS[self.spec.maker](liquidity=self.spec.liquidity_usd, probability=question.prior)

    @property
    def done(self) -> bool:
        """True once the window is over."""
        return self.tick >= self.spec.ticks

    def advance(self) -> None:
        """Moves time on by one tick: impact fades, funding falls due, failed positions are liquidated."""
        self.tick += 1
        if self.spec.impact_decay:
            self._impact = {name: i * (1.0 - self.spec.impact_decay) for name, i in self._impact.items()}
        if self.spec.funding_rate:
            self._fund()
        self._liquidate()

    def settle(self) -> None:
        """Pays out the questions that this window, which is over, has resolved; P&L counts from here on."""
        for name in [n for n in self.makers if self.questions[n].due <= self.window]:
            yes, maker = self.questions[name].outcome, self.makers.pop(name)
            self._settled_makers += maker.taken() - maker.outstanding(yes=yes)
            for account in self.accounts:
                won = [s.shares for s in account.stakes if s.ticker == name and (s.units > 0) == yes]
                account.cash += total(won)
                account.stakes = [s for s in account.stakes if s.ticker != name]
        for agent, account in enumerate(self.accounts):
            account.opening_usd = self.equity(agent)

    def carry_out(self, agent: int, order: Order) -> ActionResult:
        """Executes an order to buy, sell or close, or refuses it with a reason."""
        account = self.accounts[agent]
        if order.ticker in self.paths:
            return self._close_lots(account, order) if order.verb == "CLOSE" else self._open_lot(account, order)
        if order.ticker in self.makers:
            return self._sell_stakes(account, order) if order.verb == "CLOSE" else self._buy_stake(account, order)
        return ActionResult(order, False, f"{shown(order.ticker, 20)} is not listed")

    def affordable(self, agent: int) -> tuple[int, int]:
        """Computes the largest sizes that an agent's cash pays for, fees included: of an order on a ticker at the
        market's own leverage, and of one on a question."""
        cash, sizes = self.accounts[agent].cash, range(self.spec.max_size, 0, -1)
        order = next((size for size in sizes if sum(self._order_cost(size, self.spec.leverage)) <= cash), 0)
        bet = next((size for size in sizes if sum(self._bet_cost(size)) <= cash), 0)
        return order, bet

    def price(self, name: str) -> float:
        """Returns a ticker's price now, the agents' impact included."""
        price = self.paths[name][self.tick]
        return price * math.exp(self._impact[name]) if self.spec.impact else price

    def equity(self, agent: int) -> float:
        """Values an account: cash plus the proceeds of every holding if it were closed now, fees included. A share of a
        resolved question is worth 1 or 0."""
        account, fee = self.accounts[agent], self.spec.fee
        lots = stakes = 0.0
        if account.lots:
            for lot, pnl in zip(account.lots, self._lot_pnls(account.lots), strict=True):
                lots += lot.margin_usd + pnl - fee * lot.size_usd - lot.funding_usd
        if account.stakes:
            stakes = total(self._stake_values(account.stakes))
        return account.cash + lots + stakes

    def is_resolved(self, name: str) -> bool:
        """Checks that the outcome of a question is known by now."""
        question = self.questions[name]
        return question.due < self.window or (question.due == self.window and self.done)

    def ledger(self) -> Ledger:
        """Draws up the balance of all money since the market began. The house's side comes from its own books, not from
        the accounts."""
        start, spec = self._cash_usd, self.spec
        lots = [lot for account in self.accounts for lot in account.lots]
        makers = self._settled_makers
        for name, maker in self.makers.items():
            if self.is_resolved(name):
                makers += maker.taken() - maker.outstanding(yes=self.questions[name].outcome)
            else:
                held = [[s for s in account.stakes if s.ticker == name] for account in self.accounts]
                makers += maker.taken() - math.fsum(value for stakes in held for value in self._stake_values(stakes))
        marked = math.fsum(lot.pnl(self.price(lot.ticker)) for lot in lots)
        return Ledger(
            agents=math.fsum(self.equity(agent) - start for agent in range(len(self.accounts))),
            fees=math.fsum(account.fees for account in self.accounts),
            fees_due=math.fsum(spec.fee * lot.size_usd for lot in lots),
            perps=math.fsum(book.gain(self.price(name)) for name, book in self._books.items()),
            makers=makers,
            liquidations=self._liquidated,
            funding=self._funding,
            slippage=marked - math.fsum(pnl for account in self.accounts for pnl in self._lot_pnls(account.lots)),
        )

    # --- the rules ------------------------------------------------------------------------------------------------

    def _open_lot(self, account: Account, order: Order) -> ActionResult:
        leverage, limit = order.leverage or self.spec.leverage, self.spec.max_leverage
        if limit is None and leverage != self.spec.leverage:
            return ActionResult(order, False, f"leverage is {self.spec.leverage:g} here, got {leverage:g}")
        if limit is not None and leverage > limit:
            return ActionResult(order, False, f"leverage is at most {limit:g} here, got {leverage:g}")
        margin, fee = self._order_cost(order.size, leverage)
        size_usd = margin * leverage
        if margin + fee > account.cash:
            return ActionResult(order, False, f"costs {margin + fee:.0f}, cash is {account.cash:.0f}")
        units = order.size if order.verb == "BUY" else -order.size
        push = self._push(units, size_usd)
        if abs(self._impact[order.ticker] + push) > _MAX_IMPACT:
            return ActionResult(order, False, f"{order.ticker} takes no more orders of that side now")
        # The average price along the way: as if the order came in small pieces.
        price = self.price(order.ticker) * math.exp(push / 2.0)
        lot = Lot(order.ticker, units, price, size_usd, margin, window=self.window)
        self._impact[order.ticker] += push
        self._books[order.ticker].open(lot)
        account.cash -= margin + fee
        account.fees += fee
        account.lots.append(lot)
        return ActionResult(order, True, price=price, amount_usd=size_usd)

    def _order_cost(self, size: int, leverage: float) -> tuple[float, float]:
        """Returns margin and fee of an order on a ticker."""
        margin = size * self.spec.unit_usd
        return margin, self.spec.fee * (margin * leverage)

    def _bet_cost(self, size: int) -> tuple[float, float]:
        """Returns stake and fee of an order on a question."""
        stake = size * self.spec.question_unit_usd
        return stake, self.spec.fee * stake

    def _push(self, units: int, size_usd: float) -> float:
        """Returns the log move of the price by an order of this side and size."""
        return math.copysign(self.spec.impact * size_usd / 10_000.0, units)

    def _close_lots(self, account: Account, order: Order) -> ActionResult:
        closing = [lot for lot in account.lots if lot.ticker == order.ticker]
        if not closing:
            return ActionResult(order, False, f"no position in {order.ticker}")
        account.lots = [lot for lot in account.lots if lot.ticker != order.ticker]
        pnl = total(self._lot_pnls(closing)) - total(lot.funding_usd for lot in closing)
        price = self.price(order.ticker)
        for lot in reversed(closing):
            price = self._unwind(lot)
        fee = total(self.spec.fee * lot.size_usd for lot in closing)
        account.fees += fee
        account.cash += total(lot.margin_usd for lot in closing) + pnl - fee
        return ActionResult(order, True, price=price, amount_usd=total(lot.size_usd for lot in closing), pnl_usd=pnl)

    def _unwind(self, lot: Lot) -> float:
        """Closes one lot in the house's book, at the price that its own impact leaves; returns that price."""
        push = self._push(-lot.units, lot.size_usd)
        price = self.price(lot.ticker) * math.exp(push / 2.0)
        self._impact[lot.ticker] += push
        self._books[lot.ticker].close(lot, price)
        return price

    def _lot_pnls(self, lots: Sequence[Lot]) -> list[float]:
        """Computes the P&L of each lot if all were closed now, the newest first, so that a round trip gains nothing."""
        if not self.spec.impact:
            paths, tick = self.paths, self.tick
            return [lot.pnl(paths[lot.ticker][tick]) for lot in lots]
        pushed: dict[str, float] = {}
        pnls = []
        for lot in reversed(lots):
            push, before = self._push(-lot.units, lot.size_usd), pushed.get(lot.ticker, 0.0)
            pnls.append(lot.pnl(self.price(lot.ticker) * math.exp(before + push / 2.0)))
            pushed[lot.ticker] = before + push
        return pnls[::-1]

    def _buy_stake(self, account: Account, order: Order) -> ActionResult:
        if order.leverage is not None and order.leverage != 1.0:
            return ActionResult(order, False, f"{order.ticker} is a question: it has no leverage")
        amount, fee = self._bet_cost(order.size)
        if amount + fee > account.cash:
            return ActionResult(order, False, f"costs {amount + fee:.0f}, cash is {account.cash:.0f}")
        yes = order.verb == "BUY"
        try:
            shares = self.makers[order.ticker].buy(yes=yes, amount=amount)
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
        maker = self.makers[order.ticker]
        proceeds = total(maker.sell(yes=stake.units > 0, shares=stake.shares) for stake in closing)
        fee = self.spec.fee * proceeds
        account.fees += fee
        account.cash += proceeds - fee
        return ActionResult(order, True, price=proceeds / total(s.shares for s in closing), amount_usd=proceeds)

    def _stake_values(self, stakes: Sequence[Stake]) -> Iterable[float]:
        """Values stakes at the marginal price; at the proceeds of selling them where questions outlive a window. (At
        the marginal price an agent could raise its own P&L by buying just before the end.)"""
        if self.spec.question_windows > 1:
            sides: dict[tuple[str, bool], float] = {}
            for stake in stakes:
                side = (stake.ticker, stake.units > 0)
                sides[side] = sides.get(side, 0.0) + stake.shares
            return [
                shares * (self.questions[name].outcome == yes)
                if self.is_resolved(name)
                else self.makers[name].worth(yes=yes, shares=shares)
                for (name, yes), shares in sides.items()
            ]
        return [stake.shares * self._share_value(stake) for stake in stakes]

    def _share_value(self, stake: Stake) -> float:
        if self.done:
            return float(self.questions[stake.ticker].outcome == (stake.units > 0))
        return self.makers[stake.ticker].price(yes=stake.units > 0)

    def _fund(self) -> None:
        """Charges longs in favour of shorts (negative rate: the reverse); the house takes or gives the rest."""
        share = self.spec.funding_rate * self.spec.hours / (_HOURS_A_YEAR * self.spec.ticks)
        for account in self.accounts:
            for lot in account.lots:
                lot.funding_usd += lot.side * lot.size_usd * share
                self._funding += lot.side * lot.size_usd * share

    def _liquidate(self) -> None:
        """Closes lots that have lost 90 % of their margin; the house keeps the rest of the margin."""
        prices = {name: self.price(name) for name in self.paths}
        for account in self.accounts:
            if not account.lots:
                continue
            failed = [lot for lot in account.lots if lot.pnl(prices[lot.ticker]) <= -0.9 * lot.margin_usd]
            if failed:
                account.lots = [lot for lot in account.lots if lot not in failed]
            for lot in failed:
                price = self._unwind(lot)
                self._liquidated += lot.margin_usd + lot.pnl(price) - lot.funding_usd
