"""Atomic writes of files: a reader finds the old content or the new one, never a part; on request they are durable."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path


def write_text(path: Path, text: str, *, durable: bool = False) -> Path:
    """Replaces ``path`` with ``text`` in UTF-8, as `write_bytes` does."""
    return write_bytes(path, text.encode("utf-8"), durable=durable)


def write_json(path: Path, content: object, *, indent: int | None = 2, durable: bool = False) -> Path:
    """Replaces ``path`` with ``content`` as one JSON document, as `write_bytes` does.

    Raises `ValueError` for a number that JSON cannot hold (NaN, infinity), before anything is written.
    """
    return write_text(path, json.dumps(content, indent=indent, allow_nan=False) + "\n", durable=durable)


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> Path:
    """Replaces ``path`` with ``content`` in one step, by a temporary file beside it; returns ``path``.

    Missing folders are made. A file that exists keeps its permissions. With ``durable`` the content and its name
    survive a loss of power once the call has returned. Raises the `OSError` of a disk that refuses, with ``path`` as
    its file name, and leaves no temporary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            _copy_permissions(path, file.fileno())
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            # A failed write (a full disk) names no file, a failed replacement two.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    if durable:
        sync_folder(path.parent)
    return path


def sync_file(path: Path) -> None:
    """Makes the content of ``path`` durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes the names in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _copy_permissions(source: Path, target: int) -> None:
    try:
        mode = stat.S_IMODE(source.stat().st_mode)
    except FileNotFoundError:
        return
    os.fchmod(target, mode)
