"""The rules of a market, as a config declares them, and the names that occur in it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

TICKERS = ("NOVA", "BOLT", "ATLAS", "ORION", "PULSE", "VEGA", "ZEN", "KITE")
QUESTIONS = ("MERGER", "STRIKE", "RECALL", "LAUNCH", "AUDIT", "TARIFF")
RELIABLE_SOURCES = ("@wire", "@ledger")
RUMOUR_SOURCES = ("@anon", "@moon")
UP_PHRASES = ("soars", "beats", "rallies", "likely")
DOWN_PHRASES = ("sinks", "misses", "slides", "doubtful")


class MarketSpec:
    """The rules of a market.

    Money is in game dollars. ``drift_low``/``drift_high`` bound the size of a ticker's hidden log drift over the
    window, ``drift_bias`` is added to it (bull or bear markets), ``noise`` is the log volatility over the window.
    ``reliable_accuracy`` and ``rumour_accuracy`` are the chances that a news line names the true direction.
    One unit of size is a margin of ``unit_usd`` in a ticker or a stake of ``question_unit_usd`` in a question;
    ``liquidity_usd`` is the LMSR's b.
    """

    def __init__(
        self,
        *,
        ticks: Annotated[int, Field(ge=1, le=1000)] = 8,
        tickers: Annotated[int, Field(ge=1, le=len(TICKERS))] = 4,
        questions: Annotated[int, Field(ge=0, le=len(QUESTIONS))] = 2,
        start_cash_usd: Annotated[float, Field(gt=0)] = 10_000.0,
        unit_usd: Annotated[float, Field(gt=0)] = 500.0,
        question_unit_usd: Annotated[float, Field(gt=0)] = 100.0,
        max_size: Annotated[int, Field(ge=1, le=100)] = 3,
        leverage: Annotated[float, Field(ge=1, le=100)] = 3.0,
        fee: Annotated[float, Field(ge=0, lt=0.1)] = 0.001,
        drift_low: Annotated[float, Field(ge=0, le=1)] = 0.03,
        drift_high: Annotated[float, Field(ge=0, le=1)] = 0.11,
        drift_bias: Annotated[float, Field(ge=-1, le=1)] = 0.0,
        noise: Annotated[float, Field(ge=0, le=1)] = 0.06,
        liquidity_usd: Annotated[float, Field(gt=0)] = 8_000.0,
        reliable_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.88,
        rumour_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.35,
    ) -> None:
        self.ticks = ticks
        self.tickers = tickers
        self.questions = questions
        self.start_cash_usd = start_cash_usd
        self.unit_usd = unit_usd
        self.question_unit_usd = question_unit_usd
        self.max_size = max_size
        self.leverage = leverage
        self.fee = fee
        self.drift_low = drift_low
        self.drift_high = drift_high
        self.drift_bias = drift_bias
        self.noise = noise
        self.liquidity_usd = liquidity_usd
        self.reliable_accuracy = reliable_accuracy
        self.rumour_accuracy = rumour_accuracy
