"""Oracle judge: scores every decision by the outcome of the instrument that it traded, without a language model.

    score(decision) = (value + 1) / 2,  score(trajectory) = mean of its decisions' scores
    value of a trade in a ticker  = clip(direction x (last price / price paid - 1) / full_move, -1, 1) x share
    value of a bet on a question  = clip(payout - price paid, -1, 1) x share
    value of doing nothing        = 0
    value of a failed action      = -error_penalty

``share`` is the size over the largest size in the group. Buying a sure thing at its full price is worth nothing: a
judge that ignored the price paid would reward buying YES at 95 %.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Annotated

from pydantic import Field

from mmo_rl.judge.findings import numbers
from mmo_rl.types import (
    Action,
    Credit,
    GroundTruth,
    Group,
    JudgeUsage,
    Judgment,
    QuestionOutcome,
    Score,
    ScoredGroup,
    Tallies,
    TickerOutcome,
    Trajectory,
    Unscored,
)
from mmo_rl.vocabulary import RECORDED


class OracleJudge:
    """Judge that scores decisions against ground truth, at no cost.

    ``credit`` "decision" also gives every step its own score; "trajectory" only the mean. A trade without a recorded
    outcome has none (``findings`` counts them as ``unscored_decisions`` where credit is by decision); a trajectory of
    such trades alone, and every member of a window without ground truth, is `Unscored`. It agrees with itself, so
    ``min_agreement`` is always met.
    """

    needs_truth = True

    def __init__(
        self,
        *,
        credit: Credit = "decision",
        error_penalty: Annotated[float, Field(ge=0, le=1)] = 0.6,
        full_move: Annotated[float, Field(gt=0)] = 0.1,
        min_agreement: Annotated[float, Field(ge=-1, le=1)] | None = None,
    ) -> None:
        self.min_agreement = min_agreement
        self.credit: Credit = credit
        self._error_penalty = error_penalty
        self._full_move = full_move
        self._unscored_decisions = 0

    @property
    def usage(self) -> JudgeUsage:
        return JudgeUsage()

    @property
    def findings(self) -> Mapping[str, float]:
        return numbers(self.tallies)

    @property
    def tallies(self) -> Tallies:
        return {"unscored_decisions": (float(self._unscored_decisions),)} if self._unscored_decisions else {}

    async def score(self, groups: AsyncIterator[Group]) -> AsyncGenerator[ScoredGroup, None]:
        """Scores group after group as they come."""
        async for group in groups:
            judgments = {t.trajectory_id: self._judge(t, group) for t in group.members}
            scored = ScoredGroup(group, judgments, self.credit)
            self._unscored_decisions += scored.unscored_decisions
            yield scored

    async def aclose(self) -> None:
        """Does nothing: it holds no connection."""

    def _judge(self, trajectory: Trajectory, group: Group) -> Judgment:
        """Scores one member of a group."""
        if group.truth is None:
            return Unscored(trajectory.trajectory_id, "no ground truth recorded for this window")
        largest = max((_size(s.action) for t in group.members for s in t.steps if s.action.success), default=0.0)
        values: dict[int, float] = {}
        unknown: list[str] = []
        for step in trajectory.steps:
            value = self._value(step.action, group.truth, largest)
            if value is None:
                unknown.append(RECORDED.instrument(step.action) or step.action.action_type)
            else:
                values[step.number] = value
        if not values:
            why = f"no outcome recorded for {', '.join(sorted(set(unknown))[:5])}" if unknown else "no steps"
            return Unscored(trajectory.trajectory_id, why)
        right = sum(v > 0 for v in values.values())
        wrong = sum(v < 0 for v in values.values())
        failed = sum(not s.action.success for s in trajectory.steps)
        decisions = {number: (value + 1.0) / 2.0 for number, value in values.items()}
        return Score(
            trajectory.trajectory_id,
            sum(decisions.values()) / len(decisions),
            f"{right} good and {wrong} bad of {len(values)} decisions, {failed} failed"
            + (f", {len(unknown)} without a recorded outcome" if unknown else ""),
            decisions if self.credit == "decision" else None,
        )

    def _value(self, action: Action, truth: GroundTruth, largest: float) -> float | None:
        """Computes a decision's value in [-1, 1]; None where the outcome of the traded instrument is unknown."""
        if not action.success:
            return -self._error_penalty
        read = RECORDED.read(action)
        direction, price = read.direction, read.price
        if direction == 0:
            return 0.0
        outcome = _outcomes(truth).get(read.instrument) if read.instrument else None
        if outcome is None or price is None or price <= 0:
            return None
        share = _size(action) / largest if largest > 0 else 1.0
        if isinstance(outcome, TickerOutcome):
            gain = direction * (outcome.end_price / price - 1.0) / self._full_move
        else:
            payout = _payout(outcome, yes=direction > 0)
            if payout is None:
                return None
            gain = payout - price
        return max(-1.0, min(1.0, gain)) * share


def oracle_scores(group: Group) -> dict[str, float]:
    """Scores each member that the oracle can score, by trajectory id, with the oracle's defaults: the reference for
    other judges."""
    oracle = OracleJudge(credit="trajectory")
    judged = {member.trajectory_id: oracle._judge(member, group) for member in group.members}
    return {i: judgment.value for i, judgment in judged.items() if isinstance(judgment, Score)}


def _outcomes(truth: GroundTruth) -> Mapping[str, TickerOutcome | QuestionOutcome]:
    """Returns the outcomes by instrument."""
    return {t.ticker: t for t in truth.tickers} | {q.question_id: q for q in truth.questions}


def _payout(outcome: QuestionOutcome, *, yes: bool) -> float | None:
    """Returns the final value of a share of the side bought, in [0, 1]; None where it is unknown."""
    if outcome.outcome == "UNRESOLVED":
        p = outcome.final_probability
        return None if p is None else (p if yes else 1.0 - p)
    return float((outcome.outcome == "YES") == yes)


def _size(action: Action) -> float:
    """Returns the order's size, 1 where none is recorded."""
    size = RECORDED.read(action).size
    return 1.0 if size is None else size
