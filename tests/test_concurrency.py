"""The gather: order, bounds, and that nothing outlives it. Retries: waits, bounds, and what is never tried again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from mmo_rl.concurrency import Backoff, gather_ordered, retry


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


# --- retries --------------------------------------------------------------------------------------------------------


class Busy(Exception):
    """A failure that may pass; ``asked_s`` is how long the server asks us to wait."""

    def __init__(self, text: str = "busy", asked_s: float | None = None) -> None:
        super().__init__(text)
        self.asked_s = asked_s


class Attempts:
    """Fails with each of ``failures`` in turn, then returns 7; notes when it was called."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.times: list[float] = []

    async def __call__(self) -> int:
        self.times.append(asyncio.get_running_loop().time())
        if self.failures:
            raise self.failures.pop(0)
        return 7


def is_busy(error: Exception) -> bool:
    return isinstance(error, Busy)


async def test_waits_double_have_jitter_and_end_at_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    work = Attempts(*(Busy() for _ in range(6)))
    assert await retry(lambda: work(), Backoff(first_s=1.0, longest_s=10.0, attempts=9), transient=is_busy) == 7
    assert len(work.times) == 7
    for wait, least, most in zip(waits, (1, 2, 4, 8, 10, 10), (2, 3, 5, 9, 10, 10), strict=True):
        assert least <= wait <= most
    assert waits[:3] != [1, 2, 4]


async def test_attempts_are_bounded_and_the_last_failure_is_raised_as_it_is() -> None:
    failures = [Busy("first"), Busy("second"), Busy("third"), Busy("fourth")]
    work = Attempts(*failures)
    with pytest.raises(Busy) as caught:
        await retry(work, Backoff(first_s=0.001, longest_s=0.01, attempts=3), transient=is_busy)
    assert caught.value is failures[2]
    assert len(work.times) == 3


async def test_patience_counts_from_the_first_failure_and_the_last_attempt_is_at_its_end() -> None:
    async def slow_then_busy() -> int:
        if not work.times:
            await asyncio.sleep(0.3)  # a query that worked for longer than the patience before its connection broke
        return await work()

    work = Attempts(*(Busy() for _ in range(1000)))
    with pytest.raises(Busy):
        await retry(slow_then_busy, Backoff(first_s=0.02, longest_s=0.1, patience_s=0.25), transient=is_busy)
    assert len(work.times) > 3
    assert 0.25 <= work.times[-1] - work.times[0] < 0.4


async def test_what_cannot_recover_is_not_tried_again() -> None:
    for failure in (ValueError("wrong"), asyncio.CancelledError()):
        work = Attempts(failure)
        with pytest.raises(type(failure)):
            await retry(work, Backoff(first_s=0.001, longest_s=0.01, attempts=3), transient=is_busy)
        assert len(work.times) == 1
    with pytest.raises(ValueError, match="needs a bound"):
        Backoff(first_s=1.0, longest_s=2.0)


async def test_a_server_is_waited_for_as_long_as_it_asks_but_no_longer_than_the_longest_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    noted: list[tuple[str, float]] = []
    backoff = Backoff(first_s=30.0, longest_s=60.0, attempts=5)

    def asked(error: Exception) -> float | None:
        return error.asked_s if isinstance(error, Busy) else None

    def note(error: Exception, seconds: float) -> None:
        noted.append((str(error), seconds))

    caplog.set_level(logging.INFO, "mmo_rl.concurrency")
    work = Attempts(Busy("limited\nkey 123", 0.05), Busy("limited", 0.0))
    assert await retry(work, backoff, transient=is_busy, requested_s=asked, on_wait=note) == 7
    assert noted == [("limited\nkey 123", 0.05), ("limited", 0.0)]
    assert work.times[1] - work.times[0] >= 0.05
    assert [record.message for record in caplog.records] == [
        "limited; trying again in 0.1 s",
        "limited; trying again in 0.0 s",
    ]
    work = Attempts(Busy("come back tomorrow", 86_400.0))
    with pytest.raises(Busy, match="tomorrow"):
        await retry(work, backoff, transient=is_busy, requested_s=asked, describe=lambda _: "hidden")
    assert len(work.times) == 1
