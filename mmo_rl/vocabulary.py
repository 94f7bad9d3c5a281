"""Action vocabulary: the meaning of every action name, and where side, size, price and instrument stand.

One table, two readings of it: `Vocabulary` for the actions of recordings, to which a config adds names of one's own
game, and `ANSWERED` for the orders that a policy writes to the simulated market. Names are compared in upper case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mmo_rl.errors import ConfigError
from mmo_rl.numbers import parse_number
from mmo_rl.types import Action

Kind = Literal["open", "close", "wait", "post"]
Direction = Literal[-1, 0, 1]
"""+1 is long or YES, -1 is short or NO, 0 is neither."""
Meaning = Literal["open", "long", "short", "close", "wait", "post"]
"""Meaning of a name in a config: ``open`` takes a position on the side that stands among the parameters; ``long`` and
``short`` have one by their name."""
MEANINGS: Mapping[Meaning, tuple[Kind, Direction]] = {
    "open": ("open", 0),
    "long": ("open", 1),
    "short": ("open", -1),
    "close": ("close", 0),
    "wait": ("wait", 0),
    "post": ("post", 0),
}


@dataclass(frozen=True, slots=True)
class ActionName:
    """Name of an action and its meaning.

    - ``open`` takes a position or adds to it, in ``direction``; among its parameters a side of the other direction
      (short, sell, no) turns one that is +1 by its name, and gives one to a name that has none
    - ``close`` gives up holdings of an instrument
    - ``wait`` does nothing
    - ``post`` talks to other agents

    ``recorded`` and ``answered`` tell which of the two readings knows it.
    """

    name: str
    kind: Kind
    direction: Direction = 0
    recorded: bool = True
    answered: bool = True


@dataclass(frozen=True, slots=True)
class Fields:
    """Keys of an action's parameters, by the meaning of their value; earlier keys go before later ones. ``size`` is in
    money or in the game's units of it, ``shares`` times the price is money."""

    instrument: tuple[str, ...]
    side: tuple[str, ...]
    size: tuple[str, ...]
    shares: tuple[str, ...] = ()
    price: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Meaning of one recorded action. ``kind`` is None for an unknown name, ``size`` is at least 0; values
    that are not recorded are None. ``direction`` 0 of an opening: its side is not told."""

    kind: Kind | None
    direction: Direction
    instrument: str | None
    size: float | None
    price: float | None

    @property
    def unknown_trade(self) -> bool:
        """True for an action that names an instrument by a name that has no meaning."""
        return self.kind is None and self.instrument is not None

    @property
    def trade(self) -> bool:
        """True for an action that opens, closes, or may do so."""
        return self.kind in ("open", "close") or self.unknown_trade


@dataclass(frozen=True, slots=True)
class Table:
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


class Vocabulary:
    """Vocabulary of recorded actions: the shipped names (`ACTIONS`) and those of one's own game.

    ``actions`` maps a name to its meaning, and goes before the shipped ones. ``instrument``, ``side``, ``size``
    (money), ``shares`` and ``price`` are keys of parameters that are looked at before the usual ones.
    """

    def __init__(
        self,
        *,
        actions: Mapping[str, Meaning] | None = None,
        instrument: Sequence[str] = (),
        side: Sequence[str] = (),
        size: Sequence[str] = (),
        shares: Sequence[str] = (),
        price: Sequence[str] = (),
    ) -> None:
        own = {name.upper(): ActionName(name.upper(), *MEANINGS[meaning]) for name, meaning in (actions or {}).items()}
        self.table = Table(
            names={action.name: action for action in ACTIONS if action.recorded} | own,
            fields=Fields(
                instrument=(*instrument, "ticker", "marketId", "market_id", "symbol"),
                side=(*side, "side", "outcome"),
                size=(*size, "size", "amount", "notional"),
                shares=(*shares, "shares", "quantity", "contracts"),
                price=(*price, "price", "entryPrice", "avgPrice"),
            ),
        )

    @staticmethod
    def check_keys(*, actions: Mapping[str, str] | None = None, **_: object) -> None:
        """Raises `ConfigError` where two spellings of one name have different meanings."""
        seen: dict[str, tuple[str, str]] = {}
        for name, meaning in (actions or {}).items():
            other, known = seen.setdefault(name.upper(), (name, meaning))
            if known != meaning:
                raise ConfigError(
                    f"vocabulary.actions has {other}: {known} and {name}: {meaning}",
                    hint="case does not matter: keep one",
                )

    def kind(self, name: str) -> Kind | None:
        """Returns the kind of an action by its name, in any case; None for an unknown one."""
        return self.table.kind(name)

    def read(self, action: Action) -> Reading:
        """Reads a recorded action. A price in its result, which is the price paid, goes before one that was asked."""
        found, fields, parameters = self.table.find(action.action_type), self.table.fields, action.parameters
        price = _number(action.result or {}, fields.price)
        price = _number(parameters, fields.price) if price is None else price
        size = _number(parameters, fields.size)
        if size is None and (shares := _number(parameters, fields.shares)) is not None:
            size = shares * (1.0 if price is None else price)
        return Reading(
            kind=None if found is None else found.kind,
            direction=_direction(found, parameters, fields.side),
            instrument=self.instrument(action),
            size=None if size is None else abs(size),
            price=price,
        )

    def instrument(self, action: Action) -> str | None:
        """Returns the ticker or question that an action names."""
        name = _first(action.parameters, self.table.fields.instrument)
        return name if isinstance(name, str) else None


def turned(direction: Direction, side: object) -> Direction:
    """Returns the direction of an action by its name once its ``side`` is known."""
    if direction == 1 and isinstance(side, str) and SIDES.get(side.upper()) == -1:
        return -1
    return direction


SIDES: Mapping[str, Direction] = {
    **dict.fromkeys(("LONG", "BUY", "YES", "UP", "BULLISH"), 1),
    **dict.fromkeys(("SHORT", "SELL", "NO", "DOWN", "BEARISH"), -1),
}
"""Words for the two sides."""

ACTIONS: tuple[ActionName, ...] = (
    ActionName("BUY", "open", +1),
    ActionName("LONG", "open", +1),
    ActionName("YES", "open", +1, recorded=False),
    ActionName("BUY_SHARES", "open", +1),
    ActionName("OPEN_PERP", "open", +1),
    ActionName("OPEN_PERP_POSITION", "open", +1),
    ActionName("BUY_PREDICTION_SHARES", "open", +1),
    ActionName("TRADE", "open", answered=False),
    ActionName("TRADING_DECISION", "open", answered=False),
    ActionName("SELL", "open", -1),
    ActionName("SHORT", "open", -1),
    ActionName("NO", "open", -1, recorded=False),
    ActionName("SELL_SHARES", "open", -1),
    ActionName("CLOSE", "close"),
    ActionName("CLOSE_PERP", "close"),
    ActionName("CLOSE_PERP_POSITION", "close"),
    ActionName("CLOSE_POSITION", "close", answered=False),
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
    ActionName("FOLLOW", "post", answered=False),
    ActionName("LIKE", "post", answered=False),
    ActionName("SEND_DM", "post", answered=False),
    ActionName("GROUP_MESSAGE", "post", answered=False),
)
"""The shipped names: those of the game's recorders and tables, and those of the simulated market."""

ANSWERED = Table(
    names={action.name: action for action in ACTIONS if action.answered},
    fields=Fields(
        instrument=("ticker", "marketId", "market_id"), side=("side", "outcome"), size=("size", "shares", "amount")
    ),
)
"""Orders that the simulated market carries out."""

SHIPPED = Vocabulary()
"""The shipped names alone: what the simulated market records needs no others."""


def _direction(found: ActionName | None, parameters: Mapping[str, object], keys: Sequence[str]) -> Direction:
    """Returns the direction of an opening: that of its name, turned by its side; 0 where neither tells."""
    if found is None or found.kind != "open":
        return 0
    if found.direction == -1:
        return -1
    for key in keys:
        value = parameters.get(key)
        side = SIDES.get(value.strip().upper()) if isinstance(value, str) else None
        if isinstance(value, bool):  # the outcome that is bet on
            side = 1 if value else -1
        if side is not None:
            return side
    return found.direction


def _first(values: Mapping[str, object], keys: Sequence[str]) -> object:
    """Returns the first value under ``keys`` that is neither missing nor empty."""
    return next((value for key in keys if (value := values.get(key))), None)


def _number(values: Mapping[str, object], keys: Sequence[str]) -> float | None:
    """Returns the first finite number under ``keys``."""
    return next((number for key in keys if (number := parse_number(values.get(key))) is not None), None)
