"""Names that occur in simulated markets: tickers, questions, sources of news and their phrases."""

from __future__ import annotations

TICKERS = ("NOVA", "BOLT", "ATLAS", "ORION", "PULSE", "VEGA", "ZEN", "KITE")
QUESTIONS = (
    "MERGER", "STRIKE", "RECALL", "LAUNCH", "AUDIT", "TARIFF", "PATENT", "LAWSUIT", "BUYBACK", "LAYOFFS",
    "SPLIT", "LISTING", "FINE", "AUCTION", "EMBARGO", "SUBSIDY", "OUTAGE", "BREACH", "ELECTION", "HARVEST",
)  # fmt: skip
"""The game has at most 20 active."""
FIRST_QUESTIONS = 6
"""Markets with no more questions draw from these alone, so that the names beyond change nothing in them."""
RELIABLE_SOURCES = ("@wire", "@ledger")
RUMOUR_SOURCES = ("@anon", "@moon")
UP_PHRASES = ("soars", "beats", "rallies", "likely")
DOWN_PHRASES = ("sinks", "misses", "slides", "doubtful")
