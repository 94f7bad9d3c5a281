"""Who turns scored groups into a new policy version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mmo_rl.types import PolicyVersion, Trained, TrainingGroup

AssistantTurns = Literal["action", "all"]
"""Whose answers are trained: `mmo_rl.trainer.policy_view.policy_calls`."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a trainer needs and does; checked before anything is started. One that does not train (``trains`` False)
    publishes no policy: the run then plays nothing, evaluates nothing and registers no model."""

    needs_gpu: bool = False
    needs_network: bool = False
    uses_logprobs: bool = True
    trains: bool = True


class Trainer(Protocol):
    """Trains on the policy view only: no type that reaches it can hold ground truth.

    ``train`` raises `TrainerError` where there was signal (a group whose rewards differ) but no gradient step, and
    publishes nothing then. Every published version is durable: ``resume`` gives the newest one, or the base model.
    ``assistant_turns`` says which answers it wants in the groups.
    """

    capabilities: Capabilities
    assistant_turns: AssistantTurns

    async def resume(self, version: int | None = None) -> PolicyVersion: ...

    async def train(self, groups: Sequence[TrainingGroup], *, iteration: int) -> Trained: ...

    async def aclose(self) -> None: ...


class Exporter(Trainer, Protocol):
    """A trainer whose capabilities say that it does not train: ``train`` hands the groups on to others, with 0
    gradient steps and the base model as policy. ``describe`` is told after every iteration what the data are."""

    def describe(self, facts: Mapping[str, Any]) -> str: ...
