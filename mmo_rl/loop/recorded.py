"""Evaluation of a run on recorded, held-out windows, and the rule that play of another market is not measured here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mmo_rl.config.composition import Components
from mmo_rl.errors import ConfigError
from mmo_rl.evaluate.base import Change, RecordedComparer, RecordedVerdict
from mmo_rl.lm.answers import AnswerScorer
from mmo_rl.policy_view import training_groups
from mmo_rl.sampler.select import held_out, used
from mmo_rl.source.base import Traceable
from mmo_rl.stats.interval import Interval
from mmo_rl.types import PolicyVersion, ScoredGroup, Selection, TrainingGroup
from mmo_rl.window_ids import split_id


def asked_to_measure(overrides: Sequence[str]) -> bool:
    """Tells if the command itself chooses an evaluation, or a key of it."""
    return any(o.lstrip("+~").partition("=")[0].partition(".")[0] == "evaluate" for o in overrides)


async def from_elsewhere(components: Components, selections: Sequence[Selection]) -> bool:
    """Tells if anything that was trained on is known not to be from the simulated market."""
    source = components.source
    if not isinstance(source, Traceable):
        return False
    ids = {i for s in selections for w in s.windows for i in w.recorded_ids}
    found = await source.origins(sorted(ids | {split_id(i)[0] for i in ids}))
    return any(not origin.simulated for origin in found.values())


def refuse_unable(components: Components) -> None:
    """Raises `ConfigError` where a run cannot be measured on recorded play."""
    if not components.sampler.rules.holdout:
        raise ConfigError(
            "evaluate=recorded measures on held-out windows, and sampler.holdout=0 holds out none",
            hint="sampler.holdout=0.2 holds out the newest fifth",
        )
    if components.trainer.capabilities.serves:
        raise ConfigError(
            "evaluate=recorded needs the trained weights on this machine, and the trainer's backend has them",
            hint="evaluate=none, or trainer=local",
        )


async def held_out_selection(
    components: Components, comparer: RecordedComparer, selections: Sequence[Selection], *, scenario_id: str | None
) -> Selection:
    """Selects the held-out windows that nothing was trained on."""
    return await held_out(
        components.source,
        components.sampler,
        used_windows=used(selections),
        scenario_id=scenario_id,
        most=comparer.windows_at_most(),
    )


async def compared(
    components: Components, comparer: RecordedComparer, scored: Sequence[ScoredGroup], policy: PolicyVersion
) -> RecordedVerdict:
    """Compares the base model with ``policy`` on judged windows."""
    groups = training_groups(scored, components.trainer.assistant_turns, components.sampler.rules.moments)
    model = components.model
    base = PolicyVersion(model.name, 0, model.location())
    return comparer.verdict(await asyncio.to_thread(_changes, components, groups, base, policy))


def _changes(
    components: Components, groups: Sequence[TrainingGroup], base: PolicyVersion, trained: PolicyVersion
) -> list[Change]:
    """Scores every judged decision with both policies; leaves out those that do not fit into the context."""
    calls = [call for group in groups for sample in group.samples for call in sample.calls]
    device = components.players.device
    before = AnswerScorer(base, components.model, device=device)
    at_base, recorded = before.logprobs(calls), before.behaviour(calls)
    del before
    at_trained = AnswerScorer(trained, components.model, device=device).logprobs(calls)
    numbers = iter(zip(at_base, at_trained, recorded, strict=True))
    found: list[Change] = []
    for group in groups:
        for sample in group.samples:
            own = [next(numbers) for _ in sample.calls]
            old, new, said = (_total([row[column] for row in own]) for column in range(3))
            if old is not None and new is not None:
                weight = None if said is None else new - said
                window = group.group_id.partition("#")[0]
                found.append(Change(window, group.group_id, sample.reward, new - old, weight))
    return found


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def sentences(verdict: RecordedVerdict) -> list[str]:
    """Describes the comparison, a line each."""
    lines = [f"on recorded play: {verdict.decisions:,} judged decisions of {verdict.windows:,} held-out windows"]
    if verdict.rank_agreement is None:
        lines.append("  nothing to compare: their rewards, or the changes of their probability, are all equal")
        return lines
    meaning = "unclear"
    if verdict.rank_agreement.excludes_zero:
        meaning = "better" if verdict.rank_agreement.estimate > 0 else "worse"
    lines.append(f"  change of probability against reward: tau-b {_told(verdict.rank_agreement)}: {meaning}")
    if verdict.margin is not None:
        lines.append(f"  well judged against badly judged: {_told(verdict.margin)} nats")
    if verdict.reward_change is not None:
        effective = f"{verdict.effective:.0f} effective decisions"
        lines.append(f"  reward, importance-weighted: {_told(verdict.reward_change)} ({effective})")
    else:
        lines.append(f"  reward, importance-weighted: refused, {verdict.refusal}")
    return lines


def _told(interval: Interval) -> str:
    return f"{interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
