"""Dump of recorded play, and its way back into the same rows."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest

from mmo_rl.config.project import shipped
from mmo_rl.database.dump import OUTCOMES, dump
from mmo_rl.source.base import RecordedOutcomes, SourceParts
from mmo_rl.source.example import example_lines
from mmo_rl.source.jsonl import JsonlSource
from mmo_rl.source.parse import parse_trajectory
from mmo_rl.types import Trajectory

NOW = datetime(2026, 2, 1, tzinfo=UTC)
BABYLON = Path(__file__).parents[1] / "data" / "babylon"
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "play.schema.json").read_text())


def source(path: Path) -> JsonlSource:
    return JsonlSource(path=str(path), parts=SourceParts(now=lambda: NOW))


async def everything(path: Path) -> dict[str, Trajectory | RecordedOutcomes]:
    async with aclosing(source(path)) as opened:
        items = [item async for item in opened.stream()]
        assert not opened.rejected
    return {
        item.trajectory_id if isinstance(item, Trajectory) else f"{item.scenario_id}/{item.truth.window_id}": item
        for item in items
    }


@pytest.fixture
def example(tmp_path: Path) -> Path:
    path = tmp_path / "example.jsonl"
    path.write_text("\n".join(map(json.dumps, example_lines())))
    return path


@pytest.mark.parametrize("name", ["play.jsonl", "play.jsonl.gz"])
async def test_a_dump_reads_back_to_the_same(example: Path, name: str, tmp_path: Path) -> None:
    done: list[int] = []
    for path in (example, BABYLON / "trajectory_rows.jsonl.gz"):
        output = tmp_path / "out" / name
        async with aclosing(source(path)) as play:
            dumped = await dump(play, output, advance=done.append, now=NOW)
        before, after = await everything(path), await everything(output)
        assert after == before
        assert dumped.trajectories == sum(isinstance(item, Trajectory) for item in before.values())
        assert dumped.files == (output,)
        content = output.read_bytes()
        lines = (gzip.decompress(content) if name.endswith(".gz") else content).splitlines()
        for line in lines[:4]:  # the real ones are large, and alike
            jsonschema.validate(json.loads(line), SCHEMA)
    assert sum(done) == 1 + 19


async def test_parquet_holds_the_table_and_outcomes_lie_beside_it(example: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    output = tmp_path / "out" / "play.parquet"
    async with aclosing(source(example)) as play:
        dumped = await dump(play, output, advance=lambda count: None, now=NOW)
    assert dumped.files == (output, output.with_name(OUTCOMES))
    before = await everything(example)
    (row,) = pq.read_table(output).to_pylist()
    assert parse_trajectory(row) == before["agent-1-2026-01-05T14:00"]
    assert [json.loads(line)["id"] for line in output.with_name(OUTCOMES).read_text().splitlines()] == [
        line["id"] for line in example_lines()[1:]
    ]


async def test_a_dump_that_fails_leaves_what_was_there(example: Path, tmp_path: Path) -> None:
    class Failing(JsonlSource):
        async def stream(self) -> AsyncIterator[Trajectory | RecordedOutcomes]:
            async for item in super().stream():
                yield item
                raise OSError("gone")

    output = tmp_path / "out" / "play.jsonl"
    output.parent.mkdir()
    output.write_text("before")
    failing = Failing(path=str(example), parts=SourceParts(now=lambda: NOW))
    with pytest.raises(OSError, match="gone"):
        async with aclosing(failing):
            await dump(failing, output, advance=lambda count: None, now=NOW)
    assert {path.name: path.read_text() for path in output.parent.iterdir()} == {"play.jsonl": "before"}


async def test_every_example_of_the_page_is_imported(example: Path, tmp_path: Path) -> None:
    page = (shipped("conf").parent / "docs" / "import.md").read_text()
    lines = [line for block in re.findall(r"```json\n(.*?)```", page, re.S) for line in block.splitlines()]
    (path := tmp_path / "page.jsonl").write_text("\n".join(lines))
    found = await everything(path)
    assert sorted(found) == ["my-game/2026-01-05T14:00", "t-1", "t-2", "t-3", "t-4"]
    assert [len(step.llm_calls) for i in ("t-1", "t-2", "t-4") for step in found[i].steps] == [1, 1, 1]  # type: ignore[union-attr]
    for line in [*example_lines(), *map(json.loads, lines[:3])]:
        jsonschema.validate(line, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"trajectoryId": "t", "agentId": "a"}, SCHEMA)
