"""Log of rejected rows: counts by reason, and a file with every one of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from mmo_rl.types import Rejection

KEPT = 100
WRITTEN = 10_000
"""Rejections that are written; more are counted. A file of millions of objects that are none of ours fills no disk."""


class Rejections:
    """Log of rejections: counts them, keeps the first for a report, writes them to the file ``path`` (None: to none),
    at most `WRITTEN`. The file of an earlier reading is removed, so that a file stands only where this reading rejected
    something."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._counts: Counter[str] = Counter()
        self._first: list[Rejection] = []
        self._known: set[Rejection] = set()
        self._begun = False
        self._written = 0

    def begin(self) -> None:
        """Removes the file of an earlier reading, once: call it before the first row is read."""
        if self.path is not None and not self._begun:
            self.path.unlink(missing_ok=True)
        self._begun = True

    @property
    def counts(self) -> Mapping[str, int]:
        """Rejections by reason."""
        return self._counts

    @property
    def first(self) -> Sequence[Rejection]:
        return self._first

    def add_once(self, rejection: Rejection) -> None:
        """Adds a rejection that the same row, read again, would add again."""
        if rejection in self._known:
            return
        if len(self._known) < WRITTEN:  # beyond, one that is read again is counted again
            self._known.add(rejection)
        self.add(rejection)

    def add(self, rejection: Rejection) -> None:
        self._counts[rejection.reason] += 1
        if len(self._first) < KEPT:
            self._first.append(rejection)
        if self.path is None or self._written >= WRITTEN:
            return
        self._written += 1
        self.begin()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(rejection)) + "\n")

    def summary(self) -> str:
        """Returns the reasons in one line, the most frequent first, and the file that has them all."""
        total = sum(self._counts.values())
        if not total:
            return "nothing rejected"
        reasons = ", ".join(f"{count} x {reason}" for reason, count in self._counts.most_common(5))
        which = "each one is" if total <= WRITTEN else f"the first {WRITTEN:,} are"
        where = f"; {which} in {self.path}" if self.path is not None else ""
        return f"{total} rejected ({reasons}){where}"
