"""Reader of OpenTelemetry spans of generative AI: OTLP JSON (a batch a line, as the collector's and the SDK's file
exporters write it) and the JSON of the SDK's console exporter.

Source: https://github.com/open-telemetry/semantic-conventions-genai. The spans of a trace lie anywhere in a file, so
that a file is read as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmo_rl.source.formats.common import Row, action_of, tool_call, totals, without_none
from mmo_rl.source.jsontext import Unreadable, decode_json, excerpt
from mmo_rl.source.values import Fields, as_fields, as_list, as_milliseconds, as_number, as_text, pick
from mmo_rl.types import Rejection

HEAD = re.compile(rb'\s*\{\s*(?:"resourceSpans"|"name"\s*:\s*"[^"]*",\s*"context"\s*:\s*\{\s*"trace_id")')
ANSWERS = ("chat", "text_completion", "generate_content")
DETAILS, EVALUATION = "gen_ai.client.inference.operation.details", "gen_ai.evaluation.result"
UNSAID = "a span without messages: record them with OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=SPAN_ONLY"
FAILED = "an LLM call that failed"


@dataclass(frozen=True, slots=True)
class Span:
    """A span in one notation; times in milliseconds, ``start_ms`` None where it cannot be read."""

    trace: str
    identity: str
    parent: str | None
    start_ms: float | None
    end_ms: float | None
    attributes: Fields
    evaluations: tuple[Fields, ...]
    service: str | None

    @property
    def operation(self) -> object:
        return self.attributes.get("gen_ai.operation.name")


def recognises(head: bytes) -> bool:
    """Recognises a file by its first bytes."""
    return HEAD.match(head) is not None


def rows(found: Iterable[object | Rejection], place: str) -> Iterator[Row | Rejection]:
    """Yields a row for the LLM calls of each agent in each trace, from the JSON values of a file, in the order of time.

    A span that was exported twice counts once. A call that failed, or whose messages were not recorded, is rejected.
    """
    spans: dict[tuple[str, str], Span] = {}
    for value in found:
        if isinstance(value, Rejection):
            yield value
            continue
        for span in _spans(as_fields(value)):
            if span is None:
                yield Rejection(None, place, excerpt(value), "a span without its ids")
            else:
                spans.setdefault((span.trace, span.identity), span)
    calls: dict[tuple[str, str], list[Span]] = {}
    for span in sorted(spans.values(), key=lambda span: span.start_ms or 0):
        if span.operation in ANSWERS:
            calls.setdefault((span.trace, _agent(span, spans)), []).append(span)
    tools: dict[tuple[str, str], dict[str | None, Span]] = {}
    for span in spans.values():
        if span.operation == "execute_tool":
            owner = (span.trace, _agent(span, spans))
            tools.setdefault(owner, {})[as_text(span.attributes.get("gen_ai.tool.call.id"))] = span
    for (trace, agent), made in calls.items():
        identity = f"{trace}/{agent}"
        steps = []
        for span in made:
            if _json(span, "gen_ai.output.messages"):
                steps.append(_step(span, tools.get((trace, agent), {})))
            else:
                reason = FAILED if span.attributes.get("error.type") else UNSAID
                yield Rejection(identity, f"{place}: span {span.identity}", excerpt(span.operation), reason)
        if steps:
            yield _row(identity, agent, made, spans, steps)


# --- spans in one notation ------------------------------------------------------------------------------------------


def _spans(value: Fields) -> Iterator[Span | None]:
    if "resourceSpans" not in value:
        yield _console_span(value)
        return
    for resource in map(as_fields, as_list(value.get("resourceSpans"))):
        service = as_text(_attributes(as_fields(resource.get("resource")).get("attributes")).get("service.name"))
        for scope in map(as_fields, as_list(resource.get("scopeSpans"))):
            for span in map(as_fields, as_list(scope.get("spans"))):
                events = [(e.get("name"), _attributes(e.get("attributes"))) for e in _objects(span.get("events"))]
                yield _span(
                    (span.get("traceId"), span.get("spanId"), span.get("parentSpanId")),
                    _milliseconds(span.get("startTimeUnixNano")),
                    _milliseconds(span.get("endTimeUnixNano")),
                    _attributes(span.get("attributes")),
                    events,
                    service,
                )


def _console_span(value: Fields) -> Span | None:
    context = as_fields(value.get("context"))
    return _span(
        (context.get("trace_id"), context.get("span_id"), value.get("parent_id")),
        as_milliseconds(value.get("start_time")),
        as_milliseconds(value.get("end_time")),
        as_fields(value.get("attributes")),
        [(event.get("name"), as_fields(event.get("attributes"))) for event in _objects(value.get("events"))],
        as_text(as_fields(as_fields(value.get("resource")).get("attributes")).get("service.name")),
    )


def _span(
    ids: tuple[object, object, object],
    start_ms: float | None,
    end_ms: float | None,
    attributes: Fields,
    events: Sequence[tuple[object, Fields]],
    service: str | None,
) -> Span | None:
    trace, identity, parent = ((as_text(i) or "").removeprefix("0x") for i in ids)
    if not trace or not identity:
        return None
    details = {k: v for name, found in events if name == DETAILS for k, v in found.items()}
    evaluations = tuple(found for name, found in events if name == EVALUATION)
    return Span(trace, identity, parent or None, start_ms, end_ms, {**details, **attributes}, evaluations, service)


def _objects(value: object) -> Iterator[Fields]:
    return map(as_fields, as_list(value))


def _milliseconds(nanoseconds: object) -> float | None:
    number = as_number(nanoseconds)
    return None if not number else number / 1e6


def _attributes(listed: object) -> dict[str, object]:
    return {str(entry.get("key")): _value(as_fields(entry.get("value"))) for entry in _objects(listed)}


def _value(found: Fields) -> object:
    """Returns an attribute's value: OTLP says its type, and a large integer as text."""
    if "arrayValue" in found:
        return [_value(item) for item in _objects(as_fields(found["arrayValue"]).get("values"))]
    if "kvlistValue" in found:
        return _attributes(as_fields(found["kvlistValue"]).get("values"))
    if "intValue" in found:
        number = as_number(found["intValue"])
        return None if number is None else int(number)
    return pick(found, "stringValue", "doubleValue", "boolValue")


# --- rows -----------------------------------------------------------------------------------------------------------


def _agent(span: Span, spans: Mapping[tuple[str, str], Span]) -> str:
    """Finds the agent of a call: its own, else that of the nearest span above it, else the service."""
    for above in _ancestry(span, spans):
        named = as_text(pick(above.attributes, "gen_ai.agent.id", "gen_ai.agent.name"))
        if named:
            return named
    return span.service or "agent"


def _ancestry(span: Span, spans: Mapping[tuple[str, str], Span]) -> Iterator[Span]:
    known = set()
    current: Span | None = span
    while current is not None and current.identity not in known:
        known.add(current.identity)
        yield current
        current = spans.get((current.trace, current.parent or ""))


def _row(
    identity: str, agent: str, made: Sequence[Span], spans: Mapping[tuple[str, str], Span], steps: list[Row]
) -> Row:
    above = list({s.identity: s for span in made for s in _ancestry(span, spans)}.values())
    conversations = (span.attributes.get("gen_ai.conversation.id") for span in above)
    scores = [as_number(e.get("gen_ai.evaluation.score.value")) for span in above for e in span.evaluations]
    ends = [span.end_ms for span in made if span.end_ms is not None]
    return without_none(
        {
            "trajectoryId": identity,
            "agentId": agent,
            "scenarioId": next(filter(None, conversations), None),
            "startTime": made[0].start_ms,
            "endTime": max(ends, default=None),
            "steps": steps,
            **totals(*(span.attributes for span in above)),
            "totalReward": next((score for score in reversed(scores) if score is not None), None),
            "metadata": {"format": "OpenTelemetry", "traceId": made[0].trace},
        }
    )


def _step(span: Span, tools: Mapping[str | None, Span]) -> Row:
    said = as_fields(next(iter(as_list(_json(span, "gen_ai.output.messages"))), None))
    answer, reasoning = _message(said, "assistant")
    calls = [call for call in as_list(answer.get("tool_calls")) if isinstance(call, dict)]
    prompt = [] if not (parts := _json(span, "gen_ai.system_instructions")) else _messages("system", parts)
    for message in _objects(_json(span, "gen_ai.input.messages")):
        prompt += _messages(as_text(message.get("role")) or "user", message.get("parts"), message.get("name"))
    results = {i: tool.attributes["gen_ai.tool.call.result"] for i, tool in tools.items() if _answered(tool)}
    action = action_of(calls, {i: decode_text(result) for i, result in results.items()})
    first = tools.get(as_text(calls[0].get("id"))) if calls else None
    if action is not None and first is not None and first.attributes.get("error.type"):
        action |= {"success": False, "error": first.attributes["error.type"]}
    known = span.attributes
    call = {
        "model": pick(known, "gen_ai.response.model", "gen_ai.request.model"),
        "messages": prompt,
        "response": answer.get("content"),
        "toolCalls": calls or None,
        "tools": [_tool(tool) for tool in _objects(_json(span, "gen_ai.tool.definitions"))] or None,
        "reasoning": reasoning,
        "timestamp": span.end_ms,
        "latencyMs": None if span.start_ms is None or span.end_ms is None else round(span.end_ms - span.start_ms),
        "temperature": known.get("gen_ai.request.temperature"),
        "topP": known.get("gen_ai.request.top_p"),
        "maxTokens": known.get("gen_ai.request.max_tokens"),
        "promptTokens": known.get("gen_ai.usage.input_tokens"),
        "completionTokens": known.get("gen_ai.usage.output_tokens"),
    }
    return without_none({"timestamp": span.start_ms, "llmCalls": [without_none(call)], "action": action})


def _answered(tool: Span) -> bool:
    return tool.attributes.get("gen_ai.tool.call.result") is not None


def decode_text(value: object) -> object:
    """Decodes JSON text; another text stays as it is."""
    try:
        return decode_json(value, "result")
    except Unreadable:
        return value


def _json(span: Span, name: str) -> object:
    """Returns an attribute that is structured, or its JSON text."""
    return decode_text(span.attributes.get(name))


def _messages(role: str, parts: object, name: object = None) -> list[Row]:
    """Makes the messages of one with parts: a message of its own for each result of a tool."""
    found: list[Row] = []
    others = []
    for part in _objects(parts):
        if part.get("type") == "tool_call_response":
            response = pick(part, "response", "result")
            content = response if isinstance(response, str) else json.dumps(response, ensure_ascii=False)
            found.append({"role": "tool", "tool_call_id": part.get("id"), "content": content})
        else:
            others.append(part)
    if others or not found:
        message, _ = _message({"parts": others}, role)
        found.insert(0, message if name is None else {**message, "name": name})
    return found


def _message(said: Fields, role: str) -> tuple[Row, str | None]:
    """Makes a message, and the reasoning that stands in it. A part that is no text stays, and is refused by name."""
    content: list[Row] = []
    calls: list[Row] = []
    reasoning: list[str] = []
    for part in _objects(said.get("parts")):
        kind, text = part.get("type"), part.get("content")
        if kind == "tool_call":
            calls.append(tool_call(part.get("id"), part.get("name"), part.get("arguments") or {}))
        elif kind == "reasoning":
            reasoning.append(as_text(text) or "")
        elif kind == "text":
            content.append({"type": "text", "text": text})
        else:
            content.append({"type": kind})
    plain = len(content) == 1 and content[0]["type"] == "text"
    message: Row = {"role": role, "content": content[0]["text"] if plain else content or None}
    if calls:
        message["tool_calls"] = calls
    return message, "\n".join(reasoning) or None


def _tool(tool: Fields) -> Row:
    kept = {key: tool[key] for key in ("name", "description", "parameters") if tool.get(key) is not None}
    return {"type": tool.get("type") or "function", "function": kept}
