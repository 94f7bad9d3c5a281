"""Parser of one recorded row to one `Trajectory`, in every variant of the format that is in use.

An unreadable row becomes a `Rejection` with the field, its value and the reason; nothing raises on any input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from mmo_rl.clock import milliseconds
from mmo_rl.messages import content_text, message_fault
from mmo_rl.source.canonical import canonical_steps
from mmo_rl.source.jsontext import Unreadable, decode_json
from mmo_rl.source.slices import home_window
from mmo_rl.source.values import (
    Fields,
    agent_role,
    as_bool,
    as_fields,
    as_int,
    as_message,
    as_milliseconds,
    as_number,
    as_text,
    as_time,
    pick,
)
from mmo_rl.types import Action, JsonDict, JsonObjects, LLMCall, Message, Rejection, Step, Trajectory
from mmo_rl.window_ids import named_start

CALLS = ("llmCalls", "llm_calls", "calls", "llm")
PROVIDERS = ("providerAccesses", "provider_accesses", "providerLogs", "providerAccess")
STATES = ("environmentState", "environment_state", "observation")
STEPS = ("stepsJson", "steps_json", "steps")
LONGEST = timedelta(days=366)
"""Length of a trajectory from which on one of its times is taken for wrong: it is sliced for each of its hours."""
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL, which PostgreSQL refuses in texts, and halves of surrogate pairs, which no encoding takes."""
_STEP_NUMBER = re.compile(r"-step-(\d{1,9})$|-call-(\d{1,9})-\d+$")


def parse_trajectory(row: Fields, *, calls: Sequence[Fields] = ()) -> Trajectory | Rejection:
    """Reads a row of ``trajectories`` (a database record as a dictionary, or an exported one in camelCase or
    snake_case). ``calls`` are rows of ``llm_call_logs``, used for steps that have no calls of their own."""
    identity: str | None = None
    try:
        identity = as_text(pick(row, "trajectoryId", "trajectory_id", "id"))
        return _trajectory(row, identity, calls)
    except Unreadable as error:
        return Rejection(identity, error.field, error.found, error.reason)
    except RecursionError:
        return Rejection(identity, "row", "", "nested too deeply")


def _trajectory(row: Fields, identity: str | None, calls: Sequence[Fields]) -> Trajectory:
    if not identity:
        raise Unreadable("trajectoryId", None, "no trajectory id")
    agent = as_text(pick(row, "agentId", "agent_id"))
    if not agent:
        raise Unreadable("agentId", pick(row, "agentId", "agent_id"), "no agent id")
    metrics = _object(row, "metrics", "metricsJson", "metrics_json")
    metadata = _object(row, "metadata", "metadataJson", "metadata_json")
    rewards = _rewards(row, metrics)
    found = pick(row, *STEPS)
    usual = canonical_steps(found) if isinstance(found, str | bytes) and not calls else None
    recorded = [] if usual is not None else _steps_list(found)
    first, last = [_time_of(recorded[place]) if usual is None else usual[place].timestamp for place in (0, -1)]
    start = as_time(pick(row, "startTime", "start_time")) or first
    window_id = as_text(pick(row, "windowId", "window_id"))
    if start is None:
        start = named_start(window_id)
    if start is None:
        raise Unreadable("startTime", pick(row, "startTime", "start_time"), "not a time")
    end = as_time(pick(row, "endTime", "end_time")) or max(last or start, start)
    for name, moment in (("startTime", start), ("endTime", end)):
        if not 1 < moment.year < 9999:  # its window would lie outside the calendar
            raise Unreadable(name, moment.isoformat(), "out of range")
    if end - start > LONGEST:
        raise Unreadable("endTime", end.isoformat(), f"more than {LONGEST.days} days after its start")
    steps = usual or _steps(recorded, identity, start, calls)
    if rewards.get("totalReward") == 0 and all(step.reward is None for step in steps):
        del rewards["totalReward"]  # the column cannot be empty: 0 is written where nothing was recorded
    role = agent_role(
        as_text(pick(row, "archetype", "role") or metadata.get("archetype")),
        as_text(pick(row, "npcRole", "npc_role") or metadata.get("npcRole")),
    )
    scenario_id = as_text(pick(row, "scenarioId", "scenario_id"))
    for name, text in (("trajectoryId", identity), ("agentId", agent), ("scenarioId", scenario_id), ("role", role)):
        if text is not None and _UNSTORABLE.search(text):
            raise Unreadable(name, text, "a character that no database holds")
    return Trajectory(
        trajectory_id=identity,
        agent_id=agent,
        window_id=home_window(window_id, start, hours=1.0).id,
        start=start,
        end=end,
        steps=steps,
        final_pnl=as_number(pick(row, "finalPnL", "final_pnl"), metrics.get("finalPnL"), metrics.get("final_pnl")),
        final_balance=as_number(
            pick(row, "finalBalance", "final_balance"), metrics.get("finalBalance"), metrics.get("final_balance")
        ),
        final_status=as_text(pick(row, "finalStatus", "final_status") or metrics.get("finalStatus")) or "completed",
        role=role,
        scenario_id=scenario_id,
        is_training_data=as_bool(
            pick(row, "isTrainingData", "is_training_data"),
            default=as_bool(pick(metadata, "isTrainingData", "is_training_data"), default=True),
        ),
        is_evaluation=as_bool(pick(row, "isEvaluation", "is_evaluation"), default=False),
        metrics=metrics,
        metadata=metadata,
        rewards=rewards,
    )


def _rewards(row: Fields, metrics: JsonDict) -> dict[str, float]:
    """Reads the rewards that were recorded of the whole; takes the one that is kept in the metrics out of them."""
    judged = pick(row, "rewardJudgment", "reward_judgment")
    if isinstance(judged, Mapping):
        judged = pick(judged, "overallScore", "overall_score")
    found = {
        "totalReward": as_number(pick(row, "totalReward", "total_reward")) or as_number(metrics.get("totalReward")),
        "aiJudgeReward": as_number(pick(row, "aiJudgeReward", "ai_judge_reward")),
        "rewardJudgment": as_number(judged, metrics.pop("rewardJudgment", None)),
    }
    if found["totalReward"] is None:
        found["totalReward"] = as_number(pick(row, "totalReward", "total_reward"))
    return {name: value for name, value in found.items() if value is not None}


def _steps_list(found: object) -> list[object]:
    value = decode_json(found, "stepsJson")
    if isinstance(value, Mapping):
        value = decode_json(pick(value, *STEPS), "stepsJson.steps")
    if not isinstance(value, list):
        raise Unreadable("stepsJson", found, "not a list of steps")
    if not value:
        raise Unreadable("stepsJson", found, "no steps")
    return value


def _time_of(step: object) -> datetime | None:
    return as_time(step.get("timestamp")) if isinstance(step, Mapping) else None


def _steps(recorded: Sequence[object], identity: str, start: datetime, calls: Sequence[Fields]) -> tuple[Step, ...]:
    logged = _by_step(calls, identity)
    steps: list[Step] = []
    for index, item in enumerate(recorded):
        place = f"stepsJson[{index}]"
        if not isinstance(item, Mapping):
            raise Unreadable(place, item, "not a step")
        number = as_int(pick(item, "stepNumber", "step_number", "step"))
        number = index if number is None else number
        timestamp = as_milliseconds(item.get("timestamp"))
        if timestamp is None:  # not recorded: no earlier than the step before
            timestamp = steps[-1].timestamp_ms if steps else milliseconds(start)
        own_calls = decode_json(next(filter(None, (item.get(name) for name in CALLS)), None), f"{place}.llmCalls")
        if isinstance(own_calls, Mapping):
            own_calls = [own_calls]
        if not own_calls:
            step_id = as_text(pick(item, "stepId", "step_id"))
            own_calls = (step_id and logged.get(step_id)) or logged.get(number) or []
        if not isinstance(own_calls, list):
            raise Unreadable(f"{place}.llmCalls", own_calls, "not a list of calls")
        steps.append(
            Step(
                number=number,
                timestamp_ms=timestamp,
                environment_state=_mapping(decode_json(pick(item, *STATES), f"{place}.environmentState")),
                action=_action(item.get("action"), place),
                llm_calls=tuple(_call(call, f"{place}.llmCalls[{i}]") for i, call in enumerate(own_calls)),
                provider_accesses=tuple(_provider_accesses(pick(item, *PROVIDERS), place)),
                reward=as_number(item.get("reward")),
                step_id=as_text(pick(item, "stepId", "step_id")),
                observation=_part(item, "observation"),
                done=item["done"] if isinstance(item.get("done"), bool) else None,
                metadata=_part(item, "metadata"),
            )
        )
    numbers = [step.number for step in steps]
    if len(set(numbers)) != len(numbers):
        raise Unreadable("stepsJson[].stepNumber", numbers, "step numbers repeat")
    return tuple(steps)


def _by_step(calls: Sequence[Fields], identity: str) -> dict[str | int, list[Fields]]:
    """Groups this trajectory's logged calls by their step's id, and by its number where an id names that."""
    logged: dict[str | int, list[Fields]] = {}
    for call in calls:
        owner = as_text(pick(call, "trajectoryId", "trajectory_id"))
        if owner is not None and owner != identity:
            continue
        ids = [as_text(pick(call, *names)) or "" for names in (("stepId", "step_id"), ("callId", "call_id"))]
        logged.setdefault(ids[0], []).append(call)
        matches = (_STEP_NUMBER.search(i) for i in ids if owner is not None or i.startswith(identity))
        named = next(filter(None, matches), None)
        if named is not None:
            logged.setdefault(int(named[1] or named[2]), []).append(call)
    return logged


def _provider_accesses(found: object, place: str) -> list[JsonDict]:
    is_json = isinstance(found, str) and found.lstrip().startswith(("[", "{"))
    listed = decode_json(found, f"{place}.providerAccesses") if is_json else found
    if listed is None:
        return []
    items = listed if isinstance(listed, list) else [listed]
    return [_dict(item) if isinstance(item, Mapping) else {"data": item} for item in items]


def _action(found: object, place: str) -> Action:
    if isinstance(found, str):
        found = decode_json(found, f"{place}.action") if found.lstrip().startswith("{") else {"actionType": found}
    if found is None:
        found = {}
    if not isinstance(found, Mapping):
        raise Unreadable(f"{place}.action", found, "not an action")
    error = as_message(found.get("error"))
    result = found.get("result")
    return Action(
        action_type=as_text(pick(found, "actionType", "action_type", "type", "action")) or "unknown",
        parameters=_mapping(pick(found, "parameters", "params")),
        success=as_bool(found.get("success"), default=not error),
        result=_dict(result) if isinstance(result, Mapping) else None if result is None else {"value": result},
        error=error,
        reasoning=as_text(found.get("reasoning")),
        correctness=_dict(found["correctness"]) if isinstance(found.get("correctness"), Mapping) else None,
    )


def _call(found: object, place: str) -> LLMCall:
    if not isinstance(found, Mapping):
        raise Unreadable(place, found, "not a call")
    metadata = _mapping(decode_json(found.get("metadata"), f"{place}.metadata"))
    tool_calls = _objects(pick(found, "toolCalls", "tool_calls") or metadata.get("toolCalls"), f"{place}.toolCalls")
    tools = _objects(found.get("tools") or metadata.get("tools"), f"{place}.tools")
    answer = pick(found, "response", "output", "text")
    if isinstance(answer, list) and answer:
        if fault := message_fault({"role": "assistant", "content": answer}):
            raise Unreadable(f"{place}.response", answer, fault)
        answer = content_text(answer)
    response = as_text(answer) or ("" if tool_calls else None)
    if response is None:
        response = as_text(pick(found, "response", "output", "text"))
    if response is None:
        raise Unreadable(f"{place}.response", None, "an LLM call without a response")
    chat = _chat(found, place)
    system = as_text(pick(found, "systemPrompt", "system_prompt")) or ""
    user = as_text(pick(found, "userPrompt", "user_prompt", "prompt")) or ""
    if not chat and not system and not user:
        raise Unreadable(f"{place}.userPrompt", None, "an LLM call without a prompt")
    unknown = metadata.get("unknown")
    unknown = unknown if isinstance(unknown, list) else []
    token_ids = _integers(pick(found, "tokenIds", "token_ids"))
    logprobs = _floats(found.get("logprobs"))
    if token_ids is not None and logprobs is not None and len(token_ids) != len(logprobs):
        raise Unreadable(f"{place}.logprobs", len(logprobs), f"not one a completion token ({len(token_ids)})")
    version = as_text(pick(found, "modelVersion", "model_version"))
    if version is None:
        version = as_text(metadata.get("modelVersion"))
    return LLMCall(
        call_id=as_text(pick(found, "callId", "call_id")),
        model=as_text(found.get("model")) or "",
        system_prompt=system,
        user_prompt=user,
        chat=chat,
        response=response,
        purpose=as_text(found.get("purpose")) or "action",
        model_version=version,
        action_type=as_text(pick(found, "actionType", "action_type")),
        reasoning=as_text(found.get("reasoning")),
        temperature=None if "temperature" in unknown else as_number(found.get("temperature")),
        max_tokens=None if "maxTokens" in unknown else as_int(pick(found, "maxTokens", "max_tokens")),
        top_p=as_number(pick(found, "topP", "top_p")),
        latency_ms=as_int(pick(found, "latencyMs", "latency_ms")),
        prompt_tokens=as_int(pick(found, "promptTokens", "prompt_tokens")),
        completion_tokens=as_int(pick(found, "completionTokens", "completion_tokens")),
        total_tokens=as_int(pick(found, "totalTokens", "total_tokens")),
        prompt_token_ids=_integers(pick(found, "promptTokenIds", "prompt_token_ids")),
        token_ids=token_ids,
        logprobs=logprobs,
        timestamp_ms=as_milliseconds(found.get("timestamp")),
        tool_calls=tool_calls,
        tools=tools,
    )


def _chat(found: Fields, place: str) -> tuple[Message, ...] | None:
    """Reads the recorded conversation; None where there is none."""
    listed = decode_json(pick(found, "messages", "messagesJson", "messages_json"), f"{place}.messages")
    if isinstance(listed, list) and listed:
        for item in listed:
            if fault := message_fault(item):
                raise Unreadable(f"{place}.messages", item, fault)
        return tuple(_dict(item) for item in listed)
    return None


# --- values ---------------------------------------------------------------------------------------------------------


def _object(row: Fields, *names: str) -> JsonDict:
    value = decode_json(pick(row, *names), names[0])
    return _mapping(value)


def _mapping(value: object) -> JsonDict:
    return _dict(as_fields(value))


def _objects(value: object, place: str) -> JsonObjects | None:
    """Reads a list of objects, or its text; None where there is none or it is empty."""
    listed = decode_json(value, place)
    if not listed:
        return None
    if not isinstance(listed, list) or not all(isinstance(item, Mapping) for item in listed):
        raise Unreadable(place, value, "not a list of objects")
    return tuple(_dict(item) for item in listed)


def _part(item: Fields, name: str) -> JsonDict | None:
    value = item.get(name)
    return _dict(value) if isinstance(value, Mapping) else None


def _dict(value: Mapping[str, object]) -> JsonDict:
    return {str(key): item for key, item in value.items()}


def _integers(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        return None
    return tuple(value)


def _floats(value: object) -> tuple[float, ...] | None:
    """Reads a list of finite numbers; None where one is missing: logprobs count only if complete."""
    if not isinstance(value, list):
        return None
    numbers = [v for v in value if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    return tuple(float(v) for v in numbers) if len(numbers) == len(value) else None
