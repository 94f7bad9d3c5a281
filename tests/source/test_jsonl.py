"""Exported files in the shapes that games write."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.errors import SourceError
from mmo_rl.source.jsonl import JsonlSource
from mmo_rl.types import Group, SelectedWindow, Selection, WindowQuery, WindowStats

BABYLON = Path(__file__).parents[1] / "data" / "babylon"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def row(identity: str, start: str = "2025-06-01T10:20:00Z", **more: Any) -> dict[str, Any]:
    calls = [{"userPrompt": "u", "response": "r"}]
    step = {"stepNumber": 0, "timestamp": start, "llmCalls": calls, "action": {"actionType": "HOLD"}}
    return {"trajectoryId": identity, "agentId": "a", "startTime": start, "stepsJson": json.dumps([step]), **more}


def lines(path: Path, *objects: Any) -> Path:
    text = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in objects) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def source(path: Path, **options: Any) -> JsonlSource:
    return JsonlSource(path=str(path), now=lambda: NOW, **options)


def ids(windows: list[WindowStats]) -> dict[str, list[str]]:
    return {stats.window.id: [member.trajectory_id for member in stats.members] for stats in windows}


async def read(reader: JsonlSource, windows: list[WindowStats]) -> list[Group]:
    chosen = tuple(SelectedWindow(w.window, tuple(m.trajectory_id for m in w.members)) for w in windows)
    return [group async for group in reader.groups(Selection(0, chosen, len(windows), 0, 0.0, 0, {}))]


async def test_recorded_rows_of_the_game() -> None:
    reader = source(BABYLON / "trajectory_rows.jsonl.gz")
    windows = await reader.windows(WindowQuery())
    assert {name: len(members) for name, members in ids(windows).items()} == {
        "2025-11-14T08:00": 5,
        "2025-11-14T09:00": 5,
        "2025-11-14T11:00": 8,
        "2025-11-14T13:00": 1,
    }
    groups = await read(reader, windows)
    assert [len(group.members) for group in groups] == [5, 5, 8, 1]
    assert not reader.rejected


async def test_every_shape_of_a_row(tmp_path: Path) -> None:
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
    (tmp_path / "notes.txt").write_text("not data")
    reader = source(tmp_path)
    windows = await reader.windows(WindowQuery())
    assert ids(windows) == {"2025-06-01T10:00": ["first", "flat", "nested", "one", "second", "snake"]}
    (group,) = await read(reader, windows)
    found = {member.trajectory_id: member for member in group.members}
    assert sorted(found) == ["first", "flat", "nested", "one", "second", "snake"]
    assert found["one"].steps[0].llm_calls[0].response == "from the log"
    assert found["snake"].final_pnl == 2.0
    assert not reader.rejected


async def test_what_cannot_be_read_is_counted_by_reason(tmp_path: Path) -> None:
    art = {"messages": [{"role": "user", "content": "u"}], "reward": 1}
    lines(tmp_path / "a.jsonl", row("good"), "{broken", "[1]", art, row("good"), row("", agentId=None), "", "7")
    (tmp_path / "b.jsonl.gz").write_bytes(b"not gzip")
    reader = source(tmp_path)
    assert ids(await reader.windows(WindowQuery())) == {"2025-06-01T10:00": ["good"]}
    assert reader.rejected == {
        "not JSON": 1,
        "not an object": 2,
        "unknown shape: not a row of trajectories": 1,
        "more than once": 1,
        "missing": 1,
        "file cannot be read": 1,
    }


async def test_art_files_are_refused_with_their_shape() -> None:
    with pytest.raises(SourceError, match="19 x unknown shape") as caught:
        await source(BABYLON / "art_trajectories.jsonl.gz").windows(WindowQuery())
    assert "source.path" in str(caught.value.hint)


async def test_a_path_that_does_not_exist_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no"):
        await source(tmp_path / "missing").windows(WindowQuery())
    with pytest.raises(SourceError, match="no JSON or JSONL files"):
        await source(tmp_path).windows(WindowQuery())


async def test_windows_scenarios_and_lookback(tmp_path: Path) -> None:
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
    early = JsonlSource(path=str(path), now=lambda: datetime(2025, 6, 1, 13, tzinfo=UTC), settle_minutes=0)
    assert [w.complete for w in await early.windows(WindowQuery())] == [True, False, False]


async def test_outcomes_beside_the_trajectories(tmp_path: Path) -> None:
    lines(tmp_path / "rows.jsonl", row("a"))
    outcome = {"id": "o", "windowId": "2025-06-01T10:00", "stockTicker": "X", "startPrice": "100", "endPrice": "90"}
    lines(tmp_path / "market-outcomes.jsonl", outcome)
    reader = source(tmp_path)
    windows = await reader.windows(WindowQuery())
    assert windows[0].has_outcomes
    (group,) = await read(reader, windows)
    assert group.truth is not None
    assert group.truth.tickers[0].end_price == 90.0
