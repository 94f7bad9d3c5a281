"""Bounded gather that keeps the order of its items, and retries with exponential backoff."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar, cast

import tenacity

T = TypeVar("T")
R = TypeVar("R")

_END = object()
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waiting times between the attempts of `retry`, and the bound on these attempts.

    The n-th wait is ``first_s * 2**(n - 1)`` plus a random share of ``first_s`` (jitter), at most ``longest_s``. There
    are at most ``attempts`` of them, and none begins later than ``patience_s`` seconds after the first failure; at
    least one of the two bounds is given.
    """

    first_s: float
    longest_s: float
    attempts: int | None = None
    patience_s: float | None = None

    def __post_init__(self) -> None:
        if self.attempts is None and self.patience_s is None:
            raise ValueError("a backoff needs a bound: attempts or patience_s")


async def retry(
    work: Callable[[], Awaitable[R]],
    backoff: Backoff,
    *,
    transient: Callable[[Exception], bool],
    requested_s: Callable[[Exception], float | None] | None = None,
    on_wait: Callable[[Exception, float], None] | None = None,
    describe: Callable[[Exception], str] | None = None,
) -> R:
    """Returns ``await work()``, tried again after failures that are ``transient`` until ``backoff`` ends.

    ``requested_s`` reads from a failure how many seconds the server asks us to wait (``Retry-After``): that replaces
    the backoff's own wait, and a server that asks for more than ``backoff.longest_s`` is not asked again. Before each
    wait ``on_wait`` is called with the failure and the seconds, and a line is logged that holds the failure's first
    line, or ``describe(failure)`` where it may quote a secret. Raises the last failure of ``work`` as it is.
    """
    clock = asyncio.get_running_loop().time
    exponential = tenacity.wait_exponential(multiplier=backoff.first_s) + tenacity.wait_random(0, backoff.first_s)
    first_failure: float | None = None

    def remaining_s() -> float:
        nonlocal first_failure
        first_failure = clock() if first_failure is None else first_failure
        return float("inf") if backoff.patience_s is None else first_failure + backoff.patience_s - clock()

    def requested(error: Exception) -> float | None:
        return None if requested_s is None else requested_s(error)

    def may_recover(error: BaseException) -> bool:
        if not isinstance(error, Exception) or not transient(error):
            return False
        return (requested(error) or 0.0) <= backoff.longest_s and remaining_s() > 0

    def wait_s(state: tenacity.RetryCallState) -> float:
        asked = requested(_failure(state))
        wait = min(exponential(state), backoff.longest_s) if asked is None else asked
        return max(0.0, min(wait, remaining_s()))

    def before_wait(state: tenacity.RetryCallState) -> None:
        error = _failure(state)
        seconds = state.next_action.sleep if state.next_action else 0.0
        if on_wait is not None:
            on_wait(error, seconds)
        said = str(error).partition("\n")[0] or type(error).__name__ if describe is None else describe(error)
        _log.info("%s; trying again in %.1f s", said, seconds)

    async def attempt() -> R:  # tenacity awaits what it sees to be a coroutine function, which a lambda is not
        return await work()

    return await tenacity.AsyncRetrying(
        stop=tenacity.stop_never if backoff.attempts is None else tenacity.stop_after_attempt(backoff.attempts),
        wait=wait_s,
        retry=tenacity.retry_if_exception(may_recover),
        before_sleep=before_wait,
        reraise=True,
    )(attempt)


def _failure(state: tenacity.RetryCallState) -> Exception:
    return cast(Exception, state.outcome.exception() if state.outcome else None)


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
