"""Accounts of the agents, and the books of the house, which is the other side of every trade."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field


def total(values: Iterable[float]) -> float:
    """Adds values up one by one. `sum` rounds differently from Python 3.12 on; with this, a seed gives the same bytes
    on every version."""
    added = 0.0
    for value in values:
        added += value
    return added


@dataclass(slots=True)
class Lot:
    """Perpetual position as it was opened. PnL = ±(p - e) / e · size; it is liquidated at e · (1 ∓ 0.9/leverage)."""

    ticker: str
    units: int  # signed
    entry: float
    size_usd: float  # notional
    margin_usd: float
    window: int = 0
    funding_usd: float = 0.0  # owed so far, settled at the close

    @property
    def side(self) -> float:
        return math.copysign(1.0, self.units)

    def pnl(self, price: float) -> float:
        move = price / self.entry - 1.0
        return move * self.size_usd if self.units > 0 else -move * self.size_usd


@dataclass(slots=True)
class Stake:
    """Shares of one side of a question."""

    ticker: str
    units: int  # signed: YES > 0
    shares: float


@dataclass(slots=True)
class Account:
    """Holdings of one agent; ``fees`` paid so far; ``opening_usd`` its equity when the window began."""

    cash: float
    opening_usd: float
    lots: list[Lot] = field(default_factory=list)
    stakes: list[Stake] = field(default_factory=list)
    fees: float = 0.0


@dataclass(slots=True)
class PerpBook:
    """Book of the house for one ticker: agents are ``base`` units of it long, net, for which they paid ``quote``."""

    base: float = 0.0
    quote: float = 0.0

    def open(self, lot: Lot) -> None:
        self.base += lot.side * lot.size_usd / lot.entry
        self.quote += lot.side * lot.size_usd

    def close(self, lot: Lot, price: float) -> None:
        units = lot.side * lot.size_usd / lot.entry
        self.base -= units
        self.quote -= units * price

    def gain(self, price: float) -> float:
        """Computes the gain of the house if all agents closed at ``price``."""
        return self.quote - self.base * price


@dataclass(frozen=True, slots=True)
class Ledger:
    """Balance of all money that began in the agents' accounts, in game dollars; `residual` is 0 to the cent.

    ``agents`` is the sum of their P&L since the market began; every other field is a sum that left their accounts:
    ``fees`` paid, ``fees_due`` at the close of open positions, the house's gain from ``perps``, ``makers`` of
    questions, ``liquidations`` (the rest of the margins) and ``funding`` (longs less shorts), and the ``slippage``
    that closing all positions would cost.
    """

    agents: float
    fees: float
    fees_due: float
    perps: float
    makers: float
    liquidations: float
    funding: float
    slippage: float

    @property
    def residual(self) -> float:
        house = (self.fees, self.fees_due, self.perps, self.makers, self.liquidations, self.funding, self.slippage)
        return math.fsum((self.agents, *house))
