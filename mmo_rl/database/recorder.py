"""Stores play as it happens, in the game's own tables."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import asyncpg

from mmo_rl.clock import utc_now
from mmo_rl.database.database import Database
from mmo_rl.database.rows import call_row, naive_utc, to_json, trajectory_row
from mmo_rl.database.schema import quoted
from mmo_rl.errors import DatabaseError
from mmo_rl.types import GroundTruth, QuestionOutcome, TickerOutcome, Trajectory, Window

PRICE_LIMIT = 10**8  # numeric(10,2)
CHANGE_LIMIT = 10**3  # numeric(5,2), in percent
PROBABILITY_LIMIT = 10  # numeric(5,4)


class TrajectoryRecorder:
    """Implements `mmo_rl.database.base.Recorder`: one transaction a trajectory, with every step and every LLM call.

    Raises `DatabaseError` where a trajectory id is already stored, or the database is a game's own and does not know
    the agent.
    """

    def __init__(self, *, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now
        self._hours: dict[str, int] = {}
        self._has_role: bool | None = None

    async def begin_window(self, window: Window, *, scenario_id: str) -> None:
        """Removes what an interrupted run of this scenario stored of this window; nothing else is ever removed."""
        hours = (window.end - window.start).total_seconds() / 3600
        self._hours[window.id] = max(1, round(hours))
        async with self._database.acquire() as connection:
            await connection.execute(
                'delete from llm_call_logs where "trajectoryId" in'
                ' (select "trajectoryId" from trajectories where "windowId" = $1 and "scenarioId" = $2)',
                window.id,
                scenario_id,
            )
            await connection.execute(
                'delete from trajectories where "windowId" = $1 and "scenarioId" = $2', window.id, scenario_id
            )
            await _delete_outcomes(connection, window.id, scenario_id)

    async def record(self, trajectory: Trajectory) -> None:
        now = self._now()
        row = trajectory_row(trajectory, window_hours=self._hours.get(trajectory.window_id, 1), now=now)
        calls = [
            call_row(trajectory.trajectory_id, step, index, call, now=now)
            for step in trajectory.steps
            for index, call in enumerate(step.llm_calls)
        ]
        try:
            async with self._database.acquire() as connection:
                if trajectory.role is not None:
                    if await self._role_column(connection):
                        row["archetype"] = trajectory.role
                    else:
                        row["metadataJson"] = to_json(trajectory.metadata | {"archetype": trajectory.role})
                await _insert(connection, "trajectories", [row])
                await _insert(connection, "llm_call_logs", calls)
        except asyncpg.UniqueViolationError:
            raise DatabaseError(
                f"the trajectory {trajectory.trajectory_id} is already recorded",
                hint="give the experiment another name (name=...) or another seed",
            ) from None
        except asyncpg.ForeignKeyViolationError:
            raise DatabaseError(
                f"{self._database.name} is a game's own database and has no agent {trajectory.agent_id}",
                hint="collect=none trains on what is there; database=embedded records on this machine",
            ) from None

        except asyncpg.DataError as error:
            raise DatabaseError(
                f"the trajectory {trajectory.trajectory_id} does not fit the tables: {error}",
                hint="a shorter experiment name (name=...) makes shorter ids",
            ) from None

    async def record_outcomes(self, truth: GroundTruth, *, scenario_id: str) -> None:
        """Replaces what this scenario stored of the window's outcomes. Prices are kept to the cent; a number that the
        table's columns cannot hold is stored as null."""
        now = naive_utc(self._now())
        rows = [_ticker_row(truth.window_id, scenario_id, ticker) | {"createdAt": now} for ticker in truth.tickers]
        rows += [
            _question_row(truth.window_id, scenario_id, question) | {"createdAt": now} for question in truth.questions
        ]
        async with self._database.acquire() as connection:
            await _delete_outcomes(connection, truth.window_id, scenario_id)
            await _insert(connection, "market_outcomes", rows)

    async def _role_column(self, connection: Any) -> bool:
        if self._has_role is None:
            self._has_role = await connection.fetchval(
                "select exists(select from pg_attribute where attrelid = to_regclass('trajectories')"
                " and attname = 'archetype' and not attisdropped)"
            )
        return bool(self._has_role)


def outcome_id(scenario_id: str, window_id: str, instrument: str) -> str:
    """The key of an outcome: the same instrument of the same window and scenario is always the same row."""
    return f"{scenario_id}/{window_id}/{instrument}"


async def _delete_outcomes(connection: Any, window_id: str, scenario_id: str) -> None:
    await connection.execute(
        'delete from market_outcomes where "windowId" = $1 and starts_with(id, $2)',
        window_id,
        outcome_id(scenario_id, window_id, ""),
    )


async def _insert(connection: Any, table: str, rows: list[dict[str, Any]]) -> None:
    for columns in {tuple(row) for row in rows}:
        names = ", ".join(map(quoted, columns))
        places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        values = [tuple(row.values()) for row in rows if tuple(row) == columns]
        await connection.executemany(f"insert into {table} ({names}) values ({places})", values)


def _ticker_row(window_id: str, scenario_id: str, ticker: TickerOutcome) -> dict[str, Any]:
    return {
        "id": outcome_id(scenario_id, window_id, f"stock:{ticker.ticker}"),
        "windowId": window_id,
        "stockTicker": ticker.ticker,
        "startPrice": _decimal(ticker.start_price, PRICE_LIMIT),
        "endPrice": _decimal(ticker.end_price, PRICE_LIMIT),
        "changePercent": _decimal(ticker.change_pct, CHANGE_LIMIT) if ticker.start_price else None,
        "sentiment": ticker.sentiment,
        "newsEvents": to_json(ticker.news),
    }


def _question_row(window_id: str, scenario_id: str, question: QuestionOutcome) -> dict[str, Any]:
    probability = question.final_probability
    return {
        "id": outcome_id(scenario_id, window_id, f"question:{question.question_id}"),
        "windowId": window_id,
        "predictionMarketId": question.question_id,
        "question": question.question,
        "outcome": question.outcome,
        "finalProbability": None if probability is None else _decimal(probability, PROBABILITY_LIMIT, places=4),
    }


def _decimal(value: float, limit: int, *, places: int = 2) -> Decimal | None:
    number = Decimal(repr(value))
    if not number.is_finite():
        return None
    rounded = round(number, places)
    return rounded if abs(rounded) < limit else None
