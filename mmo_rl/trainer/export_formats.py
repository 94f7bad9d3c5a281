"""Formats of other trainers: the rows of each, made of training groups, and counts of the answers left out."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mmo_rl.messages import TEMPLATE_KEYS, answer_message
from mmo_rl.trainer.signal import NO_SPREAD
from mmo_rl.types import JsonDict, Message, PolicyCall, TrainingGroup, TrainingSample

FormatName = Literal["art", "chat", "dpo", "verifiers"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one file; ``left_out`` counts answers (LLM calls) by reason, ``facts`` are other entries of its card."""

    rows: list[JsonDict]
    left_out: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def art_rows(groups: Sequence[TrainingGroup]) -> Rows:
    """Makes rows of ART's JSONL, every answer a row.

    A row has ``messages`` as the policy saw them and, last, its answer; ``reward`` in [0, 1]; ``metadata`` with
    ``trajectoryId``, ``groupId`` (histories to compare with each other), ``step`` (null where the whole trajectory has
    one reward) and ``call`` (its number within that step or trajectory); where recorded ``promptTokenIds``,
    ``tokenIds`` and ``logprobs``.
    """
    rows = []
    for group, sample, number, call in _answers(groups):
        tokens = {"promptTokenIds": call.prompt_token_ids, "tokenIds": call.token_ids, "logprobs": call.logprobs}
        row = {
            "messages": [*_messages(call.messages), _answer(call)],
            "reward": sample.reward,
            "metadata": {
                "trajectoryId": sample.trajectory_id,
                "groupId": group.group_id,
                "step": sample.step,
                "call": number,
            },
            **{name: list(values) for name, values in tokens.items() if values is not None},
        }
        rows.append(row)
    facts = {
        "trajectories": len({sample.trajectory_id for group in groups for sample in group.samples}),
        "groups": len(groups),
        "with_token_ids": sum("tokenIds" in row for row in rows),
        "with_logprobs": sum("logprobs" in row for row in rows),
    }
    return Rows(rows, facts=facts)


def messages_with_tools(rows: Sequence[JsonDict]) -> int:
    """Counts the messages that carry tool calls or a tool's result."""
    lists = (row[key] for row in rows for key in ("messages", "prompt", "chosen", "rejected") if key in row)
    return sum(any(key in message for key in TEMPLATE_KEYS) for messages in lists for message in messages)


def chat_rows(groups: Sequence[TrainingGroup], *, best_share: float) -> Rows:
    """Makes chats for supervised fine-tuning of the best, ``{"messages": [...]}`` as OpenAI's fine-tuning takes them.

    What is ranked is what has a reward of its own: a decision, or a trajectory where the judge gave one score to the
    whole. Taken are the ``best_share`` of all (rounded up) with the largest rewards, of those above the mean of their
    group: in a group where all did alike nobody is an example. Ties go to the one further above its group's mean, then
    to a hash of the id, so that no agent is preferred for its name. Every answer of what was taken is a row; earlier
    assistant messages of its prompt have ``weight`` 0 (not trained), and equal rows appear once.
    """
    ranked: list[tuple[tuple[float, float, str], TrainingSample]] = []
    total, left_out = 0, Counter[str]()
    for group in groups:
        total += len(group.samples)
        mean = sum(sample.reward for sample in group.samples) / max(1, len(group.samples))
        for sample in group.samples:
            if sample.reward - mean <= NO_SPREAD:
                left_out["not_above_its_group"] += len(sample.calls)
            else:
                ranked.append(((-sample.reward, mean - sample.reward, _shuffle(group, sample)), sample))
    ranked.sort(key=lambda item: item[0])
    kept = math.ceil(best_share * total)
    left_out["not_in_best_share"] = sum(len(sample.calls) for _, sample in ranked[kept:])
    rows: dict[str, JsonDict] = {}
    for _, sample in ranked[:kept]:
        for call in sample.calls:
            earlier = [m | {"weight": 0} if m["role"] == "assistant" else m for m in _messages(call.messages)]
            row = {"messages": [*earlier, _answer(call)]}
            left_out["repeats_another_row"] += json.dumps(row) in rows
            rows.setdefault(json.dumps(row), row)
    facts = {
        "ranked": total,
        "taken": len(ranked[:kept]),
        "lowest_reward_taken": min((sample.reward for _, sample in ranked[:kept]), default=None),
    }
    return Rows(list(rows.values()), +left_out, facts)


def dpo_rows(groups: Sequence[TrainingGroup], *, min_margin: float) -> Rows:
    """Makes preference pairs in TRL's conversational form.

    A row is ``{"prompt": [...], "chosen": [answer], "rejected": [answer]}``, with the two rewards as
    ``score_chosen`` and ``score_rejected``.

    A pair needs one and the same prompt, to the byte, answered twice within a group. Agents of one market see their own
    cash and positions too, so many prompts are seen by one agent alone: those are counted, never paired with something
    like them. The answers to a prompt are paired from the outside in (best with worst, second best with second worst
    ...), so that each is in one pair at most, as long as their rewards differ by ``min_margin`` or more.
    """
    rows, left_out, margins = [], Counter[str](), []
    for group in groups:
        seen: dict[str, list[tuple[float, str, PolicyCall]]] = {}
        for _, sample, _, call in _answers([group]):
            answers = seen.setdefault(json.dumps(_messages(call.messages)), [])
            answers.append((-sample.reward, _shuffle(group, sample), call))
        for answers in seen.values():
            if len(answers) == 1:
                left_out["prompt_seen_by_one"] += 1
                continue
            answers.sort(key=lambda answer: answer[:2])
            half = len(answers) // 2
            left_out["odd_one_out"] += len(answers) % 2
            for better, worse in zip(answers[:half], reversed(answers[-half:]), strict=True):
                margin = worse[0] - better[0]
                if _answer(better[2]) == _answer(worse[2]):
                    left_out["same_answer"] += 2
                elif margin <= NO_SPREAD or margin < min_margin:
                    left_out["margin_too_small"] += 2
                else:
                    margins.append(margin)
                    rows.append(
                        {
                            "prompt": _messages(better[2].messages),
                            "chosen": [_answer(better[2])],
                            "rejected": [_answer(worse[2])],
                            "score_chosen": -better[0],
                            "score_rejected": -worse[0],
                        }
                    )
    facts: JsonDict = {"margin": None}
    if margins:
        facts["margin"] = {
            "min": min(margins),
            "median": statistics.median(margins),
            "mean": statistics.fmean(margins),
            "max": max(margins),
        }
    return Rows(rows, +left_out, facts)


def _answers(groups: Sequence[TrainingGroup]) -> Iterator[tuple[TrainingGroup, TrainingSample, int, PolicyCall]]:
    for group in groups:
        for sample in group.samples:
            for number, call in enumerate(sample.calls):
                yield group, sample, number, call


def _messages(messages: Sequence[Message]) -> list[JsonDict]:
    # Only what a chat template reads: a recorded message may carry further keys.
    kept = ("role", "content", *TEMPLATE_KEYS)
    return [{key: m[key] for key in kept if key in m} for m in messages]


def _answer(call: PolicyCall) -> JsonDict:
    return answer_message(call.response, call.tool_calls)


def _shuffle(group: TrainingGroup, sample: TrainingSample) -> str:
    return hashlib.sha256(f"{group.group_id} {sample.trajectory_id} {sample.step}".encode()).hexdigest()
