"""Reader of verifiers episodes (0.4, ``traces.jsonl``; prime-rl writes the same).

A trace is a graph of messages: a decision is a sampled node, its prompt the path from the root to it. Source:
``verifiers.v1.episode.Episode``, ``verifiers.v1.graph.MessageNode``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from mmo_rl.source.formats.common import SCENARIO, WINDOW, Row, action_of, first_of, tool_call, totals, without_none
from mmo_rl.source.jsontext import excerpt
from mmo_rl.source.values import Fields, as_fields, as_list, as_number, as_text, pick
from mmo_rl.types import Rejection


def recognises(value: Fields) -> bool:
    return isinstance(value.get("traces"), list) and "task" in value and "env" in value


def rows(value: Fields, place: str) -> Iterator[Row | Rejection]:
    """Yields a row a trace. Agents of one name in an episode are told apart by their place: ``solver``, ``solver-2``.
    An episode that failed before any agent played is a rejection."""
    traces = as_list(value["traces"])
    if not traces:
        errors = [as_fields(error).get("message") for error in as_list(value.get("errors"))]
        yield Rejection(as_text(value.get("id")), f"{place}: traces", excerpt(errors), "an episode without a trace")
    named: Counter[str] = Counter()
    for number, trace in enumerate(traces):
        if not isinstance(trace, dict):
            yield Rejection(as_text(value.get("id")), f"{place}: traces[{number}]", excerpt(trace), "not an object")
            continue
        agent = as_text(as_fields(trace.get("agent")).get("name")) or "agent"
        named[agent] += 1
        name = agent if named[agent] == 1 else f"{agent}-{named[agent]}"
        nodes = [as_fields(node) for node in as_list(trace.get("nodes"))]
        if (broken := _broken_link(nodes)) is not None:
            where = f"{place}: traces[{number}].nodes[{broken}].parent"
            yield Rejection(
                as_text(trace.get("id")), where, excerpt(nodes[broken].get("parent")), "a message without its parent"
            )
        else:
            yield _row(value, trace, nodes, name)


def _broken_link(nodes: Sequence[Fields]) -> int | None:
    """Finds a node whose parent does not stand before it, which every graph of verifiers keeps."""
    for number, node in enumerate(nodes):
        parent = node.get("parent")
        if parent is not None and not (isinstance(parent, int) and 0 <= parent < number):
            return number
    return None


def _row(episode: Fields, trace: Fields, nodes: Sequence[Fields], agent: str) -> Row:
    task = as_fields(trace.get("task")) or as_fields(episode.get("task"))
    data = as_fields(task.get("data"))
    metrics, info = as_fields(trace.get("metrics")), as_fields(trace.get("info"))
    timing = as_fields(trace.get("timing"))
    times = [t for node in nodes if (t := as_number(node.get("timestamp"))) is not None]
    rewards = [_reward(reward) for reward in as_fields(trace.get("rewards")).values() if reward is not None]
    return without_none(
        {
            "trajectoryId": trace.get("id"),
            "agentId": agent,
            "archetype": pick(info, "role", "archetype"),
            "scenarioId": first_of(SCENARIO, data) or task.get("key"),
            "windowId": first_of(WINDOW, data),
            "startTime": min(times, default=None) or as_number(timing.get("start")),
            "endTime": max(times, default=None),
            "steps": list(_steps(trace, nodes)),
            **totals(metrics, info),
            "totalReward": None if None in rewards or not rewards else sum(r for r in rewards if r is not None),
            "finalStatus": "completed" if trace.get("ok", True) else "error",
            "metadata": without_none(
                {
                    "format": "verifiers",
                    "episodeId": episode.get("id"),
                    "groupId": as_fields(episode.get("group")).get("id"),
                    "env": as_fields(episode.get("env")).get("id"),
                    "info": trace.get("info") or None,
                    "stopCondition": trace.get("stop_condition"),
                }
            ),
        }
    )


def _reward(reward: object) -> float | None:
    found = as_fields(reward)
    score, weight = as_number(found.get("score")), as_number(found.get("weight", 1.0))
    return None if score is None or weight is None else score * weight


def _steps(trace: Fields, nodes: Sequence[Fields]) -> Iterator[Row]:
    made = {n: c for c in map(as_fields, as_list(trace.get("calls"))) if isinstance(n := c.get("node"), int)}
    answered: dict[int, dict[str | None, object]] = {}
    for node in nodes:
        message = as_fields(node.get("message"))
        if message.get("role") == "tool" and isinstance(parent := _caller(nodes, node), int):
            answered.setdefault(parent, {})[as_text(message.get("tool_call_id"))] = message.get("content")
    for number, node in enumerate(nodes):
        if node.get("sampled") is not True:
            continue
        path = _path(nodes, number)
        call = as_fields(made.get(number))
        calls = _tool_calls(as_fields(node.get("message")))
        yield without_none(
            {
                "timestamp": node.get("timestamp"),
                "llmCalls": [_call(trace, path, node, call, calls)],
                "action": action_of(calls, answered.get(number, {})),
            }
        )


def _caller(nodes: Sequence[Fields], node: Fields) -> int | None:
    """Finds the answer whose tools these results are: the nearest one above that is no result."""
    parent = node.get("parent")
    while isinstance(parent, int) and as_fields(nodes[parent].get("message")).get("role") == "tool":
        parent = nodes[parent].get("parent")
    return parent if isinstance(parent, int) else None


def _path(nodes: Sequence[Fields], number: int) -> list[Fields]:
    """Lists the nodes from the root to the parent of a node."""
    path = []
    parent = nodes[number].get("parent")
    while isinstance(parent, int):
        path.append(nodes[parent])
        parent = nodes[parent].get("parent")
    return path[::-1]


def _tool_calls(message: Fields) -> list[Row]:
    return [
        tool_call(call.get("id"), call.get("name"), call.get("arguments", ""))
        for call in map(as_fields, as_list(message.get("tool_calls")))
    ]


def _message(message: Fields) -> Row:
    kept = {key: message[key] for key in ("role", "content", "tool_call_id", "name") if message.get(key) is not None}
    calls = _tool_calls(message)
    return {"content": None, **kept, **({"tool_calls": calls} if calls else {})}


def _call(trace: Fields, path: Sequence[Fields], node: Fields, call: Fields, calls: list[Row]) -> Row:
    message = as_fields(node.get("message"))
    sampling = as_fields(call.get("sampling"))
    usage = as_fields(call.get("usage"))
    config = as_fields(as_fields(trace.get("agent")).get("config"))
    offered = as_list(path[0].get("tools") if path else None) or as_list(trace.get("tools"))
    return without_none(
        {
            "model": call.get("model") or config.get("model"),
            "messages": [_message(as_fields(before.get("message"))) for before in path],
            "response": message.get("content"),
            "toolCalls": calls or None,
            "tools": [_tool(as_fields(tool)) for tool in offered] or None,
            "reasoning": message.get("reasoning_content"),
            "timestamp": node.get("timestamp"),
            "temperature": sampling.get("temperature"),
            "topP": sampling.get("top_p"),
            "maxTokens": sampling.get("max_tokens"),
            "promptTokens": usage.get("prompt_tokens"),
            "completionTokens": usage.get("completion_tokens"),
            **_tokens(path, node),
        }
    )


def _tool(tool: Fields) -> Row:
    """Makes a tool as OpenAI's API offers it."""
    kept = {key: tool[key] for key in ("name", "description", "parameters", "strict") if tool.get(key) is not None}
    return {"type": "function", "function": kept}


def _tokens(path: Sequence[Fields], node: Fields) -> Row:
    """Reads the tokens of an answer. Those of its prompt are all on the path and the template's before the answer; a
    message may have none where they were attributed to the answer that follows."""
    ids, mask = as_list(node.get("token_ids")), as_list(node.get("mask"))
    if not ids or len(ids) != len(mask) or True not in mask:
        return {}
    begun = mask.index(True)
    whole = all(as_list(earlier.get("token_ids")) for earlier in path if earlier.get("sampled") is True)
    tokens: Row = {
        "tokenIds": [token for token, sampled in zip(ids, mask, strict=True) if sampled],
        "logprobs": as_list(node.get("logprobs")) or None,
    }
    if whole:
        before = [token for earlier in path for token in as_list(earlier.get("token_ids"))]
        tokens["promptTokenIds"] = [*before, *ids[:begun]] or None
    return tokens
