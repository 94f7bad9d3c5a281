"""Export as verifiers episodes: our own reader of that format reads the same calls, tokens and rewards again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmo_rl.source.exports import Exports
from mmo_rl.source.rejections import Rejections
from mmo_rl.trainer.export import ExportTrainer
from mmo_rl.trainer.export_verifiers import verifiers_rows
from mmo_rl.types import LLMCall, Message, PolicyCall, TrainingGroup, TrainingSample
from tests.trainer.made import trainer_parts

WINDOW = "2026-01-05T14:00"
TOOL = {"type": "function", "function": {"name": "BUY", "description": "Buys", "parameters": {"type": "object"}}}
ASKED = {"id": "c-1", "type": "function", "function": {"name": "BUY", "arguments": '{"ticker":  "NOVA"}'}}
FIRST: tuple[Message, ...] = ({"role": "system", "content": "You trade."}, {"role": "user", "content": "NOVA 100"})
THEN: tuple[Message, ...] = (
    *FIRST,
    {"role": "assistant", "content": None, "tool_calls": [ASKED]},
    {"role": "tool", "tool_call_id": "c-1", "content": "filled"},
)


def groups(*, tokens: bool = True) -> list[TrainingGroup]:
    """Two trajectories: one whose second call goes on from the first, token by token, and one whose calls are apart."""

    def known(prompt: tuple[int, ...], ids: tuple[int, ...]) -> dict[str, Any]:
        if not tokens:
            return {}
        return {"prompt_token_ids": prompt, "token_ids": ids, "logprobs": tuple(-0.123456789 * i for i in ids)}

    going_on = (
        PolicyCall(FIRST, "", tool_calls=(ASKED,), tools=(TOOL,), model="m", **known((1, 2), (3, 4))),
        PolicyCall(THEN, "HOLD", tools=(TOOL,), model="m", **known((1, 2, 3, 4, 5), (6,))),
    )
    apart = (
        PolicyCall(FIRST, "BUY", tools=(TOOL,), model="m", **known((1, 2), (7,))),
        PolicyCall(
            (*FIRST, {"role": "assistant", "content": "BUY"}, {"role": "user", "content": "and?"}),
            "HOLD",
            tools=(TOOL,),
            model="m",
            **known((1, 2, 8, 9), (6,)),  # its first answer was encoded to other tokens
        ),
    )
    samples = (TrainingSample("good", None, going_on, 0.75), TrainingSample("bad", None, apart, 0.25))
    return [TrainingGroup(WINDOW, samples)]


def read_again(path: Path) -> dict[str, tuple[list[LLMCall], dict[str, float], str]]:
    rejections = Rejections()
    exports = Exports(str(path), max_bytes=10_000_000, rejections=rejections)
    exports.scan()
    found = {}
    for identity in exports.entries:
        whole = exports.load(identity)
        assert whole is not None
        made = [call for step in whole.steps for call in step.llm_calls]
        found[identity] = (made, dict(whole.rewards), whole.window_id)
    exports.close()
    assert not rejections.counts
    return found


async def test_what_is_exported_is_read_again(tmp_path: Path) -> None:
    for tokens in (True, False):
        folder = tmp_path / str(tokens)
        trainer = ExportTrainer(path=str(folder), formats=["verifiers"], parts=trainer_parts(tmp_path / "checkpoints"))
        trained = await trainer.train(groups(tokens=tokens), iteration=0)
        assert trained.metrics["verifiers_rows"] == 2.0
        assert trainer.describe({}).startswith("2 episodes")
        found = read_again(folder / "verifiers-0000.jsonl")
        for sample in groups(tokens=tokens)[0].samples:
            calls, rewards, window = found[sample.trajectory_id]
            assert (rewards, window) == ({"totalReward": sample.reward}, WINDOW)
            for read, written in zip(calls, sample.calls, strict=True):
                assert (read.token_ids, read.logprobs) == (written.token_ids, written.logprobs)
                assert read.prompt_token_ids == written.prompt_token_ids
                assert json.dumps(read.chat, sort_keys=True) == json.dumps(written.messages, sort_keys=True)
                assert (read.response, read.tool_calls, read.model) == (written.response, written.tool_calls, "m")
                assert read.tools == (TOOL,)


def test_calls_share_a_prompt_only_where_its_tokens_are_the_same() -> None:
    good, bad = (row["traces"][0]["nodes"] for row in verifiers_rows(groups()).rows)
    assert [node.get("parent") for node in good] == [None, 0, 1, 2, 3]
    assert [node.get("parent") for node in bad] == [None, 0, 1, None, 3, 4, 5, 6]
    assert [i for node in good for i in node["token_ids"]] == [1, 2, 3, 4, 5, 6]
    together = [row["traces"][0]["nodes"] for row in verifiers_rows(groups(tokens=False)).rows]
    assert [len(nodes) for nodes in together] == [5, 5]
