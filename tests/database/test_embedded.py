"""The embedded server: shared, restarted, stopped, and never left behind, also when its users are killed."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import asyncpg
import pytest

import mmo_rl
from mmo_rl.database import keeper, placement
from mmo_rl.database.embedded import EmbeddedServer
from mmo_rl.errors import DatabaseError

AS_ROOT = os.geteuid() == 0
HOLD = """
import sys
from pathlib import Path
from mmo_rl.database.embedded import EmbeddedServer
server = EmbeddedServer(data_dir=Path(sys.argv[1]))
server.start()
print(server.dsn("postgres"), flush=True)
sys.stdin.readline()
server.stop()
"""


@pytest.fixture
def folder(scratch: Path) -> Iterator[Path]:
    """A folder that other users may pass through, with a short path (sockets have short names)."""
    made = Path(tempfile.mkdtemp(dir=scratch))
    made.chmod(0o755)
    try:
        yield made
    finally:
        keeper.stop_postmaster(made / "postgres" / "data")
        shutil.rmtree(made)


@pytest.fixture(scope="module")
def cluster(scratch: Path) -> Iterator[Path]:
    """A stopped server's folder to copy: to make one takes a second or more."""
    made = Path(tempfile.mkdtemp(dir=scratch))
    made.chmod(0o755)
    server = EmbeddedServer(data_dir=made / "postgres")
    server.start()
    server.stop()
    with (made / "postgres" / "data" / "postgresql.conf").open("a") as config:
        config.write("fsync = off\n")
    yield made / "postgres"
    shutil.rmtree(made)


@pytest.fixture
def prepared(folder: Path, cluster: Path) -> Path:
    """The folder, with a server in it that was started before."""
    subprocess.run(["cp", "-a", cluster, folder / "postgres"], check=True)
    return folder


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def hold(data_dir: Path, *, inside: Sequence[str] = (), **variables: str) -> subprocess.Popen[str]:
    """Another process that holds the server until a line comes, with ``inside`` in front of its command."""
    environment = os.environ | {"PYTHONPATH": str(Path(mmo_rl.__file__).parents[1])} | variables
    return subprocess.Popen(
        [*inside, sys.executable, "-c", HOLD, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def connected(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line.startswith("postgresql://"), line
    return line


def release(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=30)
    assert process.returncode == 0


async def answer(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("select 42"))
    finally:
        await connection.close()


async def test_the_data_survives_a_restart_and_nothing_runs_in_between(folder: Path) -> None:
    data = folder / "postgres" / "data"
    async with EmbeddedServer(data_dir=folder / "postgres") as server:
        connection = await asyncpg.connect(server.dsn("postgres"))
        await connection.execute("create table kept as select 7 as n")
        await connection.close()
        assert keeper.postmaster_pid(data) is not None
    assert keeper.postmaster_pid(data) is None
    async with EmbeddedServer(data_dir=folder / "postgres") as server:
        connection = await asyncpg.connect(server.dsn("postgres"))
        assert await connection.fetchval("select n from kept") == 7
        await connection.close()


async def test_no_port_is_opened_and_the_socket_is_private(prepared: Path) -> None:
    async with EmbeddedServer(data_dir=prepared / "postgres") as server:
        connection = await asyncpg.connect(server.dsn("postgres"))
        assert await connection.fetchval("show listen_addresses") == ""
        await connection.close()
        socket_dir = server.socket_dir
        assert socket_dir.stat().st_mode & 0o077 == 0


async def test_four_cold_starts_at_once_share_one_server(folder: Path) -> None:
    processes = [hold(folder / "postgres") for _ in range(4)]
    addresses = {connected(process) for process in processes}
    assert len(addresses) == 1
    assert await answer(addresses.pop()) == 42
    pid = keeper.postmaster_pid(folder / "postgres" / "data")
    for process in processes[:3]:
        release(process)
        assert keeper.postmaster_pid(folder / "postgres" / "data") == pid, "others still hold the server"
    release(processes[3])
    assert keeper.postmaster_pid(folder / "postgres" / "data") is None


async def test_a_killed_holder_keeps_nothing_alive(prepared: Path) -> None:
    data = prepared / "postgres" / "data"
    killed, other = hold(prepared / "postgres"), hold(prepared / "postgres")
    connected(killed), connected(other)
    killed.kill()
    killed.communicate()
    assert keeper.postmaster_pid(data) is not None, "the other one still holds the server"
    release(other)
    assert keeper.postmaster_pid(data) is None


async def test_the_server_stops_when_its_only_holder_is_killed(prepared: Path) -> None:
    data = prepared / "postgres" / "data"
    only = hold(prepared / "postgres")
    connected(only)
    only.kill()
    only.communicate()
    wait_until(lambda: keeper.postmaster_pid(data) is None, "the keeper stops the server")


async def test_holders_get_a_new_server_where_theirs_died(prepared: Path) -> None:
    data = prepared / "postgres" / "data"
    async with EmbeddedServer(data_dir=prepared / "postgres") as server:
        pid = keeper.postmaster_pid(data)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: keeper.postmaster_pid(data) is None, "the server is dead")
        await asyncio.to_thread(server.ensure_running)
        assert await answer(server.dsn("postgres")) == 42
        assert keeper.postmaster_pid(data) not in (None, pid)
    assert keeper.postmaster_pid(data) is None


async def test_a_process_id_that_another_program_has_got_is_no_server(prepared: Path) -> None:
    data = prepared / "postgres" / "data"
    stale = [str(os.getpid()), str(data), "1700000000", "5432", str(data), "", "1 2", "ready"]
    (data / "postmaster.pid").write_text("\n".join(stale) + "\n")
    assert keeper.postmaster_pid(data) is None
    async with EmbeddedServer(data_dir=prepared / "postgres") as server:
        assert await answer(server.dsn("postgres")) == 42


async def test_a_zombie_is_no_server(prepared: Path) -> None:
    data = prepared / "postgres" / "data"
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        (data / "postmaster.pid").write_text(f"{child}\n{data}\n1700000000\n5432\n{data}\n\n1 2\nready\n")
        async with EmbeddedServer(data_dir=prepared / "postgres") as server:
            assert await answer(server.dsn("postgres")) == 42
    finally:
        os.waitpid(child, 0)  # noqa: ASYNC222 (it has ended)


async def test_an_interrupted_first_start_is_begun_again(folder: Path) -> None:
    unfinished = folder / "postgres" / "data.new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    async with EmbeddedServer(data_dir=folder / "postgres") as server:
        assert await answer(server.dsn("postgres")) == 42


async def test_a_path_too_long_for_a_socket_works(folder: Path) -> None:
    deep = folder / ("a" * 60) / ("b b'$" * 12) / "postgres"
    async with EmbeddedServer(data_dir=deep) as server:
        assert await answer(server.dsn("postgres")) == 42
        socket_dir = server.socket_dir
        assert socket_dir != deep / "data"
        assert socket_dir.stat().st_mode & 0o077 == 0
    shutil.rmtree(socket_dir)


NAMESPACES = ("unshare", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc")
needs_namespaces = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode != 0,
    reason="no process id namespace of one's own can be made here",
)


@needs_namespaces
async def test_a_second_container_never_starts_a_second_server_on_the_same_data(folder: Path) -> None:
    """The socket of a long path lies in TMPDIR, which two containers do not share, and neither sees the other's ids."""
    deep = folder / ("a" * 60) / ("b" * 50) / "postgres"
    temporary = folder / "tmp"
    temporary.mkdir()
    temporary.chmod(0o777)
    private = ("--mount", "sh", "-c", f'mount -t tmpfs -o mode=1777 none {temporary} && exec "$@"', "sh")
    first = hold(deep, inside=(*NAMESPACES, *private), TMPDIR=str(temporary))
    try:
        connected(first)
        started = (deep / "data" / "postmaster.pid").read_bytes()
        server = EmbeddedServer(data_dir=deep, start_timeout_s=1.0)
        with pytest.raises(DatabaseError, match="is served by another container") as refused:
            server.start()
        assert refused.value.hint is not None and "source=postgres" in refused.value.hint
        assert (deep / "data" / "postmaster.pid").read_bytes() == started
    finally:
        release(first)
    async with EmbeddedServer(data_dir=deep) as server:
        assert await answer(server.dsn("postgres")) == 42
        shutil.rmtree(server.socket_dir)


@needs_namespaces
async def test_containers_that_see_one_socket_share_the_server(prepared: Path) -> None:
    first = hold(prepared / "postgres", inside=NAMESPACES)
    try:
        connected(first)
        async with EmbeddedServer(data_dir=prepared / "postgres") as server:
            assert await answer(server.dsn("postgres")) == 42
    finally:
        release(first)


@needs_namespaces
async def test_the_server_of_a_killed_container_is_started_again(prepared: Path) -> None:
    first = hold(prepared / "postgres", inside=NAMESPACES)
    connected(first)
    first.kill()
    first.communicate()
    async with EmbeddedServer(data_dir=prepared / "postgres") as server:
        assert await answer(server.dsn("postgres")) == 42


async def test_data_that_another_host_serves_are_refused(prepared: Path) -> None:
    note = prepared / "postgres" / "server.json"
    note.write_text(json.dumps({"host": "node17", "boot_id": "another", "pid_namespace": "pid:[1]"}))
    with pytest.raises(DatabaseError, match="node17") as refused:
        EmbeddedServer(data_dir=prepared / "postgres").start()
    assert (
        refused.value.hint is not None and "source=postgres" in refused.value.hint and str(note) in refused.value.hint
    )
    note.unlink()
    async with EmbeddedServer(data_dir=prepared / "postgres") as server:
        assert await answer(server.dsn("postgres")) == 42
        assert json.loads(note.read_text())["host"] != "node17"
    assert not note.exists(), "a server that was stopped is nobody's"


async def test_settings_for_other_servers_are_ignored(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "6543", "PGHOST": "elsewhere", "PGDATA": "/nowhere", "PGUSER": "me"}.items():
        monkeypatch.setenv(name, value)
    async with EmbeddedServer(data_dir=prepared / "postgres") as server:
        assert await answer(server.dsn("postgres")) == 42


async def test_data_of_another_postgres_version_is_left_alone(folder: Path) -> None:
    data = folder / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("12\n")
    with pytest.raises(DatabaseError, match=r"PostgreSQL 12.s, this is 18") as caught:
        EmbeddedServer(data_dir=folder / "postgres").start()
    assert "MMO_RL_HOME" in str(caught.value.hint)


async def test_a_folder_that_cannot_be_made_is_one_message(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "system").mkdir()
    monkeypatch.setattr(placement, "SYSTEM_FOLDERS", (folder / "system",))
    (folder / "file").write_text("")
    with pytest.raises(DatabaseError, match="cannot use the folder") as caught:
        EmbeddedServer(data_dir=folder / "file" / "postgres").start()
    assert "MMO_RL_HOME" in str(caught.value.hint)
    assert not list((folder / "system").iterdir())


@pytest.mark.skipif(not AS_ROOT, reason="only root has private homes to protect from another user")
async def test_as_root_a_database_in_a_folder_that_became_private_is_not_replaced(folder: Path) -> None:
    home = folder / "home"
    home.mkdir(mode=0o755)
    async with EmbeddedServer(data_dir=home / "postgres"):
        pass
    home.chmod(0o700)
    with pytest.raises(DatabaseError, match="has become private"):
        EmbeddedServer(data_dir=home / "postgres").start()
    home.chmod(0o755)
    async with EmbeddedServer(data_dir=home / "postgres") as server:
        assert server.placement is not None and server.placement.folder == home / "postgres"


@pytest.mark.skipif(not AS_ROOT, reason="only root has private homes to protect from another user")
async def test_as_root_a_private_home_stays_private(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, home = folder / "system", folder / "home"
    system.mkdir(mode=0o755)
    home.mkdir(mode=0o700)
    monkeypatch.setattr(placement, "SYSTEM_FOLDERS", (system,))
    async with EmbeddedServer(data_dir=home / "project" / "postgres") as server:
        assert await answer(server.dsn("postgres")) == 42
        real = (home / "project" / "postgres").resolve()
        assert real.is_relative_to(system), "a link tells where the data is"
        pid = keeper.postmaster_pid(real / "data")
        assert pid is not None
        assert os.stat(f"/proc/{pid}").st_uid != 0
    assert home.stat().st_mode & 0o777 == 0o700
    async with EmbeddedServer(data_dir=home / "project" / "postgres") as server:
        assert (home / "project" / "postgres").resolve() == real
        assert await answer(server.dsn("postgres")) == 42


@pytest.fixture(params=[0o022, 0o077], ids=["umask 022", "umask 077"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
async def test_any_umask_makes_folders_that_the_server_can_use(folder: Path) -> None:
    async with EmbeddedServer(data_dir=folder / "project" / ".mmo_rl" / "postgres") as server:
        assert await answer(server.dsn("postgres")) == 42
        assert server.placement is not None
        assert server.placement.folder == folder / "project" / ".mmo_rl" / "postgres"
        assert server.placement.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not AS_ROOT, reason="only root has private homes to protect from another user")
@pytest.mark.usefixtures("umask")
async def test_any_umask_makes_a_system_folder_for_all_later_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, home = folder / "system", folder / "home"
    for made, mode in ((system, 0o755), (home, 0o700), (system / "mmo_rl", 0o700)):
        made.mkdir()
        made.chmod(mode)
    monkeypatch.setattr(placement, "SYSTEM_FOLDERS", (system,))
    async with EmbeddedServer(data_dir=home / "project" / "postgres") as server:
        assert await answer(server.dsn("postgres")) == 42
    assert (system / "mmo_rl").stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(not AS_ROOT, reason="only root has private homes to protect from another user")
def test_databases_of_homes_that_are_gone_are_named_and_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    system, home = folder / "system", folder / "home"
    system.mkdir(mode=0o755)
    home.mkdir(mode=0o700)
    monkeypatch.setattr(placement, "SYSTEM_FOLDERS", (system,))
    places = [placement.place(home / name / "postgres").folder for name in ("gone", "used", "unmounted", "kept")]
    for place in places:
        (place / "data").mkdir()
    unmounted = json.loads((places[2] / "origin.json").read_text())
    (places[2] / "origin.json").write_text(json.dumps(unmounted | {"device": unmounted["device"] + 1}))
    for name in ("gone", "used", "unmounted"):
        shutil.rmtree(home / name)
    with (places[1] / "holders").open("a") as holders:
        fcntl.flock(holders, fcntl.LOCK_SH)
        placement.place(home / "new" / "postgres")
    assert [(place / "data").exists() for place in places] == [True] * 4
    named = [record.getMessage() for record in caplog.records if "moved or removed" in record.getMessage()]
    assert len(named) == 1 and str(places[0]) in named[0]


@pytest.mark.skipif(not AS_ROOT, reason="an ordinary user runs the programs where they are")
async def test_as_root_programs_in_a_private_home_are_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = Path(tempfile.mkdtemp(prefix="mmo_rl-system-"))  # programs may not run in a memory file system
    system.chmod(0o755)
    monkeypatch.setattr(placement, "SYSTEM_FOLDERS", (system,))
    reachable = placement._reachable
    monkeypatch.setattr(
        placement, "_reachable", lambda at, user: "site-packages" not in str(at) and reachable(at, user)
    )
    async with EmbeddedServer(data_dir=folder / "postgres") as server:
        assert server.placement is not None
        assert server.placement.bin.is_relative_to(system)
        assert await answer(server.dsn("postgres")) == 42
    shutil.rmtree(system)


@pytest.mark.skipif(not AS_ROOT, reason="the other tests run as an ordinary user then")
def test_an_ordinary_user_owns_and_runs_everything(folder: Path) -> None:
    uid, gid = placement._server_user(folder)
    python = _python_for(uid, gid)
    mine = folder / "mine"
    mine.mkdir()
    os.chown(mine, uid, gid)
    program = HOLD.replace("sys.stdin.readline()", "import subprocess")
    done = subprocess.run(
        [python, "-c", program, str(mine / "home" / "postgres")],
        user=uid,
        group=gid,
        extra_groups=[],
        cwd=mine,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": _search_path(), "HOME": str(mine)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("postgresql://")
    data = mine / "home" / "postgres" / "data"
    assert data.stat().st_uid == uid
    assert keeper.postmaster_pid(data) is None
    refused = subprocess.run(
        [python, "-c", program, str(folder / "roots" / "postgres")],
        user=uid,
        group=gid,
        extra_groups=[],
        cwd=mine,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": _search_path(), "HOME": str(mine)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "DatabaseError: the embedded database cannot use the folder" in refused.stderr
    assert "MMO_RL_HOME" in refused.stderr


def _search_path() -> str:
    packages = [p for p in sys.path if p.endswith("site-packages")]
    return os.pathsep.join([str(Path(mmo_rl.__file__).parents[1]), *packages])


def _python_for(uid: int, gid: int) -> str:
    """An interpreter of this version that the user can run with our packages."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        probe = [python, "-c", "import json, asyncpg, mmo_rl, sys; print(json.dumps(sys.version_info[:2]))"]
        try:
            shown = subprocess.run(
                probe,
                user=uid,
                group=gid,
                extra_groups=[],
                cwd="/",
                env={"PYTHONPATH": _search_path()},
                capture_output=True,
                text=True,
            )
        except OSError:
            continue
        if shown.returncode == 0 and json.loads(shown.stdout) == list(sys.version_info[:2]):
            return python
    pytest.skip("no interpreter here that an ordinary user may run with these packages")


def test_nothing_is_held_by_an_instance_that_never_started() -> None:
    server = EmbeddedServer(data_dir=Path("unused"))
    server.stop()
    with pytest.raises(DatabaseError, match="not running"):
        _ = server.socket_dir
