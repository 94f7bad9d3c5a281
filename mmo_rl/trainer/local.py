"""GRPO on this machine: a transformers model, ART's tokenising, packing and loss, AdamW."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mmo_rl.errors import TrainerError
from mmo_rl.rng import derive_seed
from mmo_rl.trainer.art_adapter import LossName, answer_tokens, pack, policy_loss
from mmo_rl.trainer.base import AssistantTurns, Capabilities
from mmo_rl.trainer.checkpoints import Checkpoints
from mmo_rl.types import PolicyVersion, Trained, TrainingGroup

NO_SPREAD = 1e-12
"""Rewards closer than this are equal: rounding must not become gradient."""


class LocalTrainer:
    """Trains all weights of a small model on the CPU (float32) or one GPU.

    ``learning_rate`` of AdamW; ``epochs`` passes over an iteration's data; ``packed_tokens`` the length of a packed
    row and ``rows_per_step`` how many of them make a gradient step; ``clip_epsilon`` of PPO; ``max_grad_norm`` of
    gradient clipping. ``missing_logprobs`` says what to do with answers recorded without logprobs: ``score`` them once
    with the policy as it is before the update, train them as plain ``reinforce``, or ``refuse``.
    ``assistant_turns`` takes the answers that chose an ``action``, or ``all`` (`mmo_rl.trainer.policy_view`).

    Checkpoints are folders ``checkpoints/NNNN`` in the run folder, in Hugging Face format with the optimizer's state
    beside them; a folder appears whole or not at all.
    """

    capabilities = Capabilities()

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0, le=1)],
        epochs: Annotated[int, Field(ge=1)] = 1,
        packed_tokens: Annotated[int, Field(ge=16)] = 512,
        rows_per_step: Annotated[int, Field(ge=1)] = 4,
        loss: LossName = "ppo",
        clip_epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        max_grad_norm: Annotated[float, Field(gt=0)] = 1.0,
        missing_logprobs: Literal["score", "reinforce", "refuse"] = "score",
        assistant_turns: AssistantTurns = "action",
        device: Literal["cpu", "cuda"] = "cpu",
        seed: int,
        model_location: str,
        model_name: str,
        checkpoints: Path,
        load_model: Callable[..., tuple[Any, Any]],
    ) -> None:
        self._learning_rate = learning_rate
        self._epochs = epochs
        self._packed_tokens = packed_tokens
        self._rows_per_step = rows_per_step
        self._loss: LossName = loss
        self._clip_epsilon = clip_epsilon
        self._max_grad_norm = max_grad_norm
        self._missing_logprobs = missing_logprobs
        self.assistant_turns: AssistantTurns = assistant_turns
        self._device = device
        self._seed = seed
        self._checkpoints = Checkpoints(folder=checkpoints, name=model_name, base=model_location)
        self._load_model = load_model
        self._model: Any = None
        self._tokenizer: Any = None
        self._optimizer: Any = None
        self._current = 0

    async def resume(self, version: int | None = None) -> PolicyVersion:
        """Loads a published version (the newest by default; 0 is the base model) and forgets those after it."""
        chosen = self._checkpoints.rewind(version)
        await asyncio.to_thread(self._load, chosen)
        return self._checkpoints.version(chosen)

    async def train(self, groups: Sequence[TrainingGroup], *, iteration: int) -> Trained:
        """One iteration's update; publishes version ``iteration + 1``, or keeps the policy where no group carries
        signal. Raises `TrainerError`, and publishes nothing,
        where there was signal but no gradient step, or where the update isn't finite."""
        return await asyncio.to_thread(self._train, groups, iteration)

    async def aclose(self) -> None:
        """Lets go of the model."""
        self._model = self._tokenizer = self._optimizer = None

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def _load(self, version: int) -> None:
        import torch

        self._current = version
        self._model, self._tokenizer = self._load_model(self._checkpoints.version(version).path, device=self._device)
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=self._learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        if version:
            file = self._checkpoints.path(version) / "optimizer.pt"
            self._optimizer.load_state_dict(torch.load(file, map_location=self._device, weights_only=True))

    def _save(self, folder: Path) -> None:
        import torch

        self._model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
        torch.save(self._optimizer.state_dict(), folder / "optimizer.pt")

    # --- the update --------------------------------------------------------------------------------------------------

    def _train(self, groups: Sequence[TrainingGroup], iteration: int) -> Trained:
        started = time.perf_counter()
        for group in groups:
            for sample in group.samples:
                if not math.isfinite(sample.reward):
                    raise TrainerError(
                        f"the reward of {sample.trajectory_id} in group {group.group_id} is {sample.reward}",
                        hint="a judge must answer finite scores; see judgments.jsonl in the run folder",
                    )
        signal = [g for g in groups if _spread(g) > NO_SPREAD]
        selected = answer_tokens(self._tokenizer, groups) * self._epochs
        if not signal:
            return Trained(self._checkpoints.version(self._current), 0, 0, len(groups), {}, selected)
        packed = pack(
            self._tokenizer,
            signal,
            packed_tokens=self._packed_tokens,
            seed=derive_seed(self._seed, "pack", iteration),
        )
        if packed is None:
            raise TrainerError("there was signal but no trainable token", hint="check that LLM calls were recorded")
        unknown = self._fill_logprobs(packed)
        metrics = self._optimize(packed, iteration)
        steps = int(metrics.pop("gradient_steps"))
        tokens = int(packed["assistant_mask"].sum()) * self._epochs
        if steps == 0 or tokens == 0:
            raise TrainerError("there was signal but nothing was trained", hint="report this with the run's log.txt")
        seconds = time.perf_counter() - started
        policy = self._checkpoints.publish(iteration + 1, self._save)
        self._current = policy.version
        return Trained(
            policy=policy,
            gradient_steps=steps,
            tokens=tokens,
            groups_skipped_zero_variance=len(groups) - len(signal),
            metrics=metrics | {"tokens_per_s": tokens / seconds, "unknown_logprobs_share": unknown},
            tokens_selected=selected,
        )

    def _fill_logprobs(self, packed: dict[str, Any]) -> float:
        """Deals with unknown behaviour logprobs as told; returns their share of the trained tokens."""
        import torch

        unknown = packed["assistant_mask"] & packed["logprobs"].isnan()
        share = float(unknown.sum() / packed["assistant_mask"].sum())
        if share == 0 or self._missing_logprobs == "reinforce":
            return share
        if self._missing_logprobs == "refuse":
            raise TrainerError(
                f"{share:.0%} of the trained tokens have no recorded logprobs",
                hint="trainer.missing_logprobs=score scores them with the starting policy",
            )
        with torch.no_grad():
            for first in range(0, len(unknown), self._rows_per_step):
                part = slice(first, first + self._rows_per_step)
                scored = self._logprobs({k: v[part] for k, v in packed.items() if isinstance(v, torch.Tensor)})[0]
                scored = torch.nn.functional.pad(scored[:, :-1], (1, 0))
                packed["logprobs"][part] = torch.where(unknown[part], scored, packed["logprobs"][part])
        return share

    def _logprobs(self, rows: dict[str, Any]) -> tuple[Any, Any]:
        """Log-probability of every next token that is trained (0 elsewhere), shape [rows, tokens], and the mean
        entropy at those places. Logits are made only where they are needed."""
        import torch

        groups, parents = rows["group_ids"], rows["parent_ids"]
        length = groups.shape[1]
        same = (groups[:, :, None] == groups[:, None, :]) | (parents[:, :, None] == groups[:, None, :])
        mask = same & torch.ones(length, length, dtype=torch.bool, device=groups.device).tril()
        hidden = self._model.model(
            input_ids=rows["tokens"], attention_mask=mask[:, None], position_ids=rows["input_pos"], use_cache=False
        ).last_hidden_state
        trained = torch.nn.functional.pad(rows["assistant_mask"][:, 1:], (0, 1), value=False)
        logp = self._model.lm_head(hidden[trained]).float().log_softmax(-1)
        targets = torch.nn.functional.pad(rows["tokens"][:, 1:], (0, 1))[trained]
        chosen = logp.gather(1, targets[:, None])[:, 0]
        entropy = -(logp.exp() * logp).sum(-1).mean()
        return torch.zeros_like(rows["logprobs"]).masked_scatter(trained, chosen), entropy.detach()

    def _optimize(self, packed: dict[str, Any], iteration: int) -> dict[str, float]:
        import torch

        torch.manual_seed(derive_seed(self._seed, "train", iteration))
        totals: dict[str, float] = dict.fromkeys(("loss", "entropy", "grad_norm", "kl", "clip_fraction"), 0.0)
        steps = 0
        rows = {k: v.to(self._device) for k, v in packed.items() if isinstance(v, torch.Tensor)}
        for _ in range(self._epochs):
            for first in range(0, rows["tokens"].shape[0], self._rows_per_step):
                batch = {k: v[first : first + self._rows_per_step] for k, v in rows.items()}
                if not batch["assistant_mask"].any():
                    continue
                new_logprobs, entropy = self._logprobs(batch)
                loss = policy_loss(batch, new_logprobs, loss=self._loss, clip_epsilon=self._clip_epsilon)
                self._optimizer.zero_grad()
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._max_grad_norm)
                if not torch.isfinite(loss) or not torch.isfinite(norm):
                    raise TrainerError(
                        f"the update of iteration {iteration} isn't finite (loss {loss.item()})",
                        hint="lower trainer.learning_rate",
                    )
                self._optimizer.step()
                steps += 1
                drift, clipped = self._drift(batch, new_logprobs.detach())
                for name, value in (
                    ("loss", loss.item()),
                    ("entropy", entropy.item()),
                    ("grad_norm", norm.item()),
                    ("kl", drift),
                    ("clip_fraction", clipped),
                ):
                    totals[name] += value
        return {name: total / max(1, steps) for name, total in totals.items()} | {"gradient_steps": steps}

    def _drift(self, batch: dict[str, Any], new_logprobs: Any) -> tuple[float, float]:
        """Schulman's k3 estimate of KL(behaviour || policy) over trained tokens with known behaviour logprobs, and the
        share of their ratios outside the clip range."""
        import torch

        old = torch.nn.functional.pad(batch["logprobs"][:, 1:], (0, 1), value=float("nan"))
        known = ~old.isnan()
        if not known.any():
            return 0.0, 0.0
        ratio = (new_logprobs - old)[known]
        kl = (ratio.exp() - 1 - ratio).mean().item()
        return kl, ((ratio.exp() - 1).abs() > self._clip_epsilon).float().mean().item()


def _spread(group: TrainingGroup) -> float:
    rewards = [sample.reward for sample in group.samples]
    return max(rewards) - min(rewards)
