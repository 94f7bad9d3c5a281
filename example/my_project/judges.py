"""A judge: the class of conf/judge/strict.yaml."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Annotated

from pydantic import Field

from mmo_rl.types import Credit, Group, JudgeUsage, Judgment, Score, ScoredGroup, Tallies, Trajectory, Unscored


class StrictJudge:
    """Scores the place of a trajectory's P&L in its group, less ``penalty`` for each failed action.

    The keyword arguments are the keys of the YAML file, with their types and ranges; the members are those of
    `mmo_rl.judge.base.Judge`.
    """

    credit: Credit = "trajectory"
    needs_truth = False
    min_agreement: float | None = None

    def __init__(self, *, penalty: Annotated[float, Field(ge=0, le=1)] = 0.2) -> None:
        self._penalty = penalty

    @property
    def usage(self) -> JudgeUsage:
        """Asks no language model, so it costs nothing."""
        return JudgeUsage()

    @property
    def findings(self) -> Mapping[str, float]:
        return {}

    @property
    def tallies(self) -> Tallies:
        return {}

    async def score(self, groups: AsyncIterator[Group]) -> AsyncGenerator[ScoredGroup, None]:
        """Scores group after group as they come."""
        async for group in groups:
            judgments = {member.trajectory_id: self._judge(member, group) for member in group.members}
            yield ScoredGroup(group, judgments, self.credit)

    async def aclose(self) -> None:
        """Holds nothing open."""

    def _judge(self, member: Trajectory, group: Group) -> Judgment:
        if member.final_pnl is None:
            return Unscored(member.trajectory_id, "no P&L was recorded")
        others = [m.final_pnl for m in group.members if m.final_pnl is not None and m is not member]
        place = sum(pnl < member.final_pnl for pnl in others) / max(len(others), 1)
        failed = sum(not step.action.success for step in member.steps)
        value = max(0.0, place - self._penalty * failed)
        return Score(member.trajectory_id, value, f"beats {place:.0%} of its group, {failed} failed actions")
