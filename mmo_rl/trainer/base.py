"""Who turns scored groups into a new policy version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mmo_rl.types import PolicyVersion, Trained, TrainingGroup


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a trainer needs and does; checked before anything is started. One that does not train (``trains`` False)
    publishes no policy: the run then plays nothing, evaluates nothing and registers no model. One that ``serves`` is a
    `ServingTrainer`: its policies are not weights on this machine. ``model_prices``: the prices of the group ``model``
    are those of its backend."""

    needs_gpu: bool = False
    needs_network: bool = False
    uses_logprobs: bool = True
    trains: bool = True
    serves: bool = False
    model_prices: bool = True


@dataclass(frozen=True, slots=True)
class Served:
    """Where a published version answers: ``model`` at an OpenAI-compatible endpoint; the environment variable
    ``api_key_env`` holds its key (None: it needs none)."""

    model: str
    base_url: str
    api_key_env: str | None


OnStep = Callable[[int, int, str], None]
"""Called with the gradient steps done, those in all, and a few words."""


class Trainer(Protocol):
    """Trains on the policy view only: no type that reaches it can hold ground truth.

    ``train`` raises `TrainerError` where there was signal (a group whose rewards differ) but no gradient step, and
    publishes nothing then. Every published version is durable: ``resume`` gives the newest one, or the base model.
    """

    capabilities: Capabilities

    async def resume(self, version: int | None = None) -> PolicyVersion: ...

    async def train(self, groups: Sequence[TrainingGroup], *, iteration: int) -> Trained: ...

    async def aclose(self) -> None: ...


class Exporter(Trainer, Protocol):
    """A trainer whose capabilities say that it does not train: ``train`` hands the groups on to others, with 0
    gradient steps and the base model as policy. ``describe`` is told after every iteration what the data are."""

    def describe(self, facts: Mapping[str, Any]) -> str: ...


class ServingTrainer(Trainer, Protocol):
    """A trainer whose published versions are played through an endpoint of its backend, the base model included; it
    tells ``on_step`` how far the backend is."""

    def served(self, version: int) -> Served: ...

    async def train(
        self, groups: Sequence[TrainingGroup], *, iteration: int, on_step: OnStep | None = None
    ) -> Trained: ...
