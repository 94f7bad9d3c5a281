"""The trainers over ART's own backends: what they ask of the machine, and their work with a small backend in ART's
protocol."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmo_rl.errors import ConfigError, TrainerError
from mmo_rl.trainer import art_backend
from mmo_rl.trainer.art_backend import GRADIENT_STEPS, ArtBackendTrainer, ArtLocalTrainer, TinkerTrainer
from mmo_rl.types import PolicyCall, TrainingGroup, TrainingSample
from tests.trainer.made import trainer_parts

PROMPT = ({"role": "system", "content": "You trade."}, {"role": "user", "content": "t0\nNOVA +1"})
ANSWER = '{"ticker":"NOVA","action":"BUY","size":1}'
Make = Callable[..., ArtBackendTrainer]


class SmallBackend:
    """A backend in ART's protocol that counts steps instead of training; ``gradient_steps`` of each update."""

    def __init__(self, gradient_steps: float = 3.0) -> None:
        self.gradient_steps = gradient_steps
        self.steps: list[int] = []
        self.options: list[dict[str, Any]] = []
        self.groups: list[Any] = []
        self.open = False
        self.error: Exception | None = None

    async def register(self, model: Any) -> None:
        self.open = True

    async def close(self) -> None:
        self.open = False

    async def _get_step(self, model: Any) -> int:
        return max(self.steps, default=0)

    async def _prepare_backend_for_training(self, model: Any, config: Any) -> tuple[str, str]:
        return "http://127.0.0.1:8000/v1", "default"

    def _model_inference_name(self, model: Any, step: int | None = None) -> str:
        return f"{model.name}@{step}"

    async def _delete_checkpoint_files(self, model: Any, steps_to_keep: list[int]) -> None:
        self.steps = [step for step in self.steps if step in steps_to_keep]

    async def train(
        self,
        model: Any,
        trajectory_groups: list[Any],
        *,
        learning_rate: float = 1e-5,
        loss_fn: str = "cispo",
        precalculate_logprobs: bool = False,
        allow_training_without_logprobs: bool = False,
    ) -> Any:
        if self.error is not None:
            raise self.error
        self.options.append(
            {"learning_rate": learning_rate, "loss_fn": loss_fn, "precalculate_logprobs": precalculate_logprobs}
        )
        self.groups = trajectory_groups
        self.steps.append(max(self.steps, default=0) + 1)
        metrics = {GRADIENT_STEPS: self.gradient_steps, "loss/train": 0.25, "reward": float("nan")}
        return SimpleNamespace(step=self.steps[-1], metrics=metrics)


class NarrowBackend(SmallBackend):
    """One that can neither choose a loss nor score."""

    async def train(self, model: Any, trajectory_groups: list[Any], *, learning_rate: float = 1e-5) -> Any:  # type: ignore[override]
        return await super().train(model, trajectory_groups, learning_rate=learning_rate)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[ArtBackendTrainer] = []

    def one(backend: SmallBackend, kind: type[ArtBackendTrainer] = ArtLocalTrainer, **changed: Any) -> Any:
        made.append(kind(parts=trainer_parts(tmp_path / "checkpoints"), backend=backend, **changed))
        return made[-1]

    yield one
    for trainer in made:
        await trainer.aclose()


def group(*rewards: float) -> TrainingGroup:
    call = PolicyCall(PROMPT, ANSWER)
    samples = tuple(TrainingSample(f"t{n}", None, (call, call), reward) for n, reward in enumerate(rewards))
    return TrainingGroup("g", samples)


@pytest.mark.parametrize("kind", [ArtLocalTrainer, TinkerTrainer])
async def test_arts_backend_trains_publishes_and_answers(make: Make, kind: type[ArtBackendTrainer]) -> None:
    backend = SmallBackend()
    one = make(backend, kind, learning_rate=1e-4, loss="ppo", clip_epsilon=0.2)
    assert (await one.resume()).path == "tiny@0" and backend.open
    told: list[tuple[int, int, str]] = []
    trained = await one.train([group(0.0, 1.0), group(0.5, 0.5)], iteration=0, on_step=lambda *s: told.append(s))
    assert (trained.gradient_steps, trained.groups_skipped_zero_variance, trained.policy.path) == (3, 1, "tiny@1")
    assert trained.tokens > 0 and trained.tokens_selected == 2 * trained.tokens
    assert trained.metrics == {"loss": 0.25, "unknown_logprobs_share": 1.0, "unclipped_tokens_share": 0.0}, (
        "finite only"
    )
    assert backend.options == [{"learning_rate": 1e-4, "loss_fn": "ppo", "precalculate_logprobs": True}]
    assert [len(g.trajectories) for g in backend.groups] == [2]
    served = one.served(1)
    assert (served.model, served.base_url) == ("tiny@1", "http://127.0.0.1:8000/v1")
    assert served.api_key_env == ("TINKER_API_KEY" if kind is TinkerTrainer else None)
    assert (await one.train([group(1.0, 1.0)], iteration=1)).policy.version == 1 and len(backend.steps) == 1
    await one.aclose()
    assert not backend.open


async def test_a_killed_run_goes_on_from_its_last_version(make: Make) -> None:
    backend = SmallBackend()
    one = make(backend)
    await one.resume()
    await one.train([group(0.0, 1.0)], iteration=0)
    backend.steps.append(2)  # trained, and killed before the run noted it
    again = make(backend)
    assert (await again.resume()).path == "tiny@1" and backend.steps == [1]
    assert (await again.train([group(0.0, 1.0)], iteration=1)).policy.path == "tiny@2"
    assert (await make(backend).resume(1)).version == 1 and backend.steps == [1]
    with pytest.raises(TrainerError, match="policy version 7 is not in"):
        await again.resume(7)


async def test_signal_without_a_gradient_step_is_an_error(make: Make) -> None:
    one = make(SmallBackend(gradient_steps=0.0))
    await one.resume()
    with pytest.raises(TrainerError, match=r"nothing was trained \(step 0 -> 1, 0 gradient steps\)"):
        await one.train([group(0.0, 1.0)], iteration=0)
    with pytest.raises(TrainerError, match="policy version 1"):
        one.served(1)


async def test_what_a_backend_cannot_do_is_told(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    one = make(NarrowBackend())
    await one.resume()
    with pytest.raises(TrainerError, match="100% of the answers have no recorded logprobs, and this backend"):
        await one.train([group(0.0, 1.0)], iteration=0)
    with pytest.raises(TrainerError, match="100% of the answers"):
        await _trained(make(SmallBackend(), missing_logprobs="refuse"))
    narrow = make(NarrowBackend(), missing_logprobs="reinforce")
    await _trained(narrow)
    assert "iteration 1: 100 % of what is trained" in caplog.text and "plain REINFORCE" in caplog.text
    broken = SmallBackend()
    broken.error = RuntimeError("CUDA out of memory")
    with pytest.raises(TrainerError, match="ART could not train iteration 0: CUDA out of memory"):
        await _trained(make(broken))


async def _trained(one: ArtBackendTrainer) -> None:
    await one.resume(0)
    await one.train([group(0.0, 1.0)], iteration=0)


def test_what_the_machine_lacks_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(art_backend, "_missing", lambda *names: [n for n in names if n in {"unsloth", "tinker"}])
    monkeypatch.setattr(art_backend, "_has_gpu", lambda *, asking_torch: False)
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="art_local lacks the packages unsloth and an NVIDIA GPU") as told:
        ArtLocalTrainer(parts=trainer_parts(tmp_path)).check_machine()
    assert "openpipe-art[backend]" in str(told.value)
    with pytest.raises(ConfigError, match="tinker lacks the packages tinker"):
        TinkerTrainer(parts=trainer_parts(tmp_path)).check_machine()
    monkeypatch.setattr(art_backend, "_missing", lambda *names: [])
    with pytest.raises(ConfigError, match="TINKER_API_KEY is not set"):
        TinkerTrainer(parts=trainer_parts(tmp_path)).check_machine()


@pytest.mark.parametrize("name", ["art_local", "tinker"])
def test_the_command_says_so_before_anything_starts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMO_RL_ROOT", str(tmp_path))
    monkeypatch.setenv("MMO_RL_HOME", str(tmp_path / "home"))
    done = subprocess.run(
        [sys.executable, "-m", "mmo_rl", f"trainer={name}", "report=local"], capture_output=True, text=True, timeout=120
    )
    if done.returncode == 0:
        pytest.skip(f"this machine has all that trainer={name} needs")
    assert done.returncode == 2 and f"trainer={name} lacks" in done.stderr and "pip install" in done.stderr
    assert not (tmp_path / "home").exists() and "Traceback" not in done.stderr
