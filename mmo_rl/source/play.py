"""Helpers of sources that stream recorded play whole: outcomes by window, and a blocking iterator in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from mmo_rl.clock import window_id
from mmo_rl.source.base import IMPORTED, RecordedOutcomes
from mmo_rl.source.truth import ground_truth
from mmo_rl.source.values import Fields, as_text, pick
from mmo_rl.types import Window
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
