"""How an update is made, what it reports, and what it refuses."""

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from mmo_rl.errors import PolicyError, TrainerError
from mmo_rl.lm.encode import Encoder
from mmo_rl.lm.forward import require_positions
from mmo_rl.lm.load import load_model, load_version
from mmo_rl.lm.model import SHIPPED
from mmo_rl.trainer.batch import staleness
from mmo_rl.trainer.local import LocalTrainer
from mmo_rl.trainer.update import Schedule
from mmo_rl.types import PolicyCall, PolicyVersion, TrainingGroup, TrainingSample
from tests.trainer.made import trainer_parts

TINY = str(SHIPPED / "tiny")


def group(name: str, rewards: Sequence[float], *, words: int = 0, **call: Any) -> TrainingGroup:
    """A group with a prompt of its own, and an answer a reward."""
    prompt = ({"role": "user", "content": f"t0\n{name} +1" + " news" * words},)
    samples = (
        TrainingSample(f"{name}-{n}", 0, (PolicyCall(prompt, f'{{"ticker":"{name}","size":{n}}}', **call),), reward)
        for n, reward in enumerate(rewards)
    )
    return TrainingGroup(name, tuple(samples))


def groups(count: int = 6) -> list[TrainingGroup]:
    return [group(f"N{n}", (0.0, 0.3, 1.0)) for n in range(count)]


def trainer(folder: Path, *, model: Mapping[str, Any] | None = None, **options: Any) -> LocalTrainer:
    return LocalTrainer(**{"learning_rate": 1e-3, "seed": 0, **options}, parts=trainer_parts(folder, **(model or {})))


def hook_models(monkeypatch: pytest.MonkeyPatch, hook: Callable[[Any], None]) -> None:
    """Has ``hook`` see every model that a trainer loads."""

    def load(*arguments: Any, **options: Any) -> tuple[Any, Any]:
        model, tokenizer = load_version(*arguments, **options)
        hook(model)
        return model, tokenizer

    monkeypatch.setattr("mmo_rl.lm.weights.load_version", load)


def weights_of(folder: Path) -> dict[str, Any]:
    weights: dict[str, Any] = load_model(str(folder))[0].state_dict()
    return weights


async def test_memory_is_bounded_by_a_row_and_the_step_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows make a step, no forward pass sees more of them than micro_batch_tokens allow."""
    seen: list[tuple[int, int]] = []

    def watch(model: Any) -> None:
        model.register_forward_pre_hook(
            lambda _, __, inputs: seen.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
        )

    hook_models(monkeypatch, watch)
    found = {}
    for name, tokens in (("whole", 10**6), ("two", 300), ("one", 1)):
        seen.clear()
        t = trainer(tmp_path / name, packed_tokens=128, rows_per_step=1000, micro_batch_tokens=tokens)
        await t.resume()
        trained = await t.train(groups(12), iteration=0)
        assert trained.gradient_steps == 1
        assert max(rows * length for rows, length in seen) <= max(tokens, 128)
        found[name] = (max(rows for rows, _ in seen), dict(trained.metrics), weights_of(tmp_path / name / "0001"))
    print(found["two"][0], found["one"][0], found["whole"][0])
    assert [found[name][0] for name in ("two", "one")] == [2, 1] and found["whole"][0] > 2
    for name in ("two", "one"):
        for measure in ("loss", "entropy", "grad_norm"):
            assert found[name][1][measure] == pytest.approx(found["whole"][1][measure], rel=1e-4, abs=1e-6)
        for key, value in found["whole"][2].items():
            torch.testing.assert_close(found[name][2][key], value, rtol=0, atol=2e-4)


def test_the_learning_rate_rises_and_falls_over_the_whole_run() -> None:
    def rates(schedule: Schedule) -> list[float]:
        return [schedule.rate(iteration=i, step=s, steps=5) for i in range(4) for s in range(5)]

    assert rates(Schedule(1e-3, iterations=4)) == [1e-3] * 20
    warm = rates(Schedule(1.0, "constant", 0.2, iterations=4))
    assert warm == pytest.approx([0.25, 0.5, 0.75, 1.0] + [1.0] * 16)
    for kind in ("linear", "cosine"):
        found = rates(Schedule(1.0, kind, 0.2, iterations=4))  # type: ignore[arg-type]
        assert found[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
        assert found[4:] == sorted(found[4:], reverse=True) and 0 < found[-1] < 0.1
        assert found[12] == pytest.approx(0.5)  # half of what is left after the warm-up


async def test_the_divergence_from_the_base_holds_the_policy_back(tmp_path: Path) -> None:
    apart = {}
    for coefficient in (1e-6, 5.0):
        t = trainer(tmp_path / str(coefficient), kl_to_base=coefficient, rows_per_step=1, learning_rate=1e-4)
        await t.resume()
        for iteration in range(3):
            trained = await t.train(groups(3), iteration=iteration)
        apart[coefficient] = trained.metrics["kl_base"]
    assert 0 < apart[5.0] < apart[1e-6] / 2


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
async def test_rewards_that_are_no_numbers_are_refused_by_name(reward: float, tmp_path: Path) -> None:
    t = trainer(tmp_path)
    await t.resume()
    with pytest.raises(TrainerError, match=r"reward of N0-1 in group N0 is -?(nan|inf)"):
        await t.train([group("N0", (0.0, reward))], iteration=0)
    assert list(tmp_path.iterdir()) == []
    assert (await t.train(groups(1), iteration=0)).gradient_steps == 1  # and the trainer still works


async def test_groups_without_contrast_teach_nothing(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    await t.resume()
    for data in ([group("ONE", (1.0,))], [group("FLAT", (0.4, 0.4, 0.4))], []):
        trained = await t.train(data, iteration=0)
        assert (trained.policy.version, trained.gradient_steps) == (0, 0)
        assert trained.groups_skipped_zero_variance == len(data)
    mixed = await t.train([group("ONE", (1.0,)), *groups(3)], iteration=0)
    assert mixed.metrics["zero_variance_share"] == 0.25
    assert mixed.metrics["reward_mean"] == pytest.approx((1.0 + 3 * 1.3) / 10)


async def test_histories_longer_than_the_context_are_left_out_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    t = trainer(tmp_path, model={"context_length": 64})
    await t.resume()
    long = group("LONG", (0.0, 1.0), words=100)
    trained = await t.train([long, *groups(2)], iteration=0)
    assert trained.metrics["histories_too_long"] == 2 and trained.gradient_steps == 1
    assert "2 histories of 2 trajectories are longer than 64 tokens (LONG-0, LONG-1)" in caplog.text
    with pytest.raises(TrainerError, match="nothing is left to train on: all 2 histories"):
        await t.train([long], iteration=1)
    assert [p.name for p in tmp_path.iterdir()] == ["0001"]


async def test_a_context_beyond_the_positions_that_a_model_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"model\.context_length=4096, but the model knows 512 positions") as refused:
        await trainer(tmp_path, model={"context_length": 4096}).resume()
    assert "model.context_length=512" in str(refused.value.hint)
    stretched = LlamaConfig(
        max_position_embeddings=512, rope_parameters={"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}
    )
    require_positions(stretched, 4096)


@pytest.mark.parametrize("warm", [False, True])
async def test_an_interrupted_update_ends_after_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: bool
) -> None:
    """The process waits for the thread that trains: what an hour's update does after Ctrl-C is waited for."""
    loop, told, steps = asyncio.get_running_loop(), threading.Event(), list[int]()

    def interrupt(*_: Any) -> None:
        steps.append(len(steps))
        loop.call_soon_threadsafe(task.cancel)
        assert told.wait(timeout=60)

    hook_models(monkeypatch, lambda model: model.register_forward_pre_hook(interrupt))
    t = trainer(tmp_path, loss="awr", rows_per_step=1, packed_tokens=64)
    await t.resume()
    training = t.warm_start(groups()) if warm else t.train(groups(), iteration=0)
    task = asyncio.ensure_future(training)
    with pytest.raises(asyncio.CancelledError):
        await task
    told.set()
    await loop.shutdown_default_executor()
    assert steps == [0]
    assert not list(tmp_path.iterdir()), "half an update is no version"


async def test_an_update_that_is_not_finite_publishes_nothing_and_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: list[bool] = []

    def fragile(model: Any) -> None:
        head = model.get_output_embeddings()
        head.register_forward_hook(lambda _, __, logits: logits * math.inf if any(broken) else logits)

    hook_models(monkeypatch, fragile)
    t = trainer(tmp_path, missing_logprobs="reinforce")
    await t.resume()
    first = await t.train(groups(), iteration=0)
    before = weights_of(tmp_path / "0001")
    broken.append(True)
    with pytest.raises(TrainerError, match="isn't finite") as error:
        await t.train(groups(), iteration=1)
    assert "learning_rate" in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["0001"]
    broken.clear()
    second = await t.train(groups(), iteration=1)
    assert second.policy.version == 2 and first.policy.version == 1
    assert any(not torch.equal(v, before[k]) for k, v in weights_of(tmp_path / "0002").items())


async def test_signal_without_a_token_to_train_is_an_error(tmp_path: Path) -> None:
    """Answers of which nothing could be trained do not become a version."""
    t = trainer(tmp_path)
    await t.resume()
    empty = group("N0", (0.0, 1.0), token_ids=(), logprobs=())
    with pytest.raises(TrainerError, match="there was signal but no trainable token"):
        await t.train([empty], iteration=0)
    assert list(tmp_path.iterdir()) == []


async def test_training_without_a_clip_is_said_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for loss, missing, unclipped in (
        ("ppo", "score", 0.0),
        ("ppo", "reinforce", 1.0),
        ("cispo", "reinforce", 1.0),
        ("reinforce", "score", 1.0),
        ("awr", "reinforce", 0.0),
    ):
        caplog.clear()
        t = trainer(tmp_path / f"{loss}-{missing}", loss=loss, missing_logprobs=missing)
        await t.resume()
        trained = await t.train(groups(2), iteration=0)
        assert trained.metrics["unknown_logprobs_share"] == 1.0
        assert trained.metrics["unclipped_tokens_share"] == unclipped
        warned = [
            r for r in caplog.records if r.levelno == logging.WARNING and "without a ratio or a clip" in r.message
        ]
        assert len(warned) == (1 if unclipped else 0)


def test_staleness_tells_versions_other_models_and_the_unknown_apart() -> None:
    encoder = Encoder(load_model(TINY)[1])
    now = PolicyVersion("tiny", 3, "")

    def of(*data: TrainingGroup) -> dict[str, float]:
        return staleness(data, encoder, policy=now)

    fresh = group("N0", (0.0, 1.0), model="tiny", model_version="3")
    old = group("N0", (0.0, 1.0), model="tiny", model_version="1")
    script = group("N0", (0.0, 1.0), model="script/good")
    nobody = group("N0", (0.0, 1.0))
    assert of(fresh) == {"unknown_policy_share": 0.0, "stale_tokens_share": 0.0, "version_lag": 0.0}
    assert of(fresh, old) == {"unknown_policy_share": 0.0, "stale_tokens_share": 0.5, "version_lag": 1.0}
    assert of(script) == {"unknown_policy_share": 0.0, "stale_tokens_share": 1.0}
    assert of(nobody) == {"unknown_policy_share": 1.0}
    assert of(replace(old, samples=()), nobody, script)["unknown_policy_share"] == 0.5


async def test_a_device_that_is_not_there_is_said(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(PolicyError, match="no CUDA device"):
        await trainer(tmp_path, device="cuda").resume()
