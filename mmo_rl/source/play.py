"""Helpers of sources that stream recorded play whole: outcomes by window, and a blocking iterator in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import TypeVar

from mmo_rl.clock import window_at, window_id
from mmo_rl.origins import Where
from mmo_rl.source.base import IMPORTED, RecordedOutcomes
from mmo_rl.source.truth import ground_truth
from mmo_rl.source.values import Fields, as_text, pick
from mmo_rl.types import Trajectory, Window
from mmo_rl.window_ids import named_start

T = TypeVar("T")


def recorded_outcomes(rows: Iterable[Fields]) -> Iterator[RecordedOutcomes]:
    """Groups rows of ``market_outcomes`` by window and scenario, without rows whose window id names no hour."""
    by_window: dict[tuple[str, Window], list[Fields]] = {}
    for row in rows:
        name = as_text(pick(row, "windowId", "window_id"))
        start = named_start(name)
        if start is None:
            continue
        scenario, found, _ = (as_text(row.get("id")) or "").partition(f"/{name}/")
        window = Window(window_id(start), start, start + timedelta(hours=1))
        by_window.setdefault((scenario if found else IMPORTED, window), []).append(row)
    for (scenario, window), listed in by_window.items():
        truth = ground_truth(window, listed)
        if truth is not None:
            yield RecordedOutcomes(scenario, truth)


class Covered:
    """Hours and scenarios of the trajectories that ``where`` chose: outcomes of no others go with them."""

    def __init__(self, where: Where) -> None:
        self._all = not where
        self._hours: set[datetime] = set()
        self._scenarios: set[str] = set()

    def add(self, trajectory: Trajectory) -> None:
        """Notes a chosen trajectory."""
        if self._all:
            return
        hour = window_at(trajectory.start, 1.0).start
        named = named_start(trajectory.window_id)
        self._hours |= {hour} if named is None else {hour, named}
        while (hour := hour + timedelta(hours=1)) < trajectory.end and len(self._hours) < MAX_HOURS:
            self._hours.add(hour)
        if trajectory.scenario_id is not None:
            self._scenarios.add(trajectory.scenario_id)

    def has(self, recorded: RecordedOutcomes) -> bool:
        """Tells if outcomes are of a noted hour, and of a noted scenario or of none."""
        if self._all:
            return True
        known = recorded.scenario_id == IMPORTED or recorded.scenario_id in self._scenarios
        start = named_start(recorded.truth.window_id)
        return known and start is not None and start.replace(minute=0) in self._hours


MAX_HOURS = 200_000
"""Number of hours that are noted at most: an end in the far future is a wrong clock."""


async def iterate_in_thread(iterate: Callable[[], Iterator[T]]) -> AsyncIterator[T]:
    """Yields the items of a blocking iterator as they arrive, read ahead by a few in a thread of its own.

    When the reader leaves, or the process ends, a thread that waits for an item is left behind. An error of the
    iterator is raised here.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[list[T], Exception | None]] = asyncio.Queue(maxsize=8)

    def put(items: list[T], error: Exception | None = None) -> None:
        asyncio.run_coroutine_threadsafe(queue.put((items, error)), loop).result()

    def read() -> None:
        try:
            try:
                for item in iterate():
                    put([item])
            except Exception as error:  # noqa: BLE001 (raised again where the items are read)
                put([], error)
            else:
                put([])
        except RuntimeError:  # the loop is closed: the reader has left
            return

    threading.Thread(target=read, name="reader of standard input", daemon=True).start()
    while True:
        items, error = await queue.get()
        if error is not None:
            raise error
        if not items:
            return
        yield items[0]
