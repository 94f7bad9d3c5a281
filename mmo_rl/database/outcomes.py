"""Outcomes of windows, derived from recorded play and stored in the game's table ``market_outcomes``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from mmo_rl.clock import parse_window_id, utc_now, window_id
from mmo_rl.database.base import Connection, Database, Row, Tracked
from mmo_rl.database.observed import observe
from mmo_rl.database.rows import insert_rows, naive_utc, to_json
from mmo_rl.errors import DatabaseError
from mmo_rl.source.base import source_overrides
from mmo_rl.types import GroundTruth, TickerOutcome, Trajectory, Window

ORIGIN = "recorded prices"
"""Begins the id of every derived row, where a simulated world's rows have their scenario."""
PRICE_LIMIT = 10**8  # numeric(10,2)
CHANGE_LIMIT = 10**3  # numeric(5,2), in percent
PROBABILITY_LIMIT = 10  # numeric(5,4)
TICKER_LENGTH = 20


class DerivedOutcomes:
    """Implements `mmo_rl.database.base.OutcomesTracker` over the prices and questions that agents saw.

    They are recomputed whenever asked until the window is final (``settle_minutes`` after its end) and kept from then
    on. Rows that the game or a simulated world recorded itself are never changed; only instruments that they leave out
    are added. All calls may be repeated and made by several processes at once.
    """

    def __init__(
        self, *, database: Database, settle_minutes: float = 5.0, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._settle = timedelta(minutes=settle_minutes)
        self._now = now

    async def final(self, windows: Iterable[Window]) -> set[str]:
        """Returns the ids of windows whose derived outcomes are final: they need not be read again.

        Raises `DatabaseError` where the table does not exist."""
        by_id = {window.id: window for window in windows}
        async with self._database.read_only().acquire() as connection:
            if await connection.fetchval("select to_regclass('market_outcomes') is null"):
                raise DatabaseError(
                    f"the database ({self._database.name}) has no table market_outcomes",
                    hint=f"mmo-rl task=migrate{source_overrides(self._database.dsn_env)}",
                )
            rows = await connection.fetch(
                'select "windowId" as id, min("createdAt") as derived from market_outcomes'
                " where \"windowId\" = any($1::text[]) and split_part(id, '/', 1) = any($2::text[])"
                ' group by "windowId"',
                list(by_id),
                list({_origin(window) for window in by_id.values()}),
            )
        return {row["id"] for row in rows if row["derived"] >= naive_utc(by_id[row["id"]].end + self._settle)}

    async def track(self, window: Window, trajectories: Iterable[Trajectory], *, recompute: bool = False) -> Tracked:
        """Stores the outcomes that these trajectories (all that were recorded of the window) show.

        A final window is left as it is, unless ``recompute``.
        """
        if not recompute and window.id in await self.final([window]):
            return Tracked(window, "kept")
        observed = observe(window, trajectories)
        truth, now = observed.truth(), naive_utc(self._now())
        skipped = Counter(observed.skipped)
        async with self._database.acquire() as connection:
            await _one_writer(connection)
            stored = await connection.fetch(
                'select id, "stockTicker" as ticker, "predictionMarketId" as question, outcome from market_outcomes'
                ' where "windowId" = $1',
                window.id,
            )
            others = [row for row in stored if not row["id"].startswith(ORIGIN)]
            tickers = {row["ticker"] for row in others}
            answered = {row["question"]: (row["outcome"] or "").upper() in ("YES", "NO") for row in others}
            fitting = [t for t in truth.tickers if _fits(t, skipped)]
            new = GroundTruth(
                window.id,
                tuple(t for t in fitting if t.ticker not in tickers),
                # A question that the game left open gets a row of ours beside its own once its answer is known.
                tuple(
                    q
                    for q in truth.questions
                    if q.question_id not in answered or (not answered[q.question_id] and q.outcome != "UNRESOLVED")
                ),
            )
            rows = [row | {"createdAt": now} for row in outcome_rows(new, origin=_origin(window))]
            # Those of shorter or longer windows go too: an hour's end price is no quarter's.
            await connection.execute(
                'delete from market_outcomes where "windowId" >= $1 and "windowId" < $2 and starts_with(id, $3)',
                window.id,
                window_id(window.end),
                ORIGIN,
            )
            await insert_rows(connection, "market_outcomes", rows)
        if rows:
            return Tracked(window, "stored", new.tickers, new.questions, skipped)
        return Tracked(window, "game" if fitting or truth.questions else "none", skipped=skipped)

    async def resolve_late(self) -> int:
        """Answers open questions of derived outcomes that any window's outcomes resolve; returns how many rows.

        Probabilities stay as they were recorded. Answers in simulated worlds hold for those alone, and a question
        answered both ways stays open.
        """
        async with self._database.acquire() as connection:
            await _one_writer(connection)
            worlds: Sequence[Row] = ()
            if await connection.fetchval("select to_regclass('mmo_rl.worlds') is not null"):
                worlds = await connection.fetch('select "start", "end" from mmo_rl.worlds')
            answers: dict[str, set[str]] = {}
            for row in await connection.fetch(
                'select distinct "predictionMarketId" as question, upper(outcome) as outcome, "windowId" as window'
                " from market_outcomes where upper(outcome) in ('YES', 'NO') and \"predictionMarketId\" in"
                ' (select "predictionMarketId" from market_outcomes'
                " where outcome = 'UNRESOLVED' and starts_with(id, $1))",
                ORIGIN,
            ):
                start = parse_window_id(row["window"])
                if start is None or not _within(start, worlds):
                    answers.setdefault(row["question"], set()).add(row["outcome"])
            known = {question: found.pop() for question, found in answers.items() if len(found) == 1}
            open_rows = await connection.fetch(
                'select id, "predictionMarketId" as question, "windowId" as window from market_outcomes'
                " where outcome = 'UNRESOLVED' and starts_with(id, $1) and \"predictionMarketId\" = any($2::text[])",
                ORIGIN,
                list(known),
            )
            resolved = [
                (row["id"], known[row["question"]])
                for row in open_rows
                if (start := parse_window_id(row["window"])) is None or not _within(start, worlds)
            ]
            await connection.executemany("update market_outcomes set outcome = $2 where id = $1", resolved)
        return len(resolved)


# --- rows -----------------------------------------------------------------------------------------------------------


def outcome_rows(truth: GroundTruth, *, origin: str) -> list[dict[str, object]]:
    """Builds rows of ``market_outcomes`` without ``createdAt``.

    Prices are kept to the cent; a number that the table's columns cannot hold is null. The same instrument of a window
    and origin (a scenario) is always the same row.
    """
    prefix = _prefix(truth.window_id, origin)
    rows: list[dict[str, object]] = [
        {
            "id": f"{prefix}stock:{ticker.ticker}",
            "windowId": truth.window_id,
            "stockTicker": ticker.ticker,
            "startPrice": _decimal(ticker.start_price, PRICE_LIMIT),
            "endPrice": _decimal(ticker.end_price, PRICE_LIMIT),
            "changePercent": _decimal(ticker.change_pct, CHANGE_LIMIT) if ticker.start_price else None,
            "sentiment": ticker.sentiment,
            "newsEvents": to_json(ticker.news),
        }
        for ticker in truth.tickers
    ]
    for question in truth.questions:
        probability = question.final_probability
        rows.append(
            {
                "id": f"{prefix}question:{question.question_id}",
                "windowId": truth.window_id,
                "predictionMarketId": question.question_id,
                "question": question.question,
                "outcome": question.outcome,
                "finalProbability": None if probability is None else _decimal(probability, PROBABILITY_LIMIT, places=4),
            }
        )
    return rows


async def delete_outcomes(connection: Connection, window: str, origin: str) -> None:
    """Removes the rows that one origin stored of a window; no others."""
    await connection.execute(
        'delete from market_outcomes where "windowId" = $1 and starts_with(id, $2)',
        window,
        _prefix(window, origin),
    )


def _origin(window: Window) -> str:
    minutes = (window.end - window.start).total_seconds() / 60
    return ORIGIN if minutes == 60 else f"{ORIGIN}, {minutes:g} min"


def _prefix(window: str, origin: str) -> str:
    return f"{origin}/{window}/"


def _fits(ticker: TickerOutcome, skipped: Counter[str]) -> bool:
    if len(ticker.ticker) > TICKER_LENGTH:
        skipped[f"tickers with names over {TICKER_LENGTH} characters"] += 1
        return False
    if max(ticker.start_price, ticker.end_price) >= PRICE_LIMIT:
        skipped["tickers with prices over 99,999,999.99"] += 1
        return False
    return True


def _within(moment: datetime, worlds: Sequence[Row]) -> bool:
    return any(world["start"] <= moment.astimezone(UTC) < world["end"] for world in worlds)


async def _one_writer(connection: Connection) -> None:
    """Locks out the trackers of other processes until this transaction ends."""
    await connection.execute("select pg_advisory_xact_lock(hashtext('mmo_rl.outcomes'))")


def _decimal(value: float, limit: int, *, places: int = 2) -> Decimal | None:
    number = Decimal(repr(value))
    if not number.is_finite():
        return None
    rounded = round(number, places)
    return rounded if abs(rounded) < limit else None
