"""Atomic writes: the old content or the new one, permissions, what a refused write leaves."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from mmo_rl import files


def test_a_file_is_made_with_its_folders_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "state.json"
    assert files.write_json(path, {"a": [1, 2.5, None]}, durable=True) == path
    assert path.read_text("utf-8") == '{\n  "a": [\n    1,\n    2.5,\n    null\n  ]\n}\n'
    files.write_text(path, "Zürich\n")
    assert path.read_bytes() == "Zürich\n".encode()
    assert os.listdir(path.parent) == ["state.json"]


def test_permissions_are_those_of_the_file_before_else_those_of_any_new_file(tmp_path: Path) -> None:
    path, plain = tmp_path / "secret", tmp_path / "plain"
    plain.write_text("")
    files.write_text(path, "a")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    path.chmod(0o600)
    files.write_text(path, "b")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_number_that_json_cannot_hold_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = files.write_json(tmp_path / "state.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, float("nan"))
    assert path.read_text() == "1\n"
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_refused_write_names_the_file_and_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files.write_text(tmp_path / "state", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_text(path, "new", durable=True)
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["state"]


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(OSError, match=r"state'$") as caught:
        files.write_text(tmp_path / "state", "new")
    assert caught.value.filename == str(tmp_path / "state")
    assert os.listdir(tmp_path) == ["state"]


def test_readers_see_whole_contents_while_threads_write(tmp_path: Path) -> None:
    path = files.write_text(tmp_path / "state", "0" * 50_000)
    done = threading.Event()

    def write(digit: str) -> None:
        for _ in range(50):
            files.write_text(path, digit * 50_000)

    writers = [threading.Thread(target=write, args=(digit,)) for digit in "123"]
    seen: list[str] = []

    def read() -> None:
        while not done.is_set():
            seen.append(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    done.set()
    reader.join()
    assert all(len(text) == 50_000 and len(set(text)) == 1 for text in seen)
    assert os.listdir(tmp_path) == ["state"]
