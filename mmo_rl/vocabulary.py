"""Action vocabulary: the meaning of every action name, and where side, size, price and instrument stand.

One table, two readings of it: `RECORDED` for the actions of recordings, `ANSWERED` for the orders that a policy writes
to the simulated market. Names are compared in upper case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mmo_rl.types import Action

Kind = Literal["open", "close", "wait", "post"]
Direction = Literal[-1, 0, 1]
"""+1 is long or YES, -1 is short or NO, 0 is neither."""


@dataclass(frozen=True, slots=True)
class ActionName:
    """Name of an action and its meaning.

    - ``open`` takes a position or adds to it, in ``direction``; among its parameters a side of the other direction
      (short, sell, no) turns one that is +1 by its name
    - ``close`` gives up all holdings of an instrument
    - ``wait`` does nothing
    - ``post`` talks to other agents

    ``recorded`` and ``answered`` tell which of `RECORDED` and `ANSWERED` know it.
    """

    name: str
    kind: Kind
    direction: Direction = 0
    recorded: bool = True
    answered: bool = True


@dataclass(frozen=True, slots=True)
class Fields:
    """Keys of an action's parameters, by the meaning of their value; earlier keys go before later ones."""

    instrument: tuple[str, ...]
    side: tuple[str, ...]
    size: tuple[str, ...]
    price: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Meaning of one recorded action. ``kind`` is None for an unknown name, ``size`` is at least 0; values
    that are not recorded are None."""

    kind: Kind | None
    direction: Direction
    instrument: str | None
    size: float | None
    price: float | None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Action names in upper case with their meaning, and the ``fields`` of their parameters."""

    names: Mapping[str, ActionName]
    fields: Fields

    def find(self, name: str) -> ActionName | None:
        """Returns the entry of an action's name, in any case; None for an unknown one."""
        return self.names.get(name.upper())

    def kind(self, name: str) -> Kind | None:
        """Returns the kind of an action by its name; None for an unknown one."""
        found = self.find(name)
        return None if found is None else found.kind

    def read(self, action: Action) -> Reading:
        """Reads a recorded action. A price in its result, which is the price paid, goes before one that was asked."""
        found = self.find(action.action_type)
        parameters, fields = action.parameters, self.fields
        size = _number(parameters, fields.size)
        return Reading(
            kind=None if found is None else found.kind,
            direction=0 if found is None else turned(found.direction, _first(parameters, fields.side)),
            instrument=self.instrument(action),
            size=None if size is None else abs(size),
            price=_number(action.result or {}, fields.price) or _number(parameters, fields.price),
        )

    def instrument(self, action: Action) -> str | None:
        """Returns the ticker or question that an action names."""
        name = _first(action.parameters, self.fields.instrument)
        return name if isinstance(name, str) else None


def turned(direction: Direction, side: object) -> Direction:
    """Returns the direction of an action by its name once its ``side`` is known."""
    if direction == 1 and isinstance(side, str) and side.upper() in _NEGATIVE_SIDES:
        return -1
    return direction


_NEGATIVE_SIDES = frozenset({"SHORT", "SELL", "NO"})

ACTIONS: tuple[ActionName, ...] = (
    ActionName("BUY", "open", +1),
    ActionName("LONG", "open", +1),
    ActionName("YES", "open", +1, recorded=False),
    ActionName("BUY_SHARES", "open", +1),
    ActionName("OPEN_PERP", "open", +1),
    ActionName("OPEN_PERP_POSITION", "open", +1),
    ActionName("BUY_PREDICTION_SHARES", "open", +1),
    ActionName("SELL", "open", -1),
    ActionName("SHORT", "open", -1),
    ActionName("NO", "open", -1, recorded=False),
    ActionName("SELL_SHARES", "open", -1),
    ActionName("CLOSE", "close"),
    ActionName("CLOSE_PERP", "close"),
    ActionName("CLOSE_PERP_POSITION", "close"),
    ActionName("SELL_PREDICTION_SHARES", "close"),
    ActionName("HOLD", "wait"),
    ActionName("WAIT", "wait"),
    ActionName("NONE", "wait", answered=False),
    ActionName("NOOP", "wait", answered=False),
    ActionName("NO_OP", "wait", answered=False),
    ActionName("DO_NOTHING", "wait", answered=False),
    ActionName("NOTHING", "wait", answered=False),
    ActionName("SKIP", "wait", answered=False),
    ActionName("PASS", "wait", answered=False),
    ActionName("POST", "post"),
    ActionName("CREATE_POST", "post"),
    ActionName("CREATE_COMMENT", "post"),
    ActionName("COMMENT_ON_POST", "post"),
    ActionName("SEND_MESSAGE", "post"),
    ActionName("COMMENT", "post", answered=False),
    ActionName("REPLY", "post", answered=False),
    ActionName("REPOST", "post", answered=False),
    ActionName("SEND_DM", "post", answered=False),
    ActionName("GROUP_MESSAGE", "post", answered=False),
)

RECORDED = Vocabulary(
    names={action.name: action for action in ACTIONS if action.recorded},
    fields=Fields(instrument=("ticker", "marketId"), side=("side",), size=("size",), price=("price",)),
)
"""Actions of recordings, the game's and the simulated market's."""

ANSWERED = Vocabulary(
    names={action.name: action for action in ACTIONS if action.answered},
    fields=Fields(
        instrument=("ticker", "marketId", "market_id"), side=("side", "outcome"), size=("size", "shares", "amount")
    ),
)
"""Orders that the simulated market carries out."""


def _first(values: Mapping[str, object], keys: tuple[str, ...]) -> object:
    """Returns the first value under ``keys`` that is neither missing nor empty."""
    return next((value for key in keys if (value := values.get(key))), None)


def _number(values: Mapping[str, object], keys: tuple[str, ...]) -> float | None:
    """Returns the first finite number under ``keys``."""
    for key in keys:
        value = values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None
