"""Who scores the members of a group relative to each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mmo_rl.types import Credit, Group, JudgeUsage, Judgment, Parts, ScoredGroup, Tallies


class JudgmentCache(Protocol):
    """Judgments by the hash of everything that determines them; survives runs (the database room keeps it)."""

    def hold(self, key: str) -> AbstractAsyncContextManager[tuple[Judgment, ...] | None]:
        """The judgments under ``key``; None where there are none yet, and then nobody else makes them inside the block.

        Whoever asks for a key that somebody is making waits until it is there or has been given up.
        """
        ...

    async def put(self, key: str, judgments: tuple[Judgment, ...]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeParts(Parts):
    """Collaborators of a judge: ``cache`` keeps judgments across runs (None: nowhere)."""

    cache: JudgmentCache | None = None


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """A prompt that a judge would send. ``key`` is what its judgments are cached by, ``members`` the trajectory ids in
    the order of presentation; prices in US dollars a million tokens, None where unknown."""

    key: str
    model: str
    messages: Sequence[Mapping[str, str]]
    members: tuple[str, ...]
    price_prompt_usd_per_mtok: float | None
    price_completion_usd_per_mtok: float | None


class Judge(Protocol):
    """Scores groups; every member comes back as `Score` or `Unscored`, bound by id, in the order the groups came.

    ``credit`` is the carrier of the rewards that it gives, and stands in every `ScoredGroup` of it. ``usage`` is the
    running total of calls, tokens and dollars; ``findings`` what the judge has noticed about itself so far, flat
    numbers by name (a judge without any has none), and ``tallies`` the sums that they are made from; a judge that
    leaves decisions unscored counts them as ``unscored_decisions``. ``min_agreement`` in [-1, 1] is the rank
    correlation with the oracle below which nothing is trained on it, None where that does not matter. Raises
    `JudgeError` only when no group at all could be judged for want of a working judge, or when a budget is used up.
    """

    @property
    def credit(self) -> Credit: ...

    @property
    def min_agreement(self) -> float | None: ...

    @property
    def usage(self) -> JudgeUsage: ...

    @property
    def findings(self) -> Mapping[str, float]: ...

    @property
    def tallies(self) -> Tallies: ...

    def score(self, groups: AsyncIterator[Group]) -> AsyncIterator[ScoredGroup]: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class AsksModel(Judge, Protocol):
    """A judge that asks a language model, which costs; ``model`` is its name, None where nobody is asked after all.
    ``price_date`` is the day that its listed prices are of (None: not listed), ``concurrency`` its largest number of
    requests at once."""

    @property
    def model(self) -> str | None: ...

    @property
    def price_date(self) -> str | None: ...

    @property
    def concurrency(self) -> int: ...

    def requests(self, group: Group) -> list[JudgeRequest]:
        """What it would send for a group if nothing were cached; sends nothing."""
        ...
