"""One bounded, order-keeping gather for everything that waits on a network or a process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from typing import TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")

_END = object()


async def gather_ordered(
    items: AsyncIterable[T] | Iterable[T],
    worker: Callable[[T], Awaitable[R]],
    *,
    limit: int,
    read_ahead: int | None = None,
) -> AsyncGenerator[R, None]:
    """Yields ``worker(item)`` for every item, in the order of the items.

    At most ``limit`` workers run at once, and at most ``limit + read_ahead`` items are held (running, or finished and
    waiting for an earlier one), so memory stays bounded however long ``items`` is; ``read_ahead`` is ``limit`` unless
    told, which keeps the workers busy behind one slow item.

    The first failure, of a worker or of ``items``, is raised as soon as it happens, before results that are still
    outstanding. Whatever way the iteration ends, the remaining workers are cancelled and awaited, and an ``items``
    that is a generator is closed. Wrap it in `contextlib.aclosing` where the loop over it may be left early.

    Raises `ValueError` where ``limit`` is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    held = limit + (limit if read_ahead is None else read_ahead)
    slots = asyncio.Semaphore(limit)
    source = _iterate(items)
    pending: deque[asyncio.Task[R]] = deque()
    read: asyncio.Task[T | object] | None = None
    exhausted = False

    async def run(item: T) -> R:
        async with slots:
            return await worker(item)

    try:
        while True:
            if read is None and not exhausted and len(pending) < held:
                read = asyncio.create_task(_next(source))
            # Not those that are done behind a slow first one: waiting for them returns at once, again and again.
            waiting: list[asyncio.Task[R] | asyncio.Task[T | object]] = [task for task in pending if not task.done()]
            if read is not None:
                waiting.append(read)
            if not waiting:
                return
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                if task.done():
                    task.result()
            if read is not None and read.done():
                item = read.result()
                read = None
                if item is _END:
                    exhausted = True
                else:
                    pending.append(asyncio.create_task(run(cast(T, item))))
            while pending and pending[0].done():
                yield pending.popleft().result()
    finally:
        leftover = [*pending] if read is None else [*pending, read]
        for unfinished in leftover:
            unfinished.cancel()
        await asyncio.gather(*leftover, return_exceptions=True)
        await source.aclose()


async def _iterate(items: AsyncIterable[T] | Iterable[T]) -> AsyncGenerator[T, None]:
    if isinstance(items, AsyncIterable):
        iterator = aiter(items)
        try:
            async for item in iterator:
                yield item
        finally:
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()
    else:
        for item in items:
            yield item


async def _next(source: AsyncGenerator[T, None]) -> T | object:
    return await anext(source, _END)
