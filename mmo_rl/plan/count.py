"""Counts of what a run would use, made with its own selection, its judge's prompts and its policy view."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mmo_rl.errors import ConfigError
from mmo_rl.evaluate.base import Evaluator, Validating
from mmo_rl.judge.base import AsksModel, Judge, JudgeRequest
from mmo_rl.market.base import Arena
from mmo_rl.messages import answer_text
from mmo_rl.moments import MomentRule
from mmo_rl.plan.dry_play import DryPolicy, DryRun
from mmo_rl.plan.tokens import Tokens
from mmo_rl.policy_view import training_groups
from mmo_rl.rng import derive_seed
from mmo_rl.sampler.base import Sampler
from mmo_rl.sampler.refusals import nothing_selected, nothing_to_imitate
from mmo_rl.sampler.select import select, used
from mmo_rl.source.base import Source
from mmo_rl.trainer.base import TrainingRules
from mmo_rl.types import (
    AssistantTurns,
    Group,
    PolicyCall,
    Score,
    ScoredGroup,
    SelectedWindow,
    Selection,
    Trajectory,
    Window,
)

ANSWER_TOKENS_A_MEMBER = 60
"""Of a judge's answer: an id, a score and an explanation of a few sentences."""
DRY_MARKETS = 8
"""Markets that are looked at to learn how long prompts and answers are."""
EVALUATIONS = 4
"""Base and trained policy, each sampled and greedy."""
VALIDATIONS = 2
"""Base and trained policy, sampled."""
SCENARIO = "plan"
NO_ADVANTAGE = 1e-12
"""A reward that is no further from the mean of its group trains nothing."""
START = datetime(1980, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a language model as judge. ``key`` is equal where one judgment serves for both; ``usd`` None: the
    price is unknown; ``kept`` says that the judgment is there already."""

    key: str
    prompt_tokens: float
    completion_tokens: float
    usd: float | None
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Use of data, judge and tokens by a run, over all its iterations.

    ``dropout_rate`` in [0, 1] is their mean, weighted by what was available, ``capped`` where max_dropout alone kept it
    from being larger; ``selected_tokens`` are those of all answers, ``trained_tokens`` those of answers whose reward is
    not the mean of their group, ``context_tokens`` what training reads beside them, and ``warm_tokens`` what the warm
    start reads before the first iteration. ``windows_read`` of the windows were rendered and counted, the others are
    taken to be like them.
    """

    iterations: int
    windows: int
    windows_read: int
    available: int
    trajectories: int
    dropout_rate: float
    capped: bool
    excluded: Mapping[str, int]
    calls: tuple[Call, ...]
    selected_tokens: int
    trained_tokens: int
    context_tokens: int
    warm_tokens: int
    play_prompt_tokens: int
    play_answer_tokens: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One group, counted: the judge's requests with the tokens of their prompts, and what would be trained on."""

    members: int
    requests: tuple[tuple[JudgeRequest, int], ...]
    selected: int
    trained: int
    context: int


@dataclass(frozen=True, slots=True)
class AskedJudge:
    """Judge that asks a language model, with the tokens of that model."""

    judge: AsksModel
    tokens: Tokens


Seen = dict[tuple[str, tuple[str, ...]], Measured]
"""Groups that were counted already, by window and members."""


class Reckoner:
    """Counts for one config, as often as a plan varies its sampler or judge.

    ``source`` is what the run would read, or None where it would read nothing; where the run plays its own windows
    ``collector`` says how, and a warm start, which imitates the best ``warm_share`` of what was recorded before, is all
    that reads it.
    """

    def __init__(
        self,
        *,
        iterations: int,
        source: Source | None,
        dry: DryRun | None,
        arena: Arena,
        evaluator: Evaluator | None,
        seed: int,
        rules: TrainingRules,
        assistant_turns: AssistantTurns,
        identity: Mapping[str, object],
        policy_tokens: Tokens,
        overrides: Sequence[str],
        max_windows: int,
    ) -> None:
        self._iterations = iterations
        self._source = source
        self._dry = dry
        self._arena = arena
        self._evaluator = evaluator
        self._seed = seed
        self._rules = rules
        self._assistant_turns: AssistantTurns = assistant_turns
        self._identity = identity
        self._tokens = policy_tokens
        self._overrides = overrides
        self._max_windows = max_windows
        self._played = 0
        self._seen: Seen = {}
        self._mean_lengths: tuple[float, float] | None = None
        self.first: Selection | None = None
        """The first selection of recorded play."""

    async def count(self, sampler: Sampler, judge: Judge, asked: AskedJudge | None) -> Counts:
        """Raises `SourceError` where nothing would be trained on, as the run itself would."""

        def counting() -> _Tally:
            return _Tally(
                judge=judge,
                asked=asked,
                policy_tokens=self._tokens,
                assistant_turns=self._assistant_turns,
                seen=self._seen,
                moments=sampler.rules.moments,
            )

        warm, tally = counting(), counting()
        if self._rules.warm_start and self._source is not None:
            selection = await select(
                self._source,
                sampler,
                iteration=0,
                used_windows=(),
                scenario_id=None,
                simulated=self._dry is not None,
            )
            if not selection.used:
                raise nothing_to_imitate(selection, self._overrides)
            self.first = self.first or selection
            await warm.add(self._source, selection, read=self._max_windows)
        selections: list[Selection] = []
        chain = hashlib.sha256(json.dumps(self._identity["first"], sort_keys=True, default=str).encode())
        for iteration in range(self._iterations):
            if self._dry is not None:
                await self._play(iteration)
            source = self._source if self._dry is None else self._dry.source
            assert source is not None
            scenario = SCENARIO if self._dry is not None else None
            selection = await select(
                source, sampler, iteration=iteration, used_windows=used(selections), scenario_id=scenario
            )
            if not selection.used:
                if not selections:
                    raise nothing_selected(selection, self._overrides)
                break
            selections.append(selection)
            if self._dry is None:
                self.first = self.first or selection
            # What a trained policy plays depends on all that came before, so only equal histories share judgments.
            tally.world = chain.hexdigest() if self._dry is not None else None
            await tally.add(source, selection, read=self._max_windows - tally.windows_read)
            later = [self._identity["later"], list(selection.trajectory_ids)]
            chain.update(json.dumps(later, sort_keys=True, default=str).encode())
        prompt, answer = await self._lengths()
        plays = self._plays(len(selections))
        offered = sum(s.available for s in selections)
        excluded: Counter[str] = Counter(selections[-1].excluded)
        return Counts(
            iterations=len(selections),
            windows=sum(len(s.windows) for s in selections),
            windows_read=tally.windows_read,
            available=offered,
            trajectories=sum(s.used for s in selections),
            dropout_rate=sum(s.dropout_rate * s.available for s in selections) / offered if offered else 0.0,
            capped=any(1 - sampler.rules.target_trajectories / s.available > s.dropout_rate for s in selections),
            excluded=dict(excluded),
            calls=(*warm.all_calls(), *tally.all_calls()),
            selected_tokens=round(tally.scaled(tally.selected) * self._rules.epochs),
            trained_tokens=round(tally.scaled(tally.trained) * self._rules.epochs),
            context_tokens=round(tally.scaled(tally.context) * self._rules.epochs),
            warm_tokens=round(
                warm.scaled(warm.selected + warm.context) * self._rules.warm_start * self._rules.warm_start_epochs
            ),
            play_prompt_tokens=round(plays * prompt),
            play_answer_tokens=round(plays * answer),
        )

    async def _play(self, iteration: int) -> None:
        """The iteration's windows, played once however often they are counted."""
        assert self._dry is not None
        if iteration == self._played:
            await self._dry.collector.collect(DryPolicy(), iteration=iteration, scenario_id=SCENARIO, start=START)
            self._played += 1
        self._dry.source.visible = (iteration + 1) * self._dry.collector.windows

    def _plays(self, iterations: int) -> int:
        """Counts the answers of the policy in play and in evaluation."""
        ticks = self._arena.ticks
        plays = 0
        if self._dry is not None:
            plays += iterations * self._dry.collector.windows * self._dry.collector.seats.count(None) * ticks
        if self._evaluator is not None:
            plays += EVALUATIONS * self._evaluator.rollouts() * ticks
            validation = self._evaluator.validation() if isinstance(self._evaluator, Validating) else None
            plays += 0 if validation is None else VALIDATIONS * validation.rollouts() * ticks
        return plays

    async def _lengths(self) -> tuple[float, float]:
        """Mean tokens of a prompt and of an answer in the simulated market."""
        if self._dry is None and self._evaluator is None:
            return 0.0, 0.0
        if self._mean_lengths is not None:
            return self._mean_lengths
        episodes = await self._arena.play(
            DryPolicy(),
            market_seeds=[derive_seed(self._seed, "held-out market", k) for k in range(DRY_MARKETS)],
            seats=[None] * 4,
            temperature=1.0,
            seed=self._seed,
        )
        steps = [step for episode in episodes for agent in episode.steps for step in agent]
        prompts = self._tokens.prompts([step.messages for step in steps])
        answers = self._tokens.answers([step.completion.text for step in steps])
        self._mean_lengths = sum(prompts) / len(prompts), sum(answers) / len(answers)
        return self._mean_lengths


class _Tally:
    """Adds up groups: those that are read exactly, the rest by their number of members."""

    def __init__(
        self,
        *,
        judge: Judge,
        asked: AskedJudge | None,
        policy_tokens: Tokens,
        assistant_turns: AssistantTurns,
        seen: Seen,
        moments: MomentRule,
    ) -> None:
        self._judge = judge
        self._moments = moments
        self._asked = asked
        self._policy_tokens = policy_tokens
        self._assistant_turns: AssistantTurns = assistant_turns
        self._seen = seen
        self.world: str | None = None
        self.windows_read = 0
        self.selected = self.trained = self.context = 0
        self._trajectories_read = self._trajectories = 0
        self._calls: list[Call] = []
        self._members_read = 0
        self._unread: list[JudgeRequest] = []

    async def add(self, source: Source, selection: Selection, *, read: int) -> None:
        near, far = selection.windows[: max(0, read)], selection.windows[max(0, read) :]
        self._trajectories += selection.used
        self.windows_read += len(near)
        new = tuple(chosen for chosen in near if _identity(chosen) not in self._seen)
        if new:
            async with aclosing(source.groups(replace(selection, windows=new))) as groups:
                async for group in groups:
                    asked = {chosen.trajectory_ids: chosen for chosen in new if chosen.window.id == group.window.id}
                    members = {member.trajectory_id for member in group.members}
                    for ids, chosen in asked.items():
                        if members <= set(ids):
                            self._seen[_identity(chosen)] = await self._measure(group)
        for chosen in near:
            if (measured := self._seen.get(_identity(chosen))) is not None:
                self._add(measured)
        if self._asked is not None:
            for chosen in far:
                stubs = tuple(_stub(i, chosen.window) for i in chosen.trajectory_ids)
                group = Group(chosen.window.id, chosen.window, stubs, None)
                # Without steps all play looks the same; who is judged together tells one call from another.
                self._unread += [
                    replace(request, key=" ".join((request.key, chosen.window.id, *request.members)))
                    for request in self._asked.judge.requests(group)
                ]

    def _add(self, measured: Measured) -> None:
        self._trajectories_read += measured.members
        self.selected += measured.selected
        self.trained += measured.trained
        self.context += measured.context
        for request, length in measured.requests:
            self._members_read += len(request.members)
            self._calls.append(self._call(request, length))

    async def _measure(self, group: Group) -> Measured:
        requests: list[JudgeRequest] = []
        lengths: list[int] = []
        if self._asked is not None:
            requests = self._requests(self._asked.judge, group)
            lengths = self._asked.tokens.prompts([request.messages for request in requests])
            members = {member.trajectory_id for member in group.members}
            judged = dict.fromkeys(i for request in requests for i in request.members if i in members)
            # Scores that the judge has yet to give: none of them at the mean, so that everything judged is trained on.
            values = {i: float(place > 0) for place, i in enumerate(judged)}
            steps = {m.trajectory_id: [step.number for step in m.steps] for m in group.members}
            scores = {i: Score(i, v, decisions=dict.fromkeys(steps[i], v)) for i, v in values.items()}
            scored = ScoredGroup(group, scores, self._judge.credit)
        else:
            (scored,) = [s async for s in self._judge.score(_one(group))]
        selected = trained = context = 0
        for training in training_groups([scored], self._assistant_turns, self._moments):
            mean = sum(sample.reward for sample in training.samples) / len(training.samples)
            for moves in (True, False):
                samples = [s for s in training.samples if (abs(s.reward - mean) > NO_ADVANTAGE) is moves]
                answers, prompts = self._lengths([call for sample in samples for call in sample.calls])
                selected += answers
                if moves:
                    trained, context = trained + answers, context + prompts
        return Measured(len(group.members), tuple(zip(requests, lengths, strict=True)), selected, trained, context)

    def _requests(self, judge: AsksModel, group: Group) -> list[JudgeRequest]:
        try:
            return judge.requests(group)
        except ConfigError:  # a window that cannot be rendered is not judged either
            return []

    def _lengths(self, calls: Sequence[PolicyCall]) -> tuple[int, int]:
        """Tokens of the answers and of the prompts. Recorded ids count where they are of this model: then its prompt
        has as many here as it had there."""
        prompts = self._policy_tokens.prompts([call.messages for call in calls])
        answers = self._policy_tokens.answers([answer_text(call.response, call.tool_calls) for call in calls])
        return sum(
            len(call.token_ids or ())
            if call.token_ids is not None and len(call.prompt_token_ids or ()) == prompt
            else answer
            for call, prompt, answer in zip(calls, prompts, answers, strict=True)
        ), sum(prompts)

    def _call(self, request: JudgeRequest, prompt_tokens: float) -> Call:
        answer = float(ANSWER_TOKENS_A_MEMBER * len(request.members))
        prompt_usd, answer_usd = request.price_prompt_usd_per_mtok, request.price_completion_usd_per_mtok
        usd = None
        if prompt_usd is not None and answer_usd is not None:
            usd = (prompt_tokens * prompt_usd + answer * answer_usd) / 1e6
        key = request.key
        if self.world is not None:
            key = hashlib.sha256(f"{self.world} {key}".encode()).hexdigest()
        return Call(key, prompt_tokens, answer, usd)

    def all_calls(self) -> list[Call]:
        if not self._unread:
            return self._calls
        a_member = sum(call.prompt_tokens for call in self._calls) / max(1, self._members_read)
        return self._calls + [self._call(request, a_member * len(request.members)) for request in self._unread]

    def scaled(self, tokens: int) -> float:
        return tokens * self._trajectories / max(1, self._trajectories_read)


async def _one(group: Group) -> AsyncIterator[Group]:
    yield group


def _identity(chosen: SelectedWindow) -> tuple[str, tuple[str, ...]]:
    return chosen.window.id, chosen.trajectory_ids


def _stub(trajectory_id: str, window: Window) -> Trajectory:
    """A member of which only the existence matters."""
    return Trajectory(trajectory_id, trajectory_id, window.id, window.start, window.end, (), None)
