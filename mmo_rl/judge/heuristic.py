"""Heuristic judge: the hand-mixed reward of earlier versions, kept as a baseline.

    score = (pnl_weight x profit + win_weight x wins + activity_weight x activity) / sum of the weights

``profit`` is the final P&L's place between the lowest (0) and the highest (1) in the group, 0.5 where all are equal.
``wins`` is the share of changes of the running P&L (from one step to the next, and to the end) that were gains, 0.5
where it never changed. ``activity`` is the number of successful actions other than idle ones over ``full_activity``, at
most 1.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated

from pydantic import Field

from mmo_rl.errors import ConfigError
from mmo_rl.judge.base import JudgeParts
from mmo_rl.judge.free import FreeJudge
from mmo_rl.types import Group, Judgment, Score, Step, Trajectory, Unscored
from mmo_rl.wording import counted

_STATE_PNL = "agentPnL"


class HeuristicJudge(FreeJudge):
    """Judge that scores trajectories by the formula of this module, without ground truth and at no cost.

    It rewards activity for its own sake, which a policy can exploit by acting often.

    Credit is by trajectory. A member without a recorded final P&L is `Unscored`.
    """

    def __init__(
        self,
        *,
        pnl_weight: Annotated[float, Field(ge=0)] = 0.5,
        win_weight: Annotated[float, Field(ge=0)] = 0.3,
        activity_weight: Annotated[float, Field(ge=0)] = 0.2,
        full_activity: Annotated[int, Field(ge=1)] = 10,
        min_agreement: Annotated[float, Field(ge=-1, le=1)] | None = None,
        parts: JudgeParts = JudgeParts(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__(min_agreement=min_agreement)
        self._vocabulary = parts.vocabulary
        self._weights = (pnl_weight, win_weight, activity_weight)
        self._full_activity = full_activity

    @staticmethod
    def check_keys(
        *, pnl_weight: float = 0.5, win_weight: float = 0.3, activity_weight: float = 0.2, **_: object
    ) -> None:
        """Raises `ConfigError` where all weights are 0."""
        if pnl_weight + win_weight + activity_weight <= 0:
            raise ConfigError("all weights of judge=heuristic are 0", hint="set judge.pnl_weight=0.5")

    def judgments(self, group: Group) -> dict[str, Judgment]:
        """Scores every member of a group, by trajectory id."""
        pnls = [pnl for member in group.members if (pnl := _number(member.final_pnl)) is not None]
        return {member.trajectory_id: self._judge(member, pnls) for member in group.members}

    def _judge(self, member: Trajectory, pnls: list[float]) -> Judgment:
        """Scores one member; ``pnls`` are those of its group."""
        pnl = _number(member.final_pnl)
        if pnl is None:
            return Unscored(member.trajectory_id, "no final P&L recorded")
        low, high = min(pnls), max(pnls)
        profit = 0.5 if high == low else (pnl - low) / (high - low)
        wins = _win_rate(member.steps, pnl)
        actions = sum(step.action.success and not self._is_idle(step) for step in member.steps)
        activity = min(1.0, actions / self._full_activity)
        parts = (profit, wins, activity)
        value = sum(w * p for w, p in zip(self._weights, parts, strict=True)) / sum(self._weights)
        return Score(
            member.trajectory_id,
            min(1.0, max(0.0, value)),
            f"P&L {pnl:g} (place {profit:.2f}), win rate {wins:.2f}, {counted(actions, 'action')}",
        )

    def _is_idle(self, step: Step) -> bool:
        """Tells if the step only waited."""
        return self._vocabulary.kind(step.action.action_type) == "wait"


def _win_rate(steps: tuple[Step, ...], final_pnl: float) -> float:
    """Computes the share of changes of the running P&L that were gains."""
    running = (_number(step.environment_state.get(_STATE_PNL)) for step in steps)
    values = [*(pnl for pnl in running if pnl is not None), final_pnl]
    moves = [after - before for before, after in itertools.pairwise(values) if after != before]
    return sum(move > 0 for move in moves) / len(moves) if moves else 0.5


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
