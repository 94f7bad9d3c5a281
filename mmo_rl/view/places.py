"""Addresses of the viewer's pages: as URLs of a server, and as files of a folder that needs none."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import quote

LONGEST_NAME = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A page. ``run`` is (experiment, key), ``group`` a window's id (with its role), ``trajectory`` an id in it; the
    first that is missing says what kind of page it is: without ``run`` they are those of the source."""

    run: tuple[str, str] | None = None
    group: str | None = None
    trajectory: str | None = None
    page: int = 0
    listing: Literal["runs", "windows"] = "runs"

    def url(self) -> str:
        """Path and query on a server."""
        base = "" if self.run is None else f"/runs/{_quoted(self.run[0])}/{_quoted(self.run[1])}"
        if self.group is not None:
            agent = "" if self.trajectory is None else f"?agent={_quoted(self.trajectory)}"
            return f"{base}/windows/{quote(self.group, safe='/:')}{agent}"
        paged = f"?page={self.page}" if self.page else ""
        if self.run is not None:
            return base + paged
        return ("/windows" if self.listing == "windows" else "/") + paged

    def file(self) -> PurePosixPath:
        """Path in a folder of files."""
        base = PurePosixPath() if self.run is None else PurePosixPath("runs", *map(file_name, self.run))
        if self.group is None:
            name = "windows" if self.run is None and self.listing == "windows" else "index"
            return base / f"{name}{self.page or ''}.html"
        window = base / "windows" / file_name(self.group)
        if self.trajectory is None:
            return window.with_name(window.name + ".html")
        return window / f"{file_name(self.trajectory)}.html"


Link = Callable[[Place], str]
"""Address of a page as the page at hand writes it."""


def relative(page: Place) -> Link:
    """Links from ``page`` to others as files."""
    return lambda place: quote(os.path.relpath(place.file(), page.file().parent))


def file_name(text: str) -> str:
    """Name of a file for an id: the id itself where it is a plain word, else its beginning and a hash."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", text) and len(text) <= LONGEST_NAME:
        return text
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[: LONGEST_NAME - 11]
    return f"{plain}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:10]}"


def _quoted(text: str) -> str:
    return quote(text, safe=":", errors="replace")
