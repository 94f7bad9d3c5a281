"""Opening, reading, writing, and what the user is told when it does not work."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import asyncpg
import pytest

from mmo_rl.database import keeper
from mmo_rl.database.base import Pool
from mmo_rl.database.connections import Connections
from mmo_rl.database.database import Database
from mmo_rl.database.embedded import EmbeddedServer
from mmo_rl.errors import DatabaseError

VARIABLE = "MMO_RL_TEST_DATABASE_URL"


async def test_what_is_written_in_a_block_that_fails_is_not_kept(database: Database) -> None:
    async with database.acquire() as connection:
        await connection.execute("create table notes (text text)")
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with database.acquire() as connection:
            await connection.execute("insert into notes values ('lost'); select 1 / 0")
    async with database.read_only().acquire() as connection:
        assert await connection.fetchval("select count(*) from notes") == 0


async def test_a_read_only_connection_cannot_write(database: Database) -> None:
    for statement in (
        "insert into mmo_rl.judgments (key, payload) values ('a', '1')",
        "create table t ()",
        "set transaction read write",
    ):
        with pytest.raises((asyncpg.ReadOnlySQLTransactionError, asyncpg.ActiveSQLTransactionError)):
            async with database.read_only().acquire() as connection:
                await connection.execute(statement)


async def test_sessions_are_in_utc_with_a_statement_timeout_and_our_name(
    migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, migrated_url)
    async with Database(
        dsn_env=VARIABLE, home=tmp_path, statement_timeout_s=0.05, application_name="tester"
    ) as database:
        async with database.read_only().acquire() as connection:
            assert await connection.fetchval("show timezone") == "UTC"
            assert await connection.fetchval("show application_name") == "tester"
            assert await connection.fetchval("show default_transaction_read_only") == "on"
        with pytest.raises(DatabaseError, match=r"longer than 0\.05 s"):
            async with database.read_only().acquire() as connection:
                await connection.execute("select pg_sleep(5)")


async def test_settings_end_with_the_transaction(database: Database) -> None:
    """Behind a transaction pooler the next user of the server process must not inherit them."""
    async with database.read_only().acquire() as connection:
        pid = await connection.fetchval("select pg_backend_pid()")
    async with database.acquire() as connection:
        assert await connection.fetchval("select pg_backend_pid()") == pid
        assert await connection.fetchval("show default_transaction_read_only") == "off"
        assert await connection.fetchval("select count(*) from pg_prepared_statements where name <> ''") == 0


async def test_tables_that_are_not_there_name_the_next_command(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, database_url)
    async with Database(dsn_env=VARIABLE, home=tmp_path) as database:
        with pytest.raises(DatabaseError, match=r"has no table trajectories, .*mmo_rl\.judgments") as caught:
            await database.require_tables()
    assert caught.value.hint == f"mmo-rl task=migrate source=postgres source.dsn_env={VARIABLE}"


async def test_migrated_tables_are_enough(database: Database) -> None:
    await database.require_tables()


async def refused(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(VARIABLE, dsn)
    with pytest.raises(DatabaseError) as caught:
        async with Database(dsn_env=VARIABLE, home=tmp_path):
            pass
    assert caught.value.hint
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in caught.value.message
    return str(caught.value)


async def test_an_unknown_database(
    embedded_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no such database" in await refused(embedded_server.dsn("missing"), tmp_path, monkeypatch)


async def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    told = await refused(f"postgresql://me:s3cr3t@127.0.0.1:{port}/game", tmp_path, monkeypatch)
    assert f"cannot reach postgresql://me:***@127.0.0.1:{port}/game" in told


async def test_a_server_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmo_rl.database.connections.CONNECT_TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        assert "no answer from" in await refused(f"postgresql://me:s3cr3t@127.0.0.1:{port}/game", tmp_path, monkeypatch)


async def test_a_wrong_password(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks a server that wants passwords, on loopback."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(4))
        if length == 8:  # asks for encryption
            await reader.readexactly(4)
            writer.write(b"N")
            length = int.from_bytes(await reader.readexactly(4))
        await reader.readexactly(length - 4)
        fields = b'SFATAL\0C28P01\0Mpassword authentication failed for user "me"\0\0'
        writer.write(b"E" + (len(fields) + 4).to_bytes(4) + fields)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        told = await refused(f"postgresql://me:s3cr3t@127.0.0.1:{port}/game", tmp_path, monkeypatch)
    assert "refused the user or the password of postgresql://me:***@" in told
    assert VARIABLE in told


async def test_a_host_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = await refused("postgresql://me:s3cr3t@no-such-host.invalid/game", tmp_path, monkeypatch)
    assert "is unknown" in told


async def test_prisma_parameters_and_its_schema(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, f"{database_url}&schema=play&connection_limit=5&pgbouncer=true")
    async with Database(dsn_env=VARIABLE, home=tmp_path) as database, database.acquire() as connection:
        await connection.execute("create schema play; create table here ()")
        assert await connection.fetchval("select 'play.here'::regclass::text") == "here"


async def test_the_embedded_database_is_migrated_when_opened_and_shared(scratch: Path) -> None:
    home = scratch / "home"
    async with Database(dsn_env=None, home=home) as first, Database(dsn_env=None, home=home) as second:
        await first.require_tables()
        async with first.acquire() as connection:
            await connection.execute("insert into mmo_rl.judgments (key, payload) values ('a', '1')")
        async with second.read_only().acquire() as connection:
            assert await connection.fetchval("select key from mmo_rl.judgments") == "a"
    assert keeper.postmaster_pid(home / "postgres" / "data") is None


async def test_work_goes_on_when_the_embedded_server_was_killed(scratch: Path) -> None:
    home = scratch / "killed"
    async with Database(dsn_env=None, home=home) as database:
        async with database.acquire() as connection:
            await connection.execute("insert into mmo_rl.judgments (key, payload) values ('kept', '1')")
        pid = keeper.postmaster_pid(home / "postgres" / "data")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        async with database.acquire() as connection:
            assert await connection.fetchval("select key from mmo_rl.judgments") == "kept"


async def test_a_database_is_made_without_looking_at_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    server = Database(dsn_env=VARIABLE, home=tmp_path)
    pool = server.read_only()
    embedded = Database(dsn_env=None, home=tmp_path / "home")
    for database in (server, embedded):
        await database.close()
        await database.close()
    assert not (tmp_path / "home").exists()
    with pytest.raises(DatabaseError, match="is closed"):
        async with pool.acquire():
            pass


async def test_it_opens_on_first_use_once_for_all_who_ask_at_the_same_time(
    migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, migrated_url)
    opened = []

    class Counted(Connections):
        async def open(self) -> None:
            opened.append(self)
            await super().open()

    monkeypatch.setattr("mmo_rl.database.database.Connections", Counted)
    database = Database(dsn_env=VARIABLE, home=tmp_path)

    async def ask(pool: Pool) -> int:
        async with pool.acquire() as connection:
            return int(await connection.fetchval("select 7"))

    assert database.name == VARIABLE
    assert await asyncio.gather(*(ask(database.read_only()) for _ in range(5))) == [7] * 5
    assert database.name.startswith(f"{VARIABLE}=postgresql://")
    await database.open()
    assert len(opened) == 1
    await database.close()
    with pytest.raises(DatabaseError, match="is closed"):
        await database.require_tables()
    async with database:
        await database.require_tables()
    assert len(opened) == 2


async def test_what_is_wrong_is_told_at_first_use_and_again_until_it_is_right(
    migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    database = Database(dsn_env=VARIABLE, home=tmp_path)
    with pytest.raises(DatabaseError, match=f"variable {VARIABLE} is not set") as caught:
        await database.require_tables()
    assert caught.value.exit_code == 2
    monkeypatch.setenv(VARIABLE, "mysql://me:s3cr3t@host/game")
    with pytest.raises(DatabaseError, match="not a PostgreSQL connection string"):
        await database.refusal()
    monkeypatch.setenv(VARIABLE, migrated_url)
    assert await database.refusal() is None
    await database.close()


async def test_the_embedded_database_starts_on_first_use_and_ends_with_it(scratch: Path) -> None:
    home = scratch / "first-use"
    database = Database(dsn_env=None, home=home)
    data = home / "postgres" / "data"
    assert keeper.postmaster_pid(data) is None
    await asyncio.gather(database.require_tables(), database.require_tables())
    assert keeper.postmaster_pid(data) is not None
    await database.close()
    assert keeper.postmaster_pid(data) is None


async def test_work_under_way_is_finished_or_cut_off_when_the_database_closes(
    migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, migrated_url)
    insert = "insert into mmo_rl.judgments (key, payload) values ($1, '1')"
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def work(key: str, until: asyncio.Event) -> None:
        async with database.acquire() as connection:
            await connection.execute(insert, key)
            inside.set()
            await until.wait()

    async with Database(dsn_env=VARIABLE, home=tmp_path) as database:
        finishing = asyncio.create_task(work("finished", go_on))
        await inside.wait()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
    await finishing
    monkeypatch.setattr("mmo_rl.database.connections.CLOSE_TIMEOUT_S", 0.1)
    inside.clear()
    async with Database(dsn_env=VARIABLE, home=tmp_path) as database:
        stuck = asyncio.create_task(work("cut off", asyncio.Event()))
        await inside.wait()
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    async with Database(dsn_env=VARIABLE, home=tmp_path) as database, database.acquire() as connection:
        assert [row["key"] for row in await connection.fetch("select key from mmo_rl.judgments")] == ["finished"]
