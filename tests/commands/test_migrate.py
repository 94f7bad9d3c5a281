"""What the task prints."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mmo_rl.commands.migrate import run
from mmo_rl.database.database import Database
from mmo_rl.database.schema import HEAD
from mmo_rl.errors import DatabaseError


class Context:
    def __init__(self, database: Database) -> None:
        self.components = self
        self.console = Console(file=io.StringIO(), width=80)
        self._database = database

    async def database(self) -> Database:
        return self._database


async def test_a_games_own_database_then_again(
    babylon_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", babylon_url)
    async with Database(dsn_env="DATABASE_URL", home=tmp_path) as database:
        first: Any = Context(database)
        await run(first)
        text = first.console.file.getvalue()
        assert f"revision none -> {HEAD}" in text
        assert [line.split() for line in text.splitlines() if line.startswith("llm_call_logs")] == [
            ["llm_call_logs", "2,894", "2,894"]
        ]
        second: Any = Context(database)
        await run(second)
        assert f"nothing to do: at revision {HEAD} already" in second.console.file.getvalue()


async def test_a_games_own_table_gets_the_index_on_request_alone(
    babylon_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", babylon_url)
    made = "index mmo_rl_windows_idx made"
    async with Database(dsn_env="DATABASE_URL", home=tmp_path) as database:
        said = []
        for index in (False, True, True):
            context: Any = Context(database)
            await run(context, index=index)
            said.append(made in context.console.file.getvalue())
        assert said == [False, True, False]
        async with database.acquire() as connection:  # as a killed attempt leaves it
            await connection.execute(
                "update pg_index set indisvalid = false where indexrelid = 'mmo_rl_windows_idx'::regclass"
            )
        again: Any = Context(database)
        await run(again, index=True)
        assert made in again.console.file.getvalue()


async def test_our_own_table_has_the_index(database: Database) -> None:
    async with database.acquire() as connection:
        listed = await connection.fetchval("select pg_get_indexdef('mmo_rl_windows_idx'::regclass)")
    assert '("windowId", "agentId") INCLUDE ("trajectoryId"' in listed


async def test_a_failure_prints_no_success(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    async with Database(dsn_env="DATABASE_URL", home=tmp_path) as database:
        async with database.acquire() as connection:
            await connection.execute("create table trajectories ()")
        context: Any = Context(database)
        with pytest.raises(DatabaseError, match="lack columns"):
            await run(context)
        assert context.console.file.getvalue() == ""
