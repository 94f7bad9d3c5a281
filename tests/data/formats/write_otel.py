"""Writes otel.jsonl (OTLP JSON) and otel_console.json (the console exporter's) with opentelemetry-util-genai.

Three agents in two traces; the spans of a trace are exported in batches of two, between those of the other.
"""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_ONLY"

from opentelemetry.exporter.otlp.json.file.trace_exporter import FileSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.util.genai.handler import TelemetryHandler
from opentelemetry.util.genai.types import (
    FunctionToolDefinition,
    InputMessage,
    OutputMessage,
    ReasoningPart,
    TextPart,
    ToolCallRequestPart,
    ToolCallResponsePart,
)

START_NS = 1767621600 * 10**9  # 2026-01-05T14:00:00Z
ARGUMENTS = {"ticker": "NOVA", "side": "long", "size": 500, "price": 100.0}
TOOL = FunctionToolDefinition(name="OPEN_PERP_POSITION", description="Opens", parameters={"type": "object"})


class Ids(IdGenerator):
    """Ids that are the same each time."""

    def __init__(self) -> None:
        self._random = random.Random(7)

    def generate_span_id(self) -> int:
        return self._random.getrandbits(64)

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128)


def answer(handler: TelemetryHandler, messages: list[InputMessage], said: OutputMessage | None) -> None:
    with handler.inference("openai", request_model="my-model") as call:
        call.temperature = 0.5
        call.system_instruction = [TextPart("You trade.")]
        call.input_messages = messages
        call.tool_definitions = [TOOL]
        if said is None:
            call.attributes["error.type"] = "timeout"
            return
        call.output_messages = [said]
        call.input_tokens, call.output_tokens = 40, 7


def play(handler: TelemetryHandler, name: str, *, decisions: int, pnl: float, fails: bool) -> None:
    with handler.invoke_local_agent(agent_name=name) as agent:
        agent.conversation_id = "my-game"
        agent.attributes["pnl"] = pnl
        messages = [InputMessage("user", [TextPart("NOVA stands at 100.")])]
        for number in range(decisions):
            call = ToolCallRequestPart(arguments=ARGUMENTS, name="OPEN_PERP_POSITION", id=f"call-{number}")
            parts = [ReasoningPart("strong"), call if number == 0 else TextPart("I wait.")]
            answer(handler, list(messages), OutputMessage("assistant", parts, "tool_call" if number == 0 else "stop"))
            if number == 0:
                with handler.tool("OPEN_PERP_POSITION") as tool:
                    tool.tool_call_id = "call-0"
                    tool.arguments = ARGUMENTS
                    tool.tool_result = "filled"
                messages.append(InputMessage("assistant", [call]))
                messages.append(InputMessage("tool", [ToolCallResponsePart(response="filled", id="call-0")]))
            else:
                messages.append(InputMessage("assistant", [TextPart("I wait.")]))
                messages.append(InputMessage("user", [TextPart("Go on.")]))
        if fails:
            answer(handler, list(messages), None)


def at(span: ReadableSpan, number: int) -> ReadableSpan:
    """Moves a span to a time of its own: the first trace's to 14:00, the second's to 15:00."""
    span._start_time = START_NS + number * 60 * 10**9
    span._end_time = span._start_time + 1_500_000_000
    return span


def main() -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "desk"}), id_generator=Ids())
    provider.add_span_processor(SimpleSpanProcessor(kept))
    handler = TelemetryHandler(tracer_provider=provider)
    with handler.workflow("round"):
        play(handler, "alice", decisions=2, pnl=12.5, fails=False)
        play(handler, "bob", decisions=3, pnl=-4.25, fails=True)
    play(handler, "alice", decisions=1, pnl=3.0, fails=False)
    spans = list(kept.get_finished_spans())
    first = spans[0].context.trace_id
    ordered = sorted(spans, key=lambda span: span.start_time)
    for number, span in enumerate(ordered):
        at(span, number if span.context.trace_id == first else 60 + number)
    one = [span for span in spans if span.context.trace_id == first]
    two = [span for span in spans if span.context.trace_id != first]
    text = io.StringIO()
    exporter = FileSpanExporter(stream=text)
    while one or two:
        for rest in (one, two):
            if rest:
                exporter.export([rest.pop(0) for _ in range(min(2, len(rest)))])
    folder = Path(__file__).parent
    (folder / "otel.jsonl").write_text(text.getvalue(), encoding="utf-8")
    console = io.StringIO()
    ConsoleSpanExporter(out=console).export(spans)
    (folder / "otel_console.json").write_text(console.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    main()
