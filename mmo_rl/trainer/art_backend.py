"""GRPO by one of ART's own backends: LocalBackend on one's own GPU, TinkerBackend on Thinking Machines' GPUs."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from pydantic import Field

from mmo_rl.errors import ConfigError, TrainerError
from mmo_rl.lm.encode import Encoder
from mmo_rl.trainer.art_client import encoded_group, has_tokens, import_art
from mmo_rl.trainer.base import AssistantTurns, Capabilities, OnStep, Served, TrainerParts, TrainingRules
from mmo_rl.trainer.batch import warn_no_logprobs, warn_unclipped
from mmo_rl.trainer.journal import Journal, TrainingJob, fingerprint
from mmo_rl.trainer.signal import with_signal
from mmo_rl.types import PolicyVersion, Trained, TrainingGroup
from mmo_rl.wording import counted

if TYPE_CHECKING:
    import art
    from transformers import PreTrainedTokenizerBase

GRADIENT_STEPS = "data/step_num_gradient_steps"
"""ART's name of the number of gradient steps in what its backends report."""


class TrainResult(Protocol):
    """Result of a backend's training."""

    step: int
    metrics: Mapping[str, object]


class Backend(Protocol):
    """Backend of ART, as far as it is used here."""

    async def close(self) -> None: ...

    async def register(self, model: art.TrainableModel) -> None: ...

    async def train(
        self, model: art.TrainableModel, trajectory_groups: Sequence[art.TrajectoryGroup], **options: object
    ) -> TrainResult: ...

    async def _delete_checkpoint_files(self, model: art.TrainableModel, steps_to_keep: list[int]) -> None: ...


class ArtBackendTrainer:
    """Base of `ArtLocalTrainer` and `TinkerTrainer`: a backend of ART trains and answers, in this process or beside
    it, and keeps its checkpoints in ``checkpoints/art`` of the run folder or with its service.

    ``learning_rate``, ``loss`` and ``clip_epsilon`` (None: the backend's own) are those of ART.
    ``missing_logprobs``: answers recorded without logprobs are ``score``d by the backend before the update, trained as
    plain ``reinforce``, or ``refuse`` ends the run.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(serves=True)

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-6,
        loss: Literal["cispo", "ppo"] = "cispo",
        clip_epsilon: Annotated[float, Field(gt=0, lt=1)] | None = None,
        missing_logprobs: Literal["score", "reinforce", "refuse"] = "score",
        assistant_turns: AssistantTurns = "action",
        stop_on_collapse: bool = True,
        parts: TrainerParts,
        backend: Backend | None = None,
    ) -> None:
        self._options = {"learning_rate": learning_rate, "loss_fn": loss, "ppo": loss == "ppo", "epsilon": clip_epsilon}
        self._missing_logprobs = missing_logprobs
        self.assistant_turns: AssistantTurns = assistant_turns
        self.rules = TrainingRules(stop_on_collapse=stop_on_collapse)
        self._base = parts.model
        self._folder = parts.checkpoints
        self._journal = Journal(folder=parts.checkpoints)
        self._backend = backend
        self._model: art.TrainableModel | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._current = 0

    def check_machine(self) -> None:
        """Raises `ConfigError` for packages, a GPU or a key that this machine lacks."""
        if self._backend is None:
            self._require()

    @classmethod
    def _require(cls) -> None:
        """Raises `ConfigError` for something that the backend needs and this machine lacks."""
        raise NotImplementedError

    def _open(self, path: str) -> Backend:
        """Opens the backend of ART."""
        raise NotImplementedError

    def _key_name(self) -> str | None:
        """Returns the environment variable with the key that the backend's endpoint asks for."""
        return None

    async def resume(self, version: int | None = None) -> PolicyVersion:
        """Starts the backend with a published version (the newest by default; 0 is the base model) and deletes its
        checkpoints after that. Raises `TrainerError` where there is no such version."""
        chosen = self._journal.newest() if version is None else version
        step = self._journal.step(chosen)
        if self._model is None:
            await self._start()
        assert self._model is not None
        assert self._backend is not None
        if await self._model.get_step() > step:
            await self._backend._delete_checkpoint_files(self._model, list(range(step + 1)))
            if (left := await self._model.get_step()) != step:
                raise TrainerError(
                    f"the backend is at step {left}, and version {chosen} of this run is its step {step}",
                    hint="remove the run folder to start afresh",
                )
        self._current = chosen
        return self._version(chosen)

    def served(self, version: int) -> Served:
        """Returns the address of a published version. Raises `TrainerError` where it was never trained."""
        assert self._model is not None, "resume comes first"
        return Served(self._version(version).path, self._model.inference_base_url, self._key_name())

    async def train(self, groups: Sequence[TrainingGroup], *, iteration: int, on_step: OnStep | None = None) -> Trained:
        """Trains one iteration; publishes version ``iteration + 1``, or keeps the policy where no group carries
        signal. Raises `TrainerError`, and publishes nothing, where there was signal but no gradient step."""
        assert self._model is not None, "resume comes first"
        assert self._backend is not None
        assert self._tokenizer is not None
        signal = with_signal(groups)
        encoder = Encoder(self._tokenizer)
        selected = encoder.answer_tokens(groups)
        if not signal:
            return Trained(self._version(self._current), 0, 0, len(groups), {}, selected)
        warn_no_logprobs(signal)
        calls = [call for group in signal for sample in group.samples for call in sample.calls]
        unknown = sum(not has_tokens(call) for call in calls) / len(calls)
        options = self._known_options(self._backend, unknown)
        unclipped = unknown if self._missing_logprobs == "reinforce" else 0.0
        if unclipped:
            warn_unclipped(unclipped, iteration=iteration, instead="trainer.missing_logprobs=score does not")
        before = await self._model.get_step()
        art_groups = [encoded_group(group, encoder) for group in signal]
        if on_step is not None:
            on_step(0, 1, "")
        try:
            result = await self._backend.train(self._model, art_groups, **options)
        except (RuntimeError, ValueError, OSError) as error:
            raise TrainerError(
                f"ART could not train iteration {iteration}: {str(error) or type(error).__name__}",
                hint="its messages are in log.txt of the run folder; run the same command again to go on from the last"
                " iteration",
            ) from error
        metrics = _finite(result.metrics)
        steps = round(metrics.pop(GRADIENT_STEPS, 0.0))
        if result.step <= before or steps == 0:
            raise TrainerError(
                f"there was signal but nothing was trained (step {before} -> {result.step}, "
                f"{counted(steps, 'gradient step')})",
                hint="trainer.missing_logprobs=reinforce trains answers without logprobs",
            )
        tokens = encoder.answer_tokens(signal)
        job = TrainingJob(
            iteration=iteration,
            step_before=before,
            data=fingerprint(signal),
            step=result.step,
            gradient_steps=steps,
            tokens=tokens,
            metrics=metrics | {"unknown_logprobs_share": unknown, "unclipped_tokens_share": unclipped},
        )
        self._journal.write(job)
        self._current = iteration + 1
        return Trained(
            policy=self._version(self._current),
            gradient_steps=steps,
            tokens=tokens,
            groups_skipped_zero_variance=len(groups) - len(signal),
            metrics=job.metrics,
            tokens_selected=selected,
        )

    async def aclose(self) -> None:
        """Ends the processes that the backend has started."""
        if self._model is not None and self._backend is not None:
            self._model = None
            await self._backend.close()

    # --- ART ----------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        """Registers the model with the backend, which is opened where there is none."""
        self.check_machine()
        module = await asyncio.to_thread(import_art)
        path = self._folder / "art"
        path.mkdir(parents=True, exist_ok=True)
        if self._backend is None:
            self._backend = await asyncio.to_thread(self._open, str(path))
        name = self._base.name
        named = {"run_name": name} if "run_name" in inspect.signature(module.TrainableModel).parameters else {}
        model = module.TrainableModel(
            name=name, project="mmo-rl", base_model=self._base.location(), base_path=str(path), **named
        )
        self._tokenizer = await asyncio.to_thread(_tokenizer, self._base.location())
        await model.register(self._backend)
        self._model = model

    def _known_options(self, backend: Backend, unknown: float) -> dict[str, object]:
        """Returns the options that the backend's ``train`` has by name: they differ between backends and versions."""
        wanted: dict[str, object] = dict(self._options)
        if unknown and self._missing_logprobs == "refuse":
            raise TrainerError(
                f"{unknown:.0%} of the answers have no recorded logprobs",
                hint="trainer.missing_logprobs=score has the backend score them",
            )
        if unknown:
            wanted["allow_training_without_logprobs"] = True
            wanted["precalculate_logprobs"] = self._missing_logprobs == "score"
        parameters = inspect.signature(backend.train).parameters
        if unknown and self._missing_logprobs == "score" and "precalculate_logprobs" not in parameters:
            raise TrainerError(
                f"{unknown:.0%} of the answers have no recorded logprobs, and this backend of ART cannot score them",
                hint="trainer.missing_logprobs=reinforce, or collect=simulated, which records them",
            )
        if "loss_fn" in parameters:
            wanted.pop("ppo")
        wanted["save_checkpoint"] = True
        return {name: value for name, value in wanted.items() if name in parameters and value is not None}

    def _version(self, version: int) -> PolicyVersion:
        """Returns a published version, by the name that the backend's endpoint knows."""
        assert self._model is not None, "resume comes first"
        return PolicyVersion(self._base.name, version, self._model.get_inference_name(step=self._journal.step(version)))


class ArtLocalTrainer(ArtBackendTrainer):
    """ART's LocalBackend: unsloth trains a LoRA and vLLM answers, on one GPU of this machine."""

    capabilities: ClassVar[Capabilities] = Capabilities(needs_gpu=True, serves=True)

    @classmethod
    def _require(cls) -> None:
        missing = _missing("torch", "transformers", "peft", "trl", "unsloth")
        lacks = [f"the packages {', '.join(missing)}"] if missing else []
        if not _has_gpu(asking_torch=not missing):
            lacks.append("an NVIDIA GPU")
        if lacks:
            hint = "pip install 'openpipe-art[backend]' on a machine with a GPU" if missing else "choose such a machine"
            raise ConfigError(
                f"trainer=art_local lacks {' and '.join(lacks)}", hint=f"{hint}; trainer=local needs neither"
            )

    def _open(self, path: str) -> Backend:
        backend: Backend = import_art("art.local").LocalBackend(path=path)
        return backend


class TinkerTrainer(ArtBackendTrainer):
    """ART's TinkerBackend: Tinker trains a LoRA and answers; the key is in ``TINKER_API_KEY``, where Tinker's own
    client reads it."""

    capabilities: ClassVar[Capabilities] = Capabilities(needs_network=True, serves=True, model_prices=False)

    @classmethod
    def _require(cls) -> None:
        missing = _missing("torch", "transformers", "tinker", "tinker_cookbook")
        if missing:
            raise ConfigError(
                f"trainer=tinker lacks the packages {', '.join(missing)}",
                hint="pip install 'openpipe-art[tinker]'; trainer=local needs none of them",
            )
        if not os.environ.get("TINKER_API_KEY", "").strip():
            raise ConfigError(
                "trainer=tinker needs a key, and TINKER_API_KEY is not set",
                hint="export TINKER_API_KEY=... with a key from https://tinker-console.thinkingmachines.ai",
            )

    def _open(self, path: str) -> Backend:
        # The key is never handed over: ART prints one that it is given.
        backend: Backend = import_art("art.tinker").TinkerBackend(path=path)
        return backend

    def _key_name(self) -> str | None:
        return "TINKER_API_KEY"


def _missing(*packages: str) -> list[str]:
    """Lists those of ``packages`` that are not installed."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def _has_gpu(*, asking_torch: bool) -> bool:
    """Tells that there is an NVIDIA GPU; without torch, whose import takes seconds, that its driver is loaded."""
    if not asking_torch:
        return Path("/proc/driver/nvidia/version").exists()
    import torch

    return bool(torch.cuda.is_available())


def _tokenizer(location: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer at ``location``. Raises `TrainerError` where it cannot be used."""
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(location)
    except ImportError as error:
        raise TrainerError(f"ART's backends need {error.name}", hint="pip install 'mmo-rl[local]'") from error
    except (OSError, ValueError) as error:
        raise TrainerError(
            f"could not load the tokenizer of {location}: {str(error).splitlines()[0]}",
            hint="check model.base_model, or give a folder with model.path=...",
        ) from error
    if tokenizer.chat_template is None:
        raise TrainerError(f"the tokenizer of {location} has no chat template", hint="choose an instruct model")
    return tokenizer


def _finite(metrics: Mapping[str, object]) -> dict[str, float]:
    """Returns ART's numbers, its losses under the names of the other trainers."""
    names = {"loss/train": "loss", "loss/entropy": "entropy", "loss/kl_div": "kl", "loss/grad_norm": "grad_norm"}
    return {
        names.get(name, name): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
