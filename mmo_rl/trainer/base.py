"""Protocol of a trainer, which makes a new policy version of scored groups, and its capabilities."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from mmo_rl.errors import TrainerError
from mmo_rl.lm.base import BaseModel
from mmo_rl.types import AssistantTurns as AssistantTurns
from mmo_rl.types import Parts, PolicyVersion, Trained, TrainingGroup


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Needs and abilities of a trainer, checked before anything is started. One that does not train (``trains`` False)
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
    """Address of a published version: ``model`` at an OpenAI-compatible endpoint; the environment variable
    ``api_key_env`` holds its key (None: it needs none)."""

    model: str
    base_url: str
    api_key_env: str | None


class Folder(Protocol):
    """Folder of the run, as far as trainers use it."""

    @property
    def path(self) -> Path: ...

    def run_id(self) -> str:
        """Returns the run's id, the same after a resume."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerParts(Parts):
    """Collaborators of a trainer: the base ``model``, the folder ``checkpoints`` for the versions that it publishes,
    the ``folder`` of the run, and the name of its ``experiment``."""

    model: BaseModel
    checkpoints: Path
    folder: Folder
    experiment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRules:
    """Rules of a trainer. Plans reckon with passes over the data of an iteration (``epochs``), the share of the
    best answers that a warm start imitates (``warm_start`` in [0, 1]) and its passes, and the ``device``; and, for the
    loop, whether a policy that has collapsed ends the run (``stop_on_collapse``)."""

    epochs: int = 1
    warm_start: float = 0.0
    warm_start_epochs: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    stop_on_collapse: bool = True


OnStep = Callable[[int, int, str], None]
"""Called with the gradient steps done, those in all, and a few words."""


class LostVersion(TrainerError):
    """Error for a version that was published once and is not there any more."""


class Trainer(Protocol):
    """Trainer of a policy on the policy view: no type that reaches it can hold ground truth.

    ``train`` raises `TrainerError` where there was signal (a group whose rewards differ) but no gradient step, and
    publishes nothing then. Every published version is durable: ``resume`` gives the newest one, or the base model, and
    raises `LostVersion` where the one that it was asked for is gone. ``assistant_turns`` says which answers it wants in
    the groups.
    """

    capabilities: ClassVar[Capabilities]
    rules: TrainingRules
    assistant_turns: AssistantTurns

    async def resume(self, version: int | None = None) -> PolicyVersion: ...

    async def train(
        self, groups: Sequence[TrainingGroup], *, iteration: int, on_step: OnStep | None = None
    ) -> Trained: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class MachineChecker(Protocol):
    """Trainer that needs something of this machine: packages, a GPU, a key. Making it checks nothing."""

    def check_machine(self) -> None:
        """Raises `ConfigError` for something that is missing; for task=train, before anything starts."""
        ...


@runtime_checkable
class Pruner(Protocol):
    """Trainer that keeps its versions on this machine."""

    def removable(self, earned: Mapping[int, float]) -> list[int]:
        """Lists the versions that its config does not ask to keep, given what versions ``earned`` when they played."""
        ...

    def remove(self, versions: Collection[int]) -> None:
        """Removes versions."""
        ...


@runtime_checkable
class WarmStarter(Protocol):
    """Trainer that can begin with imitation. ``imitated_share`` in [0, 1] of the best answers is what its config asks
    to imitate (0: none); ``warm_start`` imitates them all once and publishes what the first iteration starts from, as
    version 0. Raises `TrainerError`, and publishes nothing, where no gradient step was taken."""

    @property
    def imitated_share(self) -> float: ...

    async def warm_start(self, groups: Sequence[TrainingGroup]) -> Trained: ...


class Exporter(Trainer, Protocol):
    """Trainer whose capabilities say that it does not train: ``train`` hands the groups on to others, with 0
    gradient steps and the base model as policy. ``describe`` is told after every iteration what the data are."""

    def describe(self, facts: Mapping[str, Any]) -> str: ...


class ServingTrainer(Trainer, Protocol):
    """Trainer whose published versions are played through an endpoint of its backend, the base model included."""

    def served(self, version: int) -> Served: ...
