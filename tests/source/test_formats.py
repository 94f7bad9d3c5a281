"""Recordings of other tools, written by their own code: rows, agents, windows, calls, tokens and P&L."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.errors import SourceError
from mmo_rl.source.exports import Exports
from mmo_rl.source.formats import format_of, otel
from mmo_rl.source.formats.otel import FAILED
from mmo_rl.source.rejections import Rejections
from mmo_rl.types import LLMCall, Rejection, Trajectory

DATA = Path(__file__).parents[1] / "data/formats"
SECRET = "PLANTED-SECRET"


def read(path: Path) -> tuple[dict[str, Trajectory], Rejections]:
    rejections = Rejections()
    exports = Exports(str(path), max_bytes=10_000_000, rejections=rejections)
    exports.scan()
    try:
        found = {identity: exports.load(identity) for identity in exports.entries}
    finally:
        exports.close()
    return {identity: whole for identity, whole in found.items() if whole is not None}, rejections


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def calls(whole: Trajectory) -> list[LLMCall]:
    return [call for step in whole.steps for call in step.llm_calls]


def seen(whole: Trajectory) -> str:
    """Returns what the policy saw and said."""
    return json.dumps([[call.chat, call.response, call.tool_calls, call.tools] for call in calls(whole)])


def told(found: Mapping[str, Trajectory]) -> dict[str, tuple[str, str, int, float | None]]:
    return {i: (t.agent_id, t.window_id, len(calls(t)), t.final_pnl) for i, t in found.items()}


def test_atif_is_read_as_it_was_written() -> None:
    found, rejections = read(DATA / "atif.jsonl")
    assert not rejections.counts
    assert told(found) == {
        "alice-14": ("alice", "2026-01-05T14:00", 2, 12.5),
        "scout-14": ("scout", "2026-01-05T14:00", 1, 0.0),
        "bob-14": ("bob", "2026-01-05T14:00", 3, -4.25),
        "alice-15": ("alice", "2026-01-05T15:00", 1, 3.0),
    }
    assert {t.scenario_id for t in found.values()} == {"my-game"}
    assert found["alice-14"].rewards == {"totalReward": 0.125}
    first, second = calls(found["alice-14"])
    assert (first.token_ids, first.logprobs, first.prompt_token_ids) == (
        (11, 12, 13),
        (-0.125, -0.25, -0.375),
        (1, 2, 3),
    )
    assert first.tool_calls is not None and first.tool_calls[0]["function"]["name"] == "OPEN_PERP_POSITION"
    assert first.model == "my-model" and first.tools is not None and first.reasoning == "NOVA looks strong."
    assert [m["role"] for m in second.chat or ()] == ["system", "user", "assistant", "tool"]
    assert (second.chat or ())[2]["content"] is None and (second.chat or ())[3]["tool_call_id"] == "call-3"
    action = found["alice-14"].steps[1].action
    assert action.action_type == "OPEN_PERP_POSITION" and action.result == {"content": "filled"}
    assert action.parameters == {"ticker": "NOVA", "side": "short", "size": 500, "price": 104.0}
    assert datetime.fromtimestamp(found["bob-14"].steps[2].timestamp_ms / 1000, UTC).minute == 25
    assert all(SECRET not in seen(whole) for whole in found.values())


def test_atif_counts_are_those_of_the_file() -> None:
    found, _ = read(DATA / "atif.jsonl")
    text = (DATA / "atif.jsonl").read_text("utf-8")
    assert sum(len(calls(t)) for t in found.values()) == text.count('"source": "agent"')
    ids = [i for t in found.values() for c in calls(t) for i in c.token_ids or ()]
    written = [
        s.get("metrics", {}).get("completion_token_ids") or [] for line in lines("atif.jsonl") for s in line["steps"]
    ]
    assert sorted(ids) == sorted(i for listed in written for i in listed)


def test_a_copied_step_is_no_decision_and_a_dispatch_has_no_call(tmp_path: Path) -> None:
    line = lines("atif.jsonl")[1]
    line["steps"][2]["is_copied_context"] = True
    line["steps"][4] |= {"llm_call_count": 0}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(line), "utf-8")
    found, _ = read(path)
    bob = found["bob-14"]
    assert [len(step.llm_calls) for step in bob.steps] == [1, 0]
    assert [m["role"] for m in bob.steps[0].llm_calls[0].chat or ()] == ["system", "user", "assistant", "tool"]
    assert bob.steps[1].action.parameters["side"] == "long"


def test_verifiers_episodes_are_read_as_they_were_written() -> None:
    found, rejections = read(DATA / "verifiers.jsonl")
    assert rejections.counts == {"an episode without a trace": 1}
    assert [r.trajectory_id for r in rejections.first] == ["episode-2"]
    assert told(found) == {
        "trader-0": ("trader", "2026-01-05T14:00", 2, 10.0),
        "solver-0-a": ("solver", "2026-01-05T14:00", 1, 5.0),
        "solver-0-b": ("solver-2", "2026-01-05T15:00", 2, 1.5),
        "trader-1": ("trader", "2026-01-05T14:00", 2, -6.5),
        "solver-1-a": ("solver", "2026-01-05T14:00", 1, -3.25),
        "solver-1-b": ("solver-2", "2026-01-05T15:00", 2, 1.5),
    }
    whole = found["trader-0"]
    assert whole.rewards == {"totalReward": pytest.approx(10.0 / 10 * 0.5 + 0.25)}
    assert whole.final_balance == 10010.0 and whole.scenario_id == "my-game"
    first, second = calls(whole)
    assert (first.prompt_token_ids, first.token_ids) == ((1, 2, 3, 4, 5), (100, 200))
    assert first.logprobs == (-0.1235, -0.5)  # verifiers rounds them in its records
    assert (second.prompt_token_ids, second.token_ids) == ((1, 2, 3, 4, 5, 100, 200, 7, 8, 9), (101, 201))
    assert calls(found["solver-0-a"])[0].token_ids is None
    assert first.tool_calls is not None and '"NOVA",  "side"' in first.tool_calls[0]["function"]["arguments"]
    assert [m["role"] for m in second.chat or ()] == ["system", "user", "assistant", "tool"]
    assert whole.steps[0].action.parameters["side"] == "long"
    assert whole.steps[0].action.result == {"content": "filled"}
    assert all(SECRET not in seen(t) and '"up"' not in seen(t) for t in found.values())


def test_verifiers_counts_are_those_of_the_file() -> None:
    found, _ = read(DATA / "verifiers.jsonl")
    nodes = [n for line in lines("verifiers.jsonl") for t in line["traces"] for n in t["nodes"]]
    assert sum(len(calls(t)) for t in found.values()) == sum(n["sampled"] for n in nodes)
    read_ids = [i for t in found.values() for c in calls(t) for i in c.token_ids or ()]
    assert len(read_ids) == sum(sum(n["mask"]) for n in nodes)


def test_verifiers_results_are_read_as_they_were_written() -> None:
    found, rejections = read(DATA / "verifiers_results.jsonl")
    assert not rejections.counts
    by_pnl = {t.final_pnl: t for t in found.values()}
    assert set(by_pnl) == {12.5, -4.25, 3.0} and len({t.agent_id for t in found.values()}) == 3
    assert {(t.window_id, t.scenario_id, len(calls(t))) for t in found.values()} == {
        ("2026-01-05T14:00", "example-7", 2)
    }
    assert {t.trajectory_id for t in found.values()} >= {"rollout-1", "rollout-2"}
    first, second = calls(by_pnl[3.0])
    assert (first.prompt_token_ids, first.token_ids) == ((1, 2), (3, 4))
    assert first.logprobs == (-0.370370367, -0.493827156)
    assert (second.prompt_token_ids, second.token_ids) == ((1, 2, 3, 4, 5), (6,))
    for whole in found.values():
        first, second = calls(whole)
        assert first.tool_calls is not None
        assert first.tool_calls[0]["function"] == {"name": "BUY", "arguments": '{"ticker":  "NOVA", "size": 500}'}
        assert [m["role"] for m in second.chat or ()] == ["system", "user", "assistant", "tool"]
        assert whole.steps[0].action.result == {"content": "filled"} and second.response == "I wait."
        assert SECRET not in seen(whole) and '"up"' not in seen(whole)
    assert calls(by_pnl[12.5])[0].token_ids is None and by_pnl[12.5].rewards == {"totalReward": 1.25}


@pytest.mark.parametrize("name", ["otel.jsonl", "otel_console.json"])
def test_spans_are_read_as_they_were_written(name: str) -> None:
    found, rejections = read(DATA / name)
    assert rejections.counts == {FAILED: 1}
    by_window = {(t.agent_id, t.window_id): t for t in found.values()}
    assert {key: (len(calls(t)), t.final_pnl) for key, t in by_window.items()} == {
        ("alice", "2026-01-05T14:00"): (2, 12.5),
        ("bob", "2026-01-05T14:00"): (3, -4.25),
        ("alice", "2026-01-05T15:00"): (1, 3.0),
    }
    bob = by_window["bob", "2026-01-05T14:00"]
    assert bob.scenario_id == "my-game" and bob.trajectory_id.endswith("/bob")
    assert [r.trajectory_id for r in rejections.first] == [bob.trajectory_id]
    first, second, third = calls(bob)
    assert (first.model, first.temperature, first.prompt_tokens, first.reasoning) == ("my-model", 0.5, 40, "strong")
    assert [m["role"] for m in first.chat or ()] == ["system", "user"]
    assert [m["role"] for m in third.chat or ()] == ["system", "user", "assistant", "tool", "assistant", "user"]
    asked, answered = (third.chat or ())[2:4]
    assert asked["content"] is None and asked["tool_calls"][0]["id"] == answered["tool_call_id"] == "call-0"
    assert first.tool_calls is not None and second.response == "I wait." and first.tools is not None
    assert bob.steps[0].action.parameters == {"ticker": "NOVA", "side": "long", "size": 500, "price": 100.0}
    assert bob.steps[0].action.result == {"content": "filled"}
    assert first.token_ids is None  # the conventions have no place for them


def test_span_counts_are_those_of_the_file() -> None:
    found, rejections = read(DATA / "otel.jsonl")
    text = (DATA / "otel.jsonl").read_text("utf-8")
    answers = text.count('"name":"chat my-model"')
    assert sum(len(calls(t)) for t in found.values()) == answers - sum(rejections.counts.values())
    assert len({line["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"] for line in lines("otel.jsonl")}) == 2


def test_spans_without_messages_say_how_to_record_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text((DATA / "otel.jsonl").read_text("utf-8").replace("gen_ai.output.messages", "x"), "utf-8")
    with pytest.raises(SourceError, match="OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"):
        read(path)


def test_no_damaged_span_raises() -> None:
    for line in lines("otel.jsonl"):
        for resource in line["resourceSpans"]:
            for damaged in _damaged(resource["scopeSpans"][0]):
                broken = {"resourceSpans": [{**resource, "scopeSpans": [damaged]}]}
                for row in otel.rows([broken, line], "line"):
                    assert isinstance(row, dict | Rejection)


@pytest.mark.parametrize("name", ["atif.jsonl", "verifiers.jsonl", "verifiers_results.jsonl"])
def test_no_damage_raises(name: str) -> None:
    for line in lines(name):
        for damaged in _damaged(line):
            known = format_of(damaged)
            if known is not None:
                for row in known.rows(damaged, "line"):
                    assert isinstance(row, dict | Rejection)


def _damaged(value: Any) -> list[Any]:
    """Returns a value with each of its parts replaced by one of another kind."""
    others: list[Any] = [None, [], {}, "x", 7, [[1]], True]
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = []
    for key in keys:
        for other in [*others, *_damaged(value[key])[:40]]:
            copy = value.copy()
            copy[key] = other
            found.append(copy)
    return found
