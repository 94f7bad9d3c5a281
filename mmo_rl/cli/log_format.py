"""Format of log lines: one line a message, with secrets masked; what was logged can forge no line of its own."""

from __future__ import annotations

import copy
import logging
import textwrap
from types import TracebackType

from mmo_rl.plain_text import harmless, one_line
from mmo_rl.report.mask import mask

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class LineFormatter(logging.Formatter):
    """Formatter that masks secrets, writes newlines of a message as ``\\n``, and indents tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)
        record.exc_text = None  # another handler's formatter may have left its own there
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(mask(super().formatMessage(record)))

    def formatException(self, ei: _ExcInfo) -> str:
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    return textwrap.indent(harmless(mask(text)), "    ", lambda _: True)
