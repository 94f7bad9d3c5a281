"""Gradient steps of an iteration: accumulated over micro-batches, clipped, at a scheduled learning rate, measured."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmo_rl.errors import TrainerError
from mmo_rl.lm.forward import token_logprobs
from mmo_rl.lm.parts import parts_of
from mmo_rl.lm.weights import Weights
from mmo_rl.trainer.base import OnStep
from mmo_rl.trainer.losses import Loss, bounded, k3
from mmo_rl.trainer.packing import Packed

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

ScheduleName = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate over a run of ``iterations``: up from 0 during the first ``warmup`` share of it, then
    ``constant``, or down to 0 at its end, ``linear`` or as half a ``cosine`` (Loshchilov and Hutter 2017).

    It follows from the iteration and the step alone, so a run that was killed goes on at the same rate.
    """

    peak: float
    kind: ScheduleName = "constant"
    warmup: float = 0.0
    iterations: int = 1

    def rate(self, *, iteration: int, step: int, steps: int) -> float:
        """Returns the rate of a step, counted from 0, of the ``steps`` of an iteration."""
        share = min(1.0, max(0.0, (iteration + step / steps) / self.iterations))  # a warm start is before 0
        if share < self.warmup:
            return self.peak * min(1.0, (share + 1 / (steps * self.iterations)) / self.warmup)
        left = (1 - share) / (1 - self.warmup)
        shape = {"constant": 1.0, "linear": left, "cosine": (1 + math.cos(math.pi * (1 - left))) / 2}
        return self.peak * shape[self.kind]


@dataclass(frozen=True, slots=True)
class Update:
    """Settings of the gradient steps. ``rows_per_step`` packed rows make a step; at most ``micro_batch_tokens`` tokens
    of their prefix tree, but at least one row of it, are on their way through the model at a time, which changes
    memory and speed and not the step. ``kl_to_base`` is the coefficient of `k3`."""

    loss: Loss
    schedule: Schedule
    epochs: int
    rows_per_step: int
    micro_batch_tokens: int
    max_grad_norm: float
    kl_to_base: float

    def run(
        self, weights: Weights, packed: Packed, *, iteration: int, on_step: OnStep | None = None
    ) -> tuple[int, dict[str, float]]:
        """Trains on an iteration's rows, whose data have ``reference_N`` where there is a coefficient.

        Returns the number of gradient steps and the means of what was measured over them. Raises `TrainerError` where
        a step isn't finite; the weights then are of no use.
        """
        steps = list(packed.steps(self.rows_per_step)) * self.epochs
        measured: list[dict[str, float]] = []
        for number, batch in enumerate(steps):
            rate = self.schedule.rate(iteration=iteration, step=number, steps=len(steps))
            measured.append(self._step(weights, batch, rate=rate, iteration=iteration))
            if on_step is not None:
                on_step(number + 1, len(steps), "")
            if (number + 1) % max(1, len(steps) // 10) == 0:
                _log.info("iteration %d: gradient step %d of %d", iteration + 1, number + 1, len(steps))
        names = dict.fromkeys(name for step in measured for name in step)
        return len(steps), {name: _mean([m[name] for m in measured if name in m]) for name in names}

    def _step(self, weights: Weights, batch: Packed, *, rate: float, iteration: int) -> dict[str, float]:
        """Takes one gradient step; returns what was measured."""
        import torch

        device = weights.model.device
        count = torch.tensor(batch.trained_tokens, device=device) + 1e-6
        weights.optimizer.zero_grad()
        total = from_base = 0.0
        new_logprobs_N, entropies = torch.full_like(batch.data.logprobs_N, float("nan")), []
        parts = parts_of(batch.histories, tokens=self.micro_batch_tokens, longest_row=batch.row_length, device=device)
        for part in parts:
            part_logprobs_N, entropy_N = token_logprobs(weights.model, part, bf16=weights.bf16)
            data = batch.data.at(part.target_N)
            loss = self.loss.of(data, part_logprobs_N) / count
            if data.reference_N is not None:
                divergence = k3(data.reference_N, part_logprobs_N) / count
                from_base += divergence.item()
                loss = loss + self.kl_to_base * divergence
            loss.backward()
            total += loss.item()
            new_logprobs_N[part.target_N] = part_logprobs_N.detach()
            entropies.append(entropy_N)
        norm = torch.nn.utils.clip_grad_norm_(weights.trained(), self.max_grad_norm).item()
        if not math.isfinite(total) or not math.isfinite(norm):
            raise TrainerError(
                f"the update of iteration {iteration} isn't finite (loss {total}, gradient norm {norm})",
                hint="lower trainer.learning_rate",
            )
        for group in weights.optimizer.param_groups:
            group["lr"] = rate
        weights.optimizer.step()
        measured = {
            "loss": total,
            "entropy": torch.cat(entropies).mean().item(),
            "grad_norm": norm,
            "learning_rate": rate,
            **self._drift(batch.data.logprobs_N, new_logprobs_N),
        }
        return measured | ({"kl_base": from_base} if self.kl_to_base else {})

    def _drift(self, old_logprobs_N: torch.Tensor, new_logprobs_N: torch.Tensor) -> dict[str, float]:
        """Measures Schulman's k3 estimate of KL(behaviour || policy) over trained tokens with known behaviour logprobs,
        and the share of their ratios outside the clip range; nothing where none is known."""
        log_ratio_N = new_logprobs_N - old_logprobs_N
        log_ratio_N = bounded(log_ratio_N[~log_ratio_N.isnan()])
        if not len(log_ratio_N):
            return {}
        moved_N = (log_ratio_N.exp() - 1).abs() > self.loss.clip_epsilon
        return {
            "kl": (log_ratio_N.exp() - 1 - log_ratio_N).mean().item(),
            "clip_fraction": moved_N.float().mean().item(),
        }


def _mean(values: Sequence[float]) -> float:
    """Returns the arithmetic mean."""
    return sum(values) / len(values)
