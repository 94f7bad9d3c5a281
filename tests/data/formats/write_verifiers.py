"""Writes verifiers.jsonl with verifiers 0.4.0: the episodes of a group, by the graph and the writer of verifiers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from verifiers.v1.configs.agent import WireAgentConfig
from verifiers.v1.episode import EnvInfo, Error, GroupInfo, WireEpisode
from verifiers.v1.graph import prepare_turn
from verifiers.v1.task import WireTaskData
from verifiers.v1.trace import AgentInfo, ModelCall, Reward, TimeSpan, TraceTask, WireTrace
from verifiers.v1.types import (
    AssistantMessage,
    Response,
    SystemMessage,
    Tool,
    ToolCall,
    ToolMessage,
    TurnTokens,
    Usage,
    UserMessage,
)
from verifiers.v1.utils.trace_store import TRACES_FILE, write_episode

START = 1767621600.0  # 2026-01-05T14:00:00Z
TOOL = Tool(name="OPEN_PERP_POSITION", description="Opens a position", parameters={"type": "object"})
TASK = TraceTask(type="Market", data=WireTaskData(idx=0, prompt="NOVA stands at 100.", answer="up"), key="my-game")


def play(name: str, identity: str, *, begun: float, sides: list[str | None], pnl: float, tokens: bool) -> WireTrace:
    trace = WireTrace(id=identity, task=TASK, agent=AgentInfo(name=name, config=WireAgentConfig(model="my-model")))
    trace.timing.start = begun
    messages = [SystemMessage(content="You trade."), UserMessage(content="NOVA stands at 100.")]
    prompt_ids = [1, 2, 3, 4, 5]
    for number, side in enumerate(sides):
        calls = None
        if side is not None:
            arguments = f'{{"ticker": "NOVA",  "side": "{side}", "size": 500, "price": 100}}'  # two spaces are kept
            calls = [ToolCall(id=f"call-{number}", name="OPEN_PERP_POSITION", arguments=arguments)]
        answer = AssistantMessage(content=None if calls else "I wait.", reasoning_content="strong", tool_calls=calls)
        completion = [100 + number, 200 + number]
        pending = prepare_turn(trace, messages, [TOOL])
        spent = Usage(prompt_tokens=len(prompt_ids), completion_tokens=2)
        recorded = None
        if tokens:
            spans = [(0, 2), (2, 4)] if number == 0 else None
            recorded = TurnTokens(
                prompt_ids=list(prompt_ids),
                completion_ids=completion,
                completion_logprobs=[-0.123456789, -0.5],
                message_spans=spans,
            )
        node = pending.commit(
            Response(
                id=f"r-{number}",
                created=int(begun),
                model="my-model",
                message=answer,
                finish_reason="tool_calls" if calls else "stop",
                usage=spent,
                tokens=recorded,
            )
        )
        moment = begun + 300 + 600 * number
        trace.nodes[node].timestamp = moment
        trace.calls.append(
            ModelCall(node=node, model="my-model", usage=spent, time=TimeSpan(start=moment - 2, end=moment))
        )
        messages = [*messages, answer]
        prompt_ids = [*prompt_ids, *completion]
        if calls:
            messages.append(ToolMessage(tool_call_id=f"call-{number}", content="filled", name="OPEN_PERP_POSITION"))
            prompt_ids += [7, 8, 9]
        else:
            messages.append(UserMessage(content="Go on."))
            prompt_ids += [6, 9]
    prepare_turn(trace, messages, [TOOL]).commit_prompt()
    for node in trace.nodes:
        if not node.sampled:
            node.timestamp = begun
    trace.rewards = {"profit": Reward(score=pnl / 10, weight=0.5), "form": Reward(score=1.0, weight=0.25)}
    trace.metrics = {"pnl": pnl, "final_balance": 10000 + pnl}
    trace.info = {"secret": "PLANTED-SECRET"}
    trace.is_completed = trace.ok = True
    return trace


def main() -> None:
    episodes = []
    for number, (side, pnl) in enumerate([("long", 10.0), ("short", -6.5)]):
        traces = [
            play("trader", f"trader-{number}", begun=START, sides=[side, None], pnl=pnl, tokens=True),
            play("solver", f"solver-{number}-a", begun=START + 60, sides=[side], pnl=pnl / 2, tokens=False),
            play("solver", f"solver-{number}-b", begun=START + 3600, sides=[None, side], pnl=1.5, tokens=True),
        ]
        episodes.append(
            WireEpisode(
                id=f"episode-{number}",
                env=EnvInfo(id="market"),
                task=TASK,
                group=GroupInfo(id="g-0"),
                ok=True,
                traces=traces,
            )
        )
    failed = WireEpisode(id="episode-2", env=EnvInfo(id="market"), task=TASK, ok=False)
    failed.errors = [Error(type="ProviderError", message="the endpoint is gone")]
    with tempfile.TemporaryDirectory() as folder:
        for episode in [*episodes, failed]:
            write_episode(Path(folder), episode)
        text = (Path(folder) / TRACES_FILE).read_text(encoding="utf-8")
    Path(__file__).with_name("verifiers.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
