"""Migrations: on nothing, twice, at once, on a game's own database, and when they fail."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import asyncpg
import pytest

from mmo_rl.database import schema
from mmo_rl.database.database import Database
from mmo_rl.database.migrate import migrate
from mmo_rl.errors import DatabaseError

VARIABLE = "MMO_RL_TEST_DATABASE_URL"


@pytest.fixture
async def opened(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setenv(VARIABLE, database_url)
    async with Database(dsn_env=VARIABLE, home=tmp_path) as database:
        yield database


async def structure(database: Database) -> list[tuple[str, ...]]:
    """Every column and index of the database."""
    async with database.read_only().acquire() as connection:
        columns = await connection.fetch(
            "select table_schema, table_name, column_name, data_type, is_nullable, column_default"
            " from information_schema.columns where table_schema not in ('pg_catalog', 'information_schema')"
        )
        indexes = await connection.fetch(
            "select schemaname, tablename, indexname, indexdef from pg_indexes"
            " where schemaname not in ('pg_catalog', 'information_schema')"
        )
    return sorted(tuple(map(str, row)) for row in [*columns, *indexes])


async def test_a_table_that_vanished_after_the_migration_is_told_and_never_called_done(opened: Database) -> None:
    await migrate(opened)
    async with opened.acquire() as connection:
        await connection.execute("drop table market_outcomes")
    with pytest.raises(DatabaseError, match="has no table market_outcomes"):
        await migrate(opened)
    async with opened.acquire() as connection:
        await connection.execute("drop schema mmo_rl cascade")
    assert "market_outcomes" in (await migrate(opened)).tables_created


async def test_what_the_user_may_not_do_is_told_with_a_way_out(opened: Database) -> None:
    await migrate(opened)

    async def trespass() -> None:
        async with opened.acquire() as connection:
            await connection.execute("set local role pg_monitor")
            await connection.execute("delete from mmo_rl.worlds")

    with pytest.raises(DatabaseError, match="may not do that") as caught:
        await trespass()
    assert "database=embedded" in str(caught.value.hint)


async def test_a_fresh_database_twice(opened: Database) -> None:
    first = await migrate(opened)
    assert (first.before, first.after) == (None, schema.HEAD)
    assert first.tables_created == (*schema.GAME_COLUMNS, *(f"mmo_rl.{table}" for table in schema.OWN_TABLES))
    assert first.rows_before == {}
    made = await structure(opened)
    second = await migrate(opened)
    assert (second.before, second.after, second.tables_created) == (schema.HEAD, schema.HEAD, ())
    assert await structure(opened) == made


async def test_a_games_own_database_loses_nothing_and_is_not_altered(babylon_url: str, opened: Database) -> None:
    before = await structure(opened)
    result = await migrate(opened)
    assert result.rows_before == result.rows_after
    assert result.rows_after["trajectories"] == 19
    assert result.rows_after["llm_call_logs"] == 2894
    assert result.tables_created == tuple(f"mmo_rl.{table}" for table in schema.OWN_TABLES)
    assert [entry for entry in await structure(opened) if entry[0] == "public"] == before
    assert (await migrate(opened)).tables_created == ()


async def test_tables_made_here_equal_the_games(
    babylon_url: str, opened: Database, migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Column by column and index by index, but for the agents' role that newer games have."""
    monkeypatch.setenv("MMO_RL_TEST_OTHER_URL", migrated_url)
    async with Database(dsn_env="MMO_RL_TEST_OTHER_URL", home=tmp_path) as ours:
        made = {entry for entry in await structure(ours) if entry[0] == "public" and entry[2] != "archetype"}
    made = {
        entry for entry in made if entry[2] not in ("mmo_rl_windows_idx", "mmo_rl_models_idx")
    }  # made on a game's own on request
    games = {entry for entry in await structure(opened) if entry[0] == "public" and entry[1] != "User"}
    known_duplicate = "llm_call_logs_callId_idx"  # beside a unique index on the same column
    assert {entry for entry in games if entry[2] != known_duplicate} == made


async def test_two_at_once(opened: Database) -> None:
    results = await asyncio.gather(migrate(opened), migrate(opened), migrate(opened))
    assert sorted(str(result.before) for result in results) == [schema.HEAD, schema.HEAD, "None"]


async def test_a_failure_in_the_middle_leaves_nothing(opened: Database, tmp_path: Path) -> None:
    failing = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, failing)
    (failing / "versions" / "9999_fails.py").write_text(
        "from alembic import op\n"
        f"revision, down_revision, branch_labels, depends_on = '9999', '{schema.HEAD}', None, None\n"
        "def upgrade():\n"
        "    op.execute('create table half_done ()')\n"
        "    op.execute('select 1 / 0')\n"
    )
    with pytest.raises(DatabaseError, match="division by zero") as caught:
        await migrate(opened, migrations=failing)
    assert "nothing was changed" in str(caught.value.hint)
    assert await structure(opened) == []
    assert (await migrate(opened)).before is None


async def test_a_table_of_the_game_without_a_column(opened: Database) -> None:
    async with opened.acquire() as connection:
        await connection.execute('create table trajectories (id text, "trajectoryId" text, "agentId" text)')
    before = await structure(opened)
    with pytest.raises(DatabaseError, match=r"lack columns: .*trajectories\.windowId.*trajectories\.stepsJson"):
        await migrate(opened)
    assert await structure(opened) == before


async def test_a_database_of_a_newer_version(opened: Database) -> None:
    await migrate(opened)
    async with opened.acquire() as connection:
        await connection.execute("update mmo_rl.alembic_version set version_num = '9999'")
    with pytest.raises(DatabaseError, match="another version of mmo-rl") as caught:
        await migrate(opened)
    assert caught.value.hint == "install the newest mmo-rl"


async def test_a_user_that_may_not_create(
    opened: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with opened.acquire() as connection:
        await connection.execute("drop role if exists reader; create role reader login")
    monkeypatch.setenv("MMO_RL_TEST_OTHER_URL", database_url.replace("postgres@", "reader@"))
    async with Database(dsn_env="MMO_RL_TEST_OTHER_URL", home=tmp_path) as limited:
        with pytest.raises(DatabaseError, match="permission denied") as caught:
            await migrate(limited)
        assert "may create" in str(caught.value.hint)
        assert await structure(opened) == []
        # Whoever is asked for the tables is told at once what works without them.
        with pytest.raises(DatabaseError, match="may not create the tables that are missing") as caught:
            await limited.require_tables()
        way_out = "mmo-rl task=import source=postgres source.dsn_env=MMO_RL_TEST_OTHER_URL database=embedded"
        assert str(caught.value.hint).endswith(way_out)
        await migrate(opened)
        with pytest.raises(
            DatabaseError, match=r"may not write to the table trajectories, .*mmo_rl\.judgments"
        ) as caught:
            await limited.require_tables()
        assert str(caught.value.hint).endswith(way_out)
    connection = await asyncpg.connect(database_url)
    await connection.execute("drop role reader")
    await connection.close()
