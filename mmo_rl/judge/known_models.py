"""What is known of a judge model without asking it: its prices and its context length, from litellm's table."""

from __future__ import annotations

import functools
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class KnownModel:
    """Prices in US dollars a million tokens, ``context_tokens`` of prompt (and answer, for most); None: not known."""

    price_prompt_usd_per_mtok: float | None = None
    price_completion_usd_per_mtok: float | None = None
    context_tokens: int | None = None


def known_model(name: str) -> KnownModel:
    """What litellm's table says of the model of this name, with or without ``openai/`` before it.

    The file is read where litellm is installed; importing litellm would take seconds and ask the network.
    """
    table = _table()
    row = table.get(name) or table.get(name.removeprefix("openai/")) or {}
    return KnownModel(
        _a_million(row.get("input_cost_per_token")),
        _a_million(row.get("output_cost_per_token")),
        _tokens(row.get("max_input_tokens") or row.get("max_tokens")),
    )


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    spec = importlib.util.find_spec("litellm")
    if spec is None or spec.origin is None:
        return {}
    try:
        text = (Path(spec.origin).parent / "model_prices_and_context_window_backup.json").read_text("utf-8")
    except FileNotFoundError:  # another version keeps it elsewhere: nothing is known, which is said as unknown
        return {}
    table = json.loads(text)
    return {name: row for name, row in table.items() if isinstance(row, dict)}


def _a_million(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        return None
    return round(value * 1e6, 9)


def _tokens(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
