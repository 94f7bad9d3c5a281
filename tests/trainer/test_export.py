"""The training set as files: one history for every LLM call, and nothing that the policy did not know."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from mmo_rl.errors import TrainerError
from mmo_rl.policy_view import training_groups
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.trainer.export import ExportTrainer
from mmo_rl.trainer.export_formats import art_rows, chat_rows, dpo_rows
from mmo_rl.types import LLMCall, PolicyCall, ScoredGroup, TrainingGroup, TrainingSample
from tests.trainer.made import trainer_parts

CANARY = "zqxjkv"
Make = Callable[..., ScoredGroup]


def exporter(folder: Path, *, job_key: str = "abc", **options: Any) -> ExportTrainer:
    return ExportTrainer(
        path=options.pop("path", str(folder / "export")),
        formats=options.pop("formats", ["art", "chat", "dpo"]),
        parts=dataclasses.replace(trainer_parts(folder / "checkpoints"), folder=RunFolder(folder / job_key)),
        **options,
    )


def lines(folder: Path, iteration: int = 0, begin: str = "iteration") -> list[dict[str, Any]]:
    text = (folder / "export" / f"{begin}-{iteration:04d}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def asked(prompt: str, *answers: tuple[str, float], name: str = "g") -> TrainingGroup:
    """A group of decisions, all on one prompt: answers and their rewards."""
    messages = ({"role": "user", "content": prompt},)
    return TrainingGroup(
        name,
        tuple(TrainingSample(f"t{n}", 0, (PolicyCall(messages, text),), r) for n, (text, r) in enumerate(answers)),
    )


def says(*answers: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": answer}] for answer in answers]


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
    assert told.startswith("8 histories of 4 trajectories in 2 groups, 4 with logprobs; 4 chats; 4 pairs: ")
    card = json.loads((tmp_path / "export" / "card.json").read_text())
    assert {key: value for key, value in card["formats"]["art"].items() if key != "sha256"} == {
        "what": "ART JSONL: every answer with its prompt, reward and group",
        "files": ["iteration-0000.jsonl", "iteration-0001.jsonl"],
        "rows": 8,
        "trajectories": 4,
        "groups": 2,
        "with_token_ids": 4,
        "with_logprobs": 4,
        "left_out": {},
    }
    assert {file["name"]: file["rows"] for file in card["files"]} == {
        f"{begin}-000{iteration}.jsonl": rows
        for begin, rows in (("iteration", 4), ("chat", 2), ("dpo", 2))
        for iteration in (0, 1)
    }
    for file in card["files"]:
        assert hashlib.sha256((tmp_path / "export" / file["name"]).read_bytes()).hexdigest() == file["sha256"]
    assert (card["run"], card["judge"]) == ("default/abc", {"credit": "decision"})
    assert not list((tmp_path / "export").glob("*.partial"))


async def test_the_best_share_becomes_chats(tmp_path: Path) -> None:
    groups = [
        asked("alike", ("a", 0.9), ("b", 0.9), name="g0"),
        asked("easy", ("c", 0.8), ("d", 0.7), ("e", 0.0), name="g1"),
        asked("hard", ("f", 0.8), ("g", 0.1), name="g2"),
        asked("hard", ("f", 0.8), ("g", 0.1), ("h", 0.0), name="g3"),
    ]
    await exporter(tmp_path, best_share=0.4).train(groups, iteration=0)
    # 0.4 of ten decisions are four, of the four above their groups' means: 0.8, three times, and 0.7.
    assert [row["messages"] for row in lines(tmp_path, begin="chat")] == [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        for prompt, answer in (("hard", "f"), ("easy", "c"), ("easy", "d"))
    ]
    assert all(row.keys() == {"messages"} for row in lines(tmp_path, begin="chat")), "OpenAI refuses further keys"
    trainer = exporter(tmp_path, best_share=0.2)
    await trainer.train(groups, iteration=0)
    trainer.describe({})
    card = json.loads((tmp_path / "export" / "card.json").read_text())
    chat = card["formats"]["chat"]
    # The two furthest above their groups: both say "f", and one row is enough.
    assert (chat["ranked"], chat["taken"], chat["rows"]) == (10, 2, 1)
    assert chat["left_out"] == {"not_above_its_group": 6, "not_in_best_share": 2, "repeats_another_row": 1}
    (entry,) = (file for file in card["files"] if file["format"] == "chat")
    assert entry["lowest_reward_taken"] == 0.8


async def test_a_group_where_all_did_alike_has_no_example_and_no_pair(tmp_path: Path) -> None:
    trainer = exporter(tmp_path)
    await trainer.train([asked("p", ("a", 0.5), ("b", 0.5)), asked("q", ("c", 1.0), name="alone")], iteration=0)
    assert trainer.describe({}).startswith(
        "3 histories of 2 trajectories in 2 groups, 0 with logprobs; 0 chats; 0 pairs"
    )
    assert [file.name for file in sorted((tmp_path / "export").iterdir())] == [
        "README.md",
        "card.json",
        "iteration-0000.jsonl",
    ]
    formats = json.loads((tmp_path / "export" / "card.json").read_text())["formats"]
    assert formats["chat"]["left_out"] == {"not_above_its_group": 3}
    assert formats["dpo"]["left_out"] == {"margin_too_small": 2, "prompt_seen_by_one": 1}


async def test_an_earlier_answer_in_a_prompt_is_marked_as_not_trained(tmp_path: Path) -> None:
    roles = ("user", "assistant", "user")
    messages = tuple({"role": role, "content": f"{n}"} for n, role in enumerate(roles))
    samples = tuple(TrainingSample(name, 0, (PolicyCall(messages, name),), float(name == "x")) for name in "xy")
    await exporter(tmp_path).train([TrainingGroup("g", samples)], iteration=0)
    (row,) = lines(tmp_path, begin="chat")
    assert [(m["role"], m.get("weight")) for m in row["messages"]] == [
        ("user", None),
        ("assistant", 0),
        ("user", None),
        ("assistant", None),
    ]


async def test_pairs_have_one_prompt_and_are_made_from_the_outside_in(tmp_path: Path) -> None:
    groups = [
        asked("p", ("best", 1.0), ("worst", 0.0), ("good", 0.8), ("middle", 0.5), ("poor", 0.4), name="g0"),
        asked("close", ("a", 0.55), ("b", 0.5), name="g1"),
        asked("same", ("a", 1.0), ("a", 0.0), name="g2"),
        asked("p", ("elsewhere", 0.9), name="g3"),
    ]
    trainer = exporter(tmp_path, min_margin=0.1)
    await trainer.train(groups, iteration=0)
    pairs = lines(tmp_path, begin="dpo")
    assert [[pair["chosen"], pair["rejected"]] for pair in pairs] == [says("best", "worst"), says("good", "poor")]
    assert all(pair["prompt"] == [{"role": "user", "content": "p"}] for pair in pairs)
    assert [(pair["score_chosen"], pair["score_rejected"]) for pair in pairs] == [(1.0, 0.0), (0.8, 0.4)]
    trainer.describe({})
    card = json.loads((tmp_path / "export" / "card.json").read_text())
    assert card["formats"]["dpo"]["left_out"] == {
        "odd_one_out": 1,
        "margin_too_small": 2,
        "same_answer": 2,
        "prompt_seen_by_one": 1,
    }
    (entry,) = (file for file in card["files"] if file["format"] == "dpo")
    assert entry["margin"] == pytest.approx({"min": 0.4, "median": 0.7, "mean": 0.7, "max": 1.0})


@settings(deadline=None, max_examples=50)
@given(
    rewards=st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), min_size=1, max_size=6), min_size=1),
    share=st.floats(0.01, 1),
    margin=st.floats(0, 1),
)
def test_every_answer_is_in_a_row_or_counted_as_left_out(
    rewards: list[list[tuple[str, float]]], share: float, margin: float
) -> None:
    groups = [asked(f"p{n % 2}", *answers, name=f"g{n}") for n, answers in enumerate(rewards)]
    answers = sum(map(len, rewards))
    chat, dpo = chat_rows(groups, best_share=share), dpo_rows(groups, min_margin=margin)
    assert len(chat.rows) + sum(chat.left_out.values()) == answers == len(art_rows(groups).rows)
    assert 2 * len(dpo.rows) + sum(dpo.left_out.values()) == answers
    assert len(chat.rows) <= math.ceil(share * answers)
    assert all(row["score_chosen"] - row["score_rejected"] >= margin for row in dpo.rows)
    shuffled = [dataclasses.replace(group, samples=group.samples[::-1]) for group in groups[::-1]]
    assert sorted(map(repr, chat_rows(shuffled, best_share=share).rows)) == sorted(map(repr, chat.rows))


async def test_the_same_iteration_again_gives_the_same_bytes(tmp_path: Path) -> None:
    def files() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()}

    groups = [asked("p", ("a", 0.9), ("b", 0.0), ("c", 0.0))]
    written = []
    for _ in range(2):
        trainer = exporter(tmp_path)
        await trainer.resume(0)
        await trainer.train(groups, iteration=0)
        trainer.describe({"judge": "oracle"})
        written.append(files())
    assert written[0] == written[1]
    assert written[0].keys() >= {"iteration-0000.jsonl", "chat-0000.jsonl", "dpo-0000.jsonl"}
    await exporter(tmp_path, min_margin=1.0).train(groups, iteration=0)
    assert not (tmp_path / "export" / "dpo-0000.jsonl").exists()


async def test_the_dataset_card_names_every_column_of_every_file(scored: Make, tmp_path: Path) -> None:
    """`datasets` takes the columns of the first file for those of all, unless it is told; tokens come second here."""
    trainer = exporter(tmp_path)
    for iteration in (0, 1):
        await trainer.train(training_groups([scored(steps=2, logprobs=iteration == 1)]), iteration=iteration)
    trainer.describe({})
    header = yaml.safe_load((tmp_path / "export" / "README.md").read_text().split("---\n")[1])
    assert [c["config_name"] for c in header["configs"]] == ["art", "chat", "dpo"]
    for config, info in zip(header["configs"], header["dataset_info"], strict=True):
        files = sorted((tmp_path / "export").glob(config["data_files"]))
        rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        columns = {feature["name"]: feature for feature in info["features"]}
        assert len(files) == 2 and {key for row in rows for key in row} <= columns.keys()
        for row in rows:
            for key in ("messages", "prompt", "chosen", "rejected"):
                named = {part["name"] for part in columns.get(key, {"list": []})["list"]}
                assert all(message.keys() <= named for message in row.get(key, []))
            assert row.get("metadata", {}).keys() <= {p["name"] for p in columns.get("metadata", {}).get("struct", [])}


async def test_tool_calls_and_results_are_columns_of_the_card_where_there_are_any(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "buy", "arguments": "{}"}}
    prompt = (
        {"role": "user", "content": "t0"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    )
    samples = [
        TrainingSample(name, None, (PolicyCall(prompt, "", None, None, None, tool_calls=(call,)),), reward)
        for name, reward in (("good", 1.0), ("bad", 0.0))
    ]
    trainer = exporter(tmp_path)
    await trainer.train([TrainingGroup("g", tuple(samples))], iteration=0)
    trainer.describe({})
    header = yaml.safe_load((tmp_path / "export" / "README.md").read_text().split("---\n")[1])
    (columns,) = (info["features"] for info in header["dataset_info"] if info["config_name"] == "art")
    messages = next(column for column in columns if column["name"] == "messages")["list"]
    (file,) = (tmp_path / "export").glob("iteration-*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    said = {key for row in rows for message in row["messages"] for key in message}
    assert said == {"role", "content", "tool_calls", "tool_call_id"}
    assert {part["name"] for part in messages} == said | {"name"}


async def test_whose_answers_are_exported_is_told(scored: Make, tmp_path: Path) -> None:
    trainer = exporter(tmp_path, assistant_turns="all")
    groups = training_groups([scored(steps=2)], trainer.assistant_turns)
    assert (await trainer.train(groups, iteration=0)).metrics["histories"] == 2 * 2 * 2
    assert sum(h["messages"][-1]["content"] == "why" for h in lines(tmp_path)) == 4


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


async def test_two_exports_have_two_identities_and_no_empty_struct(tmp_path: Path) -> None:
    """`datasets` keys its cache by the card's YAML; Parquet refuses a struct without fields."""
    headers = []
    for name, reward in (("a", 0.9), ("b", 0.8), ("again", 0.9)):
        trainer = exporter(tmp_path / name)
        await trainer.train([asked("p", ("x", reward), ("y", 0.0), ("z", 0.0))], iteration=0)
        trainer.describe({})
        headers.append((tmp_path / name / "export" / "README.md").read_text().split("---\n")[1])
    assert headers[0] != headers[1]
    assert headers[0] == headers[2]
    assert "struct: []" not in headers[0]
    assert all("metrics" not in row for row in lines(tmp_path / "a"))
