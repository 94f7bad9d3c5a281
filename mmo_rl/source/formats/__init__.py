"""Readers of other tools' recordings, which turn them into rows as ``task=import`` reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from mmo_rl.source.formats import atif, verifiers, verifiers_results
from mmo_rl.source.formats.common import Row
from mmo_rl.source.values import Fields
from mmo_rl.types import Rejection

Rows: TypeAlias = Iterator[Row | Rejection]


@dataclass(frozen=True, slots=True)
class Format:
    """Format of another tool, one recording a JSON value: ``recognises`` looks at the keys of a value, ``rows`` yields
    a row a trajectory, or a rejection; its ``place`` names it there."""

    name: str
    recognises: Callable[[Fields], bool]
    rows: Callable[[Fields, str], Rows]


FORMATS = (
    Format("ATIF trajectory", atif.recognises, atif.rows),
    Format("verifiers episode", verifiers.recognises, verifiers.rows),
    Format("verifiers 0.1 result", verifiers_results.recognises, verifiers_results.rows),
)


def format_of(value: Fields) -> Format | None:
    """Recognises a recording of another tool by its keys."""
    return next((known for known in FORMATS if known.recognises(value)), None)
