"""A server that goes away in the middle of a read: nothing is read twice, nothing is left out."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from mmo_rl.database import keeper
from mmo_rl.database.database import Database
from mmo_rl.database.embedded import EmbeddedServer
from mmo_rl.database.recorder import TrajectoryRecorder
from mmo_rl.errors import ConnectionLost
from mmo_rl.source.base import ReadConnection, ReadPool, SourceParts
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import Group, SelectedWindow, Selection, WindowQuery

VARIABLE = "MMO_RL_TEST_DATABASE_URL"


async def selection(reader: PostgresSource) -> Selection:
    windows = await reader.windows(WindowQuery())
    chosen = tuple(SelectedWindow(w.window, tuple(m.trajectory_id for m in w.members)) for w in windows)
    return Selection(0, chosen, len(windows), 0, 0.0, 0, {})


class CutConnection:
    """A connection that the server ends while its query runs."""

    def __init__(self, connection: ReadConnection, cut: Callable[[], Awaitable[int]]) -> None:
        self._connection = connection
        self._cut = cut

    async def fetch(self, sql: str, *arguments: object) -> list[Any]:
        rows = asyncio.create_task(self._connection.fetch(sql, *arguments))
        await asyncio.sleep(0)  # the query is sent
        assert await self._cut() >= 1
        return await rows


class CutPool:
    """A pool whose every second connection is cut while its query runs, after the idle ones were cut."""

    def __init__(self, pool: ReadPool, cut: Callable[[], Awaitable[int]]) -> None:
        self._pool = pool
        self._cut = cut
        self.acquired = 0

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[ReadConnection]:
        self.acquired += 1
        if self.acquired % 2:
            await self._cut()
        async with self._pool.acquire() as connection:
            yield CutConnection(connection, self._cut) if self.acquired % 2 else connection


async def test_connections_that_are_cut_while_streaming(
    babylon_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, babylon_url)
    killer = await asyncpg.connect(babylon_url)

    async def cut() -> int:
        return int(
            await killer.fetchval(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'reader'"
            )
        )

    async with Database(dsn_env=VARIABLE, home=tmp_path, application_name="reader") as database:
        reader = PostgresSource(dsn_env=VARIABLE, batch_size=3, parts=SourceParts(pool=database.read_only()))
        chosen = await selection(reader)
        whole = [group async for group in reader.groups(chosen)]
        pool = CutPool(database.read_only(), cut)
        reader = PostgresSource(dsn_env=VARIABLE, batch_size=3, parts=SourceParts(pool=pool))
        assert [group async for group in reader.groups(chosen)] == whole
    assert pool.acquired > 10
    assert pool.acquired % 2 == 0  # all of those that were cut were asked again
    assert not reader.rejected
    await killer.close()


async def test_a_server_that_is_restarted_while_streaming(
    embedded_server: EmbeddedServer, scratch: Path, babylon_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = scratch / "restarted"
    monkeypatch.setenv(VARIABLE, babylon_url)
    async with Database(dsn_env=VARIABLE, home=tmp_path) as recorded:
        reader = PostgresSource(dsn_env=VARIABLE, parts=SourceParts(pool=recorded.read_only()))
        originals = [group async for group in reader.groups(await selection(reader))]
    async with Database(dsn_env=None, home=home) as database:
        recorder = TrajectoryRecorder(database=database)
        for group in originals:
            for trajectory in group.members:
                await recorder.record(trajectory)
        reader = PostgresSource(dsn_env=None, batch_size=1, parts=SourceParts(pool=database.read_only()))
        chosen = await selection(reader)
        groups: list[Group] = []
        pid = keeper.postmaster_pid(home / "postgres" / "data")
        assert pid is not None
        async for group in reader.groups(chosen):
            groups.append(group)
            if len(groups) == 2:
                os.kill(pid, signal.SIGINT)  # a fast shutdown: whoever is connected is cut off
        assert keeper.postmaster_pid(home / "postgres" / "data") not in (None, pid)
    read = [trajectory.trajectory_id for group in groups for trajectory in group.members]
    assert read == [identity for window in chosen.windows for identity in window.trajectory_ids]
    assert not reader.rejected


async def test_a_server_that_stays_away_is_an_error_after_a_while(
    babylon_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a proxy that is closed: the server itself belongs to all tests."""
    server_socket = babylon_url.partition("host=")[2].partition("&")[0].replace("%2F", "/") + "/.s.PGSQL.5432"
    piped: list[asyncio.StreamWriter] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(server_socket)
        piped.extend((writer, upstream_writer))

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)
            target.close()

        await asyncio.gather(copy(reader, upstream_writer), copy(upstream_reader, writer), return_exceptions=True)

    proxy = await asyncio.start_server(pipe, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    name = babylon_url.rpartition("/")[2].partition("?")[0]
    user = babylon_url.partition("//")[2].partition("@")[0]
    monkeypatch.setenv(VARIABLE, f"postgresql://{user}:s3cr3t@127.0.0.1:{port}/{name}?sslmode=disable")
    async with Database(dsn_env=VARIABLE, home=tmp_path) as database:
        reader = PostgresSource(dsn_env=VARIABLE, reconnect_s=0.3, parts=SourceParts(pool=database.read_only()))
        assert await reader.windows(WindowQuery())
        proxy.close()
        for writer in piped:
            writer.close()
        with pytest.raises(ConnectionLost, match=r"cannot reach|was lost") as caught:
            await reader.windows(WindowQuery())
        assert "s3cr3t" not in str(caught.value)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
