"""Prompts of the market: an observation as text, compact so that small models can afford it.

The user message of a tick, line by line::

    t3                        tick 3 of the window, from 0
    NOVA -4                   a ticker and its price's change since the window began, in percent
    AUDIT 41%                 a question and the price of a YES share, in cents
    news NOVA sinks @wire     a line of news: instrument, phrase, source
    post agent2: sell NOVA    a post of another agent (markets with posts)
    cash 10 order 3 bet 3     the agent's free cash in thousands of dollars, and the largest sizes it pays for now, of
                              an order on a ticker and of one on a question
    held NOVA+2 AUDIT-1       its positions, in signed units of size: long or YES is +, short or NO is -

The answer is one JSON object, ``{"ticker": NAME, "action": "BUY" | "SELL" | "CLOSE" | "HOLD", "size": 1..max_size}``:
BUY is long (tickers) or YES (questions), SELL is short or NO. `explain` tells a model all of this, and the rules.
"""

from __future__ import annotations

from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.view import Observation
from mmo_rl.types import Message

SYSTEM = "You trade."


def render(
    observation: Observation, *, style: str | None = None, rules: str | None = None, market: str | None = None
) -> tuple[Message, ...]:
    """Renders the prompt of one tick: system and user message. The market comes first and the agent's own account
    last, so that agents of one market share a prefix.

    ``rules`` replaces the system message (see `explain`); ``market`` is `market_lines` of this tick, where it is at
    hand already.
    """
    lines = [market_lines(observation) if market is None else market]
    lines += [f"post {post}" for post in observation.posts]
    lines.append(f"cash {observation.cash_usd / 1000:.0f} order {observation.max_order} bet {observation.max_bet}")
    held = " ".join(f"{name}{units:+d}" for name, units in observation.positions.items() if units)
    if held:
        lines.append(f"held {held}")
    system = rules or SYSTEM
    if style is not None:
        system = f"{system} {style}"
    return ({"role": "system", "content": system}, {"role": "user", "content": "\n".join(lines)})


def market_lines(observation: Observation) -> str:
    """Renders the part of the prompt that all agents of a market share."""
    lines = [f"t{observation.tick}"]
    lines += [f"{q.ticker} {q.change_pct:+.0f}" for q in observation.quotes]
    lines += [f"{name} {price * 100:.0f}%" for name, price in observation.questions]
    lines += [f"news {item}" for item in observation.news]
    return "\n".join(lines)


def explain(spec: MarketSpec) -> str:
    """Writes the system prompt for a model that was not trained on this market: its rules and the form of an answer."""
    example = '{"ticker": "NOVA", "action": "BUY", "size": 1}'
    options = ""
    if spec.max_leverage is not None:
        options += f' Add "leverage": 1 to {spec.max_leverage:g} to an order on a ticker to choose it yourself.'
    if spec.posts:
        options += ' {"action": "CREATE_POST", "text": "..."} tells the other agents something instead of trading.'
    return "\n".join(
        [
            f"You trade in a market that all agents see at the same time. It has {spec.ticks} ticks a window; "
            "at each one you give one order. Make your account worth as much as you can by the end.",
            "Each message shows: the tick (t0 is the first); tickers with their price change since the window began in "
            "percent; questions with the price of a YES share in cents; news as INSTRUMENT PHRASE @SOURCE; your cash "
            "in thousands of dollars with the largest sizes it pays for now, of an order on a ticker and of a bet on a "
            "question; what you hold in units (+ is long or YES, - is short or NO).",
            f"A unit of a ticker is a position with {spec.unit_usd:g} dollars of margin at leverage {spec.leverage:g}: "
            f"BUY is long, SELL is short. A unit of a question is {spec.question_unit_usd:g} dollars of YES "
            "shares (BUY) or NO shares (SELL); a share pays 1 dollar if its side comes true. "
            f"Every trade costs {100 * spec.fee:g} % of its size. "
            "A position that loses 90 % of its margin is closed and the margin lost. CLOSE sells all you hold of an "
            "instrument; HOLD does nothing. Sources of news differ in how often they are right.",
            f'Answer with one JSON object and nothing else, like {example}. "action" is BUY, SELL, CLOSE or HOLD, '
            '"size" is '
            f"a whole number from 1 to {spec.max_size}.{options}",
        ]
    )
