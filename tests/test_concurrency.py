"""The gather: order, bounds, and that nothing outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from mmo_rl.concurrency import gather_ordered


async def test_results_come_in_order_whatever_finishes_first() -> None:
    finished: list[int] = []
    release = [asyncio.Event() for _ in range(4)]
    release[3].set()

    async def worker(number: int) -> int:
        await release[number].wait()
        finished.append(number)
        release[number - 1].set()
        return number * 10

    assert [r async for r in gather_ordered(range(4), worker, limit=4)] == [0, 10, 20, 30]
    assert finished == [3, 2, 1, 0]


async def test_async_and_sync_inputs_and_none_at_all() -> None:
    async def worker(number: int) -> int:
        return number

    async def source() -> AsyncIterator[int]:
        for number in range(5):
            yield number

    assert [r async for r in gather_ordered(source(), worker, limit=2)] == [0, 1, 2, 3, 4]
    assert [r async for r in gather_ordered([], worker, limit=2)] == []
    assert [r async for r in gather_ordered(range(3), worker, limit=1, read_ahead=0)] == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 1"):
        await anext(gather_ordered([1], worker, limit=0))


async def test_workers_and_reading_are_bounded() -> None:
    running, most_running, read, most_ahead, taken = 0, 0, 0, 0, 0

    async def source() -> AsyncIterator[int]:
        nonlocal read, most_ahead
        for number in range(200):
            read += 1
            most_ahead = max(most_ahead, read - taken)
            yield number

    async def worker(number: int) -> int:
        nonlocal running, most_running
        running += 1
        most_running = max(most_running, running)
        for _ in range(10 + number % 7):
            await asyncio.sleep(0)
        running -= 1
        return number

    results = []
    async for result in gather_ordered(source(), worker, limit=3, read_ahead=5):
        taken += 1
        results.append(result)
    assert results == list(range(200))
    assert most_running == 3
    assert 3 < most_ahead <= 3 + 5 + 1


async def test_a_slow_source_does_not_hold_back_finished_results() -> None:
    more = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        await more.wait()
        yield 2

    async def worker(number: int) -> int:
        return number

    async with asyncio.timeout(5), aclosing(gather_ordered(source(), worker, limit=2)) as results:
        assert await anext(results) == 1
        more.set()
        assert await anext(results) == 2


@pytest.mark.parametrize("failing", [0, 2])
async def test_a_failure_is_raised_at_once_and_nothing_is_left_running(failing: int) -> None:
    cancelled: list[int] = []
    started = asyncio.Semaphore(0)
    closed = False

    async def source() -> AsyncIterator[int]:
        nonlocal closed
        try:
            for number in range(100):
                yield number
        finally:
            closed = True

    async def worker(number: int) -> int:
        if number == failing:
            for _ in range(3):
                await started.acquire()
            raise RuntimeError(f"item {number}")
        started.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # cleaning up takes a moment and is waited for
            cancelled.append(number)
            raise
        return number

    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match=f"item {failing}"):
            await anext(gather_ordered(source(), worker, limit=4))
    assert sorted(cancelled) == [n for n in range(4) if n != failing]
    assert closed
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_error_of_the_source_is_raised() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        raise OSError("the connection is gone")

    async def worker(number: int) -> int:
        await asyncio.Event().wait()
        return number

    async with asyncio.timeout(5):
        with pytest.raises(OSError, match="connection is gone"):
            await anext(gather_ordered(source(), worker, limit=2))
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_leaving_early_and_being_cancelled_clean_up() -> None:
    async def worker(number: int) -> int:
        if number:
            await asyncio.Event().wait()
        return number

    async with aclosing(gather_ordered(range(50), worker, limit=5)) as results:
        assert await anext(results) == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}

    async def consume() -> None:
        async with aclosing(gather_ordered(range(50), worker, limit=5)) as results:
            async for _ in results:
                reached.set()

    reached = asyncio.Event()
    task = asyncio.create_task(consume())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_slow_first_item_is_waited_for_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = 0
    wait = asyncio.wait

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal waits
        waits += 1
        return await wait(*args, **options)

    async def worker(number: int) -> int:
        await asyncio.sleep(0 if number else 0.2)
        return number

    monkeypatch.setattr(asyncio, "wait", counted)
    assert [r async for r in gather_ordered(range(8), worker, limit=8)] == list(range(8))
    assert waits <= 2 * 8 + 1
