"""Migration of the tables: every revision in one transaction, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import asyncpg

from mmo_rl.database import schema
from mmo_rl.database.base import MigrationResult
from mmo_rl.database.connections import Connection
from mmo_rl.errors import DatabaseError
from mmo_rl.source.base import MODELS_INDEX, WINDOWS_INDEX

if TYPE_CHECKING:
    from sqlalchemy import Connection as SqlConnection
    from sqlalchemy.ext.asyncio import AsyncConnection

INCLUDED = (
    *("trajectoryId", "startTime", "endTime", "episodeLength", "finalPnL", "isTrainingData", "isEvaluation"),
    *("windowHours", "scenarioId", "archetype"),
)
"""Columns that the statistics of a window read beside window and agent."""


INDEXES = {WINDOWS_INDEX: "trajectories", MODELS_INDEX: "llm_call_logs"}
"""Our own indexes on the game's tables."""


class Target(Protocol):
    """A database to migrate: an open `mmo_rl.database.connections.Connections`, or a `Database`, which opens itself."""

    @property
    def name(self) -> str: ...

    @property
    def embedded(self) -> bool: ...

    @property
    def search_path(self) -> str | None: ...

    async def connect(self) -> Connection: ...


async def migrate(database: Target, *, migrations: Path = schema.MIGRATIONS, index: bool = False) -> MigrationResult:
    """Brings the database to the newest revision in one transaction; a second call changes nothing.

    The game's tables are created where they do not exist, and never altered; the index that counts windows is made on
    tables of our own (created here, or embedded), on a game's only where ``index`` asks for it, and so is the one that
    finds the trajectories of a model. Raises
    `DatabaseError`, and leaves the database as it was, where a revision fails, a table of the game lacks a column, or
    the database is newer.
    """
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=database.connect,
        poolclass=NullPool,
        connect_args={"prepared_statement_cache_size": 0},
    )
    try:
        async with engine.begin() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            await connection.exec_driver_sql("select 1")  # opens the transaction that everything below is in
            if database.search_path is not None:
                await raw.execute("select set_config('search_path', $1, true)", database.search_path)
            result = await _migrate_in(connection, raw, migrations)
        if result.indexed or not (index or database.embedded):
            return result
        return replace(result, indexed=await _index_existing(database))
    except asyncpg.PostgresError as error:
        raise _failure(database, error) from error
    except SQLAlchemyError as error:
        cause = error.__cause__ or error
        raise _failure(database, getattr(cause, "__cause__", None) or cause) from error
    finally:
        await engine.dispose()


async def _migrate_in(connection: AsyncConnection, raw: Connection, migrations: Path) -> MigrationResult:
    await raw.execute("set local lock_timeout = '15s'; set local timezone = 'UTC'")
    # Two processes that open a fresh database at once: the second waits here, then finds nothing to do.
    await raw.execute("select pg_advisory_xact_lock(hashtext('mmo_rl.migrate'))")
    before = await schema.current_revision(raw)
    missing = await schema.missing_tables(raw)
    rows_before = await _row_counts(raw, missing)
    await schema.require_columns(raw)
    after = await connection.run_sync(_upgrade, migrations)
    await schema.require_columns(raw)
    created = "trajectories" in missing and "trajectories" not in await schema.missing_tables(raw)
    if created:
        for name in INDEXES:
            await raw.execute(await _index_sql(raw, name))
    still_missing = await schema.missing_tables(raw)
    if still_missing:
        looked_at = await raw.fetchval("select current_schema()")
        where = "the connection string's schema, which does not exist," if looked_at is None else f"schema {looked_at}"
        raise DatabaseError(
            f"at revision {after} already, but {where} has no table {', '.join(still_missing)}",
            hint="correct the schema in the connection string (?schema=...), or restore the tables from a backup; "
            "`drop schema mmo_rl cascade` forgets our bookkeeping and lets the same command create them anew",
        )
    return MigrationResult(
        before=before,
        after=after,
        tables_created=tuple(table for table in missing if table not in still_missing),
        rows_before=rows_before,
        rows_after=await _row_counts(raw, still_missing),
        indexed=created,
    )


async def _index_existing(database: Target) -> bool:
    """Makes the indexes without blocking writers; returns False where that of windows exists already.

    An invalid one, left by a killed attempt, is made anew.
    """
    connection = await database.connect()
    try:
        if database.search_path is not None:
            await connection.execute("select set_config('search_path', $1, false)", database.search_path)
        await connection.execute("set statement_timeout = 0")
        made = [name for name, table in INDEXES.items() if await _make_index(connection, name, table)]
        return WINDOWS_INDEX in made
    finally:
        await connection.close()


async def _make_index(connection: Connection, name: str, table: str) -> bool:
    valid = await connection.fetchval(
        "select i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid"
        " where i.indrelid = to_regclass($2) and c.relname = $1",
        name,
        table,
    )
    if valid:
        return False
    if valid is False:
        await connection.execute(f"drop index concurrently {name}")
    await connection.execute(await _index_sql(connection, name, "concurrently"))
    return True


async def _index_sql(connection: Connection, name: str, how: str = "") -> str:
    if name == MODELS_INDEX:  # a key of an index has a largest size, a model's name has none
        return f'create index {how} {MODELS_INDEX} on llm_call_logs (left(model, 100), "trajectoryId")'
    named = await connection.fetch(
        "select attname::text as name from pg_attribute where attrelid = to_regclass('trajectories') and attnum > 0"
    )
    existing = {row["name"] for row in named}
    included = ", ".join(schema.quote_identifier(name) for name in INCLUDED if name in existing)
    return f'create index {how} {WINDOWS_INDEX} on trajectories ("windowId", "agentId") include ({included})'


def _upgrade(connection: SqlConnection, migrations: Path) -> str:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
        head = ScriptDirectory.from_config(config).get_current_head()
    except CommandError as error:
        raise DatabaseError(
            f"the database was migrated by another version of mmo-rl: {error}", hint="install the newest mmo-rl"
        ) from error
    assert head is not None
    return head


async def _row_counts(raw: Connection, missing: list[str]) -> dict[str, int]:
    tables = [table for table in schema.GAME_COLUMNS if table not in missing]
    return {table: await raw.fetchval(f"select count(*) from {schema.quote_identifier(table)}") for table in tables}


def _failure(database: Target, error: BaseException) -> DatabaseError:
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        hint = (
            "migrate as a user that may create schemas and tables in this database, or copy the play to this machine: "
            "mmo-rl task=import source=postgres database=embedded"
        )
    elif isinstance(error, asyncpg.InvalidSchemaNameError):
        hint = "create the schema that the connection string names (?schema=...), or correct the name"
    elif isinstance(error, asyncpg.LockNotAvailableError):
        hint = "another session holds a lock on the tables; try again when it is done"
    else:
        hint = "nothing was changed; correct the cause and type the same command again"
    return DatabaseError(f"the migration of {database.name} failed: {error}", hint=hint)
