"""Panel of judges: several judges score the same groups, and their scores are combined.

    score_i = median over judges j of score_ij,  or  sum_j weight_j score_ij / sum_j weight_j

A panel of diverse judges is less biased than one (Verga et al. 2024, "Replacing Judges with Juries", arXiv:2404.18796);
the range of their scores tells how far they disagree.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from types import TracebackType
from typing import Annotated, Literal, Self

from pydantic import Field

from mmo_rl.errors import ConfigError
from mmo_rl.judge.base import AsksModel, Judge, JudgeRequest
from mmo_rl.judge.findings import numbers
from mmo_rl.types import Credit, Group, JudgeUsage, Judgment, Score, ScoredGroup, Tallies, Unscored


class PanelJudge:
    """Judge that combines the scores of several ``judges`` (by name) into one for each member.

    ``combine`` is the ``median``, or the ``mean`` weighted by ``weights`` (by name, 1 where not named): score = sum of
    weight x score / sum of weights. A judge of weight 0 is asked and compared, and has no part in the result.

    All members of a group are compared by the same judges: a judge that left a member unscored does not count in that
    group, unless every judge left a member unscored; then a member is scored that all of them scored. All judges give
    the same ``credit``. A decision is scored where every judge that counts scored it, by the same formula, and is
    unscored elsewhere. A score's spread is the range over the judges.

    ``findings`` has ``panel_disagreement`` (mean range of a member's scores), ``panel_left_out/<name>`` (groups
    without that judge), ``unscored_decisions`` and each judge's own under ``<name>/``. Raises `ConfigError` where the
    judges' credit differs.
    """

    def __init__(
        self,
        *,
        judges: Mapping[str, Judge],
        combine: Literal["median", "mean"] = "median",
        weights: dict[str, Annotated[float, Field(ge=0)]] | None = None,
        min_agreement: Annotated[float, Field(ge=-1, le=1)] | None = None,
    ) -> None:
        self.min_agreement = min_agreement
        self.credit: Credit = _common_credit({name: judge.credit for name, judge in judges.items()})
        self._judges = dict(judges)
        self._weights = {name: (weights or {}).get(name, 1.0) for name in judges}
        self._combine = combine
        self._left_out = dict.fromkeys(judges, 0)
        self._unscored_decisions = 0
        self._ranges: tuple[int, float] = (0, 0.0)
        self._stack = AsyncExitStack()

    @staticmethod
    def check_keys(
        *,
        judges: Mapping[str, Mapping[str, object]],
        combine: str = "median",
        weights: Mapping[str, float] | None = None,
        **_: object,
    ) -> None:
        """Raises `ConfigError` where there are fewer than two judges, their credit differs, or weights have no use."""
        weights = weights or {}
        if len(judges) < 2:
            raise ConfigError(
                f"judge=panel has {len(judges)} judge, expected two or more",
                hint="add one: '+judge@judge.judges.other=oracle_trajectory'",
            )
        if unknown := sorted(weights.keys() - judges.keys()):
            raise ConfigError(
                f"judge.weights names {', '.join(unknown)}, but the judges are {', '.join(judges)}",
                hint="use the names under judge.judges",
            )
        if weights and combine == "median":
            raise ConfigError("judge.weights are those of a mean", hint="set judge.combine=mean, or judge.weights={}")
        if not any(weights.get(name, 1.0) for name in judges):
            raise ConfigError("all of judge.weights are 0", hint="give one judge a weight of 1")
        if strict := [name for name, node in judges.items() if node.get("min_agreement") is not None]:
            raise ConfigError(
                f"judge.judges.{strict[0]}.min_agreement is set, but it is the panel's own scores that are trained on",
                hint="set judge.min_agreement instead",
            )
        _common_credit({name: _credit_of(node) for name, node in judges.items()})

    @property
    def needs_truth(self) -> bool:
        """True where one of the judges needs ground truth."""
        return any(judge.needs_truth for judge in self._judges.values())

    @property
    def usage(self) -> JudgeUsage:
        """Cost of all judges together; the price is unknown as soon as one's is."""
        usages = [judge.usage for judge in self._judges.values()]
        costs = [usage.cost_usd for usage in usages]
        return JudgeUsage(
            calls=sum(u.calls for u in usages),
            cache_hits=sum(u.cache_hits for u in usages),
            prompt_tokens=sum(u.prompt_tokens for u in usages),
            completion_tokens=sum(u.completion_tokens for u in usages),
            cost_usd=None if None in costs else sum(c for c in costs if c is not None),
        )

    @property
    def findings(self) -> Mapping[str, float]:
        return numbers(self.tallies)

    @property
    def tallies(self) -> Tallies:
        """The sums behind ``findings``, under the same names."""
        count, total = self._ranges
        found: dict[str, tuple[float, ...]] = {f"panel_left_out/{n}": (float(g),) for n, g in self._left_out.items()}
        if count:
            found["panel_disagreement"] = (total, float(count))
        if self._unscored_decisions:
            found["unscored_decisions"] = (float(self._unscored_decisions),)
        for name, judge in self._judges.items():
            found |= {f"{name}/{key}": sums for key, sums in judge.tallies.items()}
        return found

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for judge in self._judges.values():
                if isinstance(judge, AbstractAsyncContextManager):
                    await stack.enter_async_context(judge)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    async def aclose(self) -> None:
        for judge in self._judges.values():
            await judge.aclose()

    @property
    def _asking(self) -> list[AsksModel]:
        """The judges that ask a language model."""
        return [judge for judge in self._judges.values() if isinstance(judge, AsksModel) and judge.model is not None]

    @property
    def model(self) -> str | None:
        """The models that are asked, None where no judge asks one."""
        return ", ".join(dict.fromkeys(str(judge.model) for judge in self._asking)) or None

    @property
    def concurrency(self) -> int:
        """The most requests at once, of all judges together; at least 1."""
        return sum(judge.concurrency for judge in self._asking) or 1

    @property
    def price_date(self) -> str | None:
        """The oldest date of the list prices that apply."""
        return min((judge.price_date for judge in self._asking if judge.price_date is not None), default=None)

    def requests(self, group: Group) -> list[JudgeRequest]:
        """Returns the requests of all judges for a group, as `mmo_rl.judge.base.AsksModel` has it."""
        return [request for judge in self._asking for request in judge.requests(group)]

    async def score(self, groups: AsyncIterator[Group]) -> AsyncGenerator[ScoredGroup, None]:
        """Yields one `ScoredGroup` a group, in order; all judges work at once. Raises what a judge raises."""
        branches = _tee(groups, len(self._judges))
        async with AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(aclosing(judge.score(branch)))
                for judge, branch in zip(self._judges.values(), branches, strict=True)
            ]
            while True:
                scored = await _all_or_none([_next(stream) for stream in streams])
                if None in scored:
                    return
                yield self._together({name: s for name, s in zip(self._judges, scored, strict=True) if s is not None})

    def _together(self, scored: Mapping[str, ScoredGroup]) -> ScoredGroup:
        """Combines the judgments that the judges gave of one group."""
        group = next(iter(scored.values())).group
        ids = [member.trajectory_id for member in group.members]
        complete = [name for name, s in scored.items() if all(isinstance(s.judgments[i], Score) for i in ids)]
        for name in scored.keys() - set(complete):
            self._left_out[name] += 1
        counted = complete if any(self._weights[name] for name in complete) else list(scored)
        judgments = {i: self._member(i, {name: scored[name].judgments[i] for name in counted}) for i in ids}
        together = ScoredGroup(group, judgments, self.credit)
        self._unscored_decisions += together.unscored_decisions
        return together

    def _member(self, trajectory_id: str, judgments: Mapping[str, Judgment]) -> Judgment:
        """Combines the judgments of one member; unscored where a judge with a weight left it unscored."""
        weighty = {name: j for name, j in judgments.items() if self._weights[name]}
        missing = [f"{name}: {j.reason}" for name, j in weighty.items() if isinstance(j, Unscored)]
        if missing:
            return Unscored(trajectory_id, "; ".join(missing))
        scores = {name: j for name, j in judgments.items() if isinstance(j, Score)}
        value = self._value({name: score.value for name, score in scores.items()})
        spread = max(s.value for s in scores.values()) - min(s.value for s in scores.values())
        count, total = self._ranges
        self._ranges = (count + 1, total + spread)
        decisions = None
        if self.credit == "decision":
            by_step = {name: score.decisions or {} for name, score in scores.items() if self._weights[name]}
            steps = set.intersection(*(set(of_judge) for of_judge in by_step.values()))
            decisions = {step: self._value({n: d[step] for n, d in by_step.items()}) for step in sorted(steps)}
        explanation = " | ".join(f"{name} {s.value:.2f}: {s.explanation}" for name, s in scores.items())
        return Score(trajectory_id, value, explanation, decisions, spread)

    def _value(self, values: Mapping[str, float]) -> float:
        """Combines one number by judge: the median, or the weighted mean."""
        if self._combine == "median":
            return statistics.median(values.values())
        total = sum(self._weights[name] for name in values)
        return sum(self._weights[name] * value for name, value in values.items()) / total


def _credit_of(node: Mapping[str, object]) -> Credit:
    """Reads the credit from a judge's node; a class without the key gives it by trajectory."""
    return "decision" if node.get("credit") == "decision" else "trajectory"


def _common_credit(credits: Mapping[str, Credit]) -> Credit:
    """Returns the credit that all judges give. Raises `ConfigError` where it differs."""
    by_credit: dict[Credit, list[str]] = {"trajectory": [], "decision": []}
    for name, credit in credits.items():
        by_credit[credit].append(name)
    if all(by_credit.values()):
        told = ", ".join(f"judge.judges.{name} by {credit}" for name, credit in credits.items())
        to_trajectory = " ".join(f"judge.judges.{name}.credit=trajectory" for name in by_credit["decision"])
        to_decision = " ".join(f"judge.judges.{name}.credit=decision" for name in by_credit["trajectory"])
        raise ConfigError(
            f"the judges of a panel must give the same credit, found {told}",
            hint=f"set {to_trajectory}, or {to_decision} (judge=heuristic knows no decisions)",
        )
    return "decision" if by_credit["decision"] else "trajectory"


async def _next(stream: AsyncIterator[ScoredGroup]) -> ScoredGroup | None:
    """Awaits the next group, None at the end."""
    return await anext(stream, None)


async def _all_or_none(steps: Sequence[Awaitable[ScoredGroup | None]]) -> list[ScoredGroup | None]:
    """Awaits all; the first failure cancels the others and is raised as it is."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tee(groups: AsyncIterator[Group], count: int) -> list[AsyncIterator[Group]]:
    """Returns ``count`` iterators over the same groups, read once. Groups that one iterator is ahead of the others are
    held: the judges go in step, so that is no more than the most that one of them reads ahead."""
    buffers: list[deque[Group]] = [deque() for _ in range(count)]
    reading = asyncio.Lock()
    ended = False

    async def branch(buffer: deque[Group]) -> AsyncIterator[Group]:
        nonlocal ended
        while True:
            if not buffer:
                async with reading:
                    if not buffer and not ended:
                        try:
                            group = await anext(groups)
                        except StopAsyncIteration:
                            ended = True
                        else:
                            for other in buffers:
                                other.append(group)
                if not buffer:
                    return
            yield buffer.popleft()

    return [branch(buffer) for buffer in buffers]
