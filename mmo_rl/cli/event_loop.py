"""Runs a coroutine to its end from code that is not asynchronous, also below a running event loop (Jupyter)."""

from __future__ import annotations

import asyncio
import signal
import socket
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
        return asyncio.run(_woken_by_signals(main))
    return _run_aside(main)


async def _woken_by_signals(main: Coroutine[object, object, T]) -> T:
    """Awaits ``main`` while every signal wakes the event loop.

    A signal that comes between Python's last look at its signals and the system call that the loop sleeps in is only
    noted: its handler would run when the loop wakes for another reason, perhaps a minute later.
    """
    if threading.current_thread() is not threading.main_thread():
        return await main
    loop = asyncio.get_running_loop()
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        loop.add_reader(reader, reader.recv, 4096)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            return await main
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(reader)


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
