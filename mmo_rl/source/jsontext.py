"""Tolerant JSON parser, and the error and texts by which unreadable values are reported."""

from __future__ import annotations

import json

import msgspec


class Unreadable(Exception):
    """A value that cannot be read: its field, its text and the reason, of which a `Rejection` is made."""

    def __init__(self, field: str, found: object, reason: str) -> None:
        super().__init__(field, reason)
        self.field, self.found, self.reason = field, excerpt(found), reason


def decode_json(value: object, field: str) -> object:
    """Decodes JSON text, also where it was encoded twice; returns anything else as it is."""
    for _ in range(2):
        if not isinstance(value, str | bytes):
            break
        if not value.strip():
            return None
        value = parse_json(value, field)
    return value


def parse_json(text: str | bytes, field: str) -> object:
    """Parses JSON, also with NaN, 1e400 or half surrogate pairs.

    Raises `Unreadable`, and `RecursionError` where it is nested too deeply.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        pass  # the standard library reads more; it decides
    try:
        return json.loads(text)
    except UnicodeDecodeError:
        raise Unreadable(field, text, "not UTF-8") from None
    except ValueError:
        raise Unreadable(field, text, "not JSON") from None


def excerpt(value: object) -> str:
    """Shortens a value to the text of a report; None is an empty text."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value[:400].decode("utf-8", "replace").strip()
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:  # an integer of thousands of digits
        text = type(value).__name__
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    text = text if len(text) <= 80 else f"{text[:77]}..."
    return text.encode("utf-8", "replace").decode()
