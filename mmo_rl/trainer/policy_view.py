"""The policy view: from judged trajectories to training samples that hold what the policy saw and answered.

This is the only door from recordings to a trainer. It copies prompts, answers, token ids and logprobs; ground truth
(`Action.correctness`, ``gameKnowledge``, outcomes, P&L) and judges' explanations have no field to pass through.
"""

from __future__ import annotations

from collections.abc import Iterable

from mmo_rl.types import LLMCall, PolicyCall, Score, ScoredGroup, Step, TrainingGroup, TrainingSample


def policy_calls(step: Step) -> tuple[PolicyCall, ...]:
    """The calls of a step that chose its action; calls with an empty prompt or answer can't be trained on."""
    return tuple(
        _policy_call(call)
        for call in step.llm_calls
        if call.purpose == "action" and call.response and any(m["content"] for m in call.messages)
    )


def _policy_call(call: LLMCall) -> PolicyCall:
    return PolicyCall(
        call.messages,
        call.response,
        call.prompt_token_ids,
        call.token_ids,
        call.logprobs,
        call.model,
        call.model_version,
    )


def training_groups(scored: Iterable[ScoredGroup]) -> list[TrainingGroup]:
    """GRPO groups of everything that was scored.

    Where every score of a group gives credit by decision, the decisions of one step number form a group of their own
    (all agents faced the same market at that tick); otherwise a trajectory's calls share its score. Unscored members
    are left out.
    """
    groups: list[TrainingGroup] = []
    for item in scored:
        scores = [s for s in item.judgments.values() if isinstance(s, Score)]
        if scores and all(s.decisions is not None for s in scores):
            groups += _decision_groups(item)
        else:
            groups.append(_trajectory_group(item))
    return [group for group in groups if group.samples]


def _trajectory_group(item: ScoredGroup) -> TrainingGroup:
    samples = []
    for trajectory in item.group.members:
        score = item.judgments.get(trajectory.trajectory_id)
        calls = tuple(call for step in trajectory.steps for call in policy_calls(step))
        if isinstance(score, Score) and calls:
            samples.append(TrainingSample(trajectory.trajectory_id, None, calls, score.value))
    return TrainingGroup(item.group.group_id, tuple(samples))


def _decision_groups(item: ScoredGroup) -> list[TrainingGroup]:
    by_step: dict[int, list[TrainingSample]] = {}
    for trajectory in item.group.members:
        score = item.judgments.get(trajectory.trajectory_id)
        if not isinstance(score, Score) or score.decisions is None:
            continue
        for step in trajectory.steps:
            calls = policy_calls(step)
            reward = score.decisions.get(step.number)
            if calls and reward is not None:
                by_step.setdefault(step.number, []).append(
                    TrainingSample(trajectory.trajectory_id, step.number, calls, reward)
                )
    return [TrainingGroup(f"{item.group.group_id}#{number}", tuple(by_step[number])) for number in sorted(by_step)]
