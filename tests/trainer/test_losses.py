"""Losses and their gradients against their formulas."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mmo_rl.lm.encode import Encoder
from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED
from mmo_rl.trainer.losses import Loss, LossName
from mmo_rl.trainer.packing import TokenData, pack
from mmo_rl.types import PolicyCall, TrainingGroup, TrainingSample
from tests.trainer.made import trainer_parts

PROMPT = ({"role": "user", "content": "t0\nNOVA +1"},)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_model(str(SHIPPED / "tiny"))[1]


def group(*rewards: float, name: str = "g") -> TrainingGroup:
    answers = (f'{{"size":{n}}}' for n in range(len(rewards)))
    return TrainingGroup(
        name,
        tuple(
            TrainingSample(f"{name}{n}", 0, (PolicyCall(PROMPT, answer),), reward)
            for n, (answer, reward) in enumerate(zip(answers, rewards, strict=True))
        ),
    )


def data(*, old: list[float], advantages: list[float]) -> TokenData:
    """Trained tokens of weight 1 with these behaviour logprobs and advantages."""
    return TokenData(torch.tensor(old), torch.tensor(advantages), torch.ones(len(old)))


NEW, OLD, A = [-1.0, -2.0, -0.5, -3.0], [-1.1, -1.0, -1.5, -3.05], [1.0, -2.0, 0.5, -0.5]
RATIO = [math.exp(n - o) for n, o in zip(NEW, OLD, strict=True)]


def clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


FORMULAS: dict[LossName, tuple[list[float], list[float]]] = {
    # the loss of each token, and its derivative by the token's log-probability
    "ppo": (
        [-min(r * a, clip(r, 0.8, 1.2) * a) for r, a in zip(RATIO, A, strict=True)],
        [-r * a if r * a <= clip(r, 0.8, 1.2) * a else 0.0 for r, a in zip(RATIO, A, strict=True)],
    ),
    "cispo": (
        [-clip(r, 0, 5) * a * n for r, a, n in zip(RATIO, A, NEW, strict=True)],
        [-clip(r, 0, 5) * a for r, a in zip(RATIO, A, strict=True)],
    ),
    "reinforce": ([-a * n for a, n in zip(A, NEW, strict=True)], [-a for a in A]),
    "awr": ([-a * n for a, n in zip(A, NEW, strict=True)], [-a for a in A]),
    "sft": ([-a * n for a, n in zip(A, NEW, strict=True)], [-a for a in A]),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_loss_and_its_gradient_are_its_formula(name: LossName) -> None:
    values, slopes = FORMULAS[name]
    new = torch.tensor(NEW, requires_grad=True)
    loss = Loss(name, clip_epsilon=0.2).of(data(old=OLD, advantages=A), new)
    loss.backward()
    assert loss.item() == pytest.approx(sum(values), rel=1e-5)
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx(slopes, rel=1e-5)


def test_imitation_weighs_answers_by_their_advantage_and_never_pushes_one_away(tokenizer: Any) -> None:
    groups = [group(0.0, 0.5, 1.0)]
    std = math.sqrt(1 / 6)

    def weights(loss: Loss) -> list[float]:
        packed = pack(loss.teaching(groups), encoder=Encoder(tokenizer), packed_tokens=256, seed=0, weight=loss.weight)
        assert packed is not None
        assert float((packed.data.advantages_N * packed.data.weights_N).mean()) == pytest.approx(1.0, abs=1e-5)
        return sorted({round(float(a), 4) for a in packed.data.advantages_N})

    expected = [math.exp(min(a, 1.0)) for a in (-0.5 / std, 0.0, 0.5 / std)]
    mean = sum(expected) / 3
    found = weights(Loss("awr", awr_beta=1.0, awr_cap=1.0))
    assert found == pytest.approx([w / mean for w in expected], rel=1e-3)  # the answer at the mean is kept
    assert weights(Loss("sft")) == [1.0]
    assert weights(Loss("awr", awr_beta=1e6)) == pytest.approx([1.0], abs=1e-3)  # without contrast it is imitation


def test_only_imitation_of_everything_learns_from_equal_rewards() -> None:
    flat, apart = group(0.5, 0.5, name="flat"), group(0.0, 1.0, name="apart")
    assert Loss("sft").teaching([flat, apart]) == [flat, apart]
    for name in ("ppo", "cispo", "reinforce", "awr"):
        assert Loss(name).teaching([flat, apart]) == [apart]


@pytest.mark.parametrize("name", FORMULAS)
async def test_every_loss_trains_the_shipped_model(name: LossName, tmp_path: Path) -> None:
    from mmo_rl.trainer.local import LocalTrainer

    trainer = LocalTrainer(
        learning_rate=1e-4,
        loss=name,
        seed=0,
        parts=trainer_parts(tmp_path),
    )
    await trainer.resume()
    trained = await trainer.train([group(0.0, 1.0, 0.2), group(0.5, 0.5, name="flat")], iteration=0)
    assert trained.gradient_steps == 1 and trained.policy.version == 1
    assert trained.groups_skipped_zero_variance == (0 if name == "sft" else 1)
    assert trained.metrics["unknown_logprobs_share"] == 1.0
