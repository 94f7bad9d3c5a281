"""Exported files in the shapes that games write."""

from __future__ import annotations

import gzip
import json
import os
import resource
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmo_rl.errors import SourceError
from mmo_rl.source.base import RecordedOutcomes, SourceParts
from mmo_rl.source.exports import UNOWNED, parse_candidate, parts_of
from mmo_rl.source.jsonl import JsonlSource
from mmo_rl.source.shapes import Candidate
from mmo_rl.types import Group, Rejection, SelectedWindow, Selection, Trajectory, WindowQuery, WindowStats

BABYLON = Path(__file__).parents[1] / "data" / "babylon"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Make = Callable[..., JsonlSource]


def row(identity: str, start: str = "2025-06-01T10:20:00Z", **more: Any) -> dict[str, Any]:
    calls = [{"userPrompt": "u", "response": "r"}]
    step = {"stepNumber": 0, "timestamp": start, "llmCalls": calls, "action": {"actionType": "HOLD"}}
    return {"trajectoryId": identity, "agentId": "a", "startTime": start, "stepsJson": json.dumps([step]), **more}


def lines(path: Path, *objects: Any) -> Path:
    text = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in objects) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
async def source() -> AsyncIterator[Callable[..., JsonlSource]]:
    """Makes sources, and closes them."""
    made: list[JsonlSource] = []

    def make(path: Path | str, **options: Any) -> JsonlSource:
        parts = SourceParts(
            **{"now": lambda: NOW} | {k: options.pop(k) for k in ("now", "rejected_to") if k in options}
        )
        made.append(JsonlSource(path=str(path), **options, parts=parts))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()


def ids(windows: list[WindowStats]) -> dict[str, list[str]]:
    return {stats.window.id: [member.trajectory_id for member in stats.members] for stats in windows}


async def read(reader: JsonlSource, windows: list[WindowStats]) -> list[Group]:
    chosen = tuple(SelectedWindow(w.window, tuple(m.trajectory_id for m in w.members)) for w in windows)
    return [group async for group in reader.groups(Selection(0, chosen, len(windows), 0, 0.0, 0, {}))]


async def test_recorded_rows_of_the_game(source: Make) -> None:
    reader = source(BABYLON / "trajectory_rows.jsonl.gz")
    windows = await reader.windows(WindowQuery())
    assert {name: len(members) for name, members in ids(windows).items()} == {
        "2025-11-14T08:00": 5,
        "2025-11-14T09:00": 5,
        "2025-11-14T10:00": 5,
        "2025-11-14T11:00": 8,
        "2025-11-14T13:00": 1,
    }
    groups = await read(reader, windows)
    assert [len(group.members) for group in groups] == [5, 5, 5, 8, 1]
    (first, second) = groups[1].members[0], groups[2].members[0]
    assert (first.trajectory_id, second.trajectory_id) == (
        "115027193364480772@2025-11-14T09:00", "115027193364480772@2025-11-14T10:00",
    )  # fmt: skip
    assert not reader.rejected


async def test_every_shape_of_a_row(source: Make, tmp_path: Path) -> None:
    nested = row("nested")
    steps = json.loads(nested["stepsJson"])
    lines(tmp_path / "flat.jsonl", row("flat"), {"trajectory": nested})
    snake = {
        "trajectory_id": "snake", "agent_id": "a", "start_time": "2025-06-01T10:20:00", "steps": steps, "final_pnl": 2,
    }  # fmt: skip
    lines(tmp_path / "deeper.ndjson.gz", snake)
    (tmp_path / "more").mkdir()
    del steps[0]["llmCalls"]
    logged = {"stepId": "one-step-0", "userPrompt": "u", "response": "from the log"}
    lines(
        tmp_path / "more" / "one.json",
        {"trajectory": {**row("one"), "stepsJson": json.dumps(steps)}, "llmCalls": [logged]},
    )
    lines(tmp_path / "more" / "list.json", [row("first"), row("second")])
    for sidecar in ("reward-judgments.jsonl", "llm-call-logs.jsonl", "manifest.json"):
        lines(tmp_path / sidecar, {"count": 1})
    (tmp_path / "pretty.json").write_text(json.dumps({"trajectory": row("pretty")}, indent=2))
    (tmp_path / "pretty.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps([row("bom")], indent=2).encode())
    (tmp_path / "notes.txt").write_text("not data")
    reader = source(tmp_path)
    windows = await reader.windows(WindowQuery())
    assert ids(windows) == {"2025-06-01T10:00": ["bom", "first", "flat", "nested", "one", "pretty", "second", "snake"]}
    (group,) = await read(reader, windows)
    found = {member.trajectory_id: member for member in group.members}
    assert sorted(found) == ["bom", "first", "flat", "nested", "one", "pretty", "second", "snake"]
    assert found["one"].steps[0].llm_calls[0].response == "from the log"
    assert found["snake"].final_pnl == 2.0
    assert not reader.rejected


async def test_what_cannot_be_read_is_counted_by_reason(source: Make, tmp_path: Path) -> None:
    benchmark = {"agentId": "a", "trajectory": [{"tick": 1}]}
    lines(tmp_path / "a.jsonl", row("good"), "{broken", "[1]", benchmark, row("good"), row("", agentId=None), "", "7")
    lines(tmp_path / "b.jsonl.gz", row("good"), b"\xff".hex())
    reader = source(tmp_path, rejected_to=tmp_path / "new" / "rejected.jsonl")
    assert ids(await reader.windows(WindowQuery())) == {"2025-06-01T10:00": ["good"]}
    assert reader.rejected == {
        "not JSON": 2,
        "not an object": 2,
        "unknown shape: not a row of trajectories": 1,
        "more than once": 2,
        "no trajectory id": 1,
    }
    written = [json.loads(line) for line in (tmp_path / "new" / "rejected.jsonl").read_text().splitlines()]
    assert len(written) == 8
    assert written[0]["reason"] == "not JSON" and written[0]["found"] == "{broken"
    assert {"trajectory_id": "good", "field": "b.jsonl.gz at byte 0", "found": "first in a.jsonl at byte 0",
            "reason": "more than once"} in written  # fmt: skip


async def test_what_an_earlier_reading_rejected_is_not_mistaken_for_this_one(source: Make, tmp_path: Path) -> None:
    rejected_to = tmp_path / "home" / "rejected.jsonl"
    lines(tmp_path / "a.jsonl", row("good"), "{broken")
    await source(tmp_path / "a.jsonl", rejected_to=rejected_to).windows(WindowQuery())
    assert len(rejected_to.read_text().splitlines()) == 1
    lines(tmp_path / "a.jsonl", row("good"))
    await source(tmp_path / "a.jsonl", rejected_to=rejected_to).windows(WindowQuery())
    assert not rejected_to.exists()


async def test_a_path_that_does_not_exist_and_an_empty_folder(source: Make, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no"):
        await source(tmp_path / "missing").windows(WindowQuery())
    with pytest.raises(SourceError, match="no JSON or JSONL files"):
        await source(tmp_path).windows(WindowQuery())
    (tmp_path / "empty.jsonl").touch()
    for path in (tmp_path, tmp_path / "empty.jsonl"):
        with pytest.raises(SourceError, match="it is empty") as caught:
            await source(path).windows(WindowQuery())
        assert "source.path" in str(caught.value.hint)


async def test_what_unpacks_to_more_than_play_ever_does_is_refused(
    source: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmo_rl.source.files.UNGUARDED", 300_000)
    whole = json.dumps(row("t", "2025-06-01T10:20:00Z")).encode()
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(whole + b"\n" + b"\n" * 5_000_000))
    reader = source(path)
    assert list(ids(await reader.windows(WindowQuery()))) == ["2025-06-01T10:00"]  # what came before it
    assert reader.rejected == {"file cannot be read": 1}
    assert "it unpacks to more than 150 times its size" in reader.rejections.first[0].found
    path.write_bytes(gzip.compress(b"\n".join([whole] * 200)))  # the same play again and again is none
    assert list(ids(await source(path).windows(WindowQuery()))) == ["2025-06-01T10:00"]


async def test_of_millions_of_rejections_the_first_are_written(
    source: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmo_rl.source.rejections.WRITTEN", 3)
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(["{}"] * 10 + [json.dumps(row("t", "2025-06-01T10:20:00Z"))]))
    reader = source(path, rejected_to=tmp_path / "rejected.jsonl")
    assert list(ids(await reader.windows(WindowQuery()))) == ["2025-06-01T10:00"]
    assert sum(reader.rejected.values()) == 10
    assert len((tmp_path / "rejected.jsonl").read_text().splitlines()) == 3
    assert "10 rejected" in reader.rejections.summary() and "the first 3 are in" in reader.rejections.summary()


async def test_a_clock_of_years_ahead_hides_no_window(source: Make, tmp_path: Path) -> None:
    starts = ("2025-06-01T10:20:00Z", "2025-06-02T10:20:00Z", "2099-01-01T00:20:00Z")
    reader = source(lines(tmp_path / "a.jsonl", *(row(f"t{n}", start) for n, start in enumerate(starts))))
    found = ids(await reader.windows(WindowQuery(lookback_hours=6)))
    assert list(found) == ["2025-06-02T10:00", "2099-01-01T00:00"]


async def test_windows_scenarios_and_lookback(source: Make, tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        row("a", "2025-06-01T10:20:00Z", windowId="2025-06-01T11:00", scenarioId="s"),
        row("b", "2025-06-01T12:20:00Z", scenarioId="s"),
        row("c", "2025-06-01T13:59:00Z"),
    )
    reader = source(path)
    assert list(ids(await reader.windows(WindowQuery()))) == [
        "2025-06-01T11:00",
        "2025-06-01T12:00",
        "2025-06-01T13:00",
    ]
    assert list(ids(await reader.windows(WindowQuery(lookback_hours=2)))) == ["2025-06-01T12:00", "2025-06-01T13:00"]
    assert list(ids(await reader.windows(WindowQuery(scenario_id="s", window_hours=2)))) == [
        "2025-06-01T10:00",
        "2025-06-01T12:00",
    ]
    early = source(path, now=lambda: datetime(2025, 6, 1, 13, tzinfo=UTC), settle_minutes=0)
    assert [w.complete for w in await early.windows(WindowQuery())] == [True, False, False]


async def test_outcomes_beside_the_trajectories(source: Make, tmp_path: Path) -> None:
    lines(tmp_path / "rows.jsonl", row("a"))
    outcome = {"id": "o", "windowId": "2025-06-01T10:00", "stockTicker": "X", "startPrice": "100", "endPrice": "90"}
    lines(tmp_path / "market-outcomes.jsonl", outcome)
    reader = source(tmp_path)
    windows = await reader.windows(WindowQuery())
    assert windows[0].has_outcomes
    (group,) = await read(reader, windows)
    assert group.truth is not None
    assert group.truth.tickers[0].end_price == 90.0


async def whole(reader: JsonlSource) -> tuple[dict[str, Trajectory], list[RecordedOutcomes]]:
    found = [item async for item in reader.stream()]
    trajectories = [item for item in found if isinstance(item, Trajectory)]
    assert await reader.total() == len(trajectories)
    return {t.trajectory_id: t for t in trajectories}, [i for i in found if isinstance(i, RecordedOutcomes)]


async def test_art_lines_hold_the_very_calls_of_the_rows(source: Make) -> None:
    rows, _ = await whole(source(BABYLON / "trajectory_rows.jsonl.gz"))
    reader = source(BABYLON / "art_trajectories.jsonl.gz")
    lines_, _ = await whole(reader)
    assert not reader.rejected
    assert lines_.keys() == rows.keys() and len(rows) == 19
    for identity, line in lines_.items():
        full = rows[identity]
        assert [(c.messages, c.response) for s in line.steps for c in s.llm_calls] == [
            (c.messages, c.response) for s in full.steps for c in s.llm_calls
        ]
        assert [s.action.action_type for s in line.steps] == [s.action.action_type for s in full.steps]
        assert (line.final_pnl, line.agent_id, line.window_id) == (full.final_pnl, full.agent_id, full.window_id)


async def test_rows_count_before_art_lines_of_the_same_trajectory(source: Make, tmp_path: Path) -> None:
    for name in ("art_trajectories.jsonl.gz", "trajectory_rows.jsonl.gz"):
        (tmp_path / name).symlink_to(BABYLON / name)
    reader = source(tmp_path)
    found, _ = await whole(reader)
    assert len(found) == 19 and not reader.rejected
    assert all(step.environment_state for trajectory in found.values() for step in trajectory.steps)


async def test_art_conversations_and_group_files(source: Make, tmp_path: Path) -> None:
    system, user = {"role": "system", "content": "s"}, {"role": "user", "content": "u"}
    answers = [{"role": "assistant", "content": text} for text in ("one", "two")]
    member = {"messages": [user, answers[0], user, answers[1]], "metadata": {"trajectoryId": "m", "agentId": "a"}}
    group = {
        "groupId": "g", "scenarioId": "2025-06-01T10:00", "sharedPrefix": [system], "createdAt": 1,
        "trajectories": [member, {k: v for k, v in row("r").items() if k != "scenarioId"}],
    }  # fmt: skip
    (tmp_path / "group.json").write_text(json.dumps(group, indent=1))
    found, _ = await whole(source(tmp_path))
    assert {t.scenario_id for t in found.values()} == {"2025-06-01T10:00"}
    first, second = (step.llm_calls[0] for step in found["m"].steps)
    assert first.messages == (system, user)
    assert second.messages == (system, user, answers[0], user), "ART's own lines are conversations"
    assert found["m"].start == datetime(2025, 6, 1, 10, tzinfo=UTC)


async def test_a_dump_in_json_mode(source: Make) -> None:
    reader = source(BABYLON / "json_mode_state_excerpt.json")
    ((identity, traded),) = (await whole(reader))[0].items()
    assert identity == "257632221605658624/2025-12-11T22:00"
    assert (len(traded.steps), traded.final_pnl) == (15, 470.0)
    step = traded.steps[0]
    assert (step.action.action_type, step.action.parameters["amount"]) == ("buy_prediction", "401")
    assert "pnl" not in step.action.parameters and step.action.correctness == {"pnl": "50"}
    assert not reader.rejected


async def test_a_dump_with_tables_of_recorded_play(source: Make, tmp_path: Path) -> None:
    bare = row("t", stepsJson='[{"stepNumber": 0}]', finalPnL="12.5")
    tables = {
        "trajectories": {"1": bare},
        "llmCallLogs": [{"trajectoryId": "t", "stepId": "t-step-0", "userPrompt": "u", "response": "logged"}],
        "market_outcomes": {
            "o": {"windowId": "2025-06-01T10:00", "stockTicker": "X", "startPrice": "1", "endPrice": "2"}
        },
    }
    (tmp_path / "state.json").write_text(json.dumps({"metadata": {}, "tables": tables}))
    found, outcomes = await whole(source(tmp_path / "state.json"))
    assert found["t"].steps[0].llm_calls[0].response == "logged"
    assert found["t"].final_pnl == 12.5
    assert outcomes[0].truth.tickers[0].end_price == 2.0


async def test_unknown_documents_say_what_they_hold(source: Make, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="4 x unknown shape"):
        await source(BABYLON / "benchmark_training_data.json").windows(WindowQuery())
    (tmp_path / "state.json").write_text('{"tables": {"users": {}}}')
    with pytest.raises(SourceError, match="a database dump without trajectories"):
        await source(tmp_path / "state.json").windows(WindowQuery())


async def test_logged_calls_beside_the_trajectories(source: Make, tmp_path: Path) -> None:
    steps = [{"stepNumber": n, "llmCalls": own} for n, own in ((0, []), (1, [{"userPrompt": "u", "response": "own"}]))]
    lines(tmp_path / "rows.jsonl.gz", row("t", stepsJson=json.dumps(steps)))
    log = [
        {"trajectoryId": "t", "stepId": f"t-step-{n}", "callId": f"t-call-{n}-0", "userPrompt": "u", "response": "log"}
        for n in (0, 1)
    ]
    lines(tmp_path / "llm-call-logs.jsonl.gz", *log, {**log[0], "trajectoryId": "other"})
    for path in (tmp_path, tmp_path / "rows.jsonl.gz"):
        reader = source(path)
        found, _ = await whole(reader)
        assert [[c.response for c in s.llm_calls] for s in found["t"].steps] == [["log"], ["own"]]
        assert reader.rejected == ({UNOWNED: 1} if path.is_dir() else {})


async def test_broken_files_keep_what_lies_before_the_fault(source: Make, tmp_path: Path) -> None:
    packed = gzip.compress("".join(json.dumps(row(f"t{n}")) + "\n" for n in range(2000)).encode(), 0)
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    text = json.dumps(row("utf")).encode()
    (tmp_path / "bytes.jsonl").write_bytes(text + b"\n" + text.replace(b'"a"', b'"\xff"') + b"\n")
    (tmp_path / "cut.json").write_bytes(json.dumps(row("whole"), indent=1).encode()[:-4])
    (tmp_path / "numbers.jsonl").write_text(
        json.dumps(row("huge", finalPnL=10**400, finalBalance=float("nan"))).replace('"a"', "7") + "\n"
    )
    (tmp_path / "deep.jsonl").write_text("[" * 200_000 + "\n")
    reader = source(tmp_path)
    found, _ = await whole(reader)
    assert 500 < len(found) < 1500
    assert {"utf", "huge", "t0"} <= found.keys()
    assert (found["huge"].final_pnl, found["huge"].final_balance, found["huge"].agent_id) == (None, None, "7")
    assert reader.rejected == {"gzip file breaks off": 1, "not UTF-8": 1, "not JSON": 1, "nested too deeply": 1}


async def test_a_line_of_any_length_is_read_in_bounded_memory(source: Make, tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(b'{"trajectoryId": "')
        file.seek(100_000_000)  # a hole: it takes no room
        file.write(b'"}\n' + json.dumps(row("next")).encode())
    tracemalloc.start()
    reader = source(path, max_line_mb=2)
    found, _ = await whole(reader)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.keys() == {"next"}
    assert reader.rejected == {"longer than source.max_line_mb=2": 1}
    assert peak < 15_000_000


async def test_a_long_document_is_refused_with_the_key_to_change(source: Make, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([row("a")], indent=1))
    with pytest.raises(SourceError, match=r"1 x longer than source.max_line_mb=0.0001"):
        await source(tmp_path, max_line_mb=0.0001).windows(WindowQuery())


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["trajectory", "trajectories", "tables", "agentTrades", "messages", "metadata", "environmentContext",
             "trajectoryId", "agentId", "role", "content", "llmCalls", "stepId", "callId", "response", "steps",
             "windowId", "startTime", "createdAt", "scenarioId", "sharedPrefix", "actionsTaken", "message",
             "stockTicker", "agentUserId"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(value=ANYTHING)
def test_any_json_is_parts_that_are_trajectories_or_rejections(value: Any) -> None:
    for item in parts_of(value, "here"):
        if isinstance(item, Candidate):
            assert isinstance(parse_candidate(item, ()), Trajectory | Rejection)
        elif isinstance(item, Rejection):
            assert item.reason and item.field


@pytest.mark.parametrize("name", ["2025-06-01T08:00", "2025-06-01-08"])
async def test_a_window_of_several_hours_does_not_say_which_of_them(source: Make, tmp_path: Path, name: str) -> None:
    path = lines(
        tmp_path / "a.jsonl", row("long", windowId=name, windowHours=4), row("short", agentId="b", windowId=name)
    )
    reader = source(path)
    assert ids(await reader.windows(WindowQuery())) == {"2025-06-01T08:00": ["short"], "2025-06-01T10:00": ["long"]}
    assert ids(await reader.windows(WindowQuery(window_hours=4))) == {"2025-06-01T08:00": ["long", "short"]}
    whole = {item.trajectory_id: item async for item in reader.stream() if isinstance(item, Trajectory)}
    assert (whole["long"].window_id, whole["short"].window_id) == ("2025-06-01T10:00", "2025-06-01T08:00")


async def test_what_is_no_json_is_rejected_under_the_id_that_can_be_seen_in_it(source: Make, tmp_path: Path) -> None:
    text = json.dumps(row("cut"))
    path = tmp_path / "a.jsonl"
    odd = json.dumps(row("odd")).encode().replace(b"HOLD", b"\xff\xfe")
    path.write_bytes(b"\n".join([json.dumps(row("good")).encode(), text[:-9].encode(), odd, b"{broken"]))
    reader = source(path)
    await reader.windows(WindowQuery())
    found = {rejection.trajectory_id: rejection.reason for rejection in reader.rejections.first}
    assert found == {"cut": "not JSON", "odd": "not UTF-8", None: "not JSON"}


@contextmanager
def full_disk(left: int) -> Iterator[None]:
    """No file of this process can grow beyond ``left`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_no_room_for_an_unpacked_file_ends_the_task_and_loses_no_row(source: Make, tmp_path: Path) -> None:
    many = [row(f"t{number}", finalStatus="x" * 1000) for number in range(300)]
    reader = source(lines(tmp_path / "rows.jsonl.gz", *many))
    windows = await reader.windows(WindowQuery())
    assert len(windows[0].members) == 300
    with full_disk(100_000), pytest.raises(SourceError, match="temporary file cannot be written") as full:
        await read(reader, windows)
    assert full.value.hint is not None and "TMPDIR" in full.value.hint
    assert not reader.rejected
    assert len((await read(reader, windows))[0].members) == 300


async def test_no_room_for_what_is_piped_ends_the_task(source: Make, tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", *[row(f"t{number}", finalStatus="x" * 1000) for number in range(300)])
    keyboard = os.dup(0)
    with path.open("rb") as piped:
        os.dup2(piped.fileno(), 0)
    try:
        with full_disk(100_000), pytest.raises(SourceError, match="temporary file cannot be written"):
            await source("-").windows(WindowQuery())
    finally:
        os.dup2(keyboard, 0)
        os.close(keyboard)
