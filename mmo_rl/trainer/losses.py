"""Objectives of training: the loss of one token, as a formula and the paper that it is from.

A is the advantage of an answer and w its weight (`mmo_rl.trainer.packing`), log p the log-probability of one of its
tokens now, and r = p / p_old the ratio to that under the policy that gave the answer. A gradient step minimises

    sum of w L over the trained tokens of a batch / number of these tokens  +  kl_to_base * k3

==============  ==========================================================================  ======================
name            L, the loss of a token                                                      formula from
==============  ==========================================================================  ======================
``ppo``         -min(r A, clip(r, 1 - eps, 1 + eps) A)                                      Schulman et al. 2017
``cispo``       -detach(clip(r, 0, 5)) A log p                                              MiniMax-M1, 2025
``reinforce``   -A log p                                                                    Williams 1992
``awr``         -exp(min(A / beta, cap)) log p                                              Peng et al. 2019
``sft``         -log p                                                                      behaviour cloning
==============  ==========================================================================  ======================

``ppo`` and ``cispo`` are those of OpenPipe ART (`art.loss.loss_fn`), which a test compares with these; log r is
bounded to +-20. The last three know no ratio: they need no recorded logprobs, and none of them keeps the policy near
the data's. ``reinforce`` pushes away from bad answers without bound, and collapses on data that another policy
recorded; ``awr`` and ``sft`` only ever imitate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmo_rl.trainer.packing import TokenData
from mmo_rl.trainer.signal import with_signal
from mmo_rl.types import TrainingGroup

if TYPE_CHECKING:
    import torch

LossName = Literal["ppo", "cispo", "reinforce", "awr", "sft"]
CISPO_CAP = 5.0
"""Largest ratio that ``cispo`` weighs a token with."""
LOG_RATIO_CAP = 20.0
"""Largest size of log r: exp(89) is no float32 any more."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss by name and its constants: eps is ``clip_epsilon``, beta ``awr_beta`` (in standard deviations of a group's
    rewards), cap ``awr_cap``: no answer weighs more than exp(awr_cap) times one of its group's mean reward."""

    name: LossName = "ppo"
    clip_epsilon: float = 0.2
    awr_beta: float = 1.0
    awr_cap: float = 2.0

    @property
    def uses_ratio(self) -> bool:
        """Tells that logprobs of the policy that answered matter."""
        return self.name in ("ppo", "cispo")

    @property
    def imitates(self) -> bool:
        """Tells that it makes every answer likelier, some more than others, and none less likely."""
        return self.name in ("awr", "sft")

    def teaching(self, groups: Sequence[TrainingGroup]) -> list[TrainingGroup]:
        """Returns the groups that it learns from: those whose rewards differ; ``sft`` doesn't look at rewards."""
        return list(groups) if self.name == "sft" else with_signal(groups)

    def weight(self, advantage: float) -> float:
        """Returns what stands in the place of an answer's advantage: A itself, or the factor of imitation."""
        if self.name == "awr":
            return math.exp(min(advantage / self.awr_beta, self.awr_cap))
        return 1.0 if self.name == "sft" else advantage

    def of(self, data: TokenData, new_logprobs_N: torch.Tensor) -> torch.Tensor:
        """Computes the sum of w times the loss over trained tokens, a scalar with gradient; ``new_logprobs_N`` are the
        present policy's. Tokens whose behaviour logprob is unknown have ratio 1."""
        import torch

        advantages_N = data.advantages_N
        if not self.uses_ratio:
            return (-advantages_N * new_logprobs_N * data.weights_N).sum()
        old_N = torch.where(data.logprobs_N.isnan(), new_logprobs_N.detach(), data.logprobs_N)
        ratio_N = bounded(new_logprobs_N - old_N).exp()
        if self.name == "ppo":
            clipped_N = ratio_N.clip(1 - self.clip_epsilon, 1 + self.clip_epsilon)
            loss_N = -torch.min(ratio_N * advantages_N, clipped_N * advantages_N)
        else:
            loss_N = -(ratio_N.detach().clip(0, CISPO_CAP) * advantages_N * new_logprobs_N)
        return (loss_N * data.weights_N).sum()


def bounded(log_ratio_N: torch.Tensor) -> torch.Tensor:
    """Bounds log-ratios to +-`LOG_RATIO_CAP`; a token beyond it gives no gradient, rather than all of it."""
    return log_ratio_N.clamp(-LOG_RATIO_CAP, LOG_RATIO_CAP)


def k3(reference_N: torch.Tensor, new_logprobs_N: torch.Tensor) -> torch.Tensor:
    """Computes Schulman's k3 estimate of KL(policy || base), summed over trained tokens: a scalar with gradient.

    exp(d) - 1 - d with d = log p_base - log p is never negative, and unbiased for tokens that the policy drew
    (joschu.net/blog/kl-approx.html; as GRPO's penalty: Shao et al. 2024)."""
    apart_N = reference_N - new_logprobs_N
    return (apart_N.exp() - 1 - apart_N).sum()
