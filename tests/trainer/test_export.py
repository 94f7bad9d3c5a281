"""The training set as files: one history for every LLM call, and nothing that the policy did not know."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from mmo_rl.errors import TrainerError
from mmo_rl.trainer.export import ExportTrainer
from mmo_rl.trainer.policy_view import training_groups
from mmo_rl.types import LLMCall, ScoredGroup, TrainingGroup

CANARY = "zqxjkv"
Make = Callable[..., ScoredGroup]


def exporter(folder: Path, *, path: str | None = None, job_key: str = "abc") -> ExportTrainer:
    return ExportTrainer(
        path=path, run_folder=SimpleNamespace(path=folder), model_name="tiny", group="default", job_key=job_key
    )


def lines(folder: Path, iteration: int = 0) -> list[dict[str, Any]]:
    text = (folder / "export" / f"iteration-{iteration:04d}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


async def test_every_call_is_a_history_with_its_own_prompt(scored: Make, tmp_path: Path) -> None:
    trained = await exporter(tmp_path).train(training_groups([scored(steps=3)]), iteration=0)
    assert (trained.gradient_steps, trained.policy.version, trained.metrics["histories"]) == (0, 0, 6.0)
    found = lines(tmp_path)
    assert [(h["metadata"]["trajectoryId"], h["metadata"]["call"], h["reward"]) for h in found] == [
        *(("good", n, 1.0) for n in range(3)),
        *(("bad", n, 0.0) for n in range(3)),
    ]
    assert [m["role"] for m in found[0]["messages"]] == ["system", "user", "assistant"]
    assert found[1]["messages"][-1]["content"] == '{"ticker":"NOVA","action":"BUY","size":2}'
    assert not found[0].keys() & {"tokenIds", "logprobs", "promptTokenIds"}, "what was not recorded is not there"


async def test_decisions_and_recorded_tokens_are_kept(scored: Make, tmp_path: Path) -> None:
    await exporter(tmp_path).train(training_groups([scored(steps=2, decisions=True, logprobs=True)]), iteration=3)
    first = lines(tmp_path, 3)[0]
    assert first["metadata"] == {"trajectoryId": "good", "groupId": "g#0", "step": 0, "call": 0}
    assert (first["tokenIds"], first["logprobs"]) == ([5, 6, 2], [-0.1, -0.2, -0.3])


@pytest.mark.parametrize("decisions", [False, True])
async def test_no_ground_truth_reaches_the_files(scored: Make, tmp_path: Path, decisions: bool) -> None:
    item = scored(
        canary=CANARY,
        decisions=decisions,
        metadata={"gameKnowledge": {"actualOutcomes": CANARY}},
        metrics={"finalPnL": CANARY},
        final_pnl=271828.0,
    )

    def with_further_keys(call: LLMCall) -> LLMCall:
        return structs.replace(call, chat=tuple({**m, "correctness": CANARY} for m in call.messages))

    members = tuple(
        dataclasses.replace(
            t,
            steps=tuple(structs.replace(s, llm_calls=tuple(map(with_further_keys, s.llm_calls))) for s in t.steps),
        )
        for t in item.group.members
    )
    item = dataclasses.replace(item, group=dataclasses.replace(item.group, members=members))
    assert CANARY in repr(item)
    trainer = exporter(tmp_path)
    await trainer.train(training_groups([item]), iteration=0)
    trainer.describe({"judge": "oracle"})
    text = "".join(file.read_text() for file in (tmp_path / "export").iterdir())
    assert "NOVA soars @wire" in text
    for secret in (CANARY, "271828", "correctness", "gameKnowledge"):
        assert secret not in text


async def test_the_card_counts_what_the_files_hold(scored: Make, tmp_path: Path) -> None:
    trainer = exporter(tmp_path)
    for iteration in (0, 1, 2):
        await trainer.train(training_groups([scored(steps=2, logprobs=iteration == 1)]), iteration=iteration)
    # Iteration 1 is done again, after a kill: what came after it is gone until it comes again.
    await trainer.train(training_groups([scored(steps=2, logprobs=True)]), iteration=1)
    told = trainer.describe({"judge": {"credit": "decision"}, "data": {"trajectories": 2}})
    assert told.startswith("8 histories of 2 trajectories in 2 groups, 4 with logprobs: ")
    card = json.loads((tmp_path / "export" / "card.json").read_text())
    assert card["counts"] == {
        "trajectories": 2,
        "groups": 2,
        "histories": 8,
        "with_token_ids": 4,
        "with_logprobs": 4,
    }
    assert [(f["name"], f["histories"]) for f in card["files"]] == [
        ("iteration-0000.jsonl", 4),
        ("iteration-0001.jsonl", 4),
    ]
    assert (card["run"], card["judge"]) == ("default/abc", {"credit": "decision"})
    assert not list((tmp_path / "export").glob("*.partial"))


async def test_another_runs_export_is_not_overwritten(scored: Make, tmp_path: Path) -> None:
    shared = str(tmp_path / "shared")
    first = exporter(tmp_path, path=shared)
    await first.resume(0)
    await first.train(training_groups([scored()]), iteration=0)
    first.describe({})
    assert (await exporter(tmp_path, path=shared).resume(0)).version == 0
    with pytest.raises(TrainerError, match="another run") as caught:
        await exporter(tmp_path, path=shared, job_key="other").resume(0)
    assert "trainer.path" in str(caught.value.hint)


async def test_what_cannot_be_exported_is_one_message(scored: Make, tmp_path: Path) -> None:
    trainer = exporter(tmp_path)
    with pytest.raises(TrainerError, match="nothing can be exported"):
        await trainer.train([TrainingGroup("g", ())], iteration=0)
    (group,) = training_groups([scored()])
    broken = dataclasses.replace(group.samples[0], reward=float("nan"))
    with pytest.raises(TrainerError, match="reward of good"):
        await trainer.train([dataclasses.replace(group, samples=(broken,))], iteration=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainerError, match="cannot write"):
        await exporter(tmp_path, path=str(tmp_path / "file" / "x")).train([group], iteration=0)
    with pytest.raises(TrainerError, match="cannot write"):
        await exporter(tmp_path, path=str(tmp_path / "file")).resume(0)
