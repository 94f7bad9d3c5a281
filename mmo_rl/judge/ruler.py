"""The `ruler` judge: a language model scores the members of a window relative to each other (RULER)."""

from __future__ import annotations

import logging
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from mmo_rl.chat.client import OPENAI_BASE_URL, CallFailed, ChatClient, api_key, remedy
from mmo_rl.chat.limits import RateLimit
from mmo_rl.concurrency import gather_ordered
from mmo_rl.errors import ConfigError, JudgeError
from mmo_rl.judge.asking import Asker
from mmo_rl.judge.base import JudgeParts, JudgeRequest
from mmo_rl.judge.canary import KINDS, MEMBER, bad_play
from mmo_rl.judge.condense import whole
from mmo_rl.judge.findings import Findings
from mmo_rl.judge.known_models import KnownModel, known_model
from mmo_rl.judge.presentation import CORRECTION_TOKENS, Part, Presenter, TooLong, orders
from mmo_rl.judge.prompt import InvalidAnswer
from mmo_rl.judge.prompt import response_format as schema_of
from mmo_rl.judge.spending import BudgetReached, Ledger
from mmo_rl.judge.template import Template
from mmo_rl.rng import derive_seed, rng
from mmo_rl.types import Credit, Group, JudgeUsage, Judgment, Score, ScoredGroup, Tallies, Unscored

_log = logging.getLogger(__name__)

UNKNOWN_CONTEXT_TOKENS = 32_768
"""The context length assumed for a model that is neither in litellm's table nor told."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A part with a known-bad member among the others; None where it does not fit into a prompt."""

    kind: str
    part: Part | None


class RulerJudge:
    """Scores in [0, 1], relative within what one prompt shows, by any OpenAI-compatible endpoint.

    A group larger than ``max_per_window`` is split at random into parts of nearly equal size; the split and the order
    of presentation follow from ``seed`` and from what the members did. With ``repeats`` each part is judged that often
    in different orders: a member's score is the median, its spread the range. An answer that does not give each id
    exactly once, with a finite score in [0, 1], is sent back once with what was wrong; after that its members are
    `Unscored`, unless another repeat was answered. ``credit`` "decision" asks for a score of each decision as well, in
    the same call.

    A prompt takes at most ``context_tokens`` (None: litellm's table, else 32,768) less ``max_completion_tokens``: long
    trajectories are condensed, and parts split further where that is not enough. ``canary_rate`` is the share of parts
    that are judged once more with a known-bad member among them; its scores stay in ``findings``.

    A request is tried ``attempts`` times (see `ChatClient`), at most ``concurrency`` at once and at most
    ``requests_per_minute`` and ``tokens_per_minute``. ``api_key_env`` names the environment variable that holds the
    key. ``base_url`` None is OpenAI's own endpoint, or with ``provider`` litellm that of the model. Prices are in US
    dollars a million tokens; where they are not given and the endpoint is not one's own, they are looked up in
    ``price_list`` (prompt and completion price by model, as of ``price_date``), then in litellm's table; else the cost
    is unknown (None). ``budget_usd`` and ``budget_calls`` are lines for one start of the
    command that no call may cross. ``cache`` keeps judgments by everything in the request (model, wording, template,
    order, content), not by the endpoint's address.

    Raises `ConfigError` where the key is not set and the endpoint is known to need one, where a budget in dollars
    meets unknown prices, and where the context leaves no room for a prompt. As a context manager it raises
    `JudgeError` at once where nobody listens at the address; `score` raises it as told there.
    """

    def __init__(
        self,
        *,
        model: Annotated[str, Field(min_length=1)],
        template: Template,
        seed: int,
        provider: Literal["openai", "litellm"] = "openai",
        base_url: str | None = None,
        api_key_env: str | None = "OPENAI_API_KEY",
        credit: Credit = "trajectory",
        repeats: Annotated[int, Field(ge=1, le=32)] = 1,
        max_per_window: Annotated[int, Field(ge=2)] = 8,
        context_tokens: Annotated[int, Field(ge=1024)] | None = None,
        max_completion_tokens: Annotated[int, Field(ge=64)] = 4096,
        temperature: Annotated[float, Field(ge=0, le=2)] | None = None,
        response_format: Literal["json_schema", "json_object", "none"] = "json_schema",
        canary_rate: Annotated[float, Field(ge=0, le=1)] = 0.0,
        concurrency: Annotated[int, Field(ge=1, le=256)] = 8,
        requests_per_minute: Annotated[float, Field(gt=0)] | None = None,
        tokens_per_minute: Annotated[float, Field(gt=0)] | None = None,
        timeout_s: Annotated[float, Field(gt=0)] = 120.0,
        attempts: Annotated[int, Field(ge=1, le=10)] = 4,
        backoff_s: Annotated[float, Field(gt=0)] = 1.0,
        max_backoff_s: Annotated[float, Field(gt=0)] = 60.0,
        price_prompt_usd_per_mtok: Annotated[float, Field(ge=0)] | None = None,
        price_completion_usd_per_mtok: Annotated[float, Field(ge=0)] | None = None,
        price_list: dict[str, tuple[float, float]] | None = None,
        price_date: str | None = None,
        budget_usd: Annotated[float, Field(ge=0)] | None = None,
        budget_calls: Annotated[int, Field(ge=0)] | None = None,
        min_agreement: Annotated[float, Field(ge=-1, le=1)] | None = None,
        parts: JudgeParts,
    ) -> None:
        self.model = model
        self.credit: Credit = credit
        self.min_agreement = min_agreement
        self._template = template
        self._seed = seed
        self._api_key_env = api_key_env
        self._repeats = repeats
        self._canary_rate = canary_rate
        self.concurrency = concurrency
        known = known_model(model)
        public = base_url in (None, OPENAI_BASE_URL)
        listed = (price_list or {}).get(model) if public else None
        self.price_date = price_date if listed is not None else None
        prices = _prices(
            (price_prompt_usd_per_mtok, price_completion_usd_per_mtok),
            listed or (None, None),
            known if public else KnownModel(),
        )
        if budget_usd is not None and None in prices:
            raise ConfigError(
                f"judge.budget_usd={budget_usd:g}, but what {model} costs is not known",
                hint="set judge.price_prompt_usd_per_mtok and judge.price_completion_usd_per_mtok (0 where it is "
                "free), or limit the calls instead: judge.budget_calls=1000",
            )
        self._prices = prices
        self._presenter = Presenter(
            template=template,
            seed=seed,
            max_members=max_per_window,
            prompt_tokens=_prompt_tokens(context_tokens, known, max_completion_tokens),
            credit=credit,
        )
        self._findings = Findings()
        self._ledger = Ledger(
            price_prompt_usd=None if prices[0] is None else prices[0] / 1e6,
            price_completion_usd=None if prices[1] is None else prices[1] / 1e6,
            budget_usd=budget_usd,
            budget_calls=budget_calls,
        )
        self._client = ChatClient(
            model=model,
            base_url=base_url,
            api_key=api_key(
                api_key_env, base_url, setting="judge", instead="judge without a language model: judge=oracle"
            ),
            provider=provider,
            timeout_s=timeout_s,
            attempts=attempts,
            backoff_s=backoff_s,
            max_backoff_s=max_backoff_s,
            limits=RateLimit(requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute),
            meter=self._ledger,
        )
        parameters: dict[str, Any] = {"max_completion_tokens": max_completion_tokens}
        if temperature is not None:
            parameters["temperature"] = temperature
        if response_format != "none":
            schema = response_format == "json_schema"
            parameters["response_format"] = schema_of(credit) if schema else {"type": "json_object"}
        self._asker = Asker(
            client=self._client,
            ledger=self._ledger,
            cache=parts.cache,
            model=model,
            parameters=parameters,
            credit=credit,
            concurrency=concurrency,
        )
        self._warned = False

    @property
    def usage(self) -> JudgeUsage:
        """The running total. ``calls`` counts completions received; ``cost_usd`` is None once a call's is unknown."""
        return self._ledger.usage

    @property
    def findings(self) -> Mapping[str, float]:
        """What the judge has shown of itself so far; the names are told in `mmo_rl.judge.findings.Findings`."""
        return self._findings.numbers

    @property
    def tallies(self) -> Tallies:
        """The sums behind ``findings``."""
        return self._findings.tallies

    async def __aenter__(self) -> Self:
        try:
            await self._client.probe()
        except CallFailed as failure:
            self._raise_if_unusable(failure)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def score(self, groups: AsyncIterator[Group]) -> AsyncIterator[ScoredGroup]:
        """One `ScoredGroup` a group, in order, at most ``concurrency`` requests at once.

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
                hint="check judge.model and judge.base_url (an endpoint without JSON schemas needs "
                "judge.response_format=json_object), or use judge=oracle",
            )

    def requests(self, group: Group) -> list[JudgeRequest]:
        """The prompts of a group, for planning: what `score` sends where nothing is cached and every answer is valid.

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
                asked.append(JudgeRequest(key, self.model, messages, ids, *self._prices))
        return asked

    # --- one group ----------------------------------------------------------------------------------------------------

    async def _judge(self, group: Group, failures: Counter[str]) -> ScoredGroup | None:
        """The group's judgments; None where the budget did not reach for all of them."""
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
        if isinstance(part, TooLong):
            return [Unscored(trajectory_id, part.reason) for trajectory_id in part.members]
        ids = [play.trajectory_id for play in part.members]
        if len(part.members) < 2:
            return [Unscored(trajectory_id, "fewer than two members") for trajectory_id in ids]
        self._findings.shown(part.members)
        sequence = orders(len(ids), self._repeats, seed=self._seed)

        async def repeat(number: int) -> dict[str, Score] | str | None:
            return await self._attempt(part, sequence[number], failures, cycle=number // len(ids))

        async with aclosing(gather_ordered(range(self._repeats), repeat, limit=self._repeats)) as results:
            answers = [answer async for answer in results]
        if None in answers:
            return None
        rounds = [(order, a) for order, a in zip(sequence, answers, strict=True) if isinstance(a, dict)]
        if not rounds:
            reason = next(answer for answer in answers if isinstance(answer, str))
            return [Unscored(trajectory_id, reason) for trajectory_id in ids]
        self._findings.judged(
            [{ids[n]: (place, a[ids[n]].value) for place, n in enumerate(order)} for order, a in rounds],
            repeats=self._repeats,
        )
        scores = {trajectory_id: _median([a[trajectory_id] for _, a in rounds]) for trajectory_id in ids}
        await self._try_canary(group, part, scores, failures)
        return list(scores.values())

    async def _attempt(
        self, part: Part, order: Sequence[int], failures: Counter[str], *, cycle: int = 0
    ) -> dict[str, Score] | str | None:
        """The scores of one call, the reason why there are none, or None where the budget does not reach for it."""
        try:
            return await self._asker.ask(part, order, seed=self._cycle_seed(cycle))
        except BudgetReached:
            return None
        except CallFailed as failure:
            self._raise_if_unusable(failure)
            failures[failure.reason] += 1
            return f"judge call failed: {failure.reason}"
        except InvalidAnswer as invalid:
            return f"invalid answer: {invalid}"

    def _cycle_seed(self, cycle: int) -> int:
        """Another cycle repeats orders: it is a request of its own, not the same one again."""
        return derive_seed(self._seed, "judge", "cycle", cycle) if cycle else self._seed

    def _canary(self, group: Group, part: Part) -> Canary | None:
        """A copy of ``part`` with a known-bad member, in the seeded share of parts that get one."""
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
        canary = self._canary(group, part)
        if canary is None:
            return
        answer = None
        if canary.part is not None:
            answer = await self._attempt(canary.part, range(len(canary.part.members)), failures)
        if not isinstance(answer, dict):
            self._findings.canary_failed()
            return
        real = [(score.value, answer[trajectory_id].value) for trajectory_id, score in scores.items()]
        self._findings.canary(canary.kind, answer[MEMBER].value, real)

    def _raise_if_unusable(self, failure: CallFailed) -> None:
        if self._ledger.usage.calls:
            return  # it has answered before: this failure costs its own group only
        hint = remedy(failure, setting="judge", variable=self._api_key_env)
        if hint is not None:
            raise JudgeError(
                f"the judge {self.model} cannot be used: {failure.reason}",
                hint=f"{hint}; or judge without a language model: judge=oracle",
            ) from failure


def _median(scores: Sequence[Score]) -> Score:
    """The median of a member's scores, explained by the answer nearest to it; its decisions likewise."""
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


Prices = tuple[float | None, float | None]


def _prices(told: Prices, listed: Prices, known: KnownModel) -> Prices:
    """US dollars a million tokens of prompt and of completion: as told, else as listed, else as known."""
    prompt, completion = (t if t is not None else at for t, at in zip(told, listed, strict=True))
    return (
        known.price_prompt_usd_per_mtok if prompt is None else prompt,
        known.price_completion_usd_per_mtok if completion is None else completion,
    )


def _prompt_tokens(told: int | None, known: KnownModel, max_completion_tokens: int) -> int:
    context = told or known.context_tokens or UNKNOWN_CONTEXT_TOKENS
    room = context - max_completion_tokens
    if room <= CORRECTION_TOKENS:
        raise ConfigError(
            f"a context of {context} tokens leaves {room} for the prompt when {max_completion_tokens} are kept for the "
            f"answer, and more than {CORRECTION_TOKENS} are needed",
            hint="lower judge.max_completion_tokens, or set judge.context_tokens to what the model really takes",
        )
    return room
