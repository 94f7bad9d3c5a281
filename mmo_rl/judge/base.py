"""Protocols of the judge room: judges, their requests, and the cache of their judgments."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mmo_rl.types import Credit, Group, JudgeUsage, Judgment, Parts, ScoredGroup, Tallies
from mmo_rl.vocabulary import SHIPPED, Vocabulary


class JudgmentCache(Protocol):
    """Cache of judgments by the hash of everything that determines them; survives runs (the database room keeps it)."""

    def hold(self, key: str) -> AbstractAsyncContextManager[tuple[Judgment, ...] | None]:
        """Gives the judgments under ``key``; None where there are none yet, and then no other caller makes them inside
        the block. A caller that asks for a key in the making waits until it is there or has been given up.
        """
        ...

    async def put(self, key: str, judgments: tuple[Judgment, ...]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeParts(Parts):
    """Collaborators of a judge: ``cache`` keeps judgments across runs (None: nowhere), ``vocabulary`` reads recorded
    actions."""

    cache: JudgmentCache | None = None
    vocabulary: Vocabulary = SHIPPED


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """Prompt that a judge would send. ``key`` is the cache's key of its judgments, ``members`` the trajectory ids in
    the order of presentation; prices in US dollars a million tokens, None where unknown."""

    key: str
    model: str
    messages: Sequence[Mapping[str, str]]
    members: tuple[str, ...]
    price_prompt_usd_per_mtok: float | None
    price_completion_usd_per_mtok: float | None


class Judge(Protocol):
    """Judge that scores groups: every member comes back as `Score` or `Unscored`, bound by id, in the order of groups.

    ``credit`` is the carrier of the rewards that it gives, and stands in every `ScoredGroup` of it. ``needs_truth`` is
    True where nothing is scored without recorded outcomes. ``usage`` is the
    running total of calls, tokens and dollars; ``findings`` what the judge has noticed about itself so far, flat
    numbers by name (a judge without any has none), and ``tallies`` the sums that they are made from; a judge that
    leaves decisions unscored counts them as ``unscored_decisions``. ``min_agreement`` in [-1, 1] is the rank
    correlation with the oracle below which nothing is trained on it, None where that does not matter. Raises
    `JudgeError` only when no group at all could be judged for want of a working judge, or when a budget is used up.
    """

    @property
    def credit(self) -> Credit: ...

    @property
    def needs_truth(self) -> bool: ...

    @property
    def min_agreement(self) -> float | None: ...

    @property
    def usage(self) -> JudgeUsage: ...

    @property
    def findings(self) -> Mapping[str, float]: ...

    @property
    def tallies(self) -> Tallies: ...

    def score(self, groups: AsyncIterator[Group]) -> AsyncGenerator[ScoredGroup, None]: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class AsksModel(Judge, Protocol):
    """Judge that asks a language model, which costs; other judges cost nothing.

    ``model`` is its name, None for a panel of judges that ask none. At most ``concurrency`` requests run at once.
    ``price_date`` is the date of the list price that applies, None where none does.
    """

    @property
    def model(self) -> str | None: ...

    @property
    def concurrency(self) -> int: ...

    @property
    def price_date(self) -> str | None: ...

    def requests(self, group: Group) -> list[JudgeRequest]:
        """Returns the requests for a group where nothing is cached; sends nothing."""
        ...
