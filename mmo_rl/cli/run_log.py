"""Log of a run: everything from INFO on in a file, with secrets masked, and a console that writes into it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, cast

from mmo_rl.cli.log_format import LineFormatter
from mmo_rl.errors import ConfigError
from mmo_rl.terminal import Terminal

log = logging.getLogger(__name__)


def console_of_log() -> Terminal:
    """Returns a console of which every line is a line of the log."""
    return Terminal(file=cast(TextIO, _Lines()), width=120, force_terminal=False)


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Writes everything from INFO on to ``path`` too, tracebacks included. Raises `ConfigError` where that cannot be
    written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _ToDisk(path, encoding="utf-8", delay=True)
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror or error}",
            hint="make its folder writable, or choose others: MMO_RL_HOME=DIR for data, MMO_RL_ROOT=DIR for runs",
        ) from None
    handler.addFilter(_NotRepeated())
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


class _Lines(io.TextIOBase):
    """File of a console: every whole line that is written to it is logged."""

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                log.info("%s", line.rstrip())
        return len(text)


class _ToDisk(logging.FileHandler):
    """Handler that says nothing of a full disk: the run's own error does."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _NotRepeated(logging.Filter):
    """Filter of lines that are equal to the last one: what is logged and then printed to a console of the log."""

    def __init__(self) -> None:
        super().__init__()
        self._last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage().rstrip()
        repeated = self._last == message and not record.exc_info
        self._last = message
        return not repeated
