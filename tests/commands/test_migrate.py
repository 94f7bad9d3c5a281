"""The migration from the command line: its table, its index, and no success over a failure."""

from __future__ import annotations

import asyncio

from mmo_rl.database.schema import HEAD
from tests.harness.database import execute, rows
from tests.harness.project import Project

INDEX = "index mmo_rl_windows_idx made"


def test_a_games_own_database_then_again(project: Project, babylon_url: str) -> None:
    there = project.with_variables(DATABASE_URL=babylon_url)
    text = there.run("task=migrate", "source=postgres")
    assert f"revision none -> {HEAD}" in text
    assert [line.split() for line in text.splitlines() if line.startswith("llm_call_logs")] == [
        ["llm_call_logs", "2,894", "2,894"]
    ]
    assert f"nothing to do: at revision {HEAD} already" in there.run("task=migrate", "source=postgres")


def test_a_games_own_table_gets_the_index_on_request_alone(project: Project, babylon_url: str) -> None:
    there = project.with_variables(DATABASE_URL=babylon_url)
    said = [
        INDEX in there.run("task=migrate", "source=postgres", f"migrate.index={index}")
        for index in ("false", "true", "true")
    ]
    assert said == [False, True, False]
    invalid = "update pg_index set indisvalid = false where indexrelid = 'mmo_rl_windows_idx'::regclass"
    asyncio.run(execute(babylon_url, invalid))  # as a killed attempt leaves it
    assert INDEX in there.run("task=migrate", "source=postgres", "migrate.index=true")


def test_our_own_table_has_the_index(migrated_url: str) -> None:
    query = "select pg_get_indexdef('mmo_rl_windows_idx'::regclass) as made"
    (listed,) = asyncio.run(rows(migrated_url, query))
    assert '("windowId", "agentId") INCLUDE ("trajectoryId"' in listed["made"]


def test_a_failure_prints_no_success(project: Project, database_url: str) -> None:
    asyncio.run(execute(database_url, "create table trajectories ()"))
    told = project.with_variables(DATABASE_URL=database_url).run("task=migrate", "source=postgres", code=1)
    assert "lack columns" in told
    assert "revision" not in told
