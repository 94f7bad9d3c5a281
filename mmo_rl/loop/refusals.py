"""Errors for an iteration that has nothing to train on, each with the command to type next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mmo_rl.command_line import command_line
from mmo_rl.errors import JudgeError, TrainerError
from mmo_rl.types import Score, ScoredGroup, Trained, TrainingGroup, Unscored
from mmo_rl.wording import counted

MOST_FAILED = 0.5
"""Share of failed actions above which they, and not the judge, are why no reward differs."""
ANSWER_CHARACTERS = 160


def no_signal(
    groups: Sequence[TrainingGroup], scored: Sequence[ScoredGroup], trained: Trained | None = None
) -> TrainerError:
    """The error for groups none of which carries signal: no reward in them differs from the others. ``trained`` is
    what the trainer says of them."""
    if not groups:
        count = sum(isinstance(j, Score) for s in scored for j in s.judgments.values())
        return TrainerError(
            f"nothing can be trained: none of {counted(count, 'scored trajectory', 'scored trajectories')} has an LLM "
            "call with a prompt and an answer",
            hint="mmo-rl task=check shows the trainable LLM calls of every window",
        )
    if trained is not None and (too_long := int(trained.metrics.get("histories_too_long", 0))):
        return TrainerError(
            f"nothing can be trained: {counted(too_long, 'LLM call is', 'LLM calls are')} longer than the model's "
            f"context, and what is left of {counted(len(groups), 'group')} has no rewards that differ",
            hint="model.context_length=N, where the model can; or play with shorter prompts",
        )
    if (told := _failed_actions(scored)) is not None:
        return told
    alone = sum(len(group.samples) == 1 for group in groups)
    equal = f"in {len(groups) - alone} all rewards are equal" if alone < len(groups) else ""
    one = (
        f"{alone} {'has' if alone == 1 else 'have'} one member, which there is nothing to compare with" if alone else ""
    )
    return TrainerError(
        f"no group carries signal, so nothing was trained: of {counted(len(groups), 'group')} "
        + " and ".join(part for part in (one, equal) if part),
        hint="the run's judgments.jsonl has the scores; choose a judge that tells them apart (judge=NAME), or "
        "more agents a window (sampler.min_agents=N, collect.agents=N)",
    )


def _failed_actions(scored: Sequence[ScoredGroup]) -> TrainerError | None:
    """The error where most of the recorded actions failed, with the commonest reason and an answer that met it; None
    where they did not."""
    steps = [step for item in scored for member in item.group.members for step in member.steps]
    failed = [step for step in steps if not step.action.success]
    if len(failed) <= MOST_FAILED * len(steps):
        return None
    reason, times = Counter(step.action.error or "no reason recorded" for step in failed).most_common(1)[0]
    answers = (
        call.response
        for step in failed
        if (step.action.error or "no reason recorded") == reason
        for call in step.llm_calls
        if call.purpose == "action"
    )
    answer = next(answers, None)
    example = "" if answer is None else f", for example after the answer {answer[:ANSWER_CHARACTERS]!r}"
    return TrainerError(
        f"no group carries signal, so nothing was trained: {len(failed):,} of {counted(len(steps), 'action')} failed,"
        f" and agents who fail alike are scored alike; {times:,} times: {reason[:ANSWER_CHARACTERS]}{example}",
        hint="the policy does not answer as the market asks: trainer.warm_start=0.1 imitates recorded play first; or"
        " another model=NAME",
    )


def refuse_if_none(scored: Sequence[ScoredGroup], overrides: Sequence[str]) -> int:
    """Counts the judgments that could not be had. Raises `JudgeError` where that is all of them."""
    judgments = [j for s in scored for j in s.judgments.values()]
    reasons = Counter(j.reason for j in judgments if isinstance(j, Unscored))
    refuse_if_all_unscored(reasons, len(judgments), overrides)
    return reasons.total()


def refuse_if_all_unscored(reasons: Counter[str], count: int, overrides: Sequence[str]) -> None:
    """Raises `JudgeError` where ``reasons`` are those of all ``count`` trajectories."""
    if count and reasons.total() == count:
        reason, times = reasons.most_common(1)[0]
        hint = "the run's judgments.jsonl and log.txt say more; judge=oracle needs no language model"
        if "ground truth" in reason:
            hint = f"derive the outcomes from recorded prices first: {outcomes_command(overrides)}"
        raise JudgeError(
            f"none of {counted(count, 'trajectory', 'trajectories')} could be scored; "
            f"{counted(times, 'time')}: {reason}",
            hint=hint,
        )


def outcomes_command(overrides: Sequence[str]) -> str:
    """The command that derives the outcomes that a run with these overrides asks for, beside the play that it reads."""
    kept = [o for o in overrides if o.lstrip("+").partition("=")[0].partition(".")[0] in ("source", "sampler", "home")]
    return command_line("task=outcomes", *kept)
