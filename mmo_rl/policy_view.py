"""Policy view: turns judged trajectories into training samples that hold the policy's prompts and answers alone.

Everything that a trainer gets of a recording passes here: prompts, answers, token ids and logprobs are copied; ground
truth (`Action.correctness`, ``gameKnowledge``, outcomes, P&L) and judges' explanations have no field to pass through.

Every recorded LLM call is a history of its own, with exactly the prompt that the policy saw, and of a history
the answer alone is trained. An assistant message inside a prompt never is: it is the answer of an earlier call, with a
history, a prompt and tokens of its own, or an example or summary of which nobody knows that the policy said it.
"""

from __future__ import annotations

from collections.abc import Iterable

from mmo_rl.moments import SAME_MARKET, Moment, MomentRule, moments_of
from mmo_rl.types import AssistantTurns, LLMCall, PolicyCall, Score, ScoredGroup, Step, TrainingGroup, TrainingSample


def policy_calls(step: Step, assistant_turns: AssistantTurns = "action") -> tuple[PolicyCall, ...]:
    """Selects the calls of a step whose answers are trained, in recorded order: those that chose its action (purpose
    ``action``), or ``all`` (also ``reasoning``, ``evaluation``, ``response``, ``other``...).

    Calls with an empty prompt or answer can't be trained on.
    """
    return tuple(
        _policy_call(call)
        for call in step.llm_calls
        if (assistant_turns == "all" or call.purpose == "action")
        and (call.response or call.tool_calls)
        and any(m.get("content") or m.get("tool_calls") for m in call.messages)
    )


def _policy_call(call: LLMCall) -> PolicyCall:
    """Copies the fields of a recorded call that a trainer may see."""
    return PolicyCall(
        call.messages,
        call.response,
        call.prompt_token_ids,
        call.token_ids,
        call.logprobs,
        call.model,
        call.model_version,
        call.tool_calls,
        call.tools,
    )


def training_groups(
    scored: Iterable[ScoredGroup], assistant_turns: AssistantTurns = "action", moments: MomentRule = SAME_MARKET
) -> list[TrainingGroup]:
    """Builds the GRPO groups of everything that was scored, by the credit of each group.

    Credit by ``trajectory``: all calls of a trajectory share its score. Credit by ``decision``: the decisions that
    faced the same market (``moments``) form a group of their own, and the calls of a step share its score; decisions of
    moments in which one trajectory decided alone are compared with each other, a group a window. Of a step, the calls
    that ``assistant_turns`` takes (`policy_calls`) are trained. Unscored members and unscored decisions are left out.
    """
    groups: list[TrainingGroup] = []
    for item in scored:
        if item.credit == "decision":
            groups += _decision_groups(item, assistant_turns, moments)
        else:
            groups.append(_trajectory_group(item, assistant_turns))
    return [group for group in groups if group.samples]


def decisions_without_company(groups: Iterable[TrainingGroup]) -> int:
    """Counts the decisions that had none of another trajectory to be compared with at their moment."""
    return sum(len(group.samples) for group in groups if group.without_company)


def _trajectory_group(item: ScoredGroup, assistant_turns: AssistantTurns) -> TrainingGroup:
    """Builds the one group of a window in which each trajectory has one reward."""
    samples = []
    for trajectory in item.group.members:
        score = item.judgments.get(trajectory.trajectory_id)
        calls = tuple(call for step in trajectory.steps for call in policy_calls(step, assistant_turns))
        if isinstance(score, Score) and calls:
            samples.append(TrainingSample(trajectory.trajectory_id, None, calls, score.value))
    return TrainingGroup(item.group.group_id, tuple(samples))


def _decision_groups(item: ScoredGroup, assistant_turns: AssistantTurns, rule: MomentRule) -> list[TrainingGroup]:
    """Builds one group a moment in which each decision has its own reward, and one of those that had no company."""
    moment_of = moments_of(item.group, rule)
    found: dict[Moment, list[TrainingSample]] = {}
    for trajectory in item.group.members:
        score = item.judgments.get(trajectory.trajectory_id)
        if not isinstance(score, Score):
            continue
        decisions = score.decisions or {}
        for step in trajectory.steps:
            calls = policy_calls(step, assistant_turns)
            reward = decisions.get(step.number)
            if calls and reward is not None:
                sample = TrainingSample(trajectory.trajectory_id, step.number, calls, reward)
                found.setdefault(moment_of(step), []).append(sample)
    groups: list[TrainingGroup] = []
    alone: list[TrainingSample] = []
    for moment in sorted(found):
        samples = found[moment]
        if len({sample.trajectory_id for sample in samples}) == 1:
            alone += samples
        else:
            groups.append(TrainingGroup(f"{item.group.group_id}#{moment.name}", tuple(samples)))
    if alone:
        groups.append(TrainingGroup(f"{item.group.group_id}#window", tuple(alone), without_company=True))
    return groups
