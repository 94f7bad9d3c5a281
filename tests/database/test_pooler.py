"""Behind a transaction pooler: every transaction may meet another server process, so that nothing may outlive it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from mmo_rl.database.cluster import PORT, SUPERUSER
from mmo_rl.database.database import Database
from mmo_rl.database.embedded import EmbeddedServer
from mmo_rl.database.migrate import migrate
from mmo_rl.database.recorder import TrajectoryRecorder
from mmo_rl.errors import DatabaseError
from mmo_rl.source.base import SourceParts
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import Group, SelectedWindow, Selection, Trajectory, WindowQuery, WindowStats

VARIABLE = "MMO_RL_TEST_DATABASE_URL"
POOLER = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
needs_pooler = pytest.mark.skipif(POOLER is None, reason="there is no pgbouncer here (Debian: apt install pgbouncer)")
SERVER_PROCESSES = 2


@pytest.fixture(scope="module")
def pooler_port(embedded_server: EmbeddedServer, scratch: Path) -> Iterator[int]:
    """A pooler before the embedded server that hands out a server process for one transaction at a time."""
    assert POOLER is not None and embedded_server.placement is not None
    folder = scratch / "pooler"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    (folder / "pgbouncer.ini").write_text(
        f"""[databases]
* = host={embedded_server.socket_dir} port={PORT} user={SUPERUSER}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {SERVER_PROCESSES}
server_reset_query =
server_round_robin = 1
ignore_startup_parameters = extra_float_digits
"""
    )
    user = embedded_server.placement.user  # it refuses to run as root, as the server does
    identity = {} if user is None else {"user": user[0], "group": user[1], "extra_groups": []}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [POOLER, str(folder / "pgbouncer.ini")],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **identity,
        )
    try:
        asyncio.run(_answers(port, process, folder / "log"))
        yield port
    finally:
        process.terminate()
        process.wait(10)


async def _answers(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    async with asyncio.timeout(10):
        while True:
            assert process.poll() is None, log.read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


@pytest.fixture
def pooled_url(babylon_url: str, pooler_port: int) -> str:
    """A game's own database, through the pooler."""
    name = re.fullmatch(r".*@/(\w+)\?.*", babylon_url)
    assert name is not None
    return f"postgresql://postgres@127.0.0.1:{pooler_port}/{name[1]}?sslmode=disable&pgbouncer=true"


async def everything(source: PostgresSource) -> tuple[list[WindowStats], list[Group]]:
    windows = await source.windows(WindowQuery())
    chosen = tuple(SelectedWindow(w.window, tuple(m.trajectory_id for m in w.members)) for w in windows)
    return windows, [group async for group in source.groups(Selection(0, chosen, len(windows), 0, 0.0, 0, {}))]


async def play(database: Database, agents: int) -> None:
    """Simultaneous agents, a step each."""
    recorder = TrajectoryRecorder(database=database)

    async def one(agent: int) -> None:
        async with (
            recorder.trajectory(agent_id=f"a{agent}", trajectory_id=f"t{agent}") as played,
            played.step(environment_state={"agentBalance": 10_000.0}) as step,
        ):
            step.llm_call(model="m", messages=[{"role": "user", "content": "u"}], response="HOLD")
            step.action("HOLD")

    await asyncio.gather(*(one(agent) for agent in range(agents)))


async def use(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[WindowStats], list[Group]]:
    """Everything that is done with a database: looked at, migrated, read, written, copied."""
    monkeypatch.setenv(VARIABLE, url)
    async with Database(dsn_env=VARIABLE, home=home) as database:
        source = PostgresSource(dsn_env=VARIABLE, batch_size=5, parts=SourceParts(pool=database.read_only()))
        found = await everything(source)
        together = await asyncio.gather(*(everything(source) for _ in range(3)))
        assert all(again == found for again in together)
        await migrate(database)
        await migrate(database)
        await database.require_tables()
        async with database.acquire() as connection:  # a game's own agents are its users
            await connection.execute('alter table trajectories drop constraint if exists "trajectories_agentId_fkey"')
        await play(database, agents=20)
        items = [item async for item in source.stream()]
        assert len([item for item in items if isinstance(item, Trajectory)]) == 39
        with pytest.raises(DatabaseError, match="already recorded"):
            await play(database, agents=1)
    return found


@needs_pooler
async def test_everything_works_through_a_transaction_pooler(
    babylon_url: str, pooled_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, babylon_url)
    async with Database(dsn_env=VARIABLE, home=tmp_path) as database:
        expected = await everything(PostgresSource(dsn_env=VARIABLE, parts=SourceParts(pool=database.read_only())))
    assert [len(stats.members) for stats in expected[0]] == [5, 5, 5, 8, 1]
    assert await use(pooled_url, tmp_path, monkeypatch) == expected
    # Other users of the same server processes find them as they were.
    others = [
        await asyncpg.connect(pooled_url.replace("&pgbouncer=true", ""), statement_cache_size=0) for _ in range(3)
    ]
    for other in (*others, *others):
        assert await other.fetchval("select count(*) from pg_prepared_statements where name <> ''") == 0
        assert await other.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == 0
        for name, usual in (("statement_timeout", "0"), ("default_transaction_read_only", "off"), ("jit", "on")):
            assert await other.fetchval("select current_setting($1) = $2", name, usual), name
        assert await other.fetchval("select source from pg_settings where name = 'TimeZone'") != "session"
    for other in others:
        await other.close()


async def test_no_statement_is_prepared_under_a_name(
    embedded_server: EmbeddedServer, babylon_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own log says so: a pooler that forbids them could not pass them on."""
    assert embedded_server.placement is not None
    log = embedded_server.placement.folder / "server.log"
    begun = log.stat().st_size
    connection = await asyncpg.connect(babylon_url)
    name = await connection.fetchval("select current_database()")
    await connection.execute(f"alter database {name} set log_min_duration_statement = 0")
    await connection.close()
    await use(babylon_url, tmp_path, monkeypatch)
    written = log.read_bytes()[begun:].decode()
    parsed = re.findall(r"ms  parse (\S+):", written)
    assert len(parsed) > 20
    assert set(parsed) == {"<unnamed>"}
