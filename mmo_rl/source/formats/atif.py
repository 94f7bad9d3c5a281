"""Reader of ATIF trajectories (Agent Trajectory Interchange Format 1.x, as Harbor writes them).

Source: https://github.com/harbor-framework/harbor/blob/main/rfcs/0001-trajectory-format.md
"""

from __future__ import annotations

from collections.abc import Iterator

from mmo_rl.source.formats.common import SCENARIO, WINDOW, Row, action_of, first_of, tool_call, totals, without_none
from mmo_rl.source.jsontext import excerpt
from mmo_rl.source.values import Fields, as_fields, as_list, as_number, as_text, pick
from mmo_rl.types import Rejection

VERSION = "ATIF-v"


def recognises(value: Fields) -> bool:
    version = value.get("schema_version")
    return isinstance(version, str) and version.startswith(VERSION)


def rows(value: Fields, place: str) -> Iterator[Row | Rejection]:
    """Yields the row of a trajectory, and those of the sub-agents inside it.

    A step is an agent's step; its prompt is all that was said before. A step that was copied from an earlier
    trajectory, or that no model made, is no decision of this one: the first is prompt only, the second has no LLM call.
    """
    version = str(value.get("schema_version"))
    if not version.startswith(f"{VERSION}1."):
        identity = pick(value, "trajectory_id", "session_id")
        yield Rejection(
            identity if isinstance(identity, str) else None, f"{place}: schema_version", version, "not ATIF 1.x"
        )
        return
    yield _row(value, version)
    for member in as_list(value.get("subagent_trajectories")):
        if isinstance(member, dict):
            yield from rows({"schema_version": version, **member}, place)
        else:
            yield Rejection(None, f"{place}: subagent_trajectories", excerpt(member), "not an object")


def _row(value: Fields, version: str) -> Row:
    agent, extra = as_fields(value.get("agent")), as_fields(value.get("extra"))
    final = as_fields(as_fields(value.get("final_metrics")).get("extra"))
    recorded = as_list(value.get("steps"))
    times = [as_fields(step).get("timestamp") for step in recorded]
    return without_none(
        {
            "trajectoryId": pick(value, "trajectory_id", "session_id"),
            "agentId": agent.get("name"),
            "archetype": pick(extra, "role", "archetype"),
            "scenarioId": first_of(SCENARIO, extra),
            "windowId": first_of(WINDOW, extra),
            "startTime": next(filter(None, times), None),
            "endTime": next(filter(None, reversed(times)), None),
            "steps": list(_steps(recorded, agent)),
            **totals(final, extra),
            "totalReward": as_number(final.get("reward"), extra.get("reward")),
            "metadata": without_none(
                {"format": version, "extra": value.get("extra"), "session_id": value.get("session_id")}
            ),
        }
    )


def _steps(recorded: list[object], agent: Fields) -> Iterator[object]:
    prompt: list[Row] = []
    for item in recorded:
        step = as_fields(item)
        if not step:
            yield item  # not a step: the parser says so
            continue
        content = step.get("message")
        if step.get("source") != "agent":
            prompt.append({"role": step.get("source"), "content": content})
            prompt += _results(step)
            continue
        calls = [
            tool_call(call.get("tool_call_id"), call.get("function_name"), call.get("arguments", {}))
            for call in map(as_fields, as_list(step.get("tool_calls")))
        ]
        answer: Row = {"role": "assistant", "content": content or None if calls else content}
        if calls:
            answer["tool_calls"] = calls
        results = _results(step)
        if step.get("is_copied_context") is not True:
            found = {as_text(m["tool_call_id"]): m["content"] for m in results if "tool_call_id" in m}
            yield without_none(
                {
                    "timestamp": step.get("timestamp"),
                    "llmCalls": [] if step.get("llm_call_count") == 0 else [_call(step, agent, prompt, calls)],
                    "action": action_of(calls, found),
                    "reward": as_number(as_fields(step.get("extra")).get("reward")),
                }
            )
        prompt = [*prompt, answer, *results]


def _results(step: Fields) -> list[Row]:
    """Lists what tools and the environment answered: messages of a tool where they name its call, else of the user."""
    messages: list[Row] = []
    for result in map(as_fields, as_list(as_fields(step.get("observation")).get("results"))):
        identity, content = result.get("source_call_id"), result.get("content")
        if identity is not None:
            messages.append({"role": "tool", "tool_call_id": identity, "content": content})
        elif content is not None:
            messages.append({"role": "user", "content": content})
    return messages


def _call(step: Fields, agent: Fields, prompt: list[Row], calls: list[Row]) -> Row:
    metrics = as_fields(step.get("metrics"))
    tokens = {
        "promptTokenIds": metrics.get("prompt_token_ids"),
        "tokenIds": metrics.get("completion_token_ids"),
        "logprobs": metrics.get("logprobs"),
    }
    several = isinstance(made := step.get("llm_call_count"), int) and made > 1  # their numbers are added up
    return without_none(
        {
            "model": pick(step, "model_name") or agent.get("model_name"),
            "messages": list(prompt),
            "response": step.get("message"),
            "toolCalls": calls or None,
            "tools": agent.get("tool_definitions"),
            "reasoning": step.get("reasoning_content"),
            "timestamp": step.get("timestamp"),
            "promptTokens": metrics.get("prompt_tokens"),
            "completionTokens": metrics.get("completion_tokens"),
            **({} if several else tokens),
        }
    )
