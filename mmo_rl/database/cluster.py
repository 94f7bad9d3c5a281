"""PostgreSQL cluster in a folder: creation, start and health check of its server."""

from __future__ import annotations

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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mmo_rl.database import keeper, server_lock
from mmo_rl.database.placement import POSTGRES_MAJOR, Placement
from mmo_rl.errors import DatabaseError

PORT = 5432  # names the socket's file; nothing listens on the network
SUPERUSER = "postgres"
WRITABLE_HINT = "set MMO_RL_HOME to a folder on a local disk that you may write to, for example MMO_RL_HOME=~/mmo_rl"
SETTINGS = """
listen_addresses = ''
unix_socket_permissions = 0700
timezone = 'UTC'
log_timezone = 'UTC'
max_connections = 200
"""

_log = logging.getLogger(__name__)


class Cluster:
    """The cluster in ``place.folder``: its files in ``data``, its messages in ``server.log``."""

    def __init__(self, place: Placement, *, timeout_s: float) -> None:
        self.folder = place.folder
        self.data = place.folder / "data"
        self._place = place
        self._timeout_s = timeout_s

    def ensure(self) -> Path:
        """Creates the cluster and starts its server where needed; returns the folder of the server's socket.

        Must not run twice at once for the same folder. Raises `DatabaseError`.
        """
        if not self.data.exists():
            self._create()
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != POSTGRES_MAJOR:
            raise DatabaseError(
                f"the embedded database in {self.folder} is PostgreSQL {version}'s, this is {POSTGRES_MAJOR}",
                hint="set MMO_RL_HOME to a new folder, or move the data over with pg_dump",
            )
        socket_dir = self._running_socket()
        if socket_dir is None:
            socket_dir = self._start()
        return socket_dir

    def _create(self) -> None:
        unfinished = self.data.with_name("data.new")  # an interrupted initdb must not look like a cluster
        shutil.rmtree(unfinished, ignore_errors=True)
        arguments = ["--auth=trust", "--encoding=UTF8", "--no-locale", "-U", SUPERUSER, "-D", str(unfinished)]
        if sys.platform == "linux":
            arguments.append("--sync-method=syncfs")  # one call in place of a thousand
        made = self._run("initdb", arguments)
        if made.returncode != 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise DatabaseError(f"initdb failed in {self.folder}: {_last_line(made.stdout)}", hint=WRITABLE_HINT)
        with (unfinished / "postgresql.conf").open("a") as config:
            config.write(SETTINGS)
        unfinished.rename(self.data)

    def _running_socket(self) -> Path | None:
        """Waits until the running server accepts connections; returns its socket folder, None where none runs."""
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline:
            try:
                lines = (self.data / "postmaster.pid").read_text().splitlines()
            except FileNotFoundError:
                return None
            socket_dir = Path(lines[4]) if len(lines) > 4 and lines[4] else None
            # 0 accepts, 1 starts or stops, 2 no answer. A server in another container has no process id here, but
            # its socket answers: it is shared, never started twice.
            state = 2
            if socket_dir is not None:
                state = self._run("pg_isready", ("-h", str(socket_dir), "-p", str(PORT))).returncode
            if state == 0:
                return socket_dir
            if state == 2 and keeper.postmaster_pid(self.data) is None:
                return None
            time.sleep(0.05)
        raise DatabaseError(
            f"the embedded server in {self.folder} neither answers nor ends",
            hint=f"see {self.folder / 'server.log'}, end the process that {self.data / 'postmaster.pid'} names",
        )

    def _start(self) -> Path:
        with server_lock.starting_server(self.folder, timeout_s=min(self._timeout_s, 10.0)) as serving:
            return self._start_alone(serving)

    def _start_alone(self, serving: int) -> Path:
        """Starts the server, which inherits the file descriptor of its lock."""
        socket_dir = self._socket_folder()
        for left_behind in (self.data / "postmaster.pid", socket_dir / f".s.PGSQL.{PORT}.lock"):
            _forget_reused_pid(left_behind)
        log = self.folder / "server.log"
        options = f"-p {PORT} -k {shlex.quote(str(socket_dir))}"
        # Relative to the folder, which is the working directory: pg_ctl hands its paths to a shell.
        arguments = ["start", "-w", "-t", str(int(self._timeout_s)), "-D", self.data.name, "-l", log.name]
        deadline = time.monotonic() + self._timeout_s
        while True:
            began = log.stat().st_size if log.exists() else 0
            started = self._run("pg_ctl", [*arguments, "-o", options], inherited=(serving,))
            if started.returncode == 0:
                break
            said = log.read_bytes()[began:].decode(errors="replace") if log.exists() else ""
            if "shared memory block" in said and time.monotonic() < deadline:
                time.sleep(0.1)  # the children of a killed server are still ending
                continue
            why = _last_line("\n".join(line for line in said.splitlines() if "FATAL" in line) or started.stdout)
            raise DatabaseError(
                f"the embedded server in {self.folder} did not start: {why}",
                hint=f"see {log}; with MMO_RL_HOME set to another folder mmo-rl starts with an empty database",
            )
        self._start_keeper()
        return socket_dir

    def _socket_folder(self) -> Path:
        """Returns the data folder, or a private temporary folder where the path is too long for a socket."""
        if len(os.fsencode(self.data / f".s.PGSQL.{PORT}")) < 100 and not set(str(self.data)) & set(",'\""):
            return self.data
        uid = os.geteuid() if self._place.user is None else self._place.user[0]
        key = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]
        for base in (tempfile.gettempdir(), "/tmp"):
            folder = Path(base) / f"mmo_rl-{uid}-{key}"
            if len(os.fsencode(folder)) < 80:
                break
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            if self._place.user is not None:
                os.chown(folder, *self._place.user, follow_symlinks=False)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or status.st_mode & 0o077:
            raise DatabaseError(f"{folder} exists and is not private to us", hint=f"remove it: rm -r {folder}")
        return folder

    def _start_keeper(self) -> None:
        command = [sys.executable, "-I", "-S", keeper.__file__, str(self.folder / "holders"), str(self.data)]
        kept = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
        if kept.returncode != 0:
            _log.warning("no keeper for the server in %s: it would go on running after a kill -9", self.folder)

    def _run(
        self, program: str, arguments: Sequence[str], *, inherited: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        # The server's programs take settings from PG* variables, which are the user's, for other servers.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        uid, gid = self._place.user if self._place.user is not None else (None, None)
        # A file, not a pipe: the server inherits it, and a pipe would stay open as long as the server lives.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [str(self._place.bin / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=environment,
                user=uid,
                group=gid,
                extra_groups=None if self._place.user is None else [],
                pass_fds=inherited,
                check=False,
            )
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read(), "")


def _forget_reused_pid(lock_file: Path) -> None:
    """Removes a server's lock file whose process id is a zombie's or in use again: it would prevent a start.

    That of a process which is gone is left to the server, which also checks for children that still work.
    """
    try:
        os.kill(int(lock_file.read_text().split("\n", 1)[0]), 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return
    except PermissionError:  # in use by a process of another user
        pass
    lock_file.unlink()


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
