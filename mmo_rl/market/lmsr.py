"""An arbitrage-free maker for yes/no questions: Hanson's logarithmic market scoring rule.

Cost of the outstanding shares q = (q_yes, q_no) is C(q) = b ln(e^(q_yes/b) + e^(q_no/b)); the price of YES is
p = 1 / (1 + e^((q_no - q_yes)/b)); prices sum to 1 and the maker's loss is at most b ln 2 from an even start.
Source: R. Hanson, "Combinatorial information market design" (2003).
"""

from __future__ import annotations

import math


class LmsrMaker:
    """Quotes and sells shares of one question. ``liquidity`` is b in game dollars; ``probability`` the opening price
    of YES in (0, 1)."""

    def __init__(self, *, liquidity: float, probability: float) -> None:
        self._b = liquidity
        self._logit = math.log(probability / (1.0 - probability))  # (q_yes - q_no) / b

    def price(self, *, yes: bool) -> float:
        """Marginal price of a share, in (0, 1)."""
        x = self._logit if yes else -self._logit
        return 1.0 / (1.0 + math.exp(-x))

    def buy(self, *, yes: bool, amount: float) -> float:
        """Spends ``amount`` dollars on one side and returns the shares; each pays 1 if that side comes true.

        From C(q + s) - C(q) = amount: s = b ln((e^(amount/b) - (1 - p)) / p).
        """
        p = self.price(yes=yes)
        shares = self._b * math.log((math.exp(amount / self._b) - (1.0 - p)) / p)
        self._logit += shares / self._b if yes else -shares / self._b
        return shares

    def sell(self, *, yes: bool, shares: float) -> float:
        """Sells shares back and returns the dollars paid out: C(q) - C(q - s) = -b ln(p e^(-s/b) + 1 - p)."""
        p = self.price(yes=yes)
        proceeds = -self._b * math.log(p * math.exp(-shares / self._b) + (1.0 - p))
        self._logit -= shares / self._b if yes else -shares / self._b
        return proceeds
