"""Reads JSON values from files and streams in bounded memory: plain or gzipped, one a line or one a file."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from mmo_rl.errors import SourceError
from mmo_rl.source.jsontext import Unreadable, excerpt, parse_json
from mmo_rl.types import Rejection

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIXES = (".jsonl", ".ndjson", ".json")
GZIP = b"\x1f\x8b"
PARQUET, ZIP = b"PAR1", b"PK\x03\x04"
AS_LINES = "polars.{read}('{name}').write_ndjson('rows.jsonl')"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MOST_UNPACKED = 32
_SKIPPED_AT_ONCE = 1 << 20
MOST_RATIO = 150
"""Unpacked bytes a packed byte; recorded play has 5 to 40, a bomb up to 1,030."""
UNGUARDED = 50_000_000
"""Unpacked bytes up to which any ratio is taken."""
_CSV_HEAD = re.compile(rb'"?[A-Za-z_]\w*"?(?:[,;\t]"?[A-Za-z_]\w*"?)+\r?$')
_NAME = re.compile(rb'"(?:trajectoryId|trajectory_id)" ?: ?"([^"\\]{1,200})"')


def open_unpacked(path: Path) -> BinaryIO:
    """Opens a file for reading, unpacked where its first bytes say that it is gzipped, whatever its name."""
    if is_gzipped(path):
        return _Unpacked.of(path.open("rb"))
    return path.open("rb")


class _Unpacked(io.RawIOBase):
    """Content of a gzipped stream. Raises `OSError` where it is more than `MOST_RATIO` times what was read of a file
    for it; how much of a pipe was read is not known."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._unpacked = gzip.GzipFile(fileobj=packed)
        self._read = 0
        self._guarded = packed.seekable()

    @classmethod
    def of(cls, packed: BinaryIO) -> BinaryIO:
        """Opens a stream for reading."""
        return cast(BinaryIO, io.BufferedReader(cls(packed), buffer_size=1 << 17))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = self._unpacked.readinto(buffer)
        self._read += count
        if self._guarded and self._read > UNGUARDED and self._read > MOST_RATIO * self._packed.tell():
            raise OSError(f"it unpacks to more than {MOST_RATIO} times its size, as no recorded play does")
        return count

    def close(self) -> None:
        if not self.closed:
            self._unpacked.close()
            self._packed.close()
        super().close()


def is_gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def foreign_format(path: Path) -> tuple[str, str] | None:
    """Recognises a file of another format by its content: its name, and the command that converts it; None for text
    that may be JSON."""
    head = b""
    with contextlib.suppress(EOFError, OSError, zlib.error), open_unpacked(path) as file:
        head = file.read(4096)
    if head.startswith(PARQUET):
        return "a Parquet file", _as_lines("read_parquet", path)
    if head.startswith(ZIP):
        return "a ZIP archive (.eval of Inspect?)", (
            f"unzip it, or write an Inspect log as JSON: inspect log convert --to json {path} --output-dir FOLDER"
        )
    line = head.removeprefix(BYTE_ORDER_MARK).lstrip().split(b"\n", 1)[0]
    if _CSV_HEAD.match(line):
        return "a CSV table", _as_lines("read_csv", path)
    return None


def blocks(file: BinaryIO, *, name: str, max_bytes: int) -> Iterator[object | Rejection]:
    """Yields the JSON values of a file that has them one a line, or printed over several lines one after another."""
    begun: list[bytes] = []
    size = 0
    for offset, line in _lines(file, max_bytes):
        if isinstance(line, Rejection):
            yield line
        elif begun or line.rstrip() == b"{":
            size += len(line)
            begun.append(line if size <= max_bytes else b"")
            if line.rstrip() == b"}":
                text = b"".join(begun)
                yield _too_long(name, text, max_bytes) if size > max_bytes else value_of(text, name)
                begun, size = [], 0
        else:
            yield value_of(line, f"{name} at byte {offset}")
    if begun:
        yield Rejection(None, name, excerpt(b"".join(begun)), "not JSON")


def _as_lines(read: str, path: Path) -> str:
    return f'write it as JSON lines: python -c "import polars; {AS_LINES.format(read=read, name=path)}"'


def standard_input() -> BinaryIO:
    """Opens standard input as bytes, unpacked where it is gzipped. Raises `SourceError` where it is a keyboard."""
    if os.isatty(0):
        raise SourceError(
            "source.path=- reads standard input, and nothing is piped into it",
            hint="producer | mmo-rl task=import source=jsonl source.path=-",
        )
    file = os.fdopen(os.dup(0), "rb")
    if file.peek(len(GZIP))[: len(GZIP)] == GZIP:
        return _Unpacked.of(file)
    return file


@dataclass(frozen=True, slots=True)
class Found:
    """A JSON value, or the `Rejection` of a text that is none, with its place in the unpacked file in bytes."""

    offset: int
    length: int
    value: object | Rejection


def values(file: BinaryIO, *, name: str, max_bytes: int, document: bool = False) -> Iterator[Found]:
    """Yields the JSON values of a file.

    A file whose first line ends where an object or list has only begun is read as one value; ``document`` says that
    its name calls for that, so that it is rejected as a whole. No line or document longer than ``max_bytes`` is held
    in memory.
    """
    for offset, line in _lines(file, max_bytes):
        if offset == 0 and isinstance(line, bytes) and line.rstrip()[-1:] in (b"{", b"[", b","):
            yield from _document(line, file, name, max_bytes, document)
            return
        yield _value_at(offset, line, name)


def _value_at(offset: int, line: bytes | Rejection, name: str) -> Found:
    if isinstance(line, Rejection):
        return Found(offset, 0, line)
    return Found(offset, len(line), value_of(line, f"{name} at byte {offset}"))


def failure(error: Exception, name: str) -> Rejection:
    """Makes the rejection of a file that breaks off, or cannot be read at all."""
    reason = "gzip file breaks off" if isinstance(error, EOFError) else "file cannot be read"
    return Rejection(None, name, excerpt(str(error) or type(error).__name__), reason)


READ_FAILURES = (EOFError, OSError, zlib.error)
"""Errors that reading a file may raise (a broken gzip file is an `OSError`)."""


def value_of(text: bytes, place: str) -> object | Rejection:
    """Parses the JSON value that bytes hold; a `Rejection` where they hold none."""
    try:
        return parse_json(text.removeprefix(BYTE_ORDER_MARK), place)
    except Unreadable as error:
        return Rejection(_trajectory_id(text), error.field, error.found, error.reason)
    except RecursionError:
        return Rejection(_trajectory_id(text), place, excerpt(text), "nested too deeply")


def _trajectory_id(text: bytes) -> str | None:
    """Finds a trajectory id in a text that is not JSON."""
    found = _NAME.search(text)
    return None if found is None else found[1].decode("utf-8", "replace")


def _document(begun: bytes, file: BinaryIO, name: str, max_bytes: int, document: bool) -> Iterator[Found]:
    text = begun + file.read(max_bytes - len(begun) + 1)
    if len(text) > max_bytes:
        yield Found(0, 0, _too_long(name, text, max_bytes))
        return
    whole = value_of(text, name)
    if document or not isinstance(whole, Rejection):
        yield Found(0, len(text), whole)
        return
    for offset, line in _lines(io.BytesIO(text), max_bytes):
        yield _value_at(offset, line, name)


def _lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | Rejection]]:
    """Yields the lines that are not blank, with their offsets."""
    offset = 0
    while line := file.readline(max_bytes + 1):
        start, length = offset, len(line)
        offset += length
        if length <= max_bytes or line.endswith(b"\n"):
            if line.strip():
                yield start, line
            continue
        rejection = _too_long(f"a line at byte {start}", line, max_bytes)
        while line and not line.endswith(b"\n"):
            line = file.readline(_SKIPPED_AT_ONCE)
            offset += len(line)
        yield start, rejection


def _too_long(place: str, text: bytes, max_bytes: int) -> Rejection:
    return Rejection(
        _trajectory_id(text[:10_000]), place, excerpt(text[:400]), f"longer than source.max_line_mb={max_bytes / 1e6:g}"
    )


class RandomAccess:
    """Reader of pieces of files in any order. A gzipped file is unpacked once, into a temporary file: going back in it
    would unpack it from its beginning each time."""

    def __init__(self) -> None:
        self._unpacked: dict[Path, IO[bytes]] = {}

    def read(self, path: Path, offset: int, length: int) -> bytes:
        if path not in self._unpacked and is_gzipped(path):
            if len(self._unpacked) >= MOST_UNPACKED:
                self._unpacked.pop(next(iter(self._unpacked))).close()
            self._unpacked[path] = _unpack(path)
        if path in self._unpacked:
            self._unpacked[path].seek(offset)
            return self._unpacked[path].read(length)
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def close(self) -> None:
        while self._unpacked:
            self._unpacked.popitem()[1].close()


def _unpack(path: Path) -> IO[bytes]:
    plain = temporary_file()
    with contextlib.ExitStack() as failed:
        failed.enter_context(plain)
        with open_unpacked(path) as file, contextlib.suppress(*READ_FAILURES):  # the part before a fault is read again
            copy(file, plain)
        failed.pop_all()
    return plain


def temporary_file() -> IO[bytes]:
    """Opens an unnamed file in the folder for temporary files, unbuffered: a full disk is seen at the write."""
    return tempfile.TemporaryFile(buffering=0)


def copy(file: BinaryIO, into: IO[bytes]) -> None:
    """Copies line by line: whole blocks would lose the last lines before a fault.

    ``into`` is unbuffered. Raises `SourceError` where it cannot be written, and the errors of reading ``file``.
    """
    gathered = bytearray()
    try:
        while text := file.readline(_SKIPPED_AT_ONCE):
            gathered += text
            if len(gathered) >= _SKIPPED_AT_ONCE:
                write(bytes(gathered), into)
                gathered.clear()
    finally:
        write(bytes(gathered), into)


def write(content: bytes, into: IO[bytes]) -> None:
    """Writes to a temporary file. Raises `SourceError` where it cannot: what is not stored there would be lost, and
    must not be taken for a fault of the recording."""
    try:
        while content:
            content = content[into.write(content) :]
    except OSError as error:
        raise SourceError(
            f"a temporary file cannot be written in {tempfile.gettempdir()}: {error.strerror or error}",
            hint="make room there, or set TMPDIR to a folder on a larger disk; then the same command again",
        ) from error


def kind(path: Path) -> str:
    """Returns the suffix that tells the format: ``.jsonl`` of ``rows.jsonl.gz``."""
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def stem(path: Path) -> str:
    """Returns the name without suffixes, in one notation: ``llm-call-logs`` for ``llm_call_logs.jsonl.gz`` too."""
    return path.name.split(".", 1)[0].replace("_", "-").lower()
