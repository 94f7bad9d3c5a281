"""What judging costs, and the line that it does not cross."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from mmo_rl.errors import JudgeError
from mmo_rl.types import JudgeUsage


class BudgetReached(JudgeError):
    """The next call could cross ``judge.budget_usd`` or ``judge.budget_calls``: it was not made."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """The most that a call under way can cost; ``usd`` is 0 where dollars are not limited."""

    usd: float


class Ledger:
    """The running total, and room for one call at a time.

    Prices are in US dollars a token, None where unknown. Before each request the most that it can cost is reserved;
    where that does not fit any more, `reserve` waits for the calls under way (most cost less than they might) and then
    raises `BudgetReached`, as does every later one. A request that may have been billed though no answer came (it
    timed out, it was cut off) counts against the budget in full.
    """

    def __init__(
        self,
        *,
        price_prompt_usd: float | None,
        price_completion_usd: float | None,
        budget_usd: float | None = None,
        budget_calls: int | None = None,
    ) -> None:
        self._prices = (price_prompt_usd, price_completion_usd)
        self._budget_usd = budget_usd
        self._budget_calls = budget_calls
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
        return self._reached is not None

    async def reserve(self, prompt_tokens: int, completion_tokens: int) -> Reservation:
        """Room for one request of at most these tokens. Raises `BudgetReached`."""
        cost = self._cost(prompt_tokens, completion_tokens) if self._budget_usd is not None else 0.0
        asked = Reservation(cost or 0.0)
        while True:
            if self._reached is None and (problem := self._lacks_room(asked)) is None:
                self._reserved.append(asked)
                return asked
            if self._reached is None and self._reserved:
                await self._freed.wait()
                continue
            self._reached = self._reached or problem
            raise self.error()

    def error(self) -> BudgetReached:
        usage = self._usage
        spent = "an unknown amount" if usage.cost_usd is None else f"${usage.cost_usd:.4f}"
        return BudgetReached(
            f"the judge's budget is used up: {self._reached}; {usage.calls} calls were answered for {spent}",
            hint="what was judged is kept: the same command goes on from there with a budget of its own, or raise "
            "judge.budget_usd or judge.budget_calls",
        )

    def settle(self, reservation: Reservation, *, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """A call was answered with these token counts (None: the endpoint did not count)."""
        cost = self._cost(prompt_tokens, completion_tokens)
        usage = self._usage
        self._usage = replace(
            usage,
            calls=usage.calls + 1,
            prompt_tokens=usage.prompt_tokens + (prompt_tokens or 0),
            completion_tokens=usage.completion_tokens + (completion_tokens or 0),
            cost_usd=None if usage.cost_usd is None or cost is None else usage.cost_usd + cost,
        )
        self._free(reservation, spent=reservation.usd if cost is None else cost, calls=1)

    def release(self, reservation: Reservation, *, billed: bool) -> None:
        """A call failed; ``billed`` where the endpoint may have charged for it all the same."""
        self._free(reservation, spent=reservation.usd if billed else 0.0, calls=int(billed))

    def hit(self) -> None:
        """A judgment was there already."""
        self._usage = replace(self._usage, cache_hits=self._usage.cache_hits + 1)

    def _free(self, reservation: Reservation, *, spent: float, calls: int) -> None:
        self._reserved.remove(reservation)
        self._spent_usd += spent
        self._spent_calls += calls
        self._freed.set()
        self._freed = asyncio.Event()

    def _lacks_room(self, asked: Reservation) -> str | None:
        if self._budget_calls is not None and self._spent_calls + len(self._reserved) >= self._budget_calls:
            return f"judge.budget_calls={self._budget_calls}"
        held = sum(r.usd for r in self._reserved)
        if self._budget_usd is not None and self._spent_usd + held + asked.usd > self._budget_usd:
            return (
                f"judge.budget_usd={self._budget_usd:g}, of which ${self._spent_usd:.4f} are spent and the next call "
                f"could cost ${asked.usd:.4f}"
            )
        return None

    def _cost(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        prompt, completion = self._prices
        if prompt is None or completion is None or prompt_tokens is None or completion_tokens is None:
            return None
        return prompt_tokens * prompt + completion_tokens * completion
