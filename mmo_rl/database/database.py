"""A PostgreSQL database to read from and to write to: the embedded one, or a server of the user's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
from pydantic import Field

from mmo_rl.database import schema
from mmo_rl.database.dsn import (
    LOST,
    ServerAddress,
    connect_arguments,
    connection_error,
    parse_dsn,
    read_dsn,
    require_tls_files,
)
from mmo_rl.errors import DatabaseError

if TYPE_CHECKING:
    from mmo_rl.database.embedded import EmbeddedServer

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 10.0
_CONNECT_FAILURES = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
_LOST = (*LOST, asyncpg.CannotConnectNowError, ConnectionError)
_BROKEN = (*_LOST, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a pooled connection fails with at once when it died unnoticed."""


class Database:
    """One database, opened with ``async with``.

    With ``dsn_env`` None it is the embedded server under ``home``, which is started, and migrated, on opening. Else
    the connection string is read on opening from the environment variable of that name; it may point to a transaction
    pooler. Every connection is handed out inside one transaction in UTC with a statement timeout of
    ``statement_timeout_s`` seconds: it is committed when the block ends, rolled back when it raises.

    Raises `DatabaseError` on opening (variable not set or not readable, wrong password, unknown database, no answer
    within 10 s), with the password masked.
    """

    def __init__(
        self,
        *,
        dsn_env: str | None,
        home: Path,
        statement_timeout_s: Annotated[float, Field(gt=0)] = 600.0,
        application_name: str = "mmo_rl",
        max_connections: Annotated[int, Field(ge=1, le=100)] = 4,
    ) -> None:
        self.dsn_env = dsn_env
        self.home = Path(home)
        self.statement_timeout_s = statement_timeout_s
        self.application_name = application_name
        self.max_connections = max_connections
        self._stack: AsyncExitStack | None = None
        self._server: EmbeddedServer | None = None
        self._address: ServerAddress | None = None
        self._pool: asyncpg.Pool[Any] | None = None

    def __repr__(self) -> str:
        return f"Database({self.name})"

    @property
    def name(self) -> str:
        """What may be shown of where this database is."""
        if self.dsn_env is None:
            return f"embedded, {self.home / 'postgres'}"
        return f"{self.dsn_env}={self._address.masked}" if self._address is not None else self.dsn_env

    @property
    def search_path(self) -> str | None:
        """The schema that the connection string asks for (Prisma's ``?schema=``), quoted; None: the default."""
        named = self._address.schema if self._address is not None else None
        return schema.quoted(named) if named else None

    @property
    def embedded(self) -> bool:
        return self.dsn_env is None

    async def __aenter__(self) -> Database:
        async with AsyncExitStack() as stack:
            if self.dsn_env is None:
                self._server = await stack.enter_async_context(self._embedded_server())
                self._address = parse_dsn(self._server.dsn())
                await self._create_database(self._server)
            else:
                self._address = read_dsn(self.dsn_env)
                require_tls_files(self._address, dsn_env=self.dsn_env)
            self._pool = await asyncpg.create_pool(
                min_size=0, max_size=self.max_connections, connect=self._connect, reset=_keep
            )
            stack.push_async_callback(_close, self._pool)
            async with self.acquire():
                pass
            if self.dsn_env is None:
                await self._migrate_embedded()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack, self._pool = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    async def connect(self) -> asyncpg.Connection[Any]:
        """A connection outside the pool, in no transaction; the caller closes it."""
        if self._address is None:
            raise DatabaseError("the database is not open", hint="open it first: async with Database(...)")
        try:
            return await self._connect()
        except _CONNECT_FAILURES as error:
            raise self._explain(error) from None

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        """A connection for writing, inside one transaction."""
        async with self._transaction(readonly=False) as connection:
            yield connection

    def read_only(self) -> ReadOnlyPool:
        """Connections on which the server refuses to write."""
        return ReadOnlyPool(self)

    async def refused(self) -> str | None:
        """What this user may not do here of what a run does, in words; None where nothing is refused."""
        async with self._transaction(readonly=True) as connection:
            return await schema.refused(connection, await schema.missing_tables(connection))

    async def require_tables(self) -> None:
        """Raises `DatabaseError` where tables or columns that are needed do not exist, or may not be written to."""
        async with self._transaction(readonly=True) as connection:
            missing = await schema.missing_tables(connection)
            refused = await schema.refused(connection, missing)
            if not missing:
                await schema.require_columns(connection)
        target = "" if self.dsn_env is None else " source=postgres"
        if self.dsn_env not in (None, "DATABASE_URL"):
            target += f" source.dsn_env={self.dsn_env}"
        if refused is not None:
            raise DatabaseError(
                f"the user of {self.name} may not {refused}",
                hint=f"copy the play to this machine, which needs no such right: mmo-rl task=import{target}"
                " database=embedded",
            )
        if missing:
            raise DatabaseError(
                f"the database ({self.name}) has no table {', '.join(missing)}",
                hint=f"mmo-rl task=migrate{target}",
            )

    # --- inside -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _transaction(self, *, readonly: bool) -> AsyncIterator[asyncpg.Connection[Any]]:
        if self._pool is None or self._address is None:
            raise DatabaseError("the database is not open", hint="open it first: async with Database(...)")
        pool = self._pool
        connection, transaction = await self._begin(pool, readonly)
        try:
            try:
                yield connection
            except BaseException:
                if not _is_gone(connection):
                    with suppress(*_BROKEN):  # what broke the connection is the error to tell
                        await transaction.rollback()
                raise
            await transaction.commit()
        except asyncpg.QueryCanceledError:
            raise DatabaseError(
                f"a statement took longer than {self.statement_timeout_s:g} s on {self._address.masked}",
                hint="narrow the windows (sampler.lookback_hours), or raise database.statement_timeout_s",
            ) from None
        except _LOST as error:
            raise self._explain(error) from error
        except asyncpg.InsufficientPrivilegeError as error:
            copied = "copy the play to this machine: mmo-rl task=import source=postgres database=embedded"
            raise DatabaseError(
                f"the user of {self._address.masked} may not do that: {error}",
                hint="grant usage on its schema and select on its tables" if readonly else f"grant it, or {copied}",
            ) from error
        except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            if not _is_gone(connection):
                raise
            raise self._explain(asyncpg.ConnectionDoesNotExistError(str(error))) from error
        finally:
            await _release(pool, connection)

    async def _begin(self, pool: asyncpg.Pool[Any], readonly: bool) -> tuple[asyncpg.Connection[Any], Any]:
        """A transaction on a connection that works: pooled ones may have died since they were last used."""
        lost: Exception | None = None
        for _ in range(self.max_connections + 1):
            try:
                connection = await pool.acquire()
            except _CONNECT_FAILURES as error:
                raise self._explain(error) from None
            transaction = connection.transaction(readonly=readonly)
            try:
                await transaction.start()
                await connection.execute(
                    "select set_config('TimeZone', 'UTC', true), set_config('statement_timeout', $1, true),"
                    " set_config('default_transaction_read_only', $2, true), set_config('jit', 'off', true),"
                    " set_config('search_path', coalesce($3, current_setting('search_path')), true)",
                    str(int(self.statement_timeout_s * 1000)),
                    "on" if readonly else "off",
                    self.search_path,
                )
            except BaseException as error:
                await _release(pool, connection)
                if not isinstance(error, _BROKEN):
                    raise
                lost = error if isinstance(error, LOST) else asyncpg.ConnectionDoesNotExistError(str(error))
            else:
                return connection, transaction
        assert lost is not None
        raise self._explain(lost) from None

    async def _connect(self, *_: Any, **arguments: Any) -> asyncpg.Connection[Any]:
        assert self._address is not None
        arguments |= connect_arguments(
            self._address, timeout_s=CONNECT_TIMEOUT_S, application_name=self.application_name
        )
        try:
            return await asyncpg.connect(**arguments)
        except (OSError, asyncpg.CannotConnectNowError):
            if self._server is None:
                raise
        # The server may have died under us (a crash, an `rm` of its folder, an impatient kill).
        await asyncio.to_thread(self._server.ensure_running)
        self._address = parse_dsn(self._server.dsn())
        return await asyncpg.connect(**(arguments | {"dsn": self._address.dsn}))

    def _embedded_server(self) -> EmbeddedServer:
        if sys.platform == "win32":
            raise DatabaseError(
                "the embedded server needs Linux or macOS",
                hint="run mmo-rl in WSL, or set source=postgres and DATABASE_URL to a server of your own",
            )
        from mmo_rl.database.embedded import EmbeddedServer

        return EmbeddedServer(data_dir=self.home / "postgres")

    async def _create_database(self, server: EmbeddedServer) -> None:
        from mmo_rl.database.embedded import DATABASE

        try:
            connection = await asyncpg.connect(**server.address, database="postgres", timeout=CONNECT_TIMEOUT_S)
        except _CONNECT_FAILURES as error:
            raise self._explain(error) from None
        try:
            if not await connection.fetchval("select true from pg_database where datname = $1", DATABASE):
                await connection.execute(f"create database {DATABASE}")
        except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
            pass  # another process was faster
        finally:
            await connection.close()

    async def _migrate_embedded(self) -> None:
        async with self.acquire() as connection:
            current = await schema.current_revision(connection)
        if current != schema.HEAD:
            from mmo_rl.database.migrate import migrate

            await migrate(self)

    def _explain(self, error: Exception) -> DatabaseError:
        masked = self._address.masked if self._address is not None and self.dsn_env is not None else "it"
        if self.dsn_env is None:
            masked = f"the embedded database in {self.home / 'postgres'}"
        return connection_error(error, masked=masked, dsn_env=self.dsn_env)


def _is_gone(connection: asyncpg.Connection[Any]) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # the pool has dropped it
        return True


async def _keep(connection: Any) -> None:
    """There is nothing to reset: all settings end with their transaction. Behind a transaction pooler a reset would
    meet somebody else's server process; elsewhere it would cost every query a journey."""


async def _release(pool: asyncpg.Pool[Any], connection: asyncpg.Connection[Any]) -> None:
    """Hands a connection back. One that broke cannot be reset: the pool drops it, and what broke it is told already."""
    with suppress(*_BROKEN):
        await pool.release(connection)


async def _close(pool: asyncpg.Pool[Any]) -> None:
    """Waits for work that is under way, but not for ever: what is cut off is rolled back."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await pool.close()
    except TimeoutError:
        pool.terminate()


class ReadOnlyPool:
    """Connections in read-only transactions (`mmo_rl.source.base.ReadPool`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self) -> AbstractAsyncContextManager[asyncpg.Connection[Any]]:
        return self._database._transaction(readonly=True)
