"""Text of strangers made harmless for a terminal or a log: nothing in it colours, hides, or moves a cursor.

Ids, roles, answers, paths and values of configs come from recordings, models, endpoints and users.
"""

from __future__ import annotations

import codecs
import io
from typing import TextIO

_REPLACEMENT = 0xFFFD
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
"""Pictures of the C0 controls, as ``␛`` for the escape character."""
_UNSEEN = (
    (0x80, 0xA0),  # C1 controls, of which some terminals take one for the start of an escape sequence
    (0x061C, 0x061D),  # marks, embeddings, overrides and isolates of the writing direction
    (0x200E, 0x2010),
    (0x2028, 0x202F),  # and the separators of lines and paragraphs
    (0x2066, 0x206A),
    (0xD800, 0xE000),  # halves of a pair: no encoding takes them
    (0xFFF9, 0xFFFC),
    (0xE0000, 0xE0080),  # tags
)
_HARMLESS = _PICTURES | {code: _REPLACEMENT for first, end in _UNSEEN for code in range(first, end)}


_UNSTORABLE = dict.fromkeys((0, *range(55296, 57344)), _REPLACEMENT)


_PLAINER = {"\u2212": "-", "\u2013": "-", "\u2014": "-", "\u2192": "->", "\u2026": "...", "\u00b7": "*", "\u2019": "'"}
"""What is written for a character in an encoding that has it not: a minus sign must not become a question mark."""


def write_whatever_it_can(stream: TextIO) -> None:
    """Lets a stream write plainer characters for those that its encoding (ASCII, in the C locale) has not."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        codecs.register_error("plainer", _plainer)
        stream.reconfigure(errors="plainer")


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAINER.get(character, "?") for character in error.object[error.start : error.end]), error.end


def storable(text: str) -> str:
    """Replaces NUL, which PostgreSQL refuses in texts, and halves of surrogate pairs, which no encoding takes."""
    return text if text.isascii() and "\0" not in text else text.translate(_UNSTORABLE)


def harmless(text: str) -> str:
    """Replaces every control character but newlines and tabs, and every mark of the writing direction, by one visible
    character each."""
    return text if text.isascii() and text.isprintable() else text.translate(_HARMLESS)


def one_line(text: str) -> str:
    """Makes ``text`` harmless and writes its newlines as ``\\n``: it can begin no line of its own."""
    return harmless(text).replace("\n", "\\n")
