"""Account of one agent's positions: recorded actions become trades, each with its side, size and price.

A close is the opposite trade of what is held. Selling without a size gives up what is held, else sells one unit short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmo_rl.quotes import seen_price
from mmo_rl.types import Step
from mmo_rl.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Trade:
    """Trade in an instrument: ``direction`` +1 buys (long, YES), -1 sells (short, NO); ``size`` in money or in the
    game's units, 1 where none is recorded; ``price`` paid, else the price that the agent saw, None where neither is
    recorded. Of a question it is the price of the side ``priced_side``: a close tells what the shares held were sold
    at. ``closes``: it gives up what is held."""

    instrument: str
    direction: Literal[-1, 1]
    size: float
    price: float | None
    priced_side: Literal[-1, 1]
    closes: bool = False


@dataclass(frozen=True, slots=True)
class NoTrade:
    """Action that trades nothing."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Action that trades and cannot be told, with the reason."""

    reason: str


class Positions:
    """Positions of an agent, nothing at first; `apply` takes its successful steps in their order."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._held: dict[str, float] = {}
        self._opened_as: dict[str, str] = {}

    def apply(self, step: Step) -> Trade | NoTrade | Unknown:
        """Reads a step's action as a trade, and carries it out."""
        action = step.action
        read = self._vocabulary.read(action)
        if read.unknown_trade:
            return Unknown(f"no meaning of {action.action_type}")
        if read.kind not in ("open", "close"):
            return NoTrade()
        instrument = read.instrument
        position = action.parameters.get("positionId", (action.result or {}).get("positionId"))
        if read.kind == "close" and instrument is None:
            instrument = self._opened_as.get(str(position)) or self._only()
        if instrument is None:
            return Unknown(f"{action.action_type} names no instrument")
        held = self._held.get(instrument, 0.0)
        if read.kind == "close":
            if held == 0:
                return Unknown(f"{action.action_type} of {instrument}, of which nothing is held")
            direction: Literal[-1, 1] = -1 if held > 0 else 1
            size = abs(held) if read.size is None else min(abs(held), read.size)
        elif read.direction == 0:
            return Unknown(f"{action.action_type} of {instrument} without a side")
        else:
            direction = read.direction
            size = read.size if read.size is not None else abs(held) if held * direction < 0 else 1.0
            if position is not None:
                self._opened_as[str(position)] = instrument
        self._held[instrument] = held + direction * size
        closes = read.kind == "close"
        if read.price is None:
            return Trade(instrument, direction, size, seen_price(step, instrument), priced_side=1, closes=closes)
        priced_side: Literal[-1, 1] = direction if not closes else (1 if direction < 0 else -1)
        return Trade(instrument, direction, size, read.price, priced_side, closes)

    def _only(self) -> str | None:
        """Returns the only instrument that is held; None of none or several."""
        held = [instrument for instrument, size in self._held.items() if size]
        return held[0] if len(held) == 1 else None
