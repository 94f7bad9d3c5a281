"""Words of messages about configs: values as people write them, and the nearest name to a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near(word: str, candidates: Iterable[str], prefix: str = "") -> str:
    """Hint ``; did you mean ...?`` with the candidate that is nearest to ``word``; empty where none is near."""
    names = list(dict.fromkeys(candidates))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not close:
        close = [n for n in names if len(word) > 3 and (word in n or n in word)][:1]
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def show(value: object) -> str:
    """A value as people write it in YAML, cut where it is long."""
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, (bool, type(None))) else None
    text = text or (repr(value) if isinstance(value, str) else str(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
