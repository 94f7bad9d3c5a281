"""Protocol of a policy, which answers prompts, and its completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from mmo_rl.lm.base import BaseModel
from mmo_rl.rng import derive_seed
from mmo_rl.types import Message, Parts


@dataclass(frozen=True, slots=True)
class Completion:
    """Answer of a policy to one prompt; token ids and logprobs (one a completion token, end token included) where the
    policy can give them. ``error`` is the reason of a missing answer; the step is then a failed one. ``latency_ms``
    from asking to the answer, tries that failed included; it makes no two answers differ."""

    text: str
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    error: str | None = None
    latency_ms: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyParts(Parts):
    """Collaborators of a policy: the base ``model`` that it is, or was trained from, and the ``device`` that it plays
    on where its config says none: the trainer's."""

    model: BaseModel
    device: Literal["cpu", "cuda"] = "cpu"


class Policy(Protocol):
    """Policy that answers many prompts at once, in order.

    ``temperature`` 0 is greedy. The same prompts, seed and weights give the same answers.
    """

    name: str
    version: int

    async def complete(
        self, prompts: Sequence[Sequence[Message]], *, temperature: float, seed: int
    ) -> list[Completion]: ...


@runtime_checkable
class Fingerprinted(Protocol):
    """Policy with a fingerprint: of two with the same one, both answer the same."""

    def fingerprint(self) -> str | None:
        """Returns the hash of everything that its answers follow from; None where it is not known."""
        ...


def completion_seed(seed: int, number: int) -> int:
    """Returns the seed of prompt ``number`` of one `Policy.complete`, of as many bits as every endpoint takes."""
    return derive_seed(seed, "completion", number) % 2**31
