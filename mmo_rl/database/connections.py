"""Pooled connections to one PostgreSQL server: transactions, replacement of connections that died, errors explained."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
from asyncpg.transaction import Transaction

from mmo_rl.database import schema
from mmo_rl.database.dsn import LOST, ServerAddress, connect_arguments, connection_error
from mmo_rl.errors import DatabaseError

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 10.0
CONNECT_FAILURES = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
_LOST = (*LOST, asyncpg.CannotConnectNowError, ConnectionError)
_BROKEN = (*_LOST, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""Errors that a pooled connection raises at once when it died unnoticed."""
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pooled: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


class Connections:
    """A pool of connections to the server at ``address``, opened with `open`.

    ``name`` is the database's name in messages, ``place`` the server's, both without a password; ``dsn_env`` names the
    variable that the address came from (None: the embedded server). ``restart`` starts a server of ours that died and
    returns its address.
    """

    def __init__(
        self,
        address: ServerAddress,
        *,
        name: str,
        place: str,
        dsn_env: str | None,
        statement_timeout_s: float,
        application_name: str,
        max_connections: int,
        restart: Callable[[], ServerAddress] | None = None,
    ) -> None:
        self.name = name
        self._address = address
        self._place = place
        self._dsn_env = dsn_env
        self._statement_timeout_s = statement_timeout_s
        self._application_name = application_name
        self._max_connections = max_connections
        self._restart = restart
        self._pool: Pool | None = None

    @property
    def embedded(self) -> bool:
        return self._dsn_env is None

    @property
    def search_path(self) -> str | None:
        """The schema that the connection string asks for (Prisma's ``?schema=``), quoted; None: the default."""
        return schema.quote_identifier(self._address.schema) if self._address.schema else None

    async def open(self) -> None:
        """Makes the pool and its first connection. Raises `DatabaseError` where the server refuses it."""
        self._pool = await asyncpg.create_pool(
            min_size=0, max_size=self._max_connections, connect=self._connect, reset=_keep
        )
        try:
            async with self.transaction(readonly=False):
                pass
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Closes the pool: waits up to `CLOSE_TIMEOUT_S` for work under way, then rolls it back."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    async def connect(self) -> Connection:
        """Opens a connection outside the pool, in no transaction; the caller closes it."""
        try:
            return await self._connect()
        except CONNECT_FAILURES as error:
            raise self._explain(error) from None

    @asynccontextmanager
    async def transaction(self, *, readonly: bool) -> AsyncIterator[Pooled]:
        """Yields a connection inside one transaction: committed when the block ends, rolled back when it raises."""
        if self._pool is None:
            raise DatabaseError("the database is closed", hint="use it inside its block: async with Database(...)")
        pool = self._pool
        connection, transaction = await self._begin(pool, readonly)
        try:
            try:
                yield connection
            except BaseException:
                if not _is_gone(connection):
                    with suppress(*_BROKEN):  # the error that broke the connection is the one to raise
                        await transaction.rollback()
                raise
            await transaction.commit()
        except asyncpg.QueryCanceledError:
            raise DatabaseError(
                f"a statement took longer than {self._statement_timeout_s:g} s on {self._place}",
                hint="narrow the windows (sampler.lookback_hours), or raise database.statement_timeout_s",
            ) from None
        except _LOST as error:
            raise self._explain(error) from error
        except asyncpg.InsufficientPrivilegeError as error:
            copied = "copy the play to this machine: mmo-rl task=import source=postgres database=embedded"
            raise DatabaseError(
                f"the user of {self._place} may not do that: {error}",
                hint="grant usage on its schema and select on its tables" if readonly else f"grant it, or {copied}",
            ) from error
        except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            if not _is_gone(connection):
                raise
            raise self._explain(asyncpg.ConnectionDoesNotExistError(str(error))) from error
        finally:
            await _release(pool, connection)

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _begin(self, pool: Pool, readonly: bool) -> tuple[Pooled, Transaction]:
        """Begins a transaction on a connection that works: pooled ones may have died since their last use."""
        lost: Exception | None = None
        for _ in range(self._max_connections + 1):
            try:
                connection = await pool.acquire()
            except CONNECT_FAILURES as error:
                raise self._explain(error) from None
            transaction = connection.transaction(readonly=readonly)
            try:
                await transaction.start()
                await connection.execute(
                    "select set_config('TimeZone', 'UTC', true), set_config('statement_timeout', $1, true),"
                    " set_config('default_transaction_read_only', $2, true), set_config('jit', 'off', true),"
                    " set_config('search_path', coalesce($3, current_setting('search_path')), true)",
                    str(int(self._statement_timeout_s * 1000)),
                    "on" if readonly else "off",
                    self.search_path,
                )
            except BaseException as error:
                if not isinstance(error, Exception) and not _is_gone(connection):
                    connection.terminate()  # interrupted while it began: nobody knows yet if it has
                await _release(pool, connection)
                if not isinstance(error, _BROKEN):
                    raise
                lost = error if isinstance(error, LOST) else asyncpg.ConnectionDoesNotExistError(str(error))
            else:
                return connection, transaction
        assert lost is not None
        raise self._explain(lost) from None

    async def _connect(self, *_: object, **arguments: Any) -> Connection:
        arguments |= connect_arguments(
            self._address, timeout_s=CONNECT_TIMEOUT_S, application_name=self._application_name
        )
        try:
            return await asyncpg.connect(**arguments)
        except (OSError, asyncpg.CannotConnectNowError):
            if self._restart is None:
                raise
        # The server may have died (a crash, an `rm` of its folder, an impatient kill).
        self._address = await asyncio.to_thread(self._restart)
        return await asyncpg.connect(**(arguments | {"dsn": self._address.dsn}))

    def _explain(self, error: Exception) -> DatabaseError:
        return connection_error(error, masked=self._place, dsn_env=self._dsn_env)


def _is_gone(connection: Pooled) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has dropped it
        return True


async def _keep(connection: object) -> None:
    """Resets nothing: all settings end with their transaction. Behind a transaction pooler a reset would meet another
    client's server process; elsewhere it would cost every query a round trip."""


async def _release(pool: Pool, connection: Pooled) -> None:
    """Returns a connection to the pool, which drops one that broke; that error has been raised already. One that an
    interrupt left in its transaction is cut: asyncpg would log an error and roll back while the loop ends."""
    with suppress(*_BROKEN):
        if connection.is_in_transaction():
            connection.terminate()
        await pool.release(connection)
