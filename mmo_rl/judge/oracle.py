"""Oracle judge: scores every decision by the outcome of the instrument that it traded, without a language model.

    score(decision) = (value + 1) / 2,  score(trajectory) = mean of its decisions' scores
    value of a trade in a ticker  = clip(direction x (last price / price - 1) / full_move, -1, 1) x share
    value of a trade in a question = clip(direction x (payout of YES - price of YES), -1, 1) x share
    value of doing nothing        = 0
    value of a failed action      = -error_penalty

``price`` is the one paid, else the one that the agent saw. ``share`` is the size over the largest of the group's trades
that are no closes, at most 1. A close is a trade of the opposite direction: leaving before a fall is worth what it
saved. Buying a sure thing at its full price is worth nothing: a judge that ignored the price paid would reward buying
YES at 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from mmo_rl.judge.base import JudgeParts
from mmo_rl.judge.free import FreeJudge
from mmo_rl.positions import NoTrade, Positions, Trade, Unknown
from mmo_rl.types import (
    Credit,
    GroundTruth,
    Group,
    Judgment,
    QuestionOutcome,
    Score,
    Tallies,
    TickerOutcome,
    Trajectory,
    Unscored,
)
from mmo_rl.vocabulary import Vocabulary
from mmo_rl.wording import counted

Read = Trade | NoTrade | Unknown
Outcomes = Mapping[str, TickerOutcome | QuestionOutcome]


class OracleJudge(FreeJudge):
    """Judge that scores decisions against ground truth, at no cost.

    ``credit`` "decision" also gives every step its own score; "trajectory" only the mean. A trade without a recorded
    outcome has none, nor has one in words that the vocabulary does not know, or a close of nothing held (``findings``
    counts them as ``unscored_decisions`` where credit is by decision, and ``unknown_actions`` those of unknown words);
    a trajectory of such trades alone, and every member of a window without ground truth, is `Unscored`. It agrees with
    itself, so ``min_agreement`` is always met.
    """

    needs_truth = True

    def __init__(
        self,
        *,
        credit: Credit = "decision",
        error_penalty: Annotated[float, Field(ge=0, le=1)] = 0.6,
        full_move: Annotated[float, Field(gt=0)] = 0.1,
        min_agreement: Annotated[float, Field(ge=-1, le=1)] | None = None,
        parts: JudgeParts = JudgeParts(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__(credit=credit, min_agreement=min_agreement)
        self._vocabulary = parts.vocabulary
        self._error_penalty = error_penalty
        self._full_move = full_move
        self._unknown_actions = 0

    @property
    def tallies(self) -> Tallies:
        unknown = {"unknown_actions": (float(self._unknown_actions),)} if self._unknown_actions else {}
        return {**super().tallies, **unknown}

    def judgments(self, group: Group) -> dict[str, Judgment]:
        """Scores every member of a group, by trajectory id."""
        self._unknown_actions += sum(
            self._vocabulary.read(step.action).unknown_trade
            for member in group.members
            for step in member.steps
            if step.action.success
        )
        if group.truth is None:
            return {
                member.trajectory_id: Unscored(member.trajectory_id, "no ground truth recorded for this window")
                for member in group.members
            }
        trades = [self._trades(member) for member in group.members]
        opened = (t.size for own in trades for t in own.values() if isinstance(t, Trade) and not t.closes)
        largest = max(opened, default=0.0)
        outcomes = _outcomes(group.truth)
        return {
            member.trajectory_id: self._judge(member, own, outcomes, largest)
            for member, own in zip(group.members, trades, strict=True)
        }

    def _judge(
        self, trajectory: Trajectory, trades: Mapping[int, Read], outcomes: Outcomes, largest: float
    ) -> Judgment:
        """Scores one member of a group."""
        values: dict[int, float] = {}
        unknown: list[str] = []
        for step in trajectory.steps:
            value = self._value(trades.get(step.number), outcomes, largest)
            if isinstance(value, str):
                unknown.append(value)
            else:
                values[step.number] = value
        if not values:
            return Unscored(trajectory.trajectory_id, "; ".join(sorted(set(unknown))[:5]) if unknown else "no steps")
        right = sum(v > 0 for v in values.values())
        wrong = sum(v < 0 for v in values.values())
        failed = sum(not s.action.success for s in trajectory.steps)
        decisions = {number: (value + 1.0) / 2.0 for number, value in values.items()}
        return Score(
            trajectory.trajectory_id,
            sum(decisions.values()) / len(decisions),
            f"{right} good and {wrong} bad of {counted(len(values), 'decision')}, {failed} failed"
            + (f", {len(unknown)} unscored: {'; '.join(sorted(set(unknown))[:3])}" if unknown else ""),
            decisions if self.credit == "decision" else None,
        )

    def _trades(self, trajectory: Trajectory) -> dict[int, Read]:
        """Reads the successful actions of a trajectory, by step number."""
        positions = Positions(self._vocabulary)
        return {step.number: positions.apply(step) for step in trajectory.steps if step.action.success}

    def _value(self, read: Read | None, outcomes: Outcomes, largest: float) -> float | str:
        """Computes a decision's value in [-1, 1]; a text says why it has none. ``read`` None: the action failed."""
        if read is None:
            return -self._error_penalty
        if isinstance(read, NoTrade):
            return 0.0
        if isinstance(read, Unknown):
            return read.reason
        outcome = outcomes.get(read.instrument)
        if outcome is None:
            return f"no outcome recorded for {read.instrument}"
        if read.price is None or read.price <= 0:
            return f"no price recorded for {read.instrument}"
        if isinstance(outcome, TickerOutcome):
            gain = read.direction * (outcome.end_price / read.price - 1.0) / self._full_move
        else:
            payout = _payout(outcome, yes=read.direction > 0)
            if payout is None:
                return f"no outcome recorded for {read.instrument}"
            gain = payout - (read.price if read.priced_side == read.direction else 1.0 - read.price)
        share = min(1.0, read.size / largest) if largest > 0 else 1.0
        return max(-1.0, min(1.0, gain)) * share


def oracle_scores(group: Group, vocabulary: Vocabulary) -> dict[str, float]:
    """Scores each member that the oracle can score, by trajectory id, with the oracle's defaults: the reference for
    other judges."""
    judged = OracleJudge(credit="trajectory", parts=JudgeParts(vocabulary=vocabulary)).judgments(group)
    return {i: judgment.value for i, judgment in judged.items() if isinstance(judgment, Score)}


def _outcomes(truth: GroundTruth) -> Outcomes:
    """Returns the outcomes by instrument."""
    return {t.ticker: t for t in truth.tickers} | {q.question_id: q for q in truth.questions}


def _payout(outcome: QuestionOutcome, *, yes: bool) -> float | None:
    """Returns the final value of a share of the side bought, in [0, 1]; None where it is unknown."""
    if outcome.outcome == "UNRESOLVED":
        p = outcome.final_probability
        return None if p is None else (p if yes else 1.0 - p)
    return float((outcome.outcome == "YES") == yes)
