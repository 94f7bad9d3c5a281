"""Export as verifiers episodes (0.4, as prime-rl reads them): graphs of messages with the sampled tokens of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from mmo_rl.messages import TEMPLATE_KEYS, answer_message, content_text
from mmo_rl.trainer.export_formats import Rows
from mmo_rl.types import JsonDict, Message, PolicyCall, TrainingGroup, TrainingSample
from mmo_rl.window_ids import named_start

ENVIRONMENT, REWARD = "mmo-rl", "judge"
VERSION = 1
"""Version of verifiers' trace schema."""
Json: TypeAlias = dict[str, object]


@dataclass(slots=True)
class Node:
    """Message of the graph; ``parent`` is the place of the one before it, ``token_ids`` are those that it adds."""

    parent: int | None
    message: Json
    sampled: bool
    timestamp: float
    tools: list[Json]
    token_ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def as_json(self) -> Json:
        found: Json = {name: getattr(self, name) for name in ("message", "sampled", "timestamp")}
        found |= {name: getattr(self, name) for name in ("token_ids", "mask", "logprobs")}
        if self.parent is not None:
            return {"parent": self.parent, **found}
        return {**found, "tools": self.tools} if self.tools else found


def verifiers_rows(groups: Sequence[TrainingGroup]) -> Rows:
    """Makes an episode of every sample: one trace, whose agent is the trajectory, with the reward ``judge``.

    Episodes to compare with each other have one ``group.id``. Calls share the messages of an earlier one where their
    prompt goes on from it, token by token where tokens were recorded; else they are a branch of their own. The tokens
    of a prompt stand before the answer that they led to, with mask false.
    """
    rows = [_episode(group, sample) for group in groups for sample in group.samples if sample.calls]
    return Rows(rows, facts={"groups": len(groups)})


def _episode(group: TrainingGroup, sample: TrainingSample) -> JsonDict:
    identity = sample.trajectory_id if sample.step is None else f"{sample.trajectory_id}/{sample.step}"
    start = named_start(group.group_id[:16])
    data: Json = {"name": group.group_id}
    if start is not None:
        data["window"] = group.group_id[:16]
    task = {"type": "Window", "data": data, "key": group.group_id}
    nodes, calls = _graph(sample.calls, 0.0 if start is None else start.timestamp())
    trace = {
        "version": VERSION,
        "id": identity,
        "task": task,
        "agent": {"name": sample.trajectory_id, "config": {}},
        "nodes": nodes,
        "calls": calls,
        "rewards": {REWARD: {"score": sample.reward, "weight": 1.0}},
        "is_completed": True,
        "ok": True,
    }
    return {
        "id": identity,
        "env": {"id": ENVIRONMENT},
        "task": task,
        "group": {"id": group.group_id},
        "ok": True,
        "traces": [trace],
    }


def _graph(calls: Sequence[PolicyCall], timestamp: float) -> tuple[list[Json], list[Json]]:
    nodes: list[Node] = []
    made: list[Json] = []
    for call in calls:
        path = _shared(nodes, call)
        before = sum(len(nodes[number].token_ids) for number in path)
        parent = path[-1] if path else None
        answer = answer_message(call.response, call.tool_calls)
        for message in [*call.messages[len(path) :], answer]:
            tools = _tools(call) if parent is None else []
            nodes.append(Node(parent, _message(message), message is answer, timestamp, tools))
            parent = len(nodes) - 1
        if call.token_ids is not None:
            prompt = (call.prompt_token_ids or ())[before:]
            nodes[-1].token_ids = [*prompt, *call.token_ids]
            nodes[-1].mask = [False] * len(prompt) + [True] * len(call.token_ids)
            nodes[-1].logprobs = list(call.logprobs or ())
        made.append({"node": parent, **({} if call.model is None else {"model": call.model})})
    return [node.as_json() for node in nodes], made


def _shared(nodes: Sequence[Node], call: PolicyCall) -> list[int]:
    """Finds the path from a root that the call's prompt begins with, or none where its tokens differ."""
    path: list[int] = []
    for message in map(_message, call.messages):
        parent = path[-1] if path else None
        found = next((n for n, node in enumerate(nodes) if node.parent == parent and node.message == message), None)
        if found is None or (parent is None and nodes[found].tools != _tools(call)):
            break
        path.append(found)
    tokens = [token for number in path for token in nodes[number].token_ids]
    if call.token_ids is None:
        return [] if tokens else path
    unknown = any(nodes[number].sampled and not nodes[number].token_ids for number in path)
    prompt = list(call.prompt_token_ids or ())
    return path if not unknown and prompt[: len(tokens)] == tokens else []


def _message(message: Message) -> Json:
    role = "system" if message["role"] == "developer" else message["role"]
    content = message.get("content")
    if role == "assistant":
        calls = [_call(call, number) for number, call in enumerate(message.get("tool_calls") or ())]
        text = None if content is None else content_text(content)
        return {"role": role, "content": text, **({"tool_calls": calls} if calls else {})}
    kept = {key: message[key] for key in TEMPLATE_KEYS if role == "tool" and message.get(key)}
    return {"role": role, "content": "" if content is None else content, **kept}


def _call(call: Mapping[str, object], number: int) -> Json:
    function = call.get("function")
    function = function if isinstance(function, Mapping) else call
    return {
        "id": str(call.get("id") or f"call-{number}"),
        "name": str(function.get("name")),
        "arguments": str(function.get("arguments") or ""),
    }


def _tools(call: PolicyCall) -> list[Json]:
    listed = [tool["function"] for tool in call.tools or () if isinstance(tool.get("function"), Mapping)]
    return [{"type": "function", "description": "", "parameters": {}, **tool} for tool in listed]
