"""Signal of training groups: rewards that are finite, and differ within their group."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmo_rl.errors import TrainerError
from mmo_rl.types import TrainingGroup

NO_SPREAD = 1e-12
"""Rewards closer than this are equal: rounding must not become gradient."""


def require_finite(groups: Sequence[TrainingGroup]) -> None:
    """Raises `TrainerError` for a reward that is no number."""
    for group in groups:
        for sample in group.samples:
            if not math.isfinite(sample.reward):
                raise TrainerError(
                    f"the reward of {sample.trajectory_id} in group {group.group_id} is {sample.reward}",
                    hint="a judge must answer finite scores; see judgments.jsonl in the run folder",
                )


def with_signal(groups: Sequence[TrainingGroup]) -> list[TrainingGroup]:
    """Returns the groups whose rewards differ. Raises `TrainerError` where a reward is not finite."""
    require_finite(groups)
    return [group for group in groups if _spread(group) > NO_SPREAD]


def _spread(group: TrainingGroup) -> float:
    """Returns the range of a group's rewards."""
    rewards = [sample.reward for sample in group.samples]
    return max(rewards, default=0.0) - min(rewards, default=0.0)
