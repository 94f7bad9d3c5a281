"""Random dropout, of each trajectory on its own.

    number(id) = md5("id:seed")[:8] / 2^32

It is uniform in [0, 1) and the same on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmo_rl.types import Member


def random(groups: Sequence[Sequence[Member]], fractions: Mapping[str, float]) -> Mapping[str, float]:
    """Returns the fractions as they are: the hash of (id, seed), uniform in [0, 1).

    At rate r each trajectory stays with probability 1 - r, whatever else was recorded, so that a database can apply it
    to one row at a time.
    """
    return fractions
