"""Interrupts in the middle of a transaction: asyncpg logs no error, nothing of it is kept, and the next one works."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from mmo_rl.database.database import Database


async def test_interrupts_at_any_moment_leave_no_message_and_no_rows(database: Database) -> None:
    async with database.acquire() as connection:
        await connection.execute("create table notes (text text)")

    async def write() -> None:
        async with database.acquire() as connection:
            await connection.execute("insert into notes select 'lost' from generate_series(1, 1000), pg_sleep(0.05)")
            await asyncio.sleep(60)

    messages: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: messages.append(context["message"]))
    for turns in [*range(24), 400]:
        task = asyncio.create_task(write())
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        for _ in range(3):  # the end of a loop cancels again what is still at its cleaning
            task.cancel()
            await asyncio.sleep(0)
        with suppress(asyncio.CancelledError):
            await task
    assert messages == []
    async with database.acquire() as connection:
        assert await connection.fetchval("select count(*) from notes") == 0
