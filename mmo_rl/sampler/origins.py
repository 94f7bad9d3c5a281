"""Origins of selected windows, as the lines that every command which reads recorded play prints."""

from __future__ import annotations

from collections.abc import Sequence

from mmo_rl.origins import told
from mmo_rl.source.base import Source, Traceable
from mmo_rl.types import SelectedWindow
from mmo_rl.window_ids import split_id

LOOKED_AT = 5_000
"""Trajectories whose origin is read at most, spread evenly over the windows."""


async def origin_lines(source: Source, windows: Sequence[SelectedWindow]) -> list[str]:
    """Reads the origin of the trajectories in ``windows``; returns the line that names it, and one that names a mix of
    markets or policies. None for a source that does not tell origins."""
    if not isinstance(source, Traceable):
        return []
    recorded = [identity for chosen in windows for identity in chosen.recorded_ids]
    recorded = recorded[:: -(-len(recorded) // LOOKED_AT) or 1]
    ids = dict.fromkeys(name for identity in recorded for name in (identity, split_id(identity)[0]))
    return told(await source.origins(list(ids)), windows)
