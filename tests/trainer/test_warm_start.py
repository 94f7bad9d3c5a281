import math
from dataclasses import replace

import pytest

from mmo_rl.errors import TrainerError
from mmo_rl.trainer.warm_start import best_answers
from mmo_rl.types import TrainingGroup, TrainingSample


def group(name: str, *rewards: float) -> TrainingGroup:
    return TrainingGroup(name, tuple(TrainingSample(f"{name}{n}", n, (), r) for n, r in enumerate(rewards)))


def chosen(groups: list[TrainingGroup], share: float) -> list[str]:
    return [sample.trajectory_id for g in best_answers(groups, share=share) for sample in g.samples]


def test_the_best_share_over_all_groups_is_imitated() -> None:
    groups = [group("a", 0.1, 0.9, 0.5), group("b", 0.2, 0.3), group("c", 0.8, 0.9, 0.9, 0.0, 0.4)]
    assert chosen(groups, 0.1) == ["a1"]
    assert chosen(groups, 0.2) == ["a1", "c1"]  # of equals those that come first
    assert chosen(groups, 0.31) == ["a1", "c0", "c1", "c2"]  # rounded up
    assert chosen(groups, 1.0) == [s.trajectory_id for g in groups for s in g.samples]
    assert [g.group_id for g in best_answers(groups, share=0.31)] == ["a", "c"]


def test_without_a_best_there_is_nothing_to_imitate() -> None:
    flat = [group("a", 0.5, 0.5), group("b", 0.5)]
    with pytest.raises(TrainerError, match="all of 3 rewards are equal"):
        best_answers(flat, share=0.5)
    assert best_answers(flat, share=1.0) == flat
    broken = replace(flat[0], samples=tuple(replace(s, reward=math.nan) for s in flat[0].samples))
    with pytest.raises(TrainerError, match="reward of a0 in group a is nan"):
        best_answers([broken], share=0.5)
