import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.errors import TrainerError
from mmo_rl.lm.load import load_model
from mmo_rl.policy.local import LocalPolicy
from mmo_rl.policy_view import training_groups
from mmo_rl.trainer.local import LocalTrainer
from mmo_rl.types import ScoredGroup, TrainingGroup
from tests.trainer.made import trainer_parts

Make = Callable[..., ScoredGroup]
PROMPT = (
    {"role": "system", "content": "You trade."},
    {"role": "user", "content": "t0\nNOVA +1\nnews NOVA soars @wire"},
)


def trainer(folder: Path, **options: Any) -> LocalTrainer:
    return LocalTrainer(
        learning_rate=options.pop("learning_rate", 1e-3),
        seed=0,
        parts=trainer_parts(folder),
        **options,
    )


async def answers(location: str, *, count: int = 64, temperature: float = 1.0) -> list[Any]:
    model, tokenizer = load_model(location)
    policy = LocalPolicy(model=model, tokenizer=tokenizer, name="tiny", version=0, max_completion_tokens=24)
    return await policy.complete([PROMPT] * count, temperature=temperature, seed=1)


async def rewarded(location: str) -> list[TrainingGroup]:
    """Answers of the policy itself, with their own token ids and logprobs; buying is good, all else bad."""
    from mmo_rl.types import PolicyCall, TrainingSample

    samples = tuple(
        TrainingSample(
            f"t{n}",
            0,
            (PolicyCall(PROMPT, c.text, c.prompt_token_ids, c.token_ids, c.logprobs),),
            float('"size":1' in c.text),
        )
        for n, c in enumerate(await answers(location))
    )
    return [TrainingGroup("g", samples)]


async def test_training_makes_what_was_rewarded_likelier(tmp_path: Path) -> None:
    t = trainer(tmp_path, rows_per_step=4, learning_rate=3e-4)
    version = await t.resume()
    assert version.version == 0

    async def share(location: str) -> float:
        return sum('"size":1' in c.text for c in await answers(location)) / 64

    before = await share(version.path)
    for iteration in range(3):
        trained = await t.train(await rewarded(version.path), iteration=iteration)
        version = trained.policy
        assert trained.gradient_steps > 0 and trained.tokens > 0
        assert trained.metrics["unknown_logprobs_share"] == 0.0
    assert version.version == 3
    assert await share(version.path) > before + 0.1


async def test_recorded_logprobs_are_those_the_trainer_computes(tmp_path: Path) -> None:
    """With one step on fresh data the ratio is 1: no drift from the behaviour policy, through ART's whole path."""
    t = trainer(tmp_path, rows_per_step=1000)
    version = await t.resume()
    trained = await t.train(await rewarded(version.path), iteration=0)
    assert trained.gradient_steps == 1
    assert trained.metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    assert trained.metrics["clip_fraction"] == 0.0


async def test_a_resumed_trainer_ends_with_the_same_weights(tmp_path: Path) -> None:
    import torch

    whole, broken = trainer(tmp_path / "whole"), trainer(tmp_path / "broken")
    data = await rewarded((await whole.resume()).path)
    await broken.resume()
    for iteration in range(2):
        await whole.train(data, iteration=iteration)
    await broken.train(data, iteration=0)
    again = trainer(tmp_path / "broken")
    assert (await again.resume()).version == 1
    await again.train(data, iteration=1)
    one, _ = load_model(str(tmp_path / "whole" / "0002"))
    two, _ = load_model(str(tmp_path / "broken" / "0002"))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


async def test_resuming_at_an_older_version_forgets_the_later_ones(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    data = await rewarded((await t.resume()).path)
    await t.train(data, iteration=0)
    await t.train(data, iteration=1)
    assert (await t.resume(1)).version == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0001"]
    with pytest.raises(TrainerError, match="checkpoint 5"):
        await t.resume(5)


async def test_missing_logprobs_are_scored_with_the_starting_policy_or_refused(tmp_path: Path, scored: Make) -> None:
    groups = training_groups([scored()])
    t = trainer(tmp_path / "score", rows_per_step=1000)
    await t.resume()
    trained = await t.train(groups, iteration=0)
    assert trained.metrics["unknown_logprobs_share"] == 1.0
    assert trained.metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    refusing = trainer(tmp_path / "refuse", missing_logprobs="refuse")
    await refusing.resume()
    with pytest.raises(TrainerError, match="no recorded logprobs"):
        await refusing.train(groups, iteration=0)
    assert not (tmp_path / "refuse").exists()


async def test_no_signal_keeps_the_policy_and_is_counted(tmp_path: Path, scored: Make) -> None:
    (group,) = training_groups([scored()])
    flat = replace(group, samples=tuple(replace(s, reward=0.5) for s in group.samples))
    t = trainer(tmp_path)
    await t.resume()
    trained = await t.train([flat], iteration=0)
    assert (trained.policy.version, trained.gradient_steps, trained.groups_skipped_zero_variance) == (0, 0, 1)
    apart = tuple(replace(s, reward=float(n)) for n, s in enumerate(group.samples[:2]))
    both = await t.train([flat, replace(group, samples=apart)], iteration=0)
    assert both.tokens > 0 and trained.tokens_selected and both.groups_skipped_zero_variance == 1
    assert both.tokens_selected == trained.tokens_selected + both.tokens  # what is skipped and what is trained


async def test_a_reward_that_is_no_number_is_refused(tmp_path: Path, scored: Make) -> None:
    (group,) = training_groups([scored()])
    broken = replace(group, samples=tuple(replace(s, reward=math.nan) for s in group.samples))
    t = trainer(tmp_path)
    await t.resume()
    with pytest.raises(TrainerError, match="reward of good"):
        await t.train([broken], iteration=0)
