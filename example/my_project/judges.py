"""A judge: the class of conf/judge/strict.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mmo_rl.judge.free import FreeJudge
from mmo_rl.types import Group, Judgment, Score, Trajectory, Unscored


class StrictJudge(FreeJudge):
    """Scores the place of a trajectory's P&L in its group, less ``penalty`` for each failed action.

    The keyword arguments are the keys of the YAML file, with their types and ranges.
    """

    def __init__(self, *, penalty: Annotated[float, Field(ge=0, le=1)] = 0.2) -> None:
        super().__init__(credit="trajectory")
        self._penalty = penalty

    def judgments(self, group: Group) -> dict[str, Judgment]:
        """Scores every member of a group, by trajectory id."""
        return {member.trajectory_id: self._judge(member, group) for member in group.members}

    def _judge(self, member: Trajectory, group: Group) -> Judgment:
        if member.final_pnl is None:
            return Unscored(member.trajectory_id, "no P&L was recorded")
        others = [m.final_pnl for m in group.members if m.final_pnl is not None and m is not member]
        place = sum(pnl < member.final_pnl for pnl in others) / max(len(others), 1)
        failed = sum(not step.action.success for step in member.steps)
        value = max(0.0, place - self._penalty * failed)
        return Score(member.trajectory_id, value, f"beats {place:.0%} of its group, {failed} failed actions")
