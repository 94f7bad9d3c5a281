"""Queries to any PostgreSQL database, and the contents of one as a script."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from mmo_rl.database.embedded import EmbeddedServer


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def rows(url: str, query: str, *arguments: object) -> list[dict[str, Any]]:
    """The rows of a query, or of a statement that returns some."""
    async with connected(url) as connection:
        return [dict(row) for row in await connection.fetch(query, *arguments)]


async def execute(url: str, script: str) -> None:
    """Executes one or more statements."""
    async with connected(url) as connection:
        await connection.execute(script)


async def rows_at_home(home: Path, query: str) -> list[dict[str, Any]]:
    """The rows of a query to the embedded database of a home, whose server is started where it does not run."""
    async with embedded(home) as server:
        return await rows(server.dsn(), query)


@asynccontextmanager
async def embedded(home: Path) -> AsyncIterator[EmbeddedServer]:
    """The server of a home, running."""
    server = EmbeddedServer(data_dir=home / "postgres")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def load_script(server: EmbeddedServer, url: str, script: bytes) -> None:
    """Executes an SQL script, as ``pg_dump`` writes it, in one of the server's databases."""
    assert server.placement is not None
    command = [str(server.placement.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", url]
    subprocess.run(command, input=script, stdout=subprocess.DEVNULL, check=True)
