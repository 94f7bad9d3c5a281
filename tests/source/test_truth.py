"""Ground truth of windows, also of windows that join several recorded ones."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from mmo_rl.clock import window_at
from mmo_rl.source.truth import ground_truth
from mmo_rl.types import QuestionOutcome, TickerOutcome

START = datetime(2025, 11, 14, 8, tzinfo=UTC)
HOUR = window_at(START, 1.0)


def stock(ticker: str, start: Any, end: Any, *, window: str = "2025-11-14T08:00", **more: Any) -> dict[str, Any]:
    return {"id": "x", "windowId": window, "stockTicker": ticker, "startPrice": start, "endPrice": end, **more}


def question(outcome: Any, *, window: str = "2025-11-14T08:00", **more: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "windowId": window,
        "predictionMarketId": "q",
        "question": "Will it?",
        "outcome": outcome,
        **more,
    }


def test_a_ticker_and_a_question() -> None:
    rows = [
        stock("X", Decimal("100.00"), Decimal("110.00"), newsEvents='["X soars", {"title": "X beats"}, {"n": 1}, 7]'),
        question("yes", finalProbability=Decimal("0.7500")),
    ]
    truth = ground_truth(HOUR, rows)
    assert truth is not None
    assert truth.window_id == HOUR.id
    assert truth.tickers == (TickerOutcome("X", 100.0, 110.0, ("X soars", "X beats", "7")),)
    assert truth.questions == (QuestionOutcome("q", "Will it?", "YES", 0.75),)


def test_nothing_recorded_is_none() -> None:
    assert ground_truth(HOUR, []) is None
    assert ground_truth(HOUR, [stock("X", 1, 2, window="2025-11-14T09:00"), stock("X", 1, 2, window="default")]) is None


def test_a_longer_window_goes_from_the_first_price_to_the_last() -> None:
    rows = [
        stock("X", 120, 90, window="2025-11-14T09:00", newsEvents=["second"]),
        stock("X", 100, 120, newsEvents=["first"]),
        stock("X", 90, 50, window="2025-11-14T10:00"),
        question("UNRESOLVED"),
        question("NO", window="2025-11-14T09:00"),
    ]
    truth = ground_truth(window_at(START, 2.0), rows)
    assert truth is not None
    assert truth.tickers == (TickerOutcome("X", 100.0, 90.0, ("first", "second")),)
    assert truth.questions[0].outcome == "NO"


def test_a_price_that_is_missing_is_not_a_price_of_zero() -> None:
    rows = [stock("A", None, 5), stock("B", 5, None), stock("C", 0, 5), stock("D", 5, 0)]
    truth = ground_truth(HOUR, rows)
    assert truth is not None
    assert [t.ticker for t in truth.tickers] == ["D"]


def test_a_scenario_counts_its_own_outcomes_where_it_has_any() -> None:
    rows = [
        stock("X", 1, 2, id="mine/2025-11-14T08:00/stock:X"),
        stock("X", 1, 9, id="mine too/2025-11-14T08:00/stock:X"),
    ]
    truth = ground_truth(HOUR, rows, scenario_id="mine")
    assert truth is not None
    assert truth.tickers == (TickerOutcome("X", 1.0, 2.0),)
    recorded = ground_truth(HOUR, [stock("X", 3, 4, id="cuid")], scenario_id="mine")
    assert recorded is not None
    assert recorded.tickers == (TickerOutcome("X", 3.0, 4.0),)


def test_outcomes_in_other_words() -> None:
    for found, outcome in (("YES", "YES"), ("no", "NO"), (None, "UNRESOLVED"), ("CANCELLED", "UNRESOLVED")):
        truth = ground_truth(HOUR, [question(found, finalProbability=7, newsEvents="{")])
        assert truth is not None
        assert (truth.questions[0].outcome, truth.questions[0].final_probability) == (outcome, None)
