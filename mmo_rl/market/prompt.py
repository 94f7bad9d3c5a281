"""The text face of the market: what a policy reads. Compact on purpose, so that small models can afford it."""

from __future__ import annotations

from mmo_rl.market.world import Observation
from mmo_rl.types import Message

SYSTEM = "You trade."


def render(observation: Observation, *, style: str | None = None) -> tuple[Message, ...]:
    """The prompt of one tick: system and user message. The market comes first and the agent's own account last, so
    that agents of one market share a prefix.

    The policy answers with one JSON object, ``{"ticker": NAME, "action": "BUY" | "SELL" | "CLOSE" | "HOLD",
    "size": 1..max_size}``: BUY is long (tickers) or YES (questions), SELL is short or NO.
    """
    lines = [f"t{observation.tick}"]
    lines += [f"{q.ticker} {q.change_pct:+.0f}" for q in observation.quotes]
    lines += [f"{name} {price * 100:.0f}%" for name, price in observation.questions]
    lines += [f"news {item}" for item in observation.news]
    lines.append(f"cash {observation.cash_usd / 1000:.0f}")
    held = " ".join(f"{name}{units:+d}" for name, units in observation.positions.items() if units)
    if held:
        lines.append(f"held {held}")
    system = SYSTEM if style is None else f"{SYSTEM} {style}"
    return ({"role": "system", "content": system}, {"role": "user", "content": "\n".join(lines)})
