"""W&B Training over loopback: jobs that are followed, resumed and never submitted twice, and errors that help."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmo_rl.errors import ConfigError, TrainerError
from mmo_rl.trainer.serverless import OFFERED, ServerlessTrainer
from mmo_rl.types import PolicyCall, TrainingGroup, TrainingSample
from tests.trainer.fake_wandb_training import KEY, Fake, serving
from tests.trainer.made import trainer_parts

PROMPT = ({"role": "system", "content": "You trade."}, {"role": "user", "content": "t0\nNOVA +1"})
CALL = PolicyCall(PROMPT, '{"action":"HOLD"}', (1, 2), (5, 6, 2), (-0.1, -0.2, -0.3))
BARE = PolicyCall(PROMPT, '{"action":"HOLD"}')
Make = Callable[..., ServerlessTrainer]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with serving(Fake()) as served:
        yield served


def group(*rewards: float, calls: tuple[PolicyCall, ...] = (CALL, CALL)) -> TrainingGroup:
    samples = tuple(TrainingSample(f"t{n}", None, calls, reward) for n, reward in enumerate(rewards))
    return TrainingGroup("g", samples)


@pytest.fixture
async def make(fake: Fake, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes trainers of one run; they are closed at the end."""
    made: list[ServerlessTrainer] = []

    def one(**changed: Any) -> ServerlessTrainer:
        fields = {"name": "qwen3_14b", "base_model": changed.pop("base_model", OFFERED[0]), "path": None}
        parts = trainer_parts(tmp_path / "checkpoints", **fields)
        quick = {"poll_s": 0.01, "backoff_s": 0.01, "deadline_s": 20.0, "attempts": 3, "base_url": fake.url}
        made.append(
            ServerlessTrainer(
                **quick | changed,
                parts=replace(parts, folder=SimpleNamespace(run_id=lambda: "abc-123")),
            )
        )
        return made[-1]

    yield one
    for trainer in made:
        await trainer.aclose()


async def test_a_job_is_submitted_followed_and_published(fake: Fake, make: Make, tmp_path: Path) -> None:
    one = make()
    assert await one.resume() == one._version(0)
    told: list[tuple[int, int, str]] = []
    trained = await one.train([group(0.0, 1.0), group(0.5, 0.5)], iteration=0, on_step=lambda *step: told.append(step))
    assert (trained.gradient_steps, trained.groups_skipped_zero_variance) == (4, 1)
    assert (trained.tokens, trained.tokens_selected) == (12, 24)
    assert trained.metrics["loss"] == pytest.approx(0.35) and trained.metrics["unknown_logprobs_share"] == 0.0
    assert trained.policy.version == 1
    assert trained.policy.path == "wandb-artifact:///team/mmo-rl/default-abc-123:step1"
    assert one.served(1).model == trained.policy.path and one.served(0).model.endswith(":step0")
    assert (one.served(1).base_url, one.served(1).api_key_env) == (fake.url, "WANDB_API_KEY")
    assert told[0] == (0, 1, "job job-1") and told[-1] == (4, 4, "job job-1")
    (sent,) = fake.jobs
    assert sent["experimental_config"]["learning_rate"] == 5e-6 and sent["experimental_config"]["ppo"] is False
    ((first, second),) = [g["trajectories"] for g in sent["trajectory_groups"]]
    *prompt, choice = first["messages_and_choices"]
    assert prompt == list(PROMPT) and (first.get("reward", 0.0), second["reward"]) == (0.0, 1.0)
    assert [t["token"] for t in choice["logprobs"]["content"]] == ["token_id:5", "token_id:6", "token_id:2"]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == ([1, 2], [5, 6, 2])
    assert len(first["additional_histories"]) == 1, "every call is a history of its own"
    again = await one.train([group(1.0, 1.0)], iteration=1)
    assert (again.gradient_steps, again.policy.version, len(fake.jobs)) == (0, 1, 1), "no signal: nothing is submitted"


async def test_a_job_under_way_is_followed_and_not_submitted_again(
    fake: Fake, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.hold.set()
    killed = make(deadline_s=0.2)
    await killed.resume()
    with pytest.raises(TrainerError, match=r"has not ended within 0\.2 s.*2 gradient steps so far") as told:
        await killed.train([group(0.0, 1.0)], iteration=0)
    assert "goes on waiting for the same job" in str(told.value)
    fake.hold.clear()
    one = make()
    assert (await one.resume(0)).version == 0
    with caplog.at_level(logging.WARNING):
        trained = await one.train([group(0.0, 0.9)], iteration=0)
    assert (trained.gradient_steps, trained.policy.version, len(fake.jobs)) == (4, 1, 1)
    assert "with other data than it has now" in caplog.text
    # It ended, but the run was killed before it noted so.
    asked = len(fake.requests)
    assert (await one.train([group(0.0, 1.0)], iteration=0)).gradient_steps == 4
    assert len(fake.requests) == asked and (await one.resume()).version == 1


async def test_a_submission_that_was_cut_off_is_adopted_or_asked_about(fake: Fake, make: Make, tmp_path: Path) -> None:
    fake.drop = {"training-jobs"}
    one = make()
    await one.resume()
    with pytest.raises(TrainerError, match="could not submit the training job"):
        await one.train([group(0.0, 1.0)], iteration=0)
    assert len(fake.jobs) == 1, "what may have arrived is not sent again"
    fake.drop = set()
    with pytest.raises(TrainerError, match="does not say whether it arrived") as told:
        await one.train([group(0.0, 1.0)], iteration=0)
    assert f"rm {tmp_path / 'checkpoints' / 'job-0000.json'}" in str(told.value) and len(fake.jobs) == 1
    fake.finish(fake.jobs[0])
    trained = await one.train([group(0.0, 1.0)], iteration=0)
    assert (trained.policy.version, trained.metrics["loss"], len(fake.jobs)) == (1, 0.5, 1)


async def test_a_failed_job_says_why_and_is_submitted_anew(fake: Fake, make: Make, tmp_path: Path) -> None:
    fake.fail = "out of memory on the trainer"
    one = make()
    await one.resume()
    with pytest.raises(TrainerError, match="job-1 of iteration 0 failed: out of memory on the trainer"):
        await one.train([group(0.0, 1.0)], iteration=0)
    fake.fail, fake.steps = None, 0
    with pytest.raises(TrainerError, match="ended without a gradient step, though there was signal"):
        await one.train([group(0.0, 1.0)], iteration=0)
    with pytest.raises(TrainerError, match="policy version 1 is not in"):
        one.served(1)
    fake.steps = 2
    trained = await one.train([group(0.0, 1.0)], iteration=0)
    assert (trained.gradient_steps, len(fake.jobs)) == (2, 3)


async def test_a_job_without_a_checkpoint_publishes_nothing(fake: Fake, make: Make, tmp_path: Path) -> None:
    fake.publishes = False
    one = make(deadline_s=0.3)
    await one.resume()
    with pytest.raises(TrainerError, match=r"has not ended within 0\.3 s"):
        await one.train([group(0.0, 1.0)], iteration=0)
    assert (await one.resume()).version == 0


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_server_is_asked_again(fake: Fake, make: Make, tmp_path: Path, status: int) -> None:
    fake.answers = {part: [(status, {"retry-after": "0.01"})] * 2 for part in ("models", "training-jobs")}
    fake.answers["events"] = [(500, {})] * 5
    one = make()
    await one.resume()
    trained = await one.train([group(0.0, 1.0)], iteration=0)
    assert (trained.gradient_steps, len(fake.jobs)) == (4, 1)
    assert fake.requests.count("POST /v1/preview/training-jobs") == 3


@pytest.mark.parametrize(
    ("status", "headers", "tries", "message", "hint"),
    [
        (401, {}, 1, "the key in WANDB_API_KEY was refused", "export WANDB_API_KEY"),
        (403, {}, 1, "the key in WANDB_API_KEY was refused", "trainer.entity=TEAM"),
        (404, {}, 1, "HTTP 404: scripted", "trainer.base_url"),
        (422, {}, 1, "HTTP 422: scripted", "check model"),
        (429, {}, 3, "HTTP 429: scripted", "wait for your limit"),
        (429, {"retry-after": "3600"}, 1, "HTTP 429: scripted", "wait for your limit"),
        (500, {}, 3, "HTTP 500: scripted", "run the same command again"),
        (504, {}, 1, "HTTP 504: scripted", "run the same command again"),
    ],
)
async def test_what_the_server_refuses_is_told_with_what_to_do(
    fake: Fake, make: Make, tmp_path: Path, status: int, headers: dict[str, str], tries: int, message: str, hint: str
) -> None:
    one = make()
    await one.resume()
    fake.answers = {"training-jobs": [(status, headers)] * 9}
    with pytest.raises(TrainerError) as told:
        await one.train([group(0.0, 1.0)], iteration=0)
    assert message in told.value.message and hint in str(told.value.hint) and KEY not in str(told.value)
    assert fake.requests.count("POST /v1/preview/training-jobs") == tries
    assert (tmp_path / "checkpoints" / "job-0000.json").exists() == (status == 504)


async def test_a_server_that_is_down_or_silent_is_told(fake: Fake, make: Make, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"could not register .* at http://127\.0\.0\.1:9/v1") as told:
        await make(base_url="http://127.0.0.1:9/v1", attempts=2).resume()
    assert "trainer.base_url" in str(told.value)
    one = make(timeout_s=1e-6, attempts=1)
    with pytest.raises(TrainerError, match="no answer within 1e-06 s"):
        await one.resume()


async def test_answers_without_logprobs_are_left_out_sent_as_text_or_refused(
    fake: Fake, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = group(0.0, 1.0, calls=(CALL, BARE))
    one = make()
    await one.resume()
    with caplog.at_level(logging.WARNING):
        trained = await one.train([mixed], iteration=0)
    assert trained.metrics["unclipped_tokens_share"] == 0.0 and "REINFORCE" not in caplog.text
    assert trained.metrics["unknown_logprobs_share"] == 0.5 and trained.tokens_selected is None
    assert "2 answers were recorded without token ids" in caplog.text
    assert fake.jobs[0]["trajectory_groups"][0]["trajectories"][0].get("additional_histories", []) == []
    with pytest.raises(TrainerError, match="nothing can be trained"):
        await one.train([group(0.0, 1.0, calls=(BARE,))], iteration=1)
    with pytest.raises(TrainerError, match="2 answers were recorded without"):
        await _opened(make(missing_logprobs="refuse"), mixed)
    plain = make(missing_logprobs="reinforce")
    await plain.resume()
    if "allow_training_without_logprobs" in plain._api.training_options:  # type: ignore[union-attr]
        trained = await plain.train([mixed], iteration=1)
        assert trained.metrics["unclipped_tokens_share"] == 0.5 and "plain REINFORCE" in caplog.text
        history = fake.jobs[1]["trajectory_groups"][0]["trajectories"][0]["additional_histories"][0]
        assert history["messages_and_choices"][-1] == {"role": "assistant", "content": BARE.response}
        assert fake.jobs[1]["experimental_config"]["allow_training_without_logprobs"] is True
    else:
        with pytest.raises(TrainerError, match=r"needs openpipe-art 0\.5\.23"):
            await plain.train([mixed], iteration=1)


async def _opened(one: ServerlessTrainer, *groups: TrainingGroup) -> None:
    await one.resume()
    await one.train(groups, iteration=1)


def test_what_cannot_work_is_told_before_anything_starts(
    fake: Fake, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="model=qwen3_14b is one of this machine"):
        make(base_model="tiny").check_machine()
    monkeypatch.setenv("WANDB_API_KEY", " ")
    with pytest.raises(ConfigError, match="WANDB_API_KEY is not set"):
        make().check_machine()


async def test_a_model_that_is_not_known_to_be_offered_is_tried_with_a_warning(
    fake: Fake, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = make(base_model="Qwen/Qwen2.5-3B-Instruct")
    with caplog.at_level(logging.WARNING):
        await one.resume()
    assert "Qwen/Qwen2.5-3B-Instruct is not among the models" in caplog.text


async def test_rewards_that_are_not_finite_are_refused(fake: Fake, make: Make, tmp_path: Path) -> None:
    one = make()
    await one.resume()
    bad = group(0.0, 1.0)
    bad = replace(bad, samples=(bad.samples[0], replace(bad.samples[1], reward=float("nan"))))
    with pytest.raises(TrainerError, match="the reward of t1 in group g is nan"):
        await one.train([bad], iteration=0)
    assert fake.jobs == []


async def test_a_broken_job_file_is_told(fake: Fake, make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "job-0000.json").write_text(json.dumps({"iteration": 0})[:-3])
    with pytest.raises(TrainerError, match="is not a job of this trainer"):
        await make().resume()
