"""Process that stops the embedded server when its last holder has ended, ``kill -9`` included.

Every user of a server holds a shared lock on one file; the kernel drops it when the process ends. The keeper is a
small detached process beside the server that waits for the exclusive lock, which it gets when the last holder is gone.
It is run by its path with ``python -I -S``, so it may import the standard library only.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_HAS_PROC = Path("/proc/self/cwd").exists()


def postmaster_pid(data: Path) -> int | None:
    """Returns the process id of the live server of this data folder.

    A stale id, a zombie and an id that another program has got since are None.
    """
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None
    return pid if _is_server_of(pid, data) else None


def stop_postmaster(data: Path, *, timeout_s: float = 30.0) -> None:
    """Stops the server of this data folder, if one runs, and returns when it is gone.

    A fast shutdown first (clients are disconnected, everything is written); an immediate one after ``timeout_s``.
    """
    pid = postmaster_pid(data)
    if pid is None:
        return
    for stop_signal, wait_s in ((signal.SIGINT, timeout_s), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.kill(pid, stop_signal)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if not _is_server_of(pid, data):
                (data.parent / "server.json").unlink(missing_ok=True)  # the note of `server_lock`
                return
            time.sleep(0.01)


def _is_server_of(pid: int, data: Path) -> bool:
    """Tells if a process is the server of a data folder: its working directory; a zombie has none."""
    if _HAS_PROC:
        try:
            return os.path.samefile(f"/proc/{pid}/cwd", data)
        except OSError:
            return False
    shown = subprocess.run(["lsof", "-a", "-d", "cwd", "-p", str(pid), "-Fn"], capture_output=True, text=True)
    return f"n{data}" in shown.stdout.splitlines()


def main(holders: str, data: str) -> None:
    if os.fork() > 0:
        os._exit(0)
    os.setsid()
    os.chdir("/")
    descriptor = os.open(holders, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    stop_postmaster(Path(data))


if __name__ == "__main__":
    main(*sys.argv[1:])
