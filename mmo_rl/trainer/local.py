"""GRPO and imitation on this machine: a transformers model, the losses of `mmo_rl.trainer.losses`, AdamW."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from mmo_rl.errors import ConfigError, PolicyError, TrainerError
from mmo_rl.lm.encode import Encoder
from mmo_rl.lm.forward import require_positions, require_trees, score
from mmo_rl.lm.load import require_device
from mmo_rl.lm.turn_end import end_token
from mmo_rl.lm.weights import Lora, Weights
from mmo_rl.rng import derive_seed
from mmo_rl.trainer.base import AssistantTurns, Capabilities, OnStep, TrainerParts, TrainingRules
from mmo_rl.trainer.batch import staleness, warn_no_logprobs, warn_unclipped, within_context
from mmo_rl.trainer.checkpoints import Checkpoints
from mmo_rl.trainer.losses import Loss, LossName
from mmo_rl.trainer.packing import Packed, pack
from mmo_rl.trainer.signal import require_finite
from mmo_rl.trainer.update import Schedule, ScheduleName, Update
from mmo_rl.types import PolicyVersion, Trained, TrainingGroup

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SAFER = "trainer.missing_logprobs=score with trainer.loss=ppo does not, nor does trainer.loss=awr"


class LocalTrainer:
    """Trains a causal language model on the CPU (float32) or one GPU (bfloat16): all weights, or with
    ``model.lora_rank`` above 0 an adapter, whose output is scaled by ``lora_alpha`` / rank, at ``lora_targets``
    (``all-linear``, or module names such as q_proj).

    ``learning_rate`` of AdamW at its highest; ``schedule`` and ``warmup_share`` are those of `Schedule`, over
    ``iterations``. ``epochs`` passes over an iteration's data; ``packed_tokens`` the length of a packed row (rows grow
    to the longest history), ``rows_per_step`` how many of them make a gradient step. They are computed as a prefix tree
    (`mmo_rl.lm.prefix_tree`), ``micro_batch_tokens`` of its tokens at a time, but at least one of its rows: memory
    depends on it, the step does not. ``loss`` and its constants ``clip_epsilon``, ``awr_beta`` and ``awr_cap`` are
    those of `mmo_rl.trainer.losses`; ``kl_to_base`` the coefficient of the divergence from the base model, which at 0
    isn't computed; ``max_grad_norm`` of gradient clipping.
    ``assistant_turns`` takes the answers that chose an ``action``, or ``all`` (`mmo_rl.policy_view`).

    ``missing_logprobs`` says what ``ppo`` and ``cispo`` do with answers recorded without logprobs. ``score`` has the
    policy that the iteration starts with score them, once, before its first step: as every window is trained on once,
    so is every answer scored once, and its ratio starts at 1. (Scores of the run's first policy would not: after some
    iterations most ratios would lie outside the clip, and nothing more could be learnt.) ``reinforce`` trains them
    with ratio 1 and so without a clip, with a warning; ``refuse`` raises.

    Checkpoints are folders ``checkpoints/NNNN`` in the run folder, in Hugging Face format (of an adapter: it alone)
    with the optimizer's state beside them; a folder appears whole or not at all.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0, le=1)],
        schedule: ScheduleName = "constant",
        warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        iterations: Annotated[int, Field(ge=1)] = 1,
        epochs: Annotated[int, Field(ge=1)] = 1,
        packed_tokens: Annotated[int, Field(ge=16)] = 512,
        rows_per_step: Annotated[int, Field(ge=1)] = 4,
        micro_batch_tokens: Annotated[int, Field(ge=1)] = 2560,
        loss: LossName = "ppo",
        clip_epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        awr_beta: Annotated[float, Field(gt=0)] = 1.0,
        awr_cap: Annotated[float, Field(gt=0, le=20)] = 2.0,
        kl_to_base: Annotated[float, Field(ge=0)] = 0.0,
        max_grad_norm: Annotated[float, Field(gt=0)] = 1.0,
        missing_logprobs: Literal["score", "reinforce", "refuse"] = "score",
        assistant_turns: AssistantTurns = "action",
        lora_alpha: Annotated[int, Field(ge=1)] = 32,
        lora_targets: str | list[str] = "all-linear",
        device: Literal["cpu", "cuda"] = "cpu",
        warm_start: Annotated[float, Field(ge=0, le=1)] = 0.0,
        warm_start_epochs: Annotated[int, Field(ge=1)] = 1,
        warm_start_learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None,
        keep_last: Annotated[int, Field(ge=1)] | None = None,
        keep_best: Annotated[int, Field(ge=0)] = 1,
        stop_on_collapse: bool = True,
        seed: int,
        parts: TrainerParts,
    ) -> None:
        targets = lora_targets if isinstance(lora_targets, str) else tuple(lora_targets)
        self._lora = Lora(parts.model.lora_rank, lora_alpha, targets)
        self._context_length = parts.model.context_length
        self._packed_tokens = packed_tokens
        self._missing_logprobs = missing_logprobs
        self.assistant_turns: AssistantTurns = assistant_turns
        self._loss = Loss(loss, clip_epsilon, awr_beta, awr_cap)
        self._update = Update(
            loss=self._loss,
            schedule=Schedule(learning_rate, schedule, warmup_share, iterations),
            epochs=epochs,
            rows_per_step=rows_per_step,
            micro_batch_tokens=micro_batch_tokens,
            max_grad_norm=max_grad_norm,
            kl_to_base=kl_to_base,
        )
        self._device = device
        self.rules = TrainingRules(
            epochs=epochs,
            warm_start=warm_start,
            warm_start_epochs=warm_start_epochs,
            device=device,
            stop_on_collapse=stop_on_collapse,
        )
        self._warm_share = warm_start
        self._warm_epochs = warm_start_epochs
        self._warm_rate = warm_start_learning_rate or learning_rate
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._seed = seed
        self._base = parts.model
        self._checkpoints = Checkpoints(folder=parts.checkpoints, model=parts.model)
        self._weights: Weights | None = None
        self._current = 0

    def check_machine(self) -> None:
        """Raises `ConfigError` where ``device`` is not there."""
        try:
            require_device(self._device)
        except PolicyError as error:
            raise ConfigError(
                f"trainer.device={self._device}: {error.message}", hint=f"trainer.{error.hint}"
            ) from error

    async def resume(self, version: int | None = None) -> PolicyVersion:
        """Loads a published version (the newest by default; 0 is the base model) and forgets those after it. Raises
        `TrainerError` for a checkpoint of another model, `PolicyError` where ``device`` is not there."""
        self._current = self._checkpoints.rewind(version)
        self._weights = await asyncio.to_thread(self._load)
        return self._checkpoints.version(self._current)

    async def train(self, groups: Sequence[TrainingGroup], *, iteration: int, on_step: OnStep | None = None) -> Trained:
        """Trains one iteration: publishes version ``iteration + 1``, or keeps the policy where no group carries
        signal. Raises `TrainerError`, publishes nothing and goes on from the version before, where a reward isn't
        finite, where there was signal but no gradient step, or where the update isn't finite."""
        weights = await asyncio.to_thread(self._load) if self._weights is None else self._weights
        # Whatever happens to them now, half an update must not be gone on from.
        self._weights = None
        trained = await self._train_apart(weights, groups, iteration, on_step)
        self._weights, self._current = weights, trained.policy.version
        return trained

    @property
    def imitated_share(self) -> float:
        """The share of the best answers that a warm start imitates, in [0, 1]."""
        return self._warm_share

    async def warm_start(self, groups: Sequence[TrainingGroup]) -> Trained:
        """Imitates all answers of ``groups`` and publishes version 0, which the first iteration then loads as a run
        that was killed would, with an optimizer of its own. Raises `TrainerError` without a gradient step."""
        weights = await asyncio.to_thread(self._load) if self._weights is None else self._weights
        self._weights = None
        imitator = copy.copy(self)
        imitator._loss = Loss("sft")
        imitator._update = replace(
            self._update,
            loss=imitator._loss,
            schedule=Schedule(self._warm_rate),
            epochs=self._warm_epochs,
            kl_to_base=0.0,
        )
        trained = await imitator._train_apart(weights, groups, -1)
        if not trained.gradient_steps:
            raise TrainerError(
                "the warm start has nothing to imitate: every answer is longer than the model's context",
                hint="model.context_length=N, or a market with shorter prompts",
            )
        return trained

    def removable(self, earned: Mapping[int, float]) -> list[int]:
        """Lists the versions that ``keep_last`` and ``keep_best`` do not ask for; ``earned`` by version, from play."""
        return self._checkpoints.removable(earned, last=self._keep_last, best=self._keep_best)

    def remove(self, versions: Collection[int]) -> None:
        """Removes the weights of these versions."""
        self._checkpoints.remove(versions)

    async def aclose(self) -> None:
        """Frees the model's memory."""
        self._weights = None

    def _load(self) -> Weights:
        """Loads the current version. Raises `TrainerError` where it cannot be trained here."""
        weights = Weights.load(
            self._checkpoints.saved(self._current),
            base=self._base,
            device=self._device,
            lora=self._lora,
            keep_base=self._update.kl_to_base > 0,
            seed=derive_seed(self._seed, "lora"),
        )
        if self._current == 0:  # what imitation taught the optimizer is no part of the policy
            weights.optimizer.state.clear()
        require_trees(weights.model)
        require_positions(weights.model.config, self._context_length)
        return weights

    # --- the update --------------------------------------------------------------------------------------------------

    async def _train_apart(
        self, weights: Weights, groups: Sequence[TrainingGroup], iteration: int, on_step: OnStep | None = None
    ) -> Trained:
        """Runs `_train` in a thread. No thread can be cancelled, and the process waits for it: an interrupted one ends
        after its present gradient step."""
        interrupted = threading.Event()

        def step(done: int, total: int, note: str) -> None:
            if interrupted.is_set():
                raise TrainerError(f"interrupted after gradient step {done} of {total}")
            if on_step is not None:
                on_step(done, total, note)

        try:
            return await asyncio.to_thread(self._train, weights, groups, iteration, step)
        except asyncio.CancelledError:
            interrupted.set()
            raise

    def _train(
        self, weights: Weights, groups: Sequence[TrainingGroup], iteration: int, on_step: OnStep | None = None
    ) -> Trained:
        """Packs the groups, takes the gradient steps and publishes the version."""
        import torch

        started = time.perf_counter()
        require_finite(groups)
        encoder = Encoder(weights.tokenizer, end_id=end_token(weights.tokenizer, weights.model))
        selected = encoder.answer_tokens(groups)
        policy = self._checkpoints.version(self._current)
        kept, too_long = within_context(groups, encoder, context_length=self._context_length)
        warn_no_logprobs(kept)
        teaching = self._loss.teaching(kept)
        rewards = [sample.reward for group in groups for sample in group.samples]
        metrics = {
            "zero_variance_share": 1 - len(teaching) / max(1, len(kept)),
            "histories_too_long": too_long,
            **({"reward_mean": sum(rewards) / len(rewards)} if rewards else {}),
            **staleness(teaching, encoder, policy=policy),
        }
        skipped, selected = len(kept) - len(teaching), selected * self._update.epochs
        if not teaching:
            return Trained(policy, 0, 0, skipped, metrics, selected)
        packed = pack(
            teaching,
            encoder=encoder,
            packed_tokens=self._packed_tokens,
            seed=derive_seed(self._seed, "pack", iteration),
            weight=self._loss.weight,
            device=self._device,
        )
        if packed is None:
            raise TrainerError("there was signal but no trainable token", hint="check that LLM calls were recorded")
        packed, found = self._with_logprobs(weights, packed, iteration)
        metrics |= found
        torch.manual_seed(derive_seed(self._seed, "train", iteration))
        steps, measured = self._update.run(weights, packed, iteration=iteration, on_step=on_step)
        tokens = packed.trained_tokens * self._update.epochs
        if steps == 0 or tokens == 0:
            raise TrainerError("there was signal but nothing was trained", hint="report this with the run's log.txt")
        seconds = time.perf_counter() - started
        return Trained(
            policy=self._checkpoints.publish(iteration + 1, weights.save),
            gradient_steps=steps,
            tokens=tokens,
            groups_skipped_zero_variance=skipped,
            metrics=metrics | measured | self._speed(packed, tokens, seconds),
            tokens_selected=selected,
        )

    def _speed(self, packed: Packed, tokens: int, seconds: float) -> dict[str, float]:
        """Measures tokens a second: trained, of all histories with shared prompts counted once, and with padding."""
        padded = len(packed.rows) * packed.row_length * self._update.epochs
        real = sum(row.tokens for row in packed.rows) * self._update.epochs
        return {
            "tokens_per_s": tokens / seconds,
            "packed_tokens_per_s": real / seconds,
            "padded_tokens_per_s": padded / seconds,
            "padding_share": 1 - real / padded,
        }

    def _with_logprobs(self, weights: Weights, packed: Packed, iteration: int) -> tuple[Packed, dict[str, float]]:
        """Adds the logprobs that the update needs and the data lack: of unknown behaviour, as ``missing_logprobs``
        says, and of the base model. Returns the shares of tokens without recorded logprobs and without a clip, too."""
        import torch

        data = packed.data
        unknown_N = data.logprobs_N.isnan()
        share = float(unknown_N.sum() / packed.trained_tokens)
        unclipped = 1.0 if self._loss.name == "reinforce" else 0.0
        if share and self._loss.uses_ratio and self._missing_logprobs == "refuse":
            raise TrainerError(
                f"{share:.0%} of the trained tokens have no recorded logprobs",
                hint="trainer.missing_logprobs=score scores them with the starting policy",
            )
        if share and self._loss.uses_ratio and self._missing_logprobs == "score":
            scored_N = self._scored(weights.model, packed, bf16=weights.bf16)
            data = replace(data, logprobs_N=torch.where(unknown_N, scored_N, data.logprobs_N))
        elif share and self._loss.uses_ratio:
            unclipped = share
        if share and unclipped:
            warn_unclipped(share, iteration=iteration, instead=SAFER)
        if self._update.kl_to_base:
            with weights.base_model() as base:
                data = replace(data, reference_N=self._scored(base, packed, bf16=weights.bf16))
        return replace(packed, data=data), {"unknown_logprobs_share": share, "unclipped_tokens_share": unclipped}

    def _scored(self, model: PreTrainedModel, packed: Packed, *, bf16: bool) -> torch.Tensor:
        """Computes the logprobs that ``model`` gives to all answers."""
        return score(
            model,
            packed.histories,
            micro_batch_tokens=self._update.micro_batch_tokens,
            longest_row=packed.row_length,
            bf16=bf16,
        )
