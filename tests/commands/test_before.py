"""Run folders of an earlier layout: the finished one is shown, the interrupted one ends as an unbroken run does."""

from __future__ import annotations

import asyncio
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.harness.database import embedded, load_script, rows, rows_at_home
from tests.harness.project import Project, read_json, read_rows, untimed

STATE = Path(__file__).parents[1] / "data" / "before" / "state.tar.xz"
COMMAND = (
    "name=before",
    "report=local",
    "iterations=2",
    "collect.windows=2",
    "collect.agents=5",
    "evaluate.markets=2",
    "evaluate.agents=1",
)


@pytest.fixture
def earlier(project: Project) -> Project:
    """A project with the run folders and the database of the earlier layout."""
    with tarfile.open(STATE) as archive:
        archive.extractall(project.root, filter="data")

    async def load() -> None:
        async with embedded(project.home) as server:
            await rows(server.dsn("postgres"), "create database mmo_rl")
            load_script(server, server.dsn(), (project.root / "database.sql").read_bytes())

    asyncio.run(load())
    return project


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    return ((path, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")


def close(row: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a row for a comparison with what another processor computed, in another order of its sums."""
    return {k: pytest.approx(v, rel=1e-4, abs=1e-7) if isinstance(v, float) else v for k, v in untimed(row).items()}


def test_a_finished_run_is_shown_and_not_done_again(earlier: Project) -> None:
    folder = earlier.root / "runs" / "before" / "8dac05d30a"
    before = dict(contents(folder))
    told = earlier.run(*COMMAND)
    assert "This run is finished (2026-11-30T22:34:34.785+00:00); nothing is done again." in told
    shown = " ".join(told.split())
    assert "P&L, $ −304 [−760, 152] −239 [−2,861, 2,384] +65.2 [−2,101, 2,232]" in shown
    assert dict(contents(folder)) == before
    assert earlier.folders() == [folder.with_name("2b153b1007"), folder]


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_numbers_of_an_unbroken_one(earlier: Project) -> None:
    folder = earlier.root / "runs" / "before" / "2b153b1007"
    (first,) = read_rows(folder / "metrics.jsonl")
    told = earlier.run(*COMMAND, "seed=1")
    assert f"This run was interrupted before; it continues in {folder}" in told
    assert "The configuration has changed" not in told
    metrics, summary = read_rows(folder / "metrics.jsonl"), read_json(folder / "summary.json")
    assert metrics[0] == first and len(metrics) == 2
    played = """select "scenarioId" as scenario, count(*) as n from trajectories group by 1 order by 1"""
    assert asyncio.run(rows_at_home(earlier.home, played)) == [
        {"scenario": "before-2b153b1007-45a518", "n": 20},
        {"scenario": "before-8dac05d30a-e95994", "n": 20},
    ]

    shutil.rmtree(folder)
    earlier.run(*COMMAND, "seed=1")
    earlier_row, other_row = metrics[0], read_rows(folder / "metrics.jsonl")[0]
    other_row = {k: v for k, v in other_row.items() if k in earlier_row}  # the earlier code had fewer numbers
    assert untimed(earlier_row) == close(other_row)
    assert untimed(metrics[1]) == close(read_rows(folder / "metrics.jsonl")[1])
    assert untimed(summary) == close(read_json(folder / "summary.json"))
