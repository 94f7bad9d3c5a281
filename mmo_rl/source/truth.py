"""Ground truth of a window from rows of ``market_outcomes``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from mmo_rl.source.jsontext import Unreadable, decode_json
from mmo_rl.source.values import Fields, as_number, as_text, pick
from mmo_rl.types import GroundTruth, QuestionOutcome, TickerOutcome, Window
from mmo_rl.window_ids import named_start

HEADLINES = ("headline", "title", "content", "text", "description")


def ground_truth(window: Window, rows: Iterable[Fields], *, scenario_id: str | None = None) -> GroundTruth | None:
    """Reads the outcomes of the window's tickers and questions; None where nothing was recorded.

    ``rows`` may belong to other windows too. Over a window of several recorded ones a ticker goes from its first start
    price to its last end price, and a question has its last state. Rows that a simulated scenario recorded of its own
    world count for that scenario alone. Tickers without both prices are left out: a change that is not known is not 0.
    """
    mine = [row for row in rows if _within(window, row)]
    if scenario_id is not None:
        own = [row for row in mine if (as_text(row.get("id")) or "").startswith(f"{scenario_id}/")]
        mine = own or mine
    mine.sort(key=lambda row: _start(row) or window.start)
    tickers: dict[str, list[Fields]] = {}
    questions: dict[str, Fields] = {}
    for row in mine:
        if ticker := as_text(pick(row, "stockTicker", "stock_ticker")):
            tickers.setdefault(ticker, []).append(row)
        elif question := as_text(pick(row, "predictionMarketId", "prediction_market_id")):
            questions[question] = row
    truth = GroundTruth(
        window_id=window.id,
        tickers=tuple(t for name, found in tickers.items() if (t := _ticker(name, found)) is not None),
        questions=tuple(_question(name, row) for name, row in questions.items()),
    )
    return truth if truth.tickers or truth.questions else None


def other_names(window: Window) -> list[str]:
    """Lists ids in other formats that the hours of a window may have, and that do not sort among the usual ones."""
    hours = range(max(1, int((window.end - window.start) / timedelta(hours=1))))
    starts = [window.start + timedelta(hours=hour) for hour in hours]
    return [f"{start:%Y-%m-%d{separator}%H}" for start in starts for separator in "- T"] + [
        f"{start:%Y-%m-%d %H:%M}" for start in starts
    ]


def _within(window: Window, row: Fields) -> bool:
    start = _start(row)
    return start is not None and window.start <= start < window.end


def _start(row: Fields) -> datetime | None:
    return named_start(as_text(pick(row, "windowId", "window_id")))


def _ticker(name: str, rows: Sequence[Fields]) -> TickerOutcome | None:
    start = as_number(pick(rows[0], "startPrice", "start_price"))
    end = as_number(pick(rows[-1], "endPrice", "end_price"))
    if start is None or end is None or start <= 0:
        return None
    return TickerOutcome(name, start, end, tuple(line for row in rows for line in _news(row)))


def _news(row: Fields) -> list[str]:
    try:
        listed = decode_json(pick(row, "newsEvents", "news_events"), "newsEvents")
    except (Unreadable, RecursionError):
        return []
    items = listed if isinstance(listed, list) else [listed]
    texts = (as_text(pick(item, *HEADLINES) if isinstance(item, Mapping) else item) for item in items)
    return [text for text in texts if text]


def _question(name: str, row: Fields) -> QuestionOutcome:
    outcome = (as_text(row.get("outcome")) or "").upper()
    probability = as_number(pick(row, "finalProbability", "final_probability"))
    return QuestionOutcome(
        question_id=name,
        question=as_text(row.get("question")) or name,
        outcome="YES" if outcome == "YES" else "NO" if outcome == "NO" else "UNRESOLVED",
        final_probability=probability if probability is not None and 0 <= probability <= 1 else None,
    )
