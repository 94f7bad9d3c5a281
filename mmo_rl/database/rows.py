"""A trajectory as the game's tables hold it: camelCase JSON in text columns, times in milliseconds UTC.

What the game's format has no place for is written beside it under further keys (``promptTokenIds``, ``tokenIds``,
``logprobs``), so that a trajectory read back equals the one recorded. Times are kept to the millisecond; numbers that
JSON cannot hold (NaN, infinities) become null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from mmo_rl.database.schema import quoted
from mmo_rl.types import Action, JsonDict, LLMCall, Step, Trajectory


def to_json(value: Any) -> str:
    """ASCII JSON: every text survives it, even one that is not valid Unicode."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError):
        return json.dumps(_plain_value(value), allow_nan=False, separators=(",", ":"))


def milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def naive_utc(moment: datetime) -> datetime:
    """As a ``timestamp without time zone`` column takes it, cut to the millisecond."""
    offset = moment.utcoffset()
    assert offset is not None, "times are aware"
    plain = moment.replace(tzinfo=None) - offset
    return plain.replace(microsecond=plain.microsecond // 1000 * 1000)


def trajectory_row(trajectory: Trajectory, *, window_hours: int, now: datetime) -> dict[str, Any]:
    """The row of ``trajectories``. Counts that were not recorded stay null."""
    start, end = naive_utc(trajectory.start), naive_utc(trajectory.end)
    total_reward = _plain(sum(step.reward or 0.0 for step in trajectory.steps))
    return {
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
        "metricsJson": to_json(trajectory.metrics),
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


def step_json(step: Step) -> JsonDict:
    return {
        "stepNumber": step.number,
        "timestamp": milliseconds(step.timestamp),
        "environmentState": step.environment_state,
        "providerAccesses": list(step.provider_accesses),
        "llmCalls": [call_json(call) for call in step.llm_calls],
        "action": action_json(step.action),
        "reward": step.reward,
    }


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
    system, user = prompts(call)
    required = {
        "callId": call.call_id,
        "model": call.model,
        "systemPrompt": system,
        "userPrompt": user,
        "response": call.response,
        "temperature": call.temperature,
        "maxTokens": call.max_tokens,
        "purpose": call.purpose,
    }
    optional = {
        "messages": None if is_plain_prompt(call) else [dict(message) for message in call.messages],
        "modelVersion": call.model_version,
        "actionType": call.action_type,
        "reasoning": call.reasoning,
        "topP": call.top_p,
        "latencyMs": call.latency_ms,
        "timestamp": None if call.timestamp is None else milliseconds(call.timestamp),
        "promptTokenIds": call.prompt_token_ids,
        "tokenIds": call.token_ids,
        "logprobs": call.logprobs,
        "promptTokens": None if call.prompt_token_ids is None else len(call.prompt_token_ids),
        "completionTokens": None if call.token_ids is None else len(call.token_ids),
    }
    return required | _without_none(optional)


def call_row(trajectory_id: str, step: Step, index: int, call: LLMCall, *, now: datetime) -> dict[str, Any]:
    """The row of ``llm_call_logs``. The two numbers that the table demands are 0 where they are not known, and
    ``metadata.unknown`` then names them. Text columns cannot hold the character 0."""
    system, user = prompts(call)
    call_id = f"{trajectory_id}-call-{step.number}-{index}"
    prompt_tokens = None if call.prompt_token_ids is None else len(call.prompt_token_ids)
    completion_tokens = None if call.token_ids is None else len(call.token_ids)
    unknown = [
        key for key, value in (("temperature", call.temperature), ("maxTokens", call.max_tokens)) if value is None
    ]
    metadata = _without_none({"modelVersion": call.model_version, "unknown": unknown or None})
    both = prompt_tokens is not None and completion_tokens is not None
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
        "systemPrompt": _text(system),
        "userPrompt": _text(user),
        "messagesJson": None if is_plain_prompt(call) else to_json([dict(message) for message in call.messages]),
        "response": _text(call.response),
        "reasoning": _text(call.reasoning),
        "temperature": call.temperature if call.temperature is not None else 0.0,
        "maxTokens": call.max_tokens if call.max_tokens is not None else 0,
        "topP": call.top_p,
        "promptTokens": prompt_tokens,
        "completionTokens": completion_tokens,
        "totalTokens": (prompt_tokens or 0) + (completion_tokens or 0) if both else None,
        "metadata": to_json(metadata) if metadata else None,
        "createdAt": naive_utc(now),
    }


async def insert_rows(connection: Any, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts rows; those with the same columns in one statement."""
    for columns in {tuple(row): None for row in rows}:
        names = ", ".join(map(quoted, columns))
        places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        values = [tuple(row.values()) for row in rows if tuple(row) == columns]
        await connection.executemany(f"insert into {table} ({names}) values ({places})", values)


def prompts(call: LLMCall) -> tuple[str, str]:
    """The system prompt and the last user message, as the game names them; empty where there is none."""
    system = next((m.get("content", "") for m in call.messages if m.get("role") == "system"), "")
    user = next((m.get("content", "") for m in reversed(call.messages) if m.get("role") == "user"), "")
    return system, user


def is_plain_prompt(call: LLMCall) -> bool:
    """Whether ``systemPrompt`` and ``userPrompt`` say it all, so that the messages need not be stored again."""
    system, user = prompts(call)
    plain = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return [dict(m) for m in call.messages] == [message for message in plain if message["content"]]


def _text(value: str | None) -> str | None:
    if value is None:
        return None
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _without_none(values: Mapping[str, Any]) -> JsonDict:
    return {key: value for key, value in values.items() if value is not None}


def _plain_value(value: Any) -> Any:
    """What JSON can hold of a game's own values: a decimal is a number, a moment ISO 8601, anything else its text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | Decimal):
        return _plain(float(value))
    if isinstance(value, Mapping):
        return {str(key): _plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    if isinstance(value, set | frozenset):
        return [_plain_value(item) for item in sorted(value, key=str)]
    return value.isoformat() if isinstance(value, date) else str(value)
