"""What the recorded answers are trained for: policy gradients with and without a clip, and weighted imitation.

Write A for the advantage of an answer (its reward, normalised within its group), r for the ratio of its probability now
to that under the policy that gave it, and log p for the log-probability of one of its tokens:

==============  ==========================================================================  ======================
name            loss of a token                                                             formula from
==============  ==========================================================================  ======================
``ppo``         -min(r A, clip(r, 1 - eps, 1 + eps) A)                                      Schulman et al. 2017
``cispo``       -detach(clip(r, 0, 5)) A log p                                              MiniMax-M1, 2025
``reinforce``   -A log p                                                                    Williams 1992
``awr``         -exp(min(A / beta, cap)) log p                                              Peng et al. 2019
``sft``         -log p                                                                      behaviour cloning
==============  ==========================================================================  ======================

The last three know no ratio: they need no recorded logprobs, and none of them keeps the policy near the data's.
``reinforce`` pushes away from bad answers without bound, and collapses on data that another policy recorded; ``awr``
and ``sft`` only ever imitate. As in ART, every trajectory (in a group by decision: every decision) weighs the same,
however many tokens it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmo_rl.trainer.art_adapter import art_loss
from mmo_rl.trainer.signal import with_signal
from mmo_rl.types import TrainingGroup

LossName = Literal["ppo", "cispo", "reinforce", "awr", "sft"]


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss by name and its constants: ``clip_epsilon`` of ``ppo``; ``awr_beta``, the temperature of ``awr``, in
    standard deviations of a group's rewards, and ``awr_cap``, the largest exponent: no answer weighs more than
    exp(awr_cap) times one of its group's mean reward."""

    name: LossName = "ppo"
    clip_epsilon: float = 0.2
    awr_beta: float = 1.0
    awr_cap: float = 2.0

    @property
    def uses_ratio(self) -> bool:
        """Whether logprobs of the policy that answered matter."""
        return self.name in ("ppo", "cispo")

    @property
    def imitates(self) -> bool:
        """Whether it makes every answer likelier, some more than others, and none less likely."""
        return self.name in ("awr", "sft")

    def teaching(self, groups: Sequence[TrainingGroup]) -> list[TrainingGroup]:
        """The groups that it learns from: those whose rewards differ; ``sft`` doesn't look at rewards."""
        return list(groups) if self.name == "sft" else with_signal(groups)

    def weight(self, advantage: float) -> float:
        """What an answer's log-probability is multiplied by, given its advantage; packing scales the weights of a
        training set so that their mean size is 1."""
        if self.name == "awr":
            return math.exp(min(advantage / self.awr_beta, self.awr_cap))
        return 1.0 if self.name == "sft" else advantage

    def of(self, rows: dict[str, Any], new_logprobs: Any) -> Any:
        """The sum over the trained tokens of packed rows, a scalar tensor; ``new_logprobs[r, i]`` is that of token
        i + 1 of row r. With ``ppo`` and ``cispo``, tokens with unknown behaviour logprobs have ratio 1."""
        import torch

        now = torch.nn.functional.pad(new_logprobs.detach()[:, :-1], (1, 0))
        old = torch.where(rows["logprobs"].isnan(), now, rows["logprobs"]) if self.uses_ratio else now
        rows = rows | {"logprobs": old}
        config = {"ppo": True, "epsilon": self.clip_epsilon} if self.name == "ppo" else {}
        return art_loss(rows, new_logprobs, config)


def k3(rows: dict[str, Any], new_logprobs: Any) -> Any:
    """Schulman's k3 estimate of KL(policy || base), summed over the trained tokens of packed rows, with gradient: a
    scalar tensor. ``reference`` of ``rows`` holds the base model's logprobs, [r, i] that of token i.

    exp(d) - 1 - d with d = log p_base - log p is never negative, and unbiased for tokens that the policy drew
    (joschu.net/blog/kl-approx.html; as GRPO's penalty: Shao et al. 2024)."""
    import torch

    trained = torch.nn.functional.pad(rows["assistant_mask"][:, 1:], (0, 1), value=False)
    base = torch.nn.functional.pad(rows["reference"][:, 1:], (0, 1))[trained]
    apart = base - new_logprobs[trained]
    return (apart.exp() - 1 - apart).sum()
