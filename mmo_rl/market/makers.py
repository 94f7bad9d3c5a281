"""Automated market makers of yes/no questions; a share of the side that comes true pays 1 dollar.

`LmsrMaker` (the default) and `CompleteSetMaker` are arbitrage-free: prices of the two sides sum to 1 and a round trip
gains nothing. `Game2025Maker` is the game's own rule of 2025, for fidelity studies only.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

MakerName = Literal["lmsr", "complete_set", "game_2025"]

LIMIT = 1e-12
"""Least distance of a price from 0 and from 1; purchases that would go nearer are refused."""


class PriceLimitError(ValueError):
    """Refusal of a purchase that would take a price to 0 or 1; nothing was bought."""


class Maker(Protocol):
    """Maker of one question, which quotes and trades its shares; amounts and proceeds in game dollars."""

    def price(self, *, yes: bool) -> float:
        """Returns the marginal price of a side, in (0, 1): the market's probability of it."""
        ...

    def buy(self, *, yes: bool, amount: float) -> float:
        """Spends ``amount`` on one side and returns the shares. Raises `PriceLimitError`."""
        ...

    def worth(self, *, yes: bool, shares: float) -> float:
        """Computes the proceeds of selling ``shares`` of one side now."""
        ...

    def sell(self, *, yes: bool, shares: float) -> float:
        """Sells shares back and returns the dollars paid out."""
        ...

    def outstanding(self, *, yes: bool) -> float:
        """Returns the number of a side's shares that agents hold."""
        ...

    def taken(self) -> float:
        """Computes the dollars taken less those paid back, from the maker's present state alone."""
        ...


class LmsrMaker:
    """Hanson's logarithmic market scoring rule. ``liquidity`` is b in game dollars; ``probability`` the opening price
    of YES in (0, 1).

    Cost of the outstanding shares q = (q_yes, q_no) is C(q) = b ln(e^(q_yes/b) + e^(q_no/b)); the price of YES is
    p = 1 / (1 + e^((q_no - q_yes)/b)); the maker's loss is at most b ln 2 from an even start.
    Source: R. Hanson, "Combinatorial information market design" (2003).
    """

    def __init__(self, *, liquidity: float, probability: float) -> None:
        self._b = liquidity
        self._opening = self._logit = math.log(probability / (1.0 - probability))  # (q_yes - q_no) / b
        self._shares = {True: 0.0, False: 0.0}

    def price(self, *, yes: bool) -> float:
        x = self._logit if yes else -self._logit
        return 1.0 / (1.0 + math.exp(-x))

    def buy(self, *, yes: bool, amount: float) -> float:
        """Solves C(q + s) - C(q) = amount for the shares s = b ln((e^(amount/b) - (1 - p)) / p)."""
        p = self.price(yes=yes)
        if amount > 100.0 * self._b:
            raise PriceLimitError
        shares = self._b * math.log((math.exp(amount / self._b) - (1.0 - p)) / p)
        moved = self._logit + (shares / self._b if yes else -shares / self._b)
        if abs(moved) > -math.log(LIMIT):
            raise PriceLimitError
        self._logit = moved
        self._shares[yes] += shares
        return shares

    def worth(self, *, yes: bool, shares: float) -> float:
        """Computes C(q) - C(q - s) = -b ln(p e^(-s/b) + 1 - p)."""
        p = self.price(yes=yes)
        return -self._b * math.log(p * math.exp(-shares / self._b) + (1.0 - p))

    def sell(self, *, yes: bool, shares: float) -> float:
        proceeds = self.worth(yes=yes, shares=shares)
        self._logit -= shares / self._b if yes else -shares / self._b
        self._shares[yes] -= shares
        return proceeds

    def outstanding(self, *, yes: bool) -> float:
        return self._shares[yes]

    def taken(self) -> float:
        """Computes C(q) - C(q at the opening)."""
        now = _log_sum_exp(self._opening + self._shares[True] / self._b, self._shares[False] / self._b)
        return self._b * (now - _log_sum_exp(self._opening, 0.0))


class CompleteSetMaker:
    """Constant-product maker over complete sets: a dollar mints a YES and a NO; the unwanted one is swapped in a pool.

    Reserves Y, N with Y·N = k; the price of YES is N / (Y + N). Buying YES with amount a gives a + Y - Y·N/(N + a)
    shares. ``liquidity`` makes the pool as deep as an LMSR of the same b at even odds.
    """

    def __init__(self, *, liquidity: float, probability: float) -> None:
        odds = math.sqrt(probability / (1.0 - probability))
        self._reserve = {True: liquidity / odds, False: liquidity * odds}
        self._opening = self._reserve[True]
        self._shares = {True: 0.0, False: 0.0}

    def price(self, *, yes: bool) -> float:
        return self._reserve[not yes] / (self._reserve[True] + self._reserve[False])

    def buy(self, *, yes: bool, amount: float) -> float:
        wanted, other = self._reserve[yes], self._reserve[not yes]
        left = wanted * other / (other + amount)
        _check_price(left / (left + other + amount))
        self._reserve = {yes: left, not yes: other + amount}
        shares = amount + wanted - left
        self._shares[yes] += shares
        return shares

    def worth(self, *, yes: bool, shares: float) -> float:
        """Solves (Y + s - c)(N - c) = k for the redeemed sets c."""
        other = self._reserve[not yes]
        total = self._reserve[yes] + shares + other
        return 2.0 * shares * other / (total + math.sqrt(total * total - 4.0 * shares * other))

    def sell(self, *, yes: bool, shares: float) -> float:
        proceeds = self.worth(yes=yes, shares=shares)
        self._reserve[yes] += shares - proceeds
        self._reserve[not yes] -= proceeds
        self._shares[yes] -= shares
        return proceeds

    def outstanding(self, *, yes: bool) -> float:
        return self._shares[yes]

    def taken(self) -> float:
        """Counts the sets minted and not redeemed: each is a dollar."""
        return self._reserve[True] - self._opening + self._shares[True]


class Game2025Maker:
    """Maker by the game's rule of 2025: buying YES with amount a puts a into the NO reserve and pays out Y - k/(N + a).

    A share's marginal cost is N / Y, a dollar at even odds, so that the winning side gains nothing there, and less
    than nothing after fees. For studies of what recorded agents faced; never train on it.
    """

    def __init__(self, *, liquidity: float, probability: float) -> None:
        odds = math.sqrt(probability / (1.0 - probability))
        self._reserve = {True: liquidity / odds, False: liquidity * odds}
        self._opening = self._reserve[True] + self._reserve[False]
        self._shares = {True: 0.0, False: 0.0}

    def price(self, *, yes: bool) -> float:
        """Returns the probability that the game shows, which is not the cost of a share."""
        return self._reserve[not yes] / (self._reserve[True] + self._reserve[False])

    def buy(self, *, yes: bool, amount: float) -> float:
        wanted, other = self._reserve[yes], self._reserve[not yes]
        left = wanted * other / (other + amount)
        _check_price(left / (left + other + amount))
        self._reserve = {yes: left, not yes: other + amount}
        self._shares[yes] += wanted - left
        return wanted - left

    def worth(self, *, yes: bool, shares: float) -> float:
        wanted, other = self._reserve[yes], self._reserve[not yes]
        return other - wanted * other / (wanted + shares)

    def sell(self, *, yes: bool, shares: float) -> float:
        proceeds = self.worth(yes=yes, shares=shares)
        self._reserve[yes] += shares
        self._reserve[not yes] -= proceeds
        self._shares[yes] -= shares
        return proceeds

    def outstanding(self, *, yes: bool) -> float:
        return self._shares[yes]

    def taken(self) -> float:
        reserves = self._reserve[True] + self._reserve[False]
        return reserves - self._opening + self._shares[True] + self._shares[False]


MAKERS: dict[str, type[LmsrMaker] | type[CompleteSetMaker] | type[Game2025Maker]] = {
    "lmsr": LmsrMaker,
    "complete_set": CompleteSetMaker,
    "game_2025": Game2025Maker,
}


def _check_price(other_price: float) -> None:
    if other_price < LIMIT:
        raise PriceLimitError


def _log_sum_exp(x: float, y: float) -> float:
    high = max(x, y)
    return high + math.log1p(math.exp(min(x, y) - high))
