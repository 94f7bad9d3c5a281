"""Judgments kept across runs, by the hash of everything that determines them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mmo_rl.database.database import Database
from mmo_rl.database.rows import to_json
from mmo_rl.types import JsonDict, Judgment, Score, Unscored


class StoredJudgments:
    """Implements `mmo_rl.judge.base.JudgmentCache` in the table ``mmo_rl.judgments``."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def get(self, key: str) -> tuple[Judgment, ...] | None:
        async with self._database.read_only().acquire() as connection:
            payload = await connection.fetchval("select payload from mmo_rl.judgments where key = $1", key)
        return None if payload is None else tuple(_judgment(item) for item in json.loads(payload))

    async def known(self, keys: Sequence[str]) -> set[str]:
        """Those of ``keys`` that have judgments; none where the table does not exist."""
        async with self._database.read_only().acquire() as connection:
            if await connection.fetchval("select to_regclass('mmo_rl.judgments') is null"):
                return set()
            rows = await connection.fetch("select key from mmo_rl.judgments where key = any($1::text[])", list(keys))
        return {row["key"] for row in rows}

    async def put(self, key: str, judgments: tuple[Judgment, ...]) -> None:
        async with self._database.acquire() as connection:
            await connection.execute(
                "insert into mmo_rl.judgments (key, payload) values ($1, $2)"
                " on conflict (key) do update set payload = excluded.payload, created_at = now()",
                key,
                to_json([_payload(judgment) for judgment in judgments]),
            )


def _payload(judgment: Judgment) -> JsonDict:
    if isinstance(judgment, Unscored):
        return {"trajectoryId": judgment.trajectory_id, "reason": _storable(judgment.reason)}
    decisions = judgment.decisions
    return {
        "trajectoryId": judgment.trajectory_id,
        "score": judgment.value,
        "explanation": _storable(judgment.explanation),
        "decisions": None if decisions is None else {str(number): value for number, value in decisions.items()},
    }


def _judgment(item: dict[str, Any]) -> Judgment:
    if "score" not in item:
        return Unscored(item["trajectoryId"], item["reason"])
    decisions = item["decisions"]
    return Score(
        trajectory_id=item["trajectoryId"],
        value=item["score"],
        explanation=item["explanation"],
        decisions=None if decisions is None else {int(number): value for number, value in decisions.items()},
    )


def _storable(text: str) -> str:
    """jsonb holds neither the character 0 nor half a surrogate pair."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
