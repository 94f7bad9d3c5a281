"""A server's placeholder for a logprob (-9999, -inf) is no logprob: unknown, named, and no end of the training."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmo_rl.lm.encode import Encoder
from mmo_rl.lm.load import load_model
from mmo_rl.numbers import is_logprob
from mmo_rl.trainer.art_client import has_tokens
from mmo_rl.trainer.local import LocalTrainer
from mmo_rl.trainer.losses import Loss
from mmo_rl.trainer.packing import TokenData, pack
from mmo_rl.types import PolicyCall, TrainingGroup, TrainingSample
from tests.trainer.made import TINY, trainer_parts

GROUPS, MEMBERS = 8, 4


def recorded() -> list[TrainingGroup]:
    """Answers with token ids and logprobs, all of them -1."""
    encoder = Encoder(load_model(TINY)[1])

    def sample(name: str, number: int) -> TrainingSample:
        call = PolicyCall(({"role": "user", "content": f"t0\n{name} +1"},), f'{{"ticker":"{name}","size":{number}}}')
        ids = encoder(call).answer
        return TrainingSample(
            f"{name}-{number}", 0, (replace(call, token_ids=ids, logprobs=(-1.0,) * len(ids)),), float(number)
        )

    return [TrainingGroup(f"N{g}", tuple(sample(f"N{g}", n) for n in range(MEMBERS))) for g in range(GROUPS)]


def with_logprob(groups: list[TrainingGroup], value: float) -> list[TrainingGroup]:
    """The same with one logprob of the first answer another number."""
    first = groups[0].samples[0]
    (call,) = first.calls
    changed = replace(first, calls=(replace(call, logprobs=(value, *(call.logprobs or ())[1:])),))
    return [replace(groups[0], samples=(changed, *groups[0].samples[1:])), *groups[1:]]


@pytest.mark.parametrize("value", [-9999.0, -math.inf, math.nan, -100.0, 3.0])
def test_a_number_that_is_none_is_unknown(value: float) -> None:
    groups = with_logprob(recorded(), value)
    packed = pack(groups, encoder=Encoder(load_model(TINY)[1]), packed_tokens=512, seed=0)
    assert packed is not None and int(packed.data.logprobs_N.isnan().sum()) == 1
    assert not has_tokens(groups[0].samples[0].calls[0]) and has_tokens(groups[0].samples[1].calls[0])
    assert not is_logprob(value) and is_logprob(-49.0) and is_logprob(0.0) and is_logprob(1e-6)


async def test_one_floor_in_many_calls_does_not_stop_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = LocalTrainer(learning_rate=1e-4, seed=0, parts=trainer_parts(tmp_path))
    with caplog.at_level(logging.WARNING):
        trained = await trainer.train(with_logprob(recorded(), -9999.0), iteration=0)
    assert trained.gradient_steps > 0
    assert 0 < trained.metrics["unknown_logprobs_share"] < 0.01
    assert trained.metrics["kl"] < 100 and math.isfinite(trained.metrics["loss"])
    assert "1 logprob of 1 trajectory is recorded as -9999 or the like" in caplog.text
    assert "(N0-0)" in caplog.text


@pytest.mark.parametrize("name", ["ppo", "cispo"])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
@pytest.mark.parametrize("apart", [49.0, 200.0, -200.0])
def test_the_ratio_is_bounded(name: str, advantage: float, apart: float) -> None:
    new_N = torch.tensor([-0.1, -0.5], requires_grad=True)
    old_N = torch.tensor([-0.1 - apart, -0.5])
    data = TokenData(old_N, torch.tensor([advantage, 1.0]), torch.ones(2))
    loss = Loss(name).of(data, new_N)  # type: ignore[arg-type]
    loss.backward()
    assert new_N.grad is not None and bool(new_N.grad.isfinite().all()) and bool(loss.isfinite())
    assert abs(new_N.grad[0].item()) <= 5.0
