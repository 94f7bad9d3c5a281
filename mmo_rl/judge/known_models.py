"""Prices and context lengths of models, from litellm's table."""

from __future__ import annotations

import functools
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class KnownModel:
    """Prices in US dollars a million tokens, and ``context_tokens`` of prompt (for most, and answer); None: unknown."""

    price_prompt_usd_per_mtok: float | None = None
    price_completion_usd_per_mtok: float | None = None
    context_tokens: int | None = None


def known_model(name: str) -> KnownModel:
    """Looks a model up in litellm's table, with or without ``openai/`` before its name.

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
def _table() -> dict[str, dict[str, object]]:
    """Reads litellm's table; empty where litellm is not installed."""
    spec = importlib.util.find_spec("litellm")
    if spec is None or spec.origin is None:
        return {}
    try:
        text = (Path(spec.origin).parent / "model_prices_and_context_window_backup.json").read_text("utf-8")
    except FileNotFoundError:  # a version that keeps it elsewhere: prices are unknown
        return {}
    table: dict[str, object] = json.loads(text)
    return {name: row for name, row in table.items() if isinstance(row, dict)}


def _a_million(value: object) -> float | None:
    """Converts a price a token into one a million tokens; None for anything but a number of at least 0."""
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        return None
    return round(value * 1e6, 9)


def _tokens(value: object) -> int | None:
    """Returns a positive whole number, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
