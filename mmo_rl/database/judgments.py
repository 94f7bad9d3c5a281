"""Cache of judgments across runs, by the hash of everything that determines them, with claims of workers."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from mmo_rl.database.base import Database
from mmo_rl.database.rows import to_json
from mmo_rl.errors import DatabaseError
from mmo_rl.milestones import reached
from mmo_rl.types import JsonDict, Judgment, Score, Unscored

_log = logging.getLogger(__name__)

_FIND = "select payload from mmo_rl.judgments where key = $1"
_RELEASE = "delete from mmo_rl.judgment_claims where key = $1 and owner = $2"
# In one statement: the stored judgment, or the claim to make it. A claim whose lease has run out is free again.
_FIND_OR_CLAIM = """
    with kept as (
        select payload from mmo_rl.judgments where key = $1
    ), claimed as (
        insert into mmo_rl.judgment_claims as claims (key, owner, expires_at)
        select $1, $2, clock_timestamp() + $3 * interval '1 second' where not exists (select from kept)
        on conflict (key) do update set owner = excluded.owner, expires_at = excluded.expires_at
            where claims.expires_at < clock_timestamp()
        returning key
    )
    select (select payload from kept) as payload, exists (select from claimed) as claimed
"""
_PUT = """
    with released as (delete from mmo_rl.judgment_claims where key = $1 and owner = $3)
    insert into mmo_rl.judgments (key, payload) values ($1, $2)
    on conflict (key) do update set payload = excluded.payload, created_at = now()
"""
_RENEW = """
    update mmo_rl.judgment_claims set expires_at = clock_timestamp() + $3 * interval '1 second'
    where owner = $1 and key = any($2)
"""
_WORTH_A_LOOK = """
    select key from unnest($1::text[]) as key
    where exists (select from mmo_rl.judgments j where j.key = key.key)
        or not exists (
            select from mmo_rl.judgment_claims c where c.key = key.key and c.expires_at >= clock_timestamp()
        )
"""


class StoredJudgments:
    """Implements `mmo_rl.judge.base.JudgmentCache` in the tables ``mmo_rl.judgments`` and ``judgment_claims``.

    A worker that finds nothing under a key leaves a claim with a lease of ``lease_s`` seconds by the database's clock,
    and renews it while it works; others that want the same key, in this process or anywhere, look again every
    ``poll_s`` seconds. The claim of a worker that was killed runs out by itself.
    """

    def __init__(self, *, database: Database, lease_s: float = 15.0, poll_s: float = 0.25) -> None:
        self._database = database
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._owner = uuid.uuid4()
        self._held: set[str] = set()
        self._waiting: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._renewing: asyncio.Task[None] | None = None
        self._polling: asyncio.Task[None] | None = None

    async def get(self, key: str) -> tuple[Judgment, ...] | None:
        """Returns the judgments stored under ``key``, without a claim to it."""
        async with self._database.read_only().acquire() as connection:
            payload = await connection.fetchval(_FIND, key)
        return _judgments(payload)

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[tuple[Judgment, ...] | None]:
        """Yields the judgments stored under ``key``; None where they are to be made inside the block and `put`."""
        while True:
            if key not in self._held:
                async with self._database.acquire() as connection:
                    [row] = await connection.fetch(_FIND_OR_CLAIM, key, self._owner, self._lease_s)
                    payload, claimed = row["payload"], row["claimed"]
                    if claimed:  # another worker may have stored it, and dropped its claim, since that statement began
                        payload = await connection.fetchval(_FIND, key)
                        if payload is not None:
                            await connection.execute(_RELEASE, key, self._owner)
                if payload is not None:
                    yield _judgments(payload)
                    return
                if claimed:
                    break
            await self._worth_a_look(key)
        reached("judgment claimed")
        self._held.add(key)
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())
        try:
            yield None
        finally:
            if key in self._held:
                self._held.discard(key)
                await self._release(key)
            if not self._held and self._renewing is not None:
                self._renewing.cancel()
                self._renewing = None

    async def known(self, keys: Sequence[str]) -> set[str]:
        """Returns the keys that have judgments; none where the table does not exist."""
        async with self._database.read_only().acquire() as connection:
            if await connection.fetchval("select to_regclass('mmo_rl.judgments') is null"):
                return set()
            rows = await connection.fetch("select key from mmo_rl.judgments where key = any($1::text[])", list(keys))
        return {row["key"] for row in rows}

    async def put(self, key: str, judgments: tuple[Judgment, ...]) -> None:
        async with self._database.acquire() as connection:
            payload = to_json([_payload(judgment) for judgment in judgments])
            await connection.execute(_PUT, key, payload, self._owner)
        reached("judgment stored")
        self._held.discard(key)

    # --- claims -------------------------------------------------------------------------------------------------------

    async def _release(self, key: str) -> None:
        try:
            async with self._database.acquire() as connection:
                await connection.execute(_RELEASE, key, self._owner)
        except DatabaseError as error:  # the error that ended the block is raised; the lease runs out by itself
            _log.warning("a claim to a judgment could not be released, it runs out in %g s: %s", self._lease_s, error)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                async with self._database.acquire() as connection:
                    await connection.execute(_RENEW, self._owner, list(self._held), self._lease_s)
            except DatabaseError as error:
                _log.warning("claims to judgments could not be renewed, others may make them again: %s", error)

    async def _worth_a_look(self, key: str) -> None:
        """Waits until another worker's claim to ``key`` has ended, with judgments or without."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[key].append(future)
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            await future
        finally:
            waiting = self._waiting[key]
            if future in waiting:
                waiting.remove(future)
            if not waiting:
                del self._waiting[key]

    async def _poll(self) -> None:
        """Looks for all waiting keys with one query, again until none waits."""
        while self._waiting:
            await asyncio.sleep(self._poll_s)
            try:
                async with self._database.read_only().acquire() as connection:
                    rows = await connection.fetch(_WORTH_A_LOOK, list(self._waiting))
            except DatabaseError as error:
                for futures in list(self._waiting.values()):
                    for future in futures:
                        if not future.done():
                            future.set_exception(error)
                return
            for row in rows:
                for future in self._waiting.get(row["key"], ()):
                    if not future.done():
                        future.set_result(None)


class _Stored(msgspec.Struct, rename="camel"):
    """A judgment as the table holds it: with a ``reason`` it is unscored."""

    trajectory_id: str
    score: float | None = None
    explanation: str = ""
    decisions: dict[int, float] | None = None
    reason: str | None = None


def _judgments(payload: str | None) -> tuple[Judgment, ...] | None:
    return None if payload is None else tuple(map(_judgment, msgspec.json.decode(payload, type=list[_Stored])))


def _payload(judgment: Judgment) -> JsonDict:
    if isinstance(judgment, Unscored):
        return {"trajectoryId": judgment.trajectory_id, "reason": jsonb_text(judgment.reason)}
    decisions = judgment.decisions
    return {
        "trajectoryId": judgment.trajectory_id,
        "score": judgment.value,
        "explanation": jsonb_text(judgment.explanation),
        "decisions": None if decisions is None else {str(number): value for number, value in decisions.items()},
    }


def _judgment(stored: _Stored) -> Judgment:
    if stored.score is None:
        return Unscored(stored.trajectory_id, stored.reason or "")
    return Score(stored.trajectory_id, stored.score, stored.explanation, stored.decisions)


def jsonb_text(text: str) -> str:
    """Replaces characters that jsonb cannot hold: the character 0 and half surrogate pairs."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
