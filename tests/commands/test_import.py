"""Import from the command line: what it prints, what it refuses, and play that is piped in as it is made."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.harness.project import Project

BABYLON = Path(__file__).parents[1] / "data" / "babylon"


def row(identity: str, **more: Any) -> dict[str, Any]:
    start = "2025-06-01T10:20:00.000Z"
    calls = [{"model": "m", "userPrompt": "u", "response": "r", "temperature": 0.7}]
    step = {"stepNumber": 0, "timestamp": start, "llmCalls": calls, "action": {"actionType": "HOLD"}, "reward": 0.0}
    return {"trajectoryId": identity, "agentId": "a", "startTime": start, "steps": [step], "finalPnL": 0.0, **more}


@pytest.fixture
def project(projects: Callable[[], Project], migrated_url: str) -> Project:
    """A project whose play goes into a server with all tables."""
    return projects().with_variables(DATABASE_URL=migrated_url)


def imported(project: Project, path: Path, *, code: int = 0) -> str:
    said = project.run("task=import", "source=jsonl", f"source.path={path}", "database=postgres", code=code)
    return " ".join(said.split())


def test_counts_and_the_next_command(project: Project) -> None:
    path = BABYLON / "trajectory_rows.jsonl.gz"
    said = imported(project, path)
    assert "trajectories imported 19 already there 0" in said
    assert "Next: mmo-rl task=check source=postgres" in said
    said = imported(project, path)
    assert "trajectories imported 0 already there 19" in said
    assert "Nothing to do" in said


def test_every_rejection_is_counted_and_written_down(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    bad = [row("nul", agentId="a\0"), row("long", scenarioId="s" * 101), row("none", steps=[])]
    path.write_text("\n".join(map(json.dumps, [row("first"), *bad, 7])) + "\n{broken")
    said = imported(project, path)
    assert "trajectories imported 1 already there 0" in said
    assert "rejected: refused by the database 1" in said
    assert "rejected: a character that no database holds 1" in said
    assert "rejected: no steps 1" in said
    assert "rejected: not JSON 1" in said
    assert "refused by the database, the first time: the trajectory long does not fit" in said
    assert f"Each rejection is in {project.home / 'rejected.jsonl'}" in said
    lines = [json.loads(line) for line in (project.home / "rejected.jsonl").read_text().splitlines()]
    assert sorted(str(line["trajectory_id"]) for line in lines) == ["None", "None", "long", "none", "nul"]


def test_refusing_all_is_a_failure(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row("long", scenarioId="s" * 101)))
    assert "database=embedded" in imported(project, path, code=1)


def test_nothing_to_read_is_a_message(project: Project, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n")
    assert "it is empty" in imported(project, tmp_path / "rows.jsonl", code=1)


def test_copying_into_itself_is_refused(project: Project) -> None:
    said = project.run("task=import", "source=postgres", code=2)
    assert "both are the same" in said
    assert "database=embedded" in said


def test_outcomes_come_along(project: Project, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row("t")))
    ticker = {"windowId": "2025-06-01T10:00", "stockTicker": "X", "startPrice": "100", "endPrice": "90.123"}
    (tmp_path / "market-outcomes.jsonl").write_text(json.dumps(ticker))
    assert "outcomes of windows imported 1" in imported(project, tmp_path / "rows.jsonl")
    said = imported(project, tmp_path / "rows.jsonl")
    assert "outcomes already there 1" in said and "Nothing to do" in said


PIPE = [sys.executable, "-m", "mmo_rl", "task=import", "source=jsonl", "source.path=-", "database=postgres"]


async def piped(url: str, folder: Path) -> asyncio.subprocess.Process:
    environment = Project.at(folder, DATABASE_URL=url).environment
    return await asyncio.create_subprocess_exec(
        *PIPE, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**environment, "COLUMNS": "100"},
    )  # fmt: skip


async def ids_of(url: str, count: int) -> list[str]:
    """The stored ids, as soon as there are so many."""
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(60):
            while True:
                found = await connection.fetch('select "trajectoryId" as id from trajectories order by 1')
                if len(found) >= count:
                    return [r["id"] for r in found]
                await asyncio.sleep(0.02)
    finally:
        await connection.close()


async def test_a_producer_in_any_language_pipes_play_in_as_it_is_made(migrated_url: str, tmp_path: Path) -> None:
    process = await piped(migrated_url, tmp_path)
    assert process.stdin is not None
    bare = row("second", steps=[{"stepNumber": 0}])
    call = {"trajectoryId": "second", "stepId": "second-step-0", "userPrompt": "u", "response": "logged"}
    for lines, expected in (([row("first")], ["first"]), ([call, bare], ["first", "second"])):
        process.stdin.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        await process.stdin.drain()
        assert await ids_of(migrated_url, len(expected)) == expected, "stored while the producer still runs"
    out, err = await process.communicate(b"{broken\n" + json.dumps(row("third")).encode())
    assert process.returncode == 0, err
    words = " ".join(out.decode().split())
    assert "trajectories imported 3 already there 0 rejected: not JSON 1" in words
    assert str(tmp_path / "home" / "rejected.jsonl") in words
    assert await ids_of(migrated_url, 3) == ["first", "second", "third"]
    again = await piped(migrated_url, tmp_path)
    packed = gzip.compress("\n".join(json.dumps(row(i)) for i in ("third", "fourth")).encode())
    out, err = await again.communicate(packed)
    assert "trajectories imported 1 already there 1" in " ".join(out.decode().split()), err


async def test_an_import_that_waits_for_its_producer_can_be_interrupted(migrated_url: str, tmp_path: Path) -> None:
    process = await piped(migrated_url, tmp_path)
    assert process.stdin is not None
    process.stdin.write(json.dumps(row("first")).encode() + b"\n")
    await process.stdin.drain()
    assert await ids_of(migrated_url, 1) == ["first"]
    process.terminate()
    async with asyncio.timeout(20):
        assert await process.wait() == 130
    process.stdin.close()
