"""Cost of judging: prices, budget, and the ledger that makes no call that could cross the budget."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from mmo_rl.errors import JudgeError
from mmo_rl.types import JudgeUsage
from mmo_rl.wording import counted

UsdPerMtok = Annotated[float, Field(ge=0)]
"""Price in US dollars a million tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices of a judge's model: those set here, else those of the ``list`` (prompt and completion price by model, as
    of ``date``) where list prices apply, else those of litellm's table; None is unknown."""

    prompt_usd_per_mtok: UsdPerMtok | None = None
    completion_usd_per_mtok: UsdPerMtok | None = None
    list: dict[str, tuple[float, float]] | None = None
    date: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of US dollars and of calls for one start of the command (None: no limit)."""

    usd: Annotated[float, Field(ge=0)] | None = None
    calls: Annotated[int, Field(ge=0)] | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """Known prices of one model in US dollars a million tokens; None is unknown."""

    prompt_usd_per_mtok: float | None
    completion_usd_per_mtok: float | None

    @property
    def known(self) -> bool:
        return self.prompt_usd_per_mtok is not None and self.completion_usd_per_mtok is not None

    def cost_usd(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        """Returns the cost of one call; None where a price or a count is unknown."""
        prompt, completion = self.prompt_usd_per_mtok, self.completion_usd_per_mtok
        if prompt is None or completion is None or prompt_tokens is None or completion_tokens is None:
            return None
        return prompt_tokens * (prompt / 1e6) + completion_tokens * (completion / 1e6)


class BudgetReached(JudgeError):
    """Error for a call that was not made because it could cross ``judge.budget.usd`` or ``judge.budget.calls``."""


class Ledger:
    """Running total of calls, tokens and dollars, with room reserved for calls under way.

    Before each request the most that it can cost is reserved; where that does not fit any more, `reserve` waits for the
    calls under way (most cost less than they might) and then raises `BudgetReached`, as does every later one. A request
    that may have been billed though no answer came (it timed out, it was cut off) counts against the budget in full.
    """

    def __init__(self, *, rates: Rates, budget: Budget) -> None:
        self._rates = rates
        self._budget = budget
        self._spent_usd = 0.0
        self._spent_calls = 0
        self._reserved: list[Reservation] = []
        self._freed = asyncio.Event()
        self._usage = JudgeUsage()
        self._reached: str | None = None

    @property
    def usage(self) -> JudgeUsage:
        """``calls`` counts completions received; ``cost_usd`` is None once a call's is unknown."""
        return self._usage

    @property
    def reached(self) -> bool:
        """True once a call was refused for the budget."""
        return self._reached is not None

    async def reserve(self, prompt_tokens: int, completion_tokens: int) -> Reservation:
        """Reserves room for one request of at most these tokens. Raises `BudgetReached`."""
        limited = self._budget.usd is not None
        usd = (self._rates.cost_usd(prompt_tokens, completion_tokens) or 0.0) if limited else 0.0
        while True:
            if self._reached is None and (problem := self._exceeded(usd)) is None:
                reservation = Reservation(self, usd)
                self._reserved.append(reservation)
                return reservation
            if self._reached is None and self._reserved:
                await self._freed.wait()
                continue
            self._reached = self._reached or problem
            raise self.error()

    def error(self) -> BudgetReached:
        """Returns the error that says which limit was reached and what was spent."""
        usage = self._usage
        spent = "an unknown amount" if usage.cost_usd is None else f"${usage.cost_usd:.4f}"
        return BudgetReached(
            f"the judge's budget is used up: {self._reached}; "
            f"{counted(usage.calls, 'call was', 'calls were')} answered for {spent}",
            hint="what was judged is kept: the same command goes on from there with a budget of its own, or raise "
            "judge.budget.usd or judge.budget.calls",
        )

    def hit(self) -> None:
        """Counts a judgment that was kept already."""
        self._usage = replace(self._usage, cache_hits=self._usage.cache_hits + 1)

    def settle(self, reservation: Reservation, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """Accounts for an answered call (`Reservation.settle`)."""
        cost = self._rates.cost_usd(prompt_tokens, completion_tokens)
        usage = self._usage
        self._usage = replace(
            usage,
            calls=usage.calls + 1,
            prompt_tokens=usage.prompt_tokens + (prompt_tokens or 0),
            completion_tokens=usage.completion_tokens + (completion_tokens or 0),
            cost_usd=None if usage.cost_usd is None or cost is None else usage.cost_usd + cost,
        )
        self.free(reservation, spent_usd=reservation.usd if cost is None else cost, calls=1)

    def free(self, reservation: Reservation, *, spent_usd: float, calls: int) -> None:
        """Gives the reserved room back, less what was spent."""
        self._reserved.remove(reservation)
        self._spent_usd += spent_usd
        self._spent_calls += calls
        self._freed.set()
        self._freed = asyncio.Event()

    def _exceeded(self, usd: float) -> str | None:
        """Describes the limit that another call of at most ``usd`` could cross; None where there is room for it."""
        budget = self._budget
        if budget.calls is not None and self._spent_calls + len(self._reserved) >= budget.calls:
            return f"judge.budget.calls={budget.calls}"
        held = sum(reservation.usd for reservation in self._reserved)
        if budget.usd is not None and self._spent_usd + held + usd > budget.usd:
            return (
                f"judge.budget.usd={budget.usd:g}, of which ${self._spent_usd:.4f} are spent and the next call "
                f"could cost ${usd:.4f}"
            )
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """The most US dollars that a call under way can cost; 0 where dollars are not limited."""

    ledger: Ledger
    usd: float

    def settle(self, *, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """Accounts for an answer with these token counts (None: the endpoint did not count)."""
        self.ledger.settle(self, prompt_tokens, completion_tokens)

    def release(self, *, billed: bool) -> None:
        """Accounts for a failed call; ``billed`` where the endpoint may have charged for it all the same."""
        self.ledger.free(self, spent_usd=self.usd if billed else 0.0, calls=int(billed))
