"""Dropout by chance: each trajectory on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmo_rl.types import Member


def random(groups: Sequence[Sequence[Member]], fractions: Mapping[str, float]) -> Mapping[str, float]:
    """A trajectory's number is its fraction: the hash of (id, seed), uniform in [0, 1).

    At rate r each stays with probability 1 - r, whatever else was recorded, so that a database can apply it to one row
    at a time.
    """
    return fractions
