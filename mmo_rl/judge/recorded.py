"""Recorded judge: scores are rewards that the game or another tool recorded, normalised within the window.

    rank     score = (members below + half of the other members with an equal reward) / (members - 1)
    min_max  score = (reward - lowest) / (highest - lowest)
    none     score = reward, which has to lie in [0, 1]

Where all rewards of a window are equal, rank and min_max give 0.5. With credit by decision the rewards of all steps of
the window are compared in the same way.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from mmo_rl.judge.free import FreeJudge
from mmo_rl.types import Credit, Group, Judgment, Score, Trajectory, Unscored

Name = Literal["total_reward", "ai_judge_reward", "reward_judgment", "step_rewards"]
Normalisation = Literal["rank", "min_max", "none"]
RECORDED = {
    "total_reward": "totalReward",
    "ai_judge_reward": "aiJudgeReward",
    "reward_judgment": "rewardJudgment",
}
"""The names of `Trajectory.rewards`, by field."""


class RecordedJudge(FreeJudge):
    """Judge that scores trajectories by a recorded reward, without ground truth and at no cost.

    A member without that reward is `Unscored`, as is one whose reward is outside [0, 1] where nothing is normalised.
    ``credit`` "decision" gives each step the place of its own ``step.reward``; a step without one is unscored.
    """

    def __init__(
        self,
        *,
        field: Name = "total_reward",
        normalise: Normalisation = "rank",
        credit: Credit = "trajectory",
        min_agreement: Annotated[float, Field(ge=-1, le=1)] | None = None,
    ) -> None:
        super().__init__(credit=credit, min_agreement=min_agreement)
        self.field = field
        self.normalise = normalise

    def judgments(self, group: Group) -> dict[str, Judgment]:
        """Scores every member of a group, by trajectory id."""
        rewards = {member.trajectory_id: self._reward(member) for member in group.members}
        known = sorted(reward for reward in rewards.values() if reward is not None)
        by_step = sorted(reward for member in group.members for reward in _step_rewards(member).values())
        return {member.trajectory_id: self._judge(member, rewards, known, by_step) for member in group.members}

    # --- inside -----------------------------------------------------------------------------------------------------

    def _judge(
        self, member: Trajectory, rewards: Mapping[str, float | None], known: list[float], by_step: list[float]
    ) -> Judgment:
        identity = member.trajectory_id
        reward = rewards[identity]
        if reward is None:
            return Unscored(identity, self._missing)
        value = self._normalised(reward, known)
        if value is None:
            return Unscored(identity, "the recorded reward is outside [0, 1] (judge.normalise=rank compares any)")
        decisions = None
        if self.credit == "decision":
            placed = {number: self._normalised(one, by_step) for number, one in _step_rewards(member).items()}
            decisions = {number: place for number, place in placed.items() if place is not None}
            if not decisions:
                return Unscored(identity, "no step.reward recorded that can be used (credit by decision)")
        return Score(identity, value, f"recorded {self.field} {reward:g}, {self.normalise} of {len(known)}", decisions)

    @property
    def _missing(self) -> str:
        return f"no {RECORDED.get(self.field, 'step.reward')} recorded"

    def _reward(self, member: Trajectory) -> float | None:
        if self.field == "step_rewards":
            recorded = _step_rewards(member)
            return sum(recorded.values()) if recorded else None
        reward = member.rewards.get(RECORDED[self.field])
        return reward if reward is not None and math.isfinite(reward) else None

    def _normalised(self, reward: float, among: list[float]) -> float | None:
        """Computes the score of one reward among the sorted rewards of its window; None outside [0, 1]."""
        if self.normalise == "none":
            return reward if 0.0 <= reward <= 1.0 else None
        low, high = among[0], among[-1]
        if high == low:
            return 0.5
        if self.normalise == "min_max":
            return min(1.0, max(0.0, (reward / 2 - low / 2) / (high / 2 - low / 2)))  # halves: no overflow
        below, equal = bisect_left(among, reward), bisect_right(among, reward) - bisect_left(among, reward)
        return (below + (equal - 1) / 2) / (len(among) - 1)


def _step_rewards(member: Trajectory) -> dict[int, float]:
    """Reads the recorded rewards of steps, by step number."""
    return {s.number: s.reward for s in member.steps if s.reward is not None and math.isfinite(s.reward)}
