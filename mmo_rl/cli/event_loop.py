"""Runs a coroutine to its end from code that is not asynchronous, also below a running event loop (Jupyter)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def run_to_end(main: Coroutine[object, object, T]) -> T:
    """Runs a coroutine and returns its result. In a thread whose event loop is running it gets a thread and a loop of
    its own; an interrupt cancels it and is raised when it has ended."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main)
    return _run_aside(main)


def _run_aside(main: Coroutine[object, object, T]) -> T:
    started = threading.Event()
    tasks: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = []

    async def noted() -> T:
        task = asyncio.ensure_future(main)
        tasks.append((asyncio.get_running_loop(), task))
        started.set()
        return await task

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="mmo-rl") as pool:
        future = pool.submit(asyncio.run, noted())
        try:
            return future.result()
        except KeyboardInterrupt:
            started.wait()
            loop, task = tasks[0]
            loop.call_soon_threadsafe(task.cancel)
            raise
