"""Base of judges that ask no language model: what they have in common beside their scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import ClassVar

from mmo_rl.judge.findings import numbers
from mmo_rl.types import Credit, Group, JudgeUsage, Judgment, ScoredGroup, Tallies


class FreeJudge(ABC):
    """Judge that computes the scores of a group by `judgments`, at no cost.

    A subclass sets ``needs_truth`` where nothing is scored without recorded outcomes, and ``credit`` and
    ``min_agreement`` (see `mmo_rl.judge.base.Judge`) where they are not these defaults.
    """

    needs_truth: ClassVar[bool] = False

    def __init__(self, *, credit: Credit = "trajectory", min_agreement: float | None = None) -> None:
        self.credit: Credit = credit
        self.min_agreement = min_agreement
        self._unscored_decisions = 0

    @abstractmethod
    def judgments(self, group: Group) -> Mapping[str, Judgment]:
        """Scores every member of a group, by trajectory id."""

    @property
    def usage(self) -> JudgeUsage:
        return JudgeUsage()

    @property
    def findings(self) -> Mapping[str, float]:
        return numbers(self.tallies)

    @property
    def tallies(self) -> Tallies:
        return {"unscored_decisions": (float(self._unscored_decisions),)} if self._unscored_decisions else {}

    async def score(self, groups: AsyncIterator[Group]) -> AsyncGenerator[ScoredGroup, None]:
        """Scores group after group as they come."""
        async for group in groups:
            scored = ScoredGroup(group, self.judgments(group), self.credit)
            self._unscored_decisions += scored.unscored_decisions
            yield scored

    async def aclose(self) -> None:  # noqa: B027  # a subclass may hold something
        """Does nothing: it holds no connection."""
