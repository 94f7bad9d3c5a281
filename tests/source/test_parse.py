"""Rows in the variants of the wild become trajectories, or rejections that a person can act on."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmo_rl.source.parse import CALLS, PROVIDERS, STATES, parse_trajectory
from mmo_rl.types import Rejection, Trajectory

BABYLON = Path(__file__).parents[1] / "data" / "babylon"
CALL = {"model": "m", "systemPrompt": "trade well", "userPrompt": "X at 100", "response": "BUY", "temperature": 0.7}
STEP = {
    "stepNumber": 0,
    "timestamp": 1763108400000,
    "environmentState": {"agentBalance": 0.0, "agentPnL": -3.5},
    "providerAccesses": [{"providerName": "market_data"}],
    "llmCalls": [CALL],
    "action": {"actionType": "BUY_SHARES", "parameters": {"ticker": "X"}, "success": True},
    "reward": 0,
}
ROW = {
    "trajectoryId": "t1",
    "agentId": "a1",
    "startTime": "2025-11-14T08:20:00.000Z",
    "endTime": "2025-11-14T08:25:00.519Z",
    "windowId": "2025-11-14T08:00",
    "stepsJson": json.dumps([STEP]),
    "metricsJson": '{"finalPnL": 1}',
    "metadataJson": "{}",
    "finalStatus": "completed",
    "finalBalance": 0.0,
    "finalPnL": 12.5,
}


def parsed(**changes: Any) -> Trajectory:
    found = parse_trajectory({**ROW, **changes})
    assert isinstance(found, Trajectory), found
    return found


def rejected(**changes: Any) -> Rejection:
    found = parse_trajectory({**ROW, **changes})
    assert isinstance(found, Rejection), found
    return found


def with_step(**changes: Any) -> Trajectory:
    return parsed(stepsJson=[{**STEP, **changes}])


def test_a_row_of_the_game() -> None:
    trajectory = parsed()
    assert (trajectory.trajectory_id, trajectory.agent_id, trajectory.window_id) == ("t1", "a1", "2025-11-14T08:00")
    assert trajectory.start == datetime(2025, 11, 14, 8, 20, tzinfo=UTC)
    assert (trajectory.final_pnl, trajectory.final_balance) == (12.5, 0.0)
    (step,) = trajectory.steps
    assert step.timestamp == trajectory.start
    assert step.environment_state["agentBalance"] == 0.0
    assert step.reward == 0.0
    (call,) = step.llm_calls
    assert call.messages == ({"role": "system", "content": "trade well"}, {"role": "user", "content": "X at 100"})
    assert call.call_id is None, "not recorded"
    assert (call.token_ids, call.logprobs, call.max_tokens) == (None, None, None)


def test_every_recorded_row_is_read() -> None:
    lines = gzip.decompress((BABYLON / "trajectory_rows.jsonl.gz").read_bytes()).splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 19
    for row in rows:
        trajectory = parse_trajectory(row)
        assert isinstance(trajectory, Trajectory)
        assert len(trajectory.steps) == row["episodeLength"]
        assert trajectory.final_pnl == row["finalPnL"]
        assert all(step.llm_calls for step in trajectory.steps)


@pytest.mark.parametrize("name", CALLS)
def test_names_of_llm_calls(name: str) -> None:
    assert with_step(**{"llmCalls": None, name: [CALL]}).steps[0].llm_calls == parsed().steps[0].llm_calls


@pytest.mark.parametrize("name", PROVIDERS)
def test_names_of_provider_accesses(name: str) -> None:
    assert with_step(**{"providerAccesses": None, name: [{"n": 1}]}).steps[0].provider_accesses == ({"n": 1},)


@pytest.mark.parametrize("name", STATES)
def test_names_of_the_state(name: str) -> None:
    assert with_step(**{"environmentState": None, name: {"b": 0}}).steps[0].environment_state == {"b": 0}


@pytest.mark.parametrize(
    ("action", "name"),
    [
        ({"actionType": "HOLD"}, "HOLD"),
        ({"action_type": "HOLD"}, "HOLD"),
        ({"type": "HOLD"}, "HOLD"),
        ({"action": "HOLD"}, "HOLD"),
        ("HOLD", "HOLD"),
        ({"actionType": "pending"}, "pending"),
        ({"actionType": None}, "unknown"),
        (None, "unknown"),
    ],
)
def test_names_of_the_action(action: Any, name: str) -> None:
    assert with_step(action=action).steps[0].action.action_type == name


def test_an_action_with_an_error_did_not_succeed_unless_it_says_so() -> None:
    assert with_step(action={"actionType": "A"}).steps[0].action.success
    assert not with_step(action={"actionType": "A", "error": "no balance"}).steps[0].action.success
    assert not with_step(action={"actionType": "A", "success": False}).steps[0].action.success


@pytest.mark.parametrize(
    "call",
    [
        {"system_prompt": "s", "user_prompt": "u", "output": "r"},
        {"systemPrompt": "s", "prompt": "u", "text": "r"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "response": "r"},
        {"messagesJson": '[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]', "response": "r"},
        {"messages": [], "systemPrompt": "s", "userPrompt": "u", "response": "r"},
    ],
)
def test_notations_of_a_prompt(call: dict[str, Any]) -> None:
    (found,) = with_step(llmCalls=[call]).steps[0].llm_calls
    assert found.messages == ({"role": "system", "content": "s"}, {"role": "user", "content": "u"})
    assert found.response == "r"


@pytest.mark.parametrize(
    "steps",
    [[STEP], json.dumps([STEP]), json.dumps(json.dumps([STEP])), {"steps": [STEP]}, json.dumps({"steps": [STEP]})],
)
def test_notations_of_the_steps(steps: Any) -> None:
    assert parsed(stepsJson=steps) == parsed()
    assert parsed(stepsJson=None, steps=steps) == parsed()
    assert parsed(stepsJson=None, steps_json=steps) == parsed()


def test_an_empty_list_of_calls_hides_no_other() -> None:
    assert with_step(llmCalls=[], llm_calls=[CALL]).steps[0].llm_calls == parsed().steps[0].llm_calls


def test_structures_that_are_written_as_text() -> None:
    step = with_step(
        action='{"actionType": "SELL", "success": false}',
        environmentState='{"agentBalance": 0.0}',
        providerAccesses=["news", {"providerName": "x"}],
    ).steps[0]
    assert (step.action.action_type, step.action.success) == ("SELL", False)
    assert step.environment_state == {"agentBalance": 0.0}
    assert step.provider_accesses == ({"data": "news"}, {"providerName": "x"})


def test_an_error_that_is_an_object() -> None:
    action = with_step(action={"actionType": "BUY", "error": {"message": "no balance"}}).steps[0].action
    assert (action.error, action.success) == ("no balance", False)


def test_whether_it_is_training_data_may_stand_in_the_metadata() -> None:
    assert not parsed(metadataJson='{"isTrainingData": false}').is_training_data
    assert parsed(metadataJson='{"isTrainingData": false}', isTrainingData=True).is_training_data


def test_snake_case_rows() -> None:
    row = {
        "trajectory_id": "t1", "agent_id": "a1", "start_time": 1763108400000, "end_time": 1763108700519,
        "window_id": "2025-11-14T08:00", "steps": [STEP], "metrics": {"finalPnL": 1}, "final_pnl": "12.5",
        "final_balance": 0,
    }  # fmt: skip
    assert parse_trajectory(row) == parsed()


def test_pnl_of_the_metrics_where_the_row_has_none() -> None:
    assert parsed(finalPnL=None).final_pnl == 1.0
    assert parsed(finalPnL=None, metricsJson="{}").final_pnl is None


@pytest.mark.parametrize("window_id", ["window-test-1", "default", None, "2025-02-30T10:00"])
def test_windows_with_other_names_follow_from_the_start(window_id: str | None) -> None:
    assert parsed(windowId=window_id).window_id == "2025-11-14T08:00"


@pytest.mark.parametrize("window_id", ["2025-01-13-14", "2025-01-13T14:00:00.000Z", "2025-01-13 14:00"])
def test_windows_named_in_another_notation_are_that_window(window_id: str) -> None:
    assert parsed(windowId=window_id).window_id == "2025-01-13T14:00"
    steps = [{**STEP, "timestamp": None}]
    assert parsed(windowId=window_id, startTime=None, stepsJson=steps).start == datetime(2025, 1, 13, 14, tzinfo=UTC)


def test_not_a_number_in_the_steps_does_not_lose_the_rest() -> None:
    steps = json.dumps([{**STEP, "reward": float("nan")}])
    assert "NaN" in steps
    assert parsed(stepsJson=steps).steps[0].reward is None


def test_times_that_are_missing_follow_what_is_known() -> None:
    assert parsed(startTime=0).start == datetime(2025, 11, 14, 8, 20, tzinfo=UTC)
    trajectory = parsed(stepsJson=[{**STEP, "timestamp": 0}], endTime=None)
    assert trajectory.steps[0].timestamp == trajectory.start == trajectory.end


def test_calls_of_the_log_fill_steps_without_calls() -> None:
    log = [
        {"stepId": "t1-step-0", "callId": "t1-call-0-0", "systemPrompt": "s", "userPrompt": "u", "response": "r",
         "metadata": '{"modelVersion": "v2"}', "model": "m", "temperature": 1, "maxTokens": 9},
        {"stepId": "another-step-0", "systemPrompt": "s", "userPrompt": "u", "response": "not ours"},
    ]  # fmt: skip
    trajectory = parse_trajectory({**ROW, "stepsJson": [{**STEP, "llmCalls": []}]}, calls=log)
    assert isinstance(trajectory, Trajectory)
    (call,) = trajectory.steps[0].llm_calls
    assert (call.response, call.model_version, call.max_tokens) == ("r", "v2", 9)


@pytest.mark.parametrize(
    "ids",
    [
        {"stepId": "t1-step-7", "callId": "x"},
        {"stepId": "3f0c", "callId": "t1-call-7-0"},
        {"step_id": "own", "trajectory_id": "t1"},
    ],
)
def test_logged_calls_find_their_step_by_id_or_number(ids: dict[str, str]) -> None:
    step = {**STEP, "stepNumber": 7, "stepId": "own", "llmCalls": []}
    log = [{**ids, "userPrompt": "u", "response": "r"}]
    trajectory = parse_trajectory({**ROW, "stepsJson": [step]}, calls=log)
    assert isinstance(trajectory, Trajectory)
    assert [call.response for call in trajectory.steps[0].llm_calls] == ["r"]


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"trajectoryId": None, "id": None}, "trajectoryId", "no trajectory id"),
        ({"agentId": None}, "agentId", "no agent id"),
        ({"stepsJson": "[{"}, "stepsJson", "not JSON"),
        ({"stepsJson": "[]"}, "stepsJson", "no steps"),
        ({"stepsJson": None}, "stepsJson", "not a list of steps"),
        ({"stepsJson": "[1]"}, "stepsJson[0]", "not a step"),
        ({"stepsJson": [STEP, STEP]}, "stepsJson[].stepNumber", "step numbers repeat"),
        ({"stepsJson": [{**STEP, "llmCalls": [1]}]}, "stepsJson[0].llmCalls[0]", "not a call"),
        (
            {"stepsJson": [{**STEP, "llmCalls": [{"userPrompt": "u"}]}]},
            "stepsJson[0].llmCalls[0].response",
            "an LLM call without a response",
        ),
        (
            {"stepsJson": [{**STEP, "llmCalls": [{"response": "r"}]}]},
            "stepsJson[0].llmCalls[0].userPrompt",
            "an LLM call without a prompt",
        ),
        (
            {"stepsJson": [{**STEP, "llmCalls": [{**CALL, "tokenIds": [1, 2], "logprobs": [0.5]}]}]},
            "stepsJson[0].llmCalls[0].logprobs",
            "not one a completion token (2)",
        ),
        ({"metadataJson": "{"}, "metadata", "not JSON"),
        ({"stepsJson": "[" * 100_000}, "row", "nested too deeply"),
        (
            {"startTime": None, "windowId": "default", "stepsJson": [{**STEP, "timestamp": None}]},
            "startTime",
            "not a time",
        ),
        ({"startTime": "9999-12-31T23:30:00", "windowId": None, "endTime": None}, "startTime", "out of range"),
        ({"endTime": "9999-12-31T23:30:00"}, "endTime", "out of range"),
        ({"startTime": "0001-01-01T00:00:00"}, "startTime", "out of range"),
        ({"stepsJson": b'[{"a": "\xff"}]'}, "stepsJson", "not UTF-8"),
    ],
)
def test_rejections_say_what_and_where(changes: dict[str, Any], field: str, reason: str) -> None:
    found = rejected(**changes)
    assert (found.field, found.reason) == (field, reason)
    assert len(found.found) <= 80 and found.found != "None"


KEYS = st.sampled_from(
    [*ROW, *STEP, *CALL, *CALLS, *PROVIDERS, *STATES, "messages", "role", "content", "metadata", "unknown", "tokenIds",
     "logprobs", "steps", "id"]
) | st.text(max_size=3)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["[]", "{}", "[{}]", "2025-11-14T08:00", "NaN", "70%"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(changes=st.dictionaries(KEYS, VALUES, max_size=6), step=st.dictionaries(KEYS, VALUES, max_size=6))
def test_nothing_raises_on_any_json(changes: dict[str, Any], step: dict[str, Any]) -> None:
    for row in (changes, {**ROW, **changes}, {**ROW, "stepsJson": [{**STEP, **step}]}, {**ROW, "stepsJson": [step]}):
        found = parse_trajectory(row)
        assert isinstance(found, Trajectory | Rejection)
        if isinstance(found, Rejection):
            assert found.field
            assert found.reason
