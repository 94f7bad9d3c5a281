"""A PostgreSQL database to read from and to write to: the embedded one, or a server of the user's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import asyncpg
from pydantic import Field

from mmo_rl.database import migrate, schema
from mmo_rl.database.base import MigrationResult
from mmo_rl.database.connections import CONNECT_FAILURES, CONNECT_TIMEOUT_S, Connection, Connections, Pooled
from mmo_rl.database.dsn import ServerAddress, connection_error, parse_dsn, read_dsn, require_tls_files
from mmo_rl.errors import DatabaseError
from mmo_rl.source.base import source_overrides

if TYPE_CHECKING:
    from mmo_rl.database.embedded import EmbeddedServer


class Database:
    """Implements `mmo_rl.database.base.Database`; opens on first use, or with ``async with``, and closes with `close`.

    With ``dsn_env`` None it is the embedded server under ``home``, which is started, and migrated, on opening. Else
    the connection string is read on opening from the environment variable of that name; it may point to a transaction
    pooler. Every connection is handed out inside one transaction in UTC with a statement timeout of
    ``statement_timeout_s`` seconds: it is committed when the block ends, rolled back when it raises.

    Raises `DatabaseError` on opening (variable not set or not readable, wrong password, unknown database, no answer
    within 10 s), with the password masked; the next use then tries to open it again.
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
        self._opening = asyncio.Lock()
        self._stack: AsyncExitStack | None = None
        self._connections: Connections | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"Database({self.name})"

    @property
    def name(self) -> str:
        """The database's name in messages; that of a server of the user's shows its address once it is open."""
        if self._connections is not None:
            return self._connections.name
        return f"embedded, {self._folder}" if self.dsn_env is None else self.dsn_env

    @property
    def embedded(self) -> bool:
        return self.dsn_env is None

    @property
    def search_path(self) -> str | None:
        """The schema that the connection string asks for (Prisma's ``?schema=``), quoted; None: the default, or not
        open yet."""
        return None if self._connections is None else self._connections.search_path

    async def open(self) -> None:
        """Opens the database, also one that was closed; does nothing where it is open."""
        self._closed = False
        await self._ensure_open()

    async def close(self) -> None:
        """Closes the database; does nothing where it is closed or was never opened."""
        self._closed = True
        async with self._opening:
            stack, self._stack, self._connections = self._stack, None, None
            if stack is not None:
                await stack.aclose()

    async def __aenter__(self) -> Database:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> Connection:
        """Opens a connection outside the pool, in no transaction; the caller closes it."""
        return await (await self._ensure_open()).connect()

    def acquire(self) -> AbstractAsyncContextManager[Pooled]:
        """Yields a connection for writing, inside one transaction."""
        return self._transaction(readonly=False)

    def read_only(self) -> ReadOnlyPool:
        """Returns a pool of read-only connections; the database opens when the first one is acquired."""
        return ReadOnlyPool(self)

    async def migrate(self, *, index: bool = False) -> MigrationResult:
        """Brings the tables to the newest revision: see `mmo_rl.database.migrate.migrate`."""
        return await migrate.migrate(await self._ensure_open(), index=index)

    async def refusal(self) -> str | None:
        """Describes the actions of a run that this user may not do here; None where nothing is refused."""
        async with self._transaction(readonly=True) as connection:
            return await schema.refusal(connection, await schema.missing_tables(connection))

    async def require_tables(self) -> None:
        """Raises `DatabaseError` where tables or columns that are needed do not exist, or may not be written to."""
        async with self._transaction(readonly=True) as connection:
            missing = await schema.missing_tables(connection)
            refusal = await schema.refusal(connection, missing)
            if not missing:
                await schema.require_columns(connection)
        target = source_overrides(self.dsn_env)
        if refusal is not None:
            raise DatabaseError(
                f"the user of {self.name} may not {refusal}",
                hint=f"copy the play to this machine, which needs no such right: mmo-rl task=import{target}"
                " database=embedded",
            )
        if missing:
            raise DatabaseError(
                f"the database ({self.name}) has no table {', '.join(missing)}",
                hint=f"mmo-rl task=migrate{target}",
            )

    # --- opening ----------------------------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        return self.home / "postgres"

    def _refuse_closed(self) -> None:
        if self._closed:
            raise DatabaseError("the database is closed", hint="open it again: await database.open()")

    @asynccontextmanager
    async def _transaction(self, *, readonly: bool) -> AsyncIterator[Pooled]:
        async with (await self._ensure_open()).transaction(readonly=readonly) as connection:
            yield connection

    async def _ensure_open(self) -> Connections:
        """Returns the connections, opened by the first caller while the others wait."""
        if self._connections is not None:
            return self._connections
        self._refuse_closed()
        async with self._opening:
            self._refuse_closed()
            if self._connections is None:
                async with AsyncExitStack() as stack:
                    if self.dsn_env is None:
                        connections = await self._open_embedded(stack)
                    else:
                        connections = self._open_server(self.dsn_env)
                    stack.push_async_callback(connections.close)
                    await connections.open()
                    if self.dsn_env is None:
                        await _migrate_embedded(connections)
                    self._connections, self._stack = connections, stack.pop_all()
            return self._connections

    def _open_server(self, dsn_env: str) -> Connections:
        address = read_dsn(dsn_env)
        require_tls_files(address, dsn_env=dsn_env)
        return self._connections_to(address, name=f"{dsn_env}={address.masked}", place=address.masked)

    async def _open_embedded(self, stack: AsyncExitStack) -> Connections:
        if sys.platform == "win32":
            raise DatabaseError(
                "the embedded server needs Linux or macOS",
                hint="run mmo-rl in WSL, or set source=postgres and DATABASE_URL to a server of your own",
            )
        from mmo_rl.database.embedded import EmbeddedServer  # its modules exist on Linux and macOS only

        server = await stack.enter_async_context(EmbeddedServer(data_dir=self._folder))
        place = f"the embedded database in {self._folder}"
        await _create_database(server, place=place)

        def restart() -> ServerAddress:
            server.ensure_running()
            return parse_dsn(server.dsn())

        return self._connections_to(parse_dsn(server.dsn()), name=self.name, place=place, restart=restart)

    def _connections_to(
        self, address: ServerAddress, *, name: str, place: str, restart: Callable[[], ServerAddress] | None = None
    ) -> Connections:
        return Connections(
            address,
            name=name,
            place=place,
            dsn_env=self.dsn_env,
            statement_timeout_s=self.statement_timeout_s,
            application_name=self.application_name,
            max_connections=self.max_connections,
            restart=restart,
        )


class ReadOnlyPool:
    """Pool of connections in read-only transactions; implements `mmo_rl.source.base.ReadPool`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self) -> AbstractAsyncContextManager[Pooled]:
        return self._database._transaction(readonly=True)


async def _create_database(server: EmbeddedServer, *, place: str) -> None:
    from mmo_rl.database.embedded import DATABASE

    try:
        connection = await asyncpg.connect(server.dsn("postgres"), timeout=CONNECT_TIMEOUT_S)
    except CONNECT_FAILURES as error:
        raise connection_error(error, masked=place, dsn_env=None) from None
    try:
        if not await connection.fetchval("select true from pg_database where datname = $1", DATABASE):
            await connection.execute(f"create database {DATABASE}")
    except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        pass  # another process was faster
    finally:
        await connection.close()


async def _migrate_embedded(connections: Connections) -> None:
    async with connections.transaction(readonly=False) as connection:
        current = await schema.current_revision(connection)
    if current != schema.HEAD:
        await migrate.migrate(connections)
