"""Parts that rows of every format are made of: tool calls, actions, P&L."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from mmo_rl.source.values import Fields, as_fields, as_number, as_text, pick

Row: TypeAlias = dict[str, object]
"""Object of JSON in the making: a row, or a part of one."""
PNL = ("finalPnL", "final_pnl", "pnl", "P&L")
BALANCE = ("finalBalance", "final_balance", "balance")
WINDOW = ("windowId", "window_id", "window")
SCENARIO = ("scenarioId", "scenario_id", "scenario")


def tool_call(identity: object, name: object, arguments: object) -> Row:
    """Makes a tool call as OpenAI's API says it; ``arguments`` are an object or its text, which stays as it is."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": text}}


def action_of(calls: Sequence[Fields], results: Mapping[str | None, object]) -> Row | None:
    """Makes the action of a step: the first of its tool calls, with what the tool answered (by the call's id)."""
    if not calls:
        return None
    function = as_fields(calls[0].get("function"))
    arguments = as_text(function.get("arguments")) or ""
    try:
        parameters = json.loads(arguments)
    except ValueError:
        parameters = None
    action: Row = {
        "actionType": function.get("name"),
        "parameters": parameters if isinstance(parameters, dict) else {"input": arguments},
    }
    if (identity := as_text(calls[0].get("id"))) in results:
        action["result"] = {"content": results[identity]}
    return action


def totals(*places: object) -> Row:
    """Reads P&L and balance at the end from the first of the objects that has them."""
    found = [as_fields(place) for place in places]
    return {
        "finalPnL": next((n for f in found if (n := as_number(pick(f, *PNL))) is not None), None),
        "finalBalance": next((n for f in found if (n := as_number(pick(f, *BALANCE))) is not None), None),
    }


def first_of(names: Sequence[str], *places: object) -> object:
    """Returns the first value under one of the names in the first object that has it."""
    return next((v for place in places if (v := pick(as_fields(place), *names)) is not None), None)


def without_none(fields: Fields) -> Row:
    return {key: value for key, value in fields.items() if value is not None}
