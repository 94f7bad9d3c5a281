import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmo_rl.errors import TrainerError
from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED
from mmo_rl.policy_view import training_groups
from mmo_rl.trainer.local import LocalTrainer
from mmo_rl.trainer.warm_start import best_answers
from mmo_rl.types import ScoredGroup, TrainingGroup, TrainingSample
from tests.trainer.made import trainer_parts


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
    with pytest.raises(TrainerError, match="all 3 rewards are equal"):
        best_answers(flat, share=0.5)
    assert best_answers(flat, share=1.0) == flat
    broken = replace(flat[0], samples=tuple(replace(s, reward=math.nan) for s in flat[0].samples))
    with pytest.raises(TrainerError, match="reward of a0 in group a is nan"):
        best_answers([broken], share=0.5)


def trainer(folder: Path, **options: Any) -> LocalTrainer:
    return LocalTrainer(
        learning_rate=1e-3,
        seed=0,
        parts=trainer_parts(folder),
        **options,
    )


async def test_a_warm_start_is_version_0_and_a_run_goes_on_from_it(
    tmp_path: Path, scored: Callable[..., ScoredGroup]
) -> None:
    groups = training_groups([scored()])
    whole, broken = (
        trainer(tmp_path / name, warm_start=0.5, warm_start_epochs=3, schedule="linear", iterations=2)
        for name in ("whole", "broken")
    )
    for each in (whole, broken):
        assert (await each.resume(-1)).path == str(SHIPPED / "tiny")
        started = await each.warm_start(best_answers(groups, share=each.imitated_share))
        assert (started.policy.version, started.policy.path[-4:], started.gradient_steps) == (0, "0000", 3)
        assert started.metrics["learning_rate"] == 1e-3  # the schedule is that of the iterations
    await whole.train(groups, iteration=0)
    again = trainer(tmp_path / "broken", schedule="linear", iterations=2)
    assert (await again.resume(0)).path == started.policy.path
    trained = await again.train(groups, iteration=0)
    assert trained.policy.version == 1
    states = [load_model(str(tmp_path / name / "0001"))[0].state_dict() for name in ("whole", "broken")]
    base = load_model(str(SHIPPED / "tiny"))[0].state_dict()
    warm = load_model(str(tmp_path / "whole" / "0000"))[0].state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in base)
    assert not all(torch.equal(base[name], warm[name]) for name in base)
    assert (await again.resume(-1)).version == 0 and not list((tmp_path / "broken").iterdir())
