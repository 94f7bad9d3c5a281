"""RULER judge: a language model scores the members of a window relative to each other.

    score_i = median over repeats r of LLM(standards, context, members in order r)_i, in [0, 1]

Scores compare the members of one prompt with each other, which is all that the group-relative advantages of GRPO need.
Orders are rotations of each other, so that the median takes out the effect of a member's place in the prompt.
Source: RULER, OpenPipe ART (https://art.openpipe.ai/fundamentals/ruler).
"""

from __future__ import annotations

import logging
import re
import statistics
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field

from mmo_rl.chat.client import CallFailed, ChatClient, remedy
from mmo_rl.chat.endpoint import Endpoint
from mmo_rl.concurrency import gather_ordered
from mmo_rl.errors import ConfigError, JudgeError
from mmo_rl.judge.asking import Asker, IncompleteAnswer
from mmo_rl.judge.base import JudgeParts, JudgeRequest
from mmo_rl.judge.canary import KINDS, MEMBER, bad_play
from mmo_rl.judge.condense import whole
from mmo_rl.judge.findings import Findings
from mmo_rl.judge.known_models import KnownModel, known_model
from mmo_rl.judge.presentation import CORRECTION_TOKENS, Part, Presenter, TooLong, orders
from mmo_rl.judge.prompt import answer_schema
from mmo_rl.judge.spending import Budget, BudgetReached, Ledger, Prices, Rates
from mmo_rl.judge.template import Template
from mmo_rl.rng import derive_seed, rng
from mmo_rl.types import Credit, Group, JudgeUsage, Judgment, Score, ScoredGroup, Tallies, Unscored

_log = logging.getLogger(__name__)

UNKNOWN_CONTEXT_TOKENS = 32_768
"""The context length assumed where it is neither set nor in litellm's table."""
_ENDPOINT_NODE = "judge.endpoint"


@dataclass(frozen=True, slots=True)
class Canary:
    """Part of a group with a known-bad member among the others; None where it does not fit into a prompt."""

    kind: str
    part: Part | None


class RulerJudge:
    """Judge that asks a language model for scores in [0, 1], relative within one prompt.

    A group larger than ``max_per_window`` is split at random into parts of nearly equal size; the split and the order
    of presentation follow from ``seed`` and from the members' play. With ``repeats`` each part is judged that often in
    different orders: a member's score is the median, its spread the range. An answer that does not give each id exactly
    once, with a finite score in [0, 1], is sent back once with its faults; after that its members are `Unscored`,
    unless another repeat was answered; ``partial`` keeps those scores of it, two or more, that nothing is wrong with.
    ``credit`` "decision" asks for a score of each decision as well, in the same
    call.

    A prompt takes at most ``context_tokens`` (None: litellm's table, else 32,768) less ``max_completion_tokens``: long
    trajectories are condensed, and parts split further where that is not enough. ``canary_rate`` is the share of parts
    that are judged once more with a known-bad member among them; its scores stay in ``findings``.

    ``endpoint`` has the address and the manner of asking, ``prices`` the cost and ``budget`` the limit that no call may
    cross. Judgments are cached by everything in the request (model, wording, template, order, content), not by the
    endpoint's address.

    As a context manager it raises `ConfigError` where the key is not set and the endpoint is known to need one, and
    `JudgeError` where no server listens at the address; `score` raises it as told there.
    """

    needs_truth = False

    def __init__(
        self,
        *,
        model: Annotated[str, Field(min_length=1)],
        template: Template,
        seed: int,
        credit: Credit = "trajectory",
        repeats: Annotated[int, Field(ge=1, le=32)] = 1,
        max_per_window: Annotated[int, Field(ge=2)] = 8,
        context_tokens: Annotated[int, Field(ge=1024)] | None = None,
        max_completion_tokens: Annotated[int, Field(ge=64)] = 4096,
        temperature: Annotated[float, Field(ge=0, le=2)] | None = None,
        response_format: Literal["json_schema", "json_object", "none"] = "json_schema",
        canary_rate: Annotated[float, Field(ge=0, le=1)] = 0.0,
        partial: bool = False,
        min_agreement: Annotated[float, Field(ge=-1, le=1)] | None = None,
        endpoint: Endpoint = Endpoint(),  # noqa: B008  # frozen
        budget: Budget = Budget(),  # noqa: B008
        prices: Prices = Prices(),  # noqa: B008
        parts: JudgeParts,
    ) -> None:
        self.model = model
        self.credit: Credit = credit
        self.min_agreement = min_agreement
        self.concurrency = endpoint.concurrency
        self._template = template
        self._seed = seed
        self._repeats = repeats
        self._max_per_window = max_per_window
        self._context_tokens = context_tokens
        self._max_completion_tokens = max_completion_tokens
        self._temperature = temperature
        self._response_format = response_format
        self._canary_rate = canary_rate
        self._partial = partial
        self._endpoint = endpoint
        self._budget = budget
        self._prices = prices
        self._cache = parts.cache
        self._findings = Findings()
        self._warned = False

    @staticmethod
    def check_keys(
        *,
        model: str,
        context_tokens: int | None = None,
        max_completion_tokens: int = 4096,
        endpoint: Endpoint = Endpoint(),  # noqa: B008
        budget: Budget = Budget(),  # noqa: B008
        prices: Prices = Prices(),  # noqa: B008
        **_: object,
    ) -> None:
        """Raises `ConfigError` where a budget in dollars meets unknown prices, or the context leaves no room for a
        prompt."""
        if budget.usd is not None and not rates_of(model, prices, endpoint).known:
            raise ConfigError(
                f"judge.budget.usd={budget.usd:g}, but what {model} costs is not known",
                hint="set judge.prices.prompt_usd_per_mtok and judge.prices.completion_usd_per_mtok (0 where it is "
                "free), or limit the calls instead: judge.budget.calls=1000",
            )
        prompt_room(model, context_tokens, max_completion_tokens)

    @property
    def price_date(self) -> str | None:
        """The date of the list price that applies; None where none does."""
        return self._prices.date if _listed(self.model, self._prices, self._endpoint) is not None else None

    # Made at the first use: litellm's table is a file, and the address and the key are asked for by `__aenter__`.

    @cached_property
    def _rates(self) -> Rates:
        return rates_of(self.model, self._prices, self._endpoint)

    @cached_property
    def _ledger(self) -> Ledger:
        return Ledger(rates=self._rates, budget=self._budget)

    @cached_property
    def _client(self) -> ChatClient:
        return ChatClient(
            model=self.model,
            endpoint=self._endpoint,
            node=_ENDPOINT_NODE,
            instead="judge without a language model: judge=oracle",
            meter=self._ledger,
        )

    @cached_property
    def _presenter(self) -> Presenter:
        return Presenter(
            template=self._template,
            seed=self._seed,
            max_members=self._max_per_window,
            prompt_tokens=prompt_room(self.model, self._context_tokens, self._max_completion_tokens),
            credit=self.credit,
        )

    @cached_property
    def _asker(self) -> Asker:
        parameters: dict[str, object] = {"max_completion_tokens": self._max_completion_tokens}
        if self._temperature is not None:
            parameters["temperature"] = self._temperature
        if self._response_format == "json_schema":
            parameters["response_format"] = answer_schema(self.credit)
        elif self._response_format == "json_object":
            parameters["response_format"] = {"type": "json_object"}
        return Asker(
            client=self._client,
            ledger=self._ledger,
            cache=self._cache,
            model=self.model,
            parameters=parameters,
            max_completion_tokens=self._max_completion_tokens,
            credit=self.credit,
            concurrency=self.concurrency,
        )

    @property
    def usage(self) -> JudgeUsage:
        """Running total: ``calls`` counts completions received; ``cost_usd`` is None once a call's is unknown."""
        return self._ledger.usage

    @property
    def findings(self) -> Mapping[str, float]:
        """Numbers that tell how the judge judges, by the names of `mmo_rl.judge.findings.Findings`."""
        return self._findings.numbers

    @property
    def tallies(self) -> Tallies:
        """The sums behind ``findings``."""
        return self._findings.tallies

    async def __aenter__(self) -> Self:
        try:
            await self._client.open()
        except CallFailed as failure:
            self._raise_if_unusable(failure)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def score(self, groups: AsyncIterator[Group]) -> AsyncGenerator[ScoredGroup, None]:
        """Yields one `ScoredGroup` a group, in order, at most ``concurrency`` requests at once.

        Raises `JudgeError` as soon as the key or the address is refused, nobody listens or nobody answers in time
        while the endpoint has not given a single answer yet, and at the end where groups failed for want of the
        endpoint and none was scored; `BudgetReached` where the next call could cross a budget, after the calls under
        way have ended and what they brought is kept.
        """
        scored = 0
        failures: Counter[str] = Counter()

        async def judge(group: Group) -> ScoredGroup | None:
            return await self._judge(group, failures)

        async def affordable() -> AsyncIterator[Group]:
            async for group in groups:
                if self._ledger.reached:
                    return
                yield group

        # More groups than requests at once: while some wait for an answer, others are rendered, looked up and kept.
        async with aclosing(gather_ordered(affordable(), judge, limit=2 * self.concurrency, read_ahead=2)) as results:
            async for result in results:
                if result is None:
                    continue
                scored += sum(isinstance(j, Score) for j in result.judgments.values())
                yield result
        if self._ledger.reached:
            raise self._ledger.error()
        if failures and not scored:
            reason, count = failures.most_common(1)[0]
            raise JudgeError(
                f"the judge {self.model} scored nothing: {count} of {failures.total()} failures were: {reason}",
                hint=SHORTER
                if _TOO_LONG.search(reason)
                else "check judge.model and judge.endpoint.base_url (an endpoint without JSON schemas needs "
                "judge.response_format=json_object), or use judge=oracle",
            )

    def requests(self, group: Group) -> list[JudgeRequest]:
        """Returns the prompts of a group that `score` sends where nothing is cached and every answer is valid.

        Raises `ConfigError` where the template cannot be rendered for it.
        """
        asked = []
        for part in self._presenter.parts(group, group.members):
            if isinstance(part, TooLong) or len(part.members) < 2:
                continue
            sequence = orders(len(part.members), self._repeats, seed=self._seed)
            shown: list[tuple[Part, Sequence[int], int]]
            shown = [(part, order, self._cycle_seed(n // len(order))) for n, order in enumerate(sequence)]
            canary = self._canary(group, part)
            if canary is not None and canary.part is not None:
                shown.append((canary.part, range(len(canary.part.members)), self._seed))
            for each, order, seed in shown:
                messages, key = self._asker.request(each, order, seed=seed)
                ids = tuple(each.members[n].trajectory_id for n in order)
                rates = self._rates
                asked.append(
                    JudgeRequest(
                        key, self.model, messages, ids, rates.prompt_usd_per_mtok, rates.completion_usd_per_mtok
                    )
                )
        return asked

    # --- one group ----------------------------------------------------------------------------------------------------

    async def _judge(self, group: Group, failures: Counter[str]) -> ScoredGroup | None:
        """Judges one group; None where the budget did not reach for all of its parts."""
        ids = [member.trajectory_id for member in group.members]
        if len(set(ids)) != len(ids):
            raise ValueError(f"group {group.group_id} holds a trajectory more than once")
        if self._template.uses_truth and group.truth is None and not self._warned:
            self._warned = True
            _log.warning("window %s has no recorded outcomes: it is judged without ground truth", group.window.id)
        try:
            parts = self._presenter.parts(group, group.members)
        except ConfigError as error:  # one odd recording must not cost the run
            failures[error.message] += 1
            unscored = {trajectory_id: Unscored(trajectory_id, error.message) for trajectory_id in ids}
            return ScoredGroup(group, unscored, self.credit)

        async def judge(part: Part | TooLong) -> list[Judgment] | None:
            return await self._judge_part(group, part, failures)

        judged: dict[str, Judgment] = {}
        complete = True
        async with aclosing(gather_ordered(parts, judge, limit=self.concurrency)) as results:
            async for judgments in results:
                complete = complete and judgments is not None
                judged.update((judgment.trajectory_id, judgment) for judgment in judgments or ())
        if not complete:
            return None
        return ScoredGroup(group, {trajectory_id: judged[trajectory_id] for trajectory_id in ids}, self.credit)

    async def _judge_part(self, group: Group, part: Part | TooLong, failures: Counter[str]) -> list[Judgment] | None:
        """Judges the members of one part by all repeats; None where the budget did not reach."""
        if isinstance(part, TooLong):
            return [Unscored(trajectory_id, part.reason) for trajectory_id in part.members]
        ids = [play.trajectory_id for play in part.members]
        if len(part.members) < 2:
            return [Unscored(trajectory_id, "fewer than two members") for trajectory_id in ids]
        self._findings.add_members(part.members)
        sequence = orders(len(ids), self._repeats, seed=self._seed)

        async def repeat(number: int) -> dict[str, Score] | Refused | None:
            return await self._attempt(part, sequence[number], failures, cycle=number // len(ids))

        async with aclosing(gather_ordered(range(self._repeats), repeat, limit=self._repeats)) as results:
            answers = [answer async for answer in results]
        if None in answers:
            return None
        rounds = [(order, a) for order, a in zip(sequence, answers, strict=True) if isinstance(a, dict)]
        if rounds:
            self._findings.add_answers(
                [{ids[n]: (place, a[ids[n]].value) for place, n in enumerate(order)} for order, a in rounds],
                repeats=self._repeats,
            )
        refused = [answer for answer in answers if isinstance(answer, Refused)]
        given = [*(a for _, a in rounds), *(answer.scores for answer in refused)]
        scores: dict[str, Score] = {}
        judged: list[Judgment] = []
        for trajectory_id in ids:
            if own := [answer[trajectory_id] for answer in given if trajectory_id in answer]:
                scores[trajectory_id] = _median(own)
                judged.append(scores[trajectory_id])
            else:
                judged.append(Unscored(trajectory_id, refused[0].reason, refused[0].answer))
        if len(scores) == len(ids):
            await self._try_canary(group, part, scores, failures)
        return judged

    async def _attempt(
        self, part: Part, order: Sequence[int], failures: Counter[str], *, cycle: int = 0
    ) -> dict[str, Score] | Refused | None:
        """Asks once: returns the scores, the reason for having none, or None where the budget does not reach for it."""
        try:
            return await self._asker.ask(part, order, seed=self._cycle_seed(cycle))
        except BudgetReached:
            return None
        except CallFailed as failure:
            self._raise_if_unusable(failure)
            failures[failure.reason] += 1
            return Refused(f"judge call failed: {failure.reason}")
        except IncompleteAnswer as invalid:
            enough = self._partial and len(invalid.scores) > 1  # a score alone is relative to nobody
            return Refused(f"invalid answer: {invalid}", invalid.answer, invalid.scores if enough else {})

    def _cycle_seed(self, cycle: int) -> int:
        """Returns the seed of a cycle of orders, so that a repeated order is a request of its own."""
        return derive_seed(self._seed, "judge", "cycle", cycle) if cycle else self._seed

    def _canary(self, group: Group, part: Part) -> Canary | None:
        """Returns a copy of ``part`` with a known-bad member, for the seeded share of parts that get one."""
        chance = rng(self._seed, "judge", "canary", *(play.text for play in part.members))
        if chance.random() >= self._canary_rate:
            return None
        kind = chance.choice(sorted(KINDS))
        shown = {play.trajectory_id for play in part.members}
        views = {m.trajectory_id: self._template.view(group, m) for m in group.members if m.trajectory_id in shown}
        views[MEMBER] = bad_play(kind, views[part.members[0].trajectory_id], [m.final_pnl for m in group.members])
        bad = whole(MEMBER, views[MEMBER], lambda view: self._template.member(group, view))
        place = chance.randrange(len(part.members) + 1)
        members = (*part.members[:place], bad, *part.members[place:])
        return Canary(kind, self._presenter.fit(group, replace(part, members=members), views))

    async def _try_canary(self, group: Group, part: Part, scores: Mapping[str, Score], failures: Counter[str]) -> None:
        """Judges a part once more with its canary, if it has one."""
        canary = self._canary(group, part)
        if canary is None:
            return
        answer = None
        if canary.part is not None:
            answer = await self._attempt(canary.part, range(len(canary.part.members)), failures)
        if not isinstance(answer, dict):
            self._findings.add_failed_canary()
            return
        real = [(score.value, answer[trajectory_id].value) for trajectory_id, score in scores.items()]
        self._findings.add_canary(canary.kind, answer[MEMBER].value, real)

    def _raise_if_unusable(self, failure: CallFailed) -> None:
        """Raises `JudgeError` where the endpoint has not answered yet and cannot."""
        if self._ledger.usage.calls:
            return  # it has answered before: this failure costs its own group only
        hint = remedy(failure, node=_ENDPOINT_NODE, variable=self._endpoint.api_key_env)
        if hint is not None:
            raise JudgeError(
                f"the judge {self.model} cannot be used: {failure.reason}",
                hint=f"{hint}; or judge without a language model: judge=oracle",
            ) from failure


_TOO_LONG = re.compile(r"context.?(length|window|size)|maximum context|too many tokens", re.IGNORECASE)
SHORTER = (
    "tell the model's context, judge.context_tokens=N (prompts are shortened to fit), or compare fewer members at once:"
    " sampler.max_per_window=N"
)


@dataclass(frozen=True, slots=True)
class Refused:
    """Request without all scores: the reason, the answer that could not be used, and the scores of it that are kept
    all the same."""

    reason: str
    answer: str = ""
    scores: Mapping[str, Score] = field(default_factory=dict)


def _median(scores: Sequence[Score]) -> Score:
    """Returns the median of a member's scores, with the explanation nearest to it; of its decisions likewise."""
    if len(scores) == 1:
        return scores[0]
    value = statistics.median(score.value for score in scores)
    nearest = min(scores, key=lambda score: abs(score.value - value))
    spread = max(score.value for score in scores) - min(score.value for score in scores)
    decisions = None
    if nearest.decisions is not None:
        decisions = {
            step: statistics.median(score.decisions[step] for score in scores if score.decisions is not None)
            for step in nearest.decisions
        }
    return replace(nearest, value=value, spread=spread, decisions=decisions)


def rates_of(model: str, prices: Prices, endpoint: Endpoint) -> Rates:
    """Finds the prices of a model: as set, else as listed, else litellm's; the latter two at a public endpoint only."""
    listed = _listed(model, prices, endpoint) or (None, None)
    known = known_model(model) if endpoint.is_public else KnownModel()

    def first(*found: float | None) -> float | None:
        return next((price for price in found if price is not None), None)

    return Rates(
        first(prices.prompt_usd_per_mtok, listed[0], known.price_prompt_usd_per_mtok),
        first(prices.completion_usd_per_mtok, listed[1], known.price_completion_usd_per_mtok),
    )


def _listed(model: str, prices: Prices, endpoint: Endpoint) -> tuple[float, float] | None:
    """Returns the model's prices of prompt and completion in the list, where list prices apply."""
    return (prices.list or {}).get(model) if endpoint.is_public else None


def prompt_room(model: str, context_tokens: int | None, max_completion_tokens: int) -> int:
    """Returns the tokens that a prompt may take. Raises `ConfigError` where too few are left."""
    context = context_tokens or known_model(model).context_tokens or UNKNOWN_CONTEXT_TOKENS
    room = context - max_completion_tokens
    if room <= CORRECTION_TOKENS:
        raise ConfigError(
            f"a context of {context} tokens leaves {room} for the prompt when {max_completion_tokens} are kept for the "
            f"answer, and more than {CORRECTION_TOKENS} are needed",
            hint="lower judge.max_completion_tokens, or set judge.context_tokens to what the model really takes",
        )
    return room
