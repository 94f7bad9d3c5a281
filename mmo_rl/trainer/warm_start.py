"""Choice of the answers that a warm start imitates: the best that were judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from mmo_rl.errors import TrainerError
from mmo_rl.trainer.signal import require_finite
from mmo_rl.types import TrainingGroup
from mmo_rl.wording import part


def best_answers(groups: Sequence[TrainingGroup], *, share: float) -> list[TrainingGroup]:
    """Returns the ``share`` (in (0, 1], rounded up) of all samples with the highest rewards, in their groups.

    Samples are decisions where the judge gave credit by decision, else trajectories. Of equal rewards those are taken
    that come first.

    Raises `TrainerError` where a reward is not finite, or all are equal and ``share`` would be drawn by chance."""
    rewards = [sample.reward for group in groups for sample in group.samples]
    require_finite(groups)
    if share < 1 and len(set(rewards)) < 2:
        raise TrainerError(
            f"there is no best to imitate: {part(len(rewards), len(rewards), 'reward is', 'rewards are')} equal",
            hint="trainer.warm_start=1 imitates everything, trainer.warm_start=0 nothing; or choose another judge",
        )
    order = sorted(range(len(rewards)), key=lambda number: -rewards[number])
    chosen = set(order[: math.ceil(share * len(rewards))])
    kept, number = [], 0
    for group in groups:
        samples = tuple(s for n, s in enumerate(group.samples, start=number) if n in chosen)
        number += len(group.samples)
        if samples:
            kept.append(replace(group, samples=samples))
    return kept
