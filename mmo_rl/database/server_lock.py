"""Lock that a running server holds on its data, and the note of the machine that it runs on.

Process ids say nothing across containers and hosts: the same number is another process there. The lock does: it is
taken on a file before the server starts, the server and all its children inherit it, and the kernel drops it with the
last of them. It is seen from every container of one kernel. Other hosts may not see it (a network file system), so
the note says where the server was started, and is removed when it is stopped.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mmo_rl import files
from mmo_rl.errors import DatabaseError

ELSEWHERE = "several containers or hosts share one database with source=postgres and DATABASE_URL"


@dataclass(frozen=True, slots=True)
class Machine:
    """Machine and container of a process; None where the system does not tell."""

    host: str
    boot_id: str | None
    pid_namespace: str | None

    def shares_kernel_with(self, other: Machine) -> bool:
        """Tells if locks of the two see each other: one boot, or one host that has booted again."""
        return self.host == other.host or (self.boot_id is not None and self.boot_id == other.boot_id)


def this_machine() -> Machine:
    """Returns the machine of the present process."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return Machine(platform.node(), boot_id, os.readlink("/proc/self/ns/pid"))
    except OSError:  # no Linux
        return Machine(platform.node(), None, None)


@contextmanager
def starting_server(folder: Path, *, timeout_s: float) -> Iterator[int]:
    """Takes the lock for a server that is started inside the block, which inherits the file descriptor yielded.

    Waits up to ``timeout_s`` for the children of a killed server. Raises `DatabaseError` where a server works that
    cannot be reached from here, in another container or on another host.
    """
    note = folder / "server.json"
    _refuse_other_hosts(note)
    with (folder / "serving").open("a") as serving:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(serving, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DatabaseError(
                        f"the embedded database in {folder} is served by another container or by a server that does"
                        " not answer here, and two servers would destroy it",
                        hint=f"end mmo-rl there first, or set MMO_RL_HOME to a folder of this one; {ELSEWHERE}",
                    ) from None
                time.sleep(0.05)
        files.write_json(note, asdict(this_machine()))
        yield serving.fileno()


def _refuse_other_hosts(note: Path) -> None:
    try:
        content = json.loads(note.read_text())
        noted = Machine(str(content["host"]), content["boot_id"], content["pid_namespace"])
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):  # cut by a loss of power: the machine that wrote it is down
        return
    if not noted.shares_kernel_with(this_machine()):
        raise DatabaseError(
            f"the embedded database in {note.parent} was started on the host {noted.host}, and its server does not"
            " answer here; two servers would destroy it",
            hint=f"end mmo-rl on {noted.host} first; where that host is gone for good: rm {note}; {ELSEWHERE}",
        )
