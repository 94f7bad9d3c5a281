"""Policy view: turns judged trajectories into training samples that hold the policy's prompts and answers alone.

Everything that a trainer gets of a recording passes here: prompts, answers, token ids and logprobs are copied; ground
truth (`Action.correctness`, ``gameKnowledge``, outcomes, P&L) and judges' explanations have no field to pass through.

Every recorded LLM call is a history of its own, with exactly the prompt that the policy saw, and of a history
the answer alone is trained. An assistant message inside a prompt never is: it is the answer of an earlier call, with a
history, a prompt and tokens of its own, or an example or summary of which nobody knows that the policy said it.
"""

from __future__ import annotations

from collections.abc import Iterable

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
        and call.response
        and any(m["content"] for m in call.messages)
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
    )


def training_groups(scored: Iterable[ScoredGroup], assistant_turns: AssistantTurns = "action") -> list[TrainingGroup]:
    """Builds the GRPO groups of everything that was scored, by the credit of each group.

    Credit by ``trajectory``: all calls of a trajectory share its score. Credit by ``decision``: the decisions of one
    step number form a group of their own (all agents faced the same market at that tick), and the calls of a step share
    its score. Of a step, the calls that ``assistant_turns`` takes (`policy_calls`) are trained. Unscored members and
    unscored decisions are left out.
    """
    groups: list[TrainingGroup] = []
    for item in scored:
        if item.credit == "decision":
            groups += _decision_groups(item, assistant_turns)
        else:
            groups.append(_trajectory_group(item, assistant_turns))
    return [group for group in groups if group.samples]


def _trajectory_group(item: ScoredGroup, assistant_turns: AssistantTurns) -> TrainingGroup:
    """Builds the one group of a window in which each trajectory has one reward."""
    samples = []
    for trajectory in item.group.members:
        score = item.judgments.get(trajectory.trajectory_id)
        calls = tuple(call for step in trajectory.steps for call in policy_calls(step, assistant_turns))
        if isinstance(score, Score) and calls:
            samples.append(TrainingSample(trajectory.trajectory_id, None, calls, score.value))
    return TrainingGroup(item.group.group_id, tuple(samples))


def _decision_groups(item: ScoredGroup, assistant_turns: AssistantTurns) -> list[TrainingGroup]:
    """Builds one group a step number in which each decision has its own reward."""
    by_step: dict[int, list[TrainingSample]] = {}
    for trajectory in item.group.members:
        score = item.judgments.get(trajectory.trajectory_id)
        if not isinstance(score, Score):
            continue
        decisions = score.decisions or {}
        for step in trajectory.steps:
            calls = policy_calls(step, assistant_turns)
            reward = decisions.get(step.number)
            if calls and reward is not None:
                by_step.setdefault(step.number, []).append(
                    TrainingSample(trajectory.trajectory_id, step.number, calls, reward)
                )
    return [TrainingGroup(f"{item.group.group_id}#{number}", tuple(by_step[number])) for number in sorted(by_step)]
