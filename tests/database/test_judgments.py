"""Judgments come back as they were given."""

from __future__ import annotations

from mmo_rl.database.database import Database
from mmo_rl.database.judgments import StoredJudgments
from mmo_rl.types import Score, Unscored


async def test_scores_and_what_was_not_scored_come_back(database: Database) -> None:
    cache = StoredJudgments(database=database)
    given = (
        Score("a", 0.1 + 0.2, "bought before the fall"),
        Score("b", 1.0, "", {0: 0.5, 12: 0.25}),
        Score("c", 0.0, decisions={}),
        Unscored("d", "the judge named no score"),
    )
    assert await cache.get("key") is None
    await cache.put("key", given)
    assert await cache.get("key") == given
    assert await cache.get("other") is None


async def test_the_newest_judgment_counts(database: Database) -> None:
    cache = StoredJudgments(database=database)
    await cache.put("key", (Score("a", 0.5),))
    await cache.put("key", (Score("a", 0.75),))
    assert await cache.get("key") == (Score("a", 0.75),)
    await cache.put("none", ())
    assert await cache.get("none") == ()


async def test_any_explanation_can_be_stored(database: Database) -> None:
    cache = StoredJudgments(database=database)
    await cache.put("key", (Score("a", 0.5, 'nul \x00, half \ud800, "quoted" \\u0000'),))
    assert await cache.get("key") == (Score("a", 0.5, 'nul \ufffd, half ?, "quoted" \\u0000'),)


async def test_which_judgments_are_there_is_asked_at_once(database: Database) -> None:
    cache = StoredJudgments(database=database)
    await cache.put("kept", (Score("a", 0.5),))
    assert await cache.known(["kept", "other"]) == {"kept"}
    assert await cache.known([]) == set()
    async with database.acquire() as connection:
        await connection.execute("drop table mmo_rl.judgments")
    assert await cache.known(["kept"]) == set()
