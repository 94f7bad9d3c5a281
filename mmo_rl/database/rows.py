"""Rows of the game's tables for a trajectory: camelCase JSON in text columns, times in milliseconds UTC.

Fields that the game's format does not have are written under further keys (``promptTokenIds``, ``tokenIds``,
``logprobs``), so that a trajectory read back equals the one recorded. Times are kept to the millisecond; numbers that
JSON cannot hold (NaN, infinities) become null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal

from mmo_rl.database.base import Connection
from mmo_rl.database.schema import quote_identifier
from mmo_rl.numbers import finite_number
from mmo_rl.types import Action, JsonDict, LLMCall, Step, Trajectory


def to_json(value: object) -> str:
    """Encodes ASCII JSON, which keeps every text, even one that is not valid Unicode."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError):
        return json.dumps(_plain_value(value), allow_nan=False, separators=(",", ":"))


def naive_utc(moment: datetime) -> datetime:
    """Converts a time for a ``timestamp without time zone`` column, cut to the millisecond."""
    offset = moment.utcoffset()
    assert offset is not None, "times are aware"
    plain = moment.replace(tzinfo=None) - offset
    return plain.replace(microsecond=plain.microsecond // 1000 * 1000)


def trajectory_row(trajectory: Trajectory, *, window_hours: int, now: datetime) -> dict[str, object]:
    """Builds the row of ``trajectories``. Counts that were not recorded stay null."""
    start, end = naive_utc(trajectory.start), naive_utc(trajectory.end)
    total_reward = trajectory.rewards.get("totalReward")
    if total_reward is None:
        total_reward = finite_number(sum(step.reward or 0.0 for step in trajectory.steps))
    metrics = dict(trajectory.metrics)
    if (judged := trajectory.rewards.get("rewardJudgment")) is not None:
        metrics["rewardJudgment"] = judged
    row = {
        "id": trajectory.trajectory_id,
        "trajectoryId": trajectory.trajectory_id,
        "agentId": trajectory.agent_id,
        "startTime": start,
        "endTime": end,
        "durationMs": min(round((end - start).total_seconds() * 1000), 2**31 - 1),
        "windowId": trajectory.window_id,
        "windowHours": window_hours,
        "scenarioId": trajectory.scenario_id,
        "stepsJson": to_json([step_json(step) for step in trajectory.steps]),
        "rewardComponentsJson": to_json({"environmentReward": total_reward}),
        "metricsJson": to_json(metrics),
        "metadataJson": to_json(trajectory.metadata),
        "totalReward": total_reward if total_reward is not None else 0.0,
        "episodeLength": len(trajectory.steps),
        "finalStatus": trajectory.final_status,
        "finalBalance": trajectory.final_balance,
        "finalPnL": trajectory.final_pnl,
        "tradesExecuted": _count(trajectory.metrics.get("tradesExecuted")),
        "postsCreated": _count(trajectory.metrics.get("postsCreated")),
        "isTrainingData": trajectory.is_training_data,
        "isEvaluation": trajectory.is_evaluation,
        "createdAt": naive_utc(now),
        "updatedAt": naive_utc(now),
    }
    if (reward := trajectory.rewards.get("aiJudgeReward")) is not None:
        row["aiJudgeReward"] = reward
    return row


def step_json(step: Step) -> JsonDict:
    required = {
        "stepNumber": step.number,
        "timestamp": round(step.timestamp_ms),
        "environmentState": step.environment_state,
        "providerAccesses": list(step.provider_accesses),
        "llmCalls": [call_json(call) for call in step.llm_calls],
        "action": action_json(step.action),
        "reward": step.reward,
    }
    optional = {
        "stepId": step.step_id,
        "observation": step.observation,
        "done": step.done,
        "metadata": step.metadata,
    }
    return required | _without_none(optional)


def action_json(action: Action) -> JsonDict:
    required = {"actionType": action.action_type, "parameters": action.parameters, "success": action.success}
    optional = {
        "result": action.result,
        "error": action.error,
        "reasoning": action.reasoning,
        "correctness": action.correctness,
    }
    return required | _without_none(optional)


def call_json(call: LLMCall) -> JsonDict:
    required = {
        "model": call.model,
        "systemPrompt": call.system_prompt,
        "userPrompt": call.user_prompt,
        "response": call.response,
        "temperature": call.temperature,
        "maxTokens": call.max_tokens,
        "purpose": call.purpose,
    }
    optional = {
        "callId": call.call_id,
        "messages": None if call.chat is None else [dict(message) for message in call.chat],
        "modelVersion": call.model_version,
        "actionType": call.action_type,
        "reasoning": call.reasoning,
        "topP": call.top_p,
        "latencyMs": call.latency_ms,
        "timestamp": None if call.timestamp_ms is None else round(call.timestamp_ms),
        "promptTokenIds": call.prompt_token_ids,
        "tokenIds": call.token_ids,
        "logprobs": call.logprobs,
        "promptTokens": call.prompt_tokens,
        "completionTokens": call.completion_tokens,
        "totalTokens": call.total_tokens,
        "toolCalls": call.tool_calls,
        "tools": call.tools,
    }
    return required | _without_none(optional)


def call_row(trajectory_id: str, step: Step, index: int, call: LLMCall, *, now: datetime) -> dict[str, object]:
    """Builds the row of ``llm_call_logs``.

    The two numbers that the table demands are 0 where they are not known, and ``metadata.unknown`` then names them.
    Text columns cannot hold the character 0.
    """
    call_id = f"{trajectory_id}-call-{step.number}-{index}"
    prompt_tokens = call.prompt_tokens
    if prompt_tokens is None and call.prompt_token_ids is not None:
        prompt_tokens = len(call.prompt_token_ids)
    completion_tokens = call.completion_tokens
    if completion_tokens is None and call.token_ids is not None:
        completion_tokens = len(call.token_ids)
    unknown = [
        key for key, value in (("temperature", call.temperature), ("maxTokens", call.max_tokens)) if value is None
    ]
    metadata = _without_none(
        {
            "modelVersion": call.model_version,
            "unknown": unknown or None,
            "toolCalls": call.tool_calls,
            "tools": call.tools,
        }
    )
    total_tokens = call.total_tokens
    if total_tokens is None and prompt_tokens is not None and completion_tokens is not None:
        total_tokens = prompt_tokens + completion_tokens
    return {
        "id": call_id,
        "trajectoryId": trajectory_id,
        "stepId": f"{trajectory_id}-step-{step.number}",
        "callId": call_id,
        "timestamp": naive_utc(call.timestamp or step.timestamp),
        "latencyMs": call.latency_ms,
        "model": _text(call.model),
        "purpose": _text(call.purpose),
        "actionType": _text(call.action_type),
        "systemPrompt": _text(call.system_prompt),
        "userPrompt": _text(call.user_prompt),
        "messagesJson": None if call.chat is None else to_json([dict(message) for message in call.chat]),
        "response": _text(call.response),
        "reasoning": _text(call.reasoning),
        "temperature": call.temperature if call.temperature is not None else 0.0,
        "maxTokens": call.max_tokens if call.max_tokens is not None else 0,
        "topP": call.top_p,
        "promptTokens": prompt_tokens,
        "completionTokens": completion_tokens,
        "totalTokens": total_tokens,
        "metadata": to_json(metadata) if metadata else None,
        "createdAt": naive_utc(now),
    }


async def insert_rows(connection: Connection, table: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Inserts rows; those with the same columns in one statement."""
    for columns in {tuple(row): None for row in rows}:
        names = ", ".join(map(quote_identifier, columns))
        places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        values = [tuple(row.values()) for row in rows if tuple(row) == columns]
        await connection.executemany(f"insert into {table} ({names}) values ({places})", values)


def _text(value: str | None) -> str | None:
    if value is None:
        return None
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None


def _without_none(values: Mapping[str, object]) -> JsonDict:
    return {key: value for key, value in values.items() if value is not None}


def _plain_value(value: object) -> object:
    """Converts a game's own value to JSON's: a decimal to a number, a time to ISO 8601, anything else to its text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | Decimal):
        return finite_number(value)
    if isinstance(value, Mapping):
        return {str(key): _plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    if isinstance(value, set | frozenset):
        return [_plain_value(item) for item in sorted(value, key=str)]
    return value.isoformat() if isinstance(value, date) else str(value)
