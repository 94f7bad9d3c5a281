"""Writes verifiers_results.jsonl with verifiers 0.1.14: states turned into results and saved by its own functions."""

from __future__ import annotations

import tempfile
from pathlib import Path

from verifiers.types import (
    AssistantMessage,
    RolloutTiming,
    State,
    SystemMessage,
    Tool,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from verifiers.utils.save_utils import save_outputs, states_to_outputs

START = 1767621600.0  # 2026-01-05T14:00:00Z
TOOL = Tool(name="BUY", description="Buys", parameters={"type": "object"})
PROMPT = [SystemMessage(content="You trade."), UserMessage(content="NOVA stands at 100.")]


def state(number: int, *, pnl: float) -> State:
    call = ToolCall(id="call-0", name="BUY", arguments='{"ticker":  "NOVA", "size": 500}')
    first, second = AssistantMessage(content=None, tool_calls=[call]), AssistantMessage(content="I wait.")
    filled = ToolMessage(tool_call_id="call-0", content="filled")

    def tokens(prompt: list[int], ids: list[int]) -> dict[str, object]:
        logprobs = [-0.123456789 * token for token in ids]
        masks = {"prompt_mask": [0] * len(prompt), "completion_mask": [1] * len(ids)}
        return {"prompt_ids": prompt, "completion_ids": ids, "completion_logprobs": logprobs, **masks}

    steps = [
        {"prompt": PROMPT, "tokens": tokens([1, 2], [3, 4]), "reward": None},
        {"prompt": [*PROMPT, first, filled], "tokens": tokens([1, 2, 3, 4, 5], [6]), "reward": None},
    ]
    found = State(example_id=7, prompt=PROMPT, completion=[first, filled, second], answer="up", reward=pnl / 10)
    found |= {"metrics": {"pnl": pnl}, "is_completed": True, "tool_defs": [TOOL]}
    found |= {
        "info": {"window": "2026-01-05T14:00", "secret": "PLANTED-SECRET"},
        "timing": RolloutTiming(start_time=START),
    }
    if number:  # the first is saved without the column
        found["trajectory"] = [{**step, "trajectory_id": f"rollout-{number}"} for step in steps]
    return found


def main() -> None:
    outputs = states_to_outputs([state(0, pnl=12.5)])
    outputs += states_to_outputs([state(1, pnl=-4.25), state(2, pnl=3.0)], ["trajectory"])
    with tempfile.TemporaryDirectory() as folder:
        save_outputs(outputs, Path(folder))
        text = (Path(folder) / "results.jsonl").read_text(encoding="utf-8")
    Path(__file__).with_name("verifiers_results.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
