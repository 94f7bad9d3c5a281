"""View of a window: its agents ranked by judge, oracle and P&L, its prices with everybody's trades, and its outcomes.

What only the judge knew (outcomes, final P&L, scores) and what the policies saw are kept apart: the pages give each its
colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mmo_rl.positions import Positions, Trade
from mmo_rl.quotes import PRICES, QUESTIONS, TICKERS, YES_PRICES, number, seen_objects, text
from mmo_rl.stats.ranks import TIED
from mmo_rl.types import GroundTruth, Score, Trajectory, Window
from mmo_rl.view.library import Seen
from mmo_rl.vocabulary import Vocabulary

DISPUTED = 2
"""Places between two orders from which on a member is marked as disputed."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A number of a member and its rank in the window, from 1 for the largest; both None where it has none."""

    value: float | None
    rank: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberView:
    """One agent's play in the window, in a line. ``number`` is its mark in the charts. ``reason`` says why it has no
    score; ``moved`` how many places higher (+) the judge has it than the oracle, or than P&L where the judge is the
    oracle itself; ``parts`` are the ids of what was joined."""

    number: int
    trajectory_id: str
    agent_id: str
    role: str | None
    model: str
    judge: Ranked
    oracle: Ranked
    pnl: Ranked
    reason: str
    explanation: str
    spread: float | None
    moved: int | None
    steps: int
    failed: int
    tokens: int | None
    sliced: bool
    parts: tuple[str, ...]

    @property
    def disputed(self) -> bool:
        return self.moved is not None and abs(self.moved) >= DISPUTED


@dataclass(frozen=True, slots=True)
class TradeMark:
    """A trade on the time axis: minute of the window, price, direction +1 or -1, its member, words about it."""

    minute: float
    price: float
    direction: int
    member: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentView:
    """Prices of one instrument that agents saw (minute of the window, price), the trades in it, and its outcome, which
    no agent knew: the end price, or the payout of YES in [0, 1]."""

    name: str
    is_question: bool
    seen: tuple[tuple[float, float], ...]
    trades: tuple[TradeMark, ...]
    end: float | None
    outcome: str
    news: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowView:
    """Everything about a window on one page. ``against`` names the order that the judge's is compared with."""

    id: str
    window: Window
    iteration: int | None
    members: tuple[MemberView, ...]
    against: str
    instruments: tuple[InstrumentView, ...]
    has_truth: bool
    gone: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def window_view(seen: Seen, vocabulary: Vocabulary) -> WindowView:
    """Builds the view of a window; members stand in the judge's order, else the oracle's."""
    group = seen.group
    oracle = {i: j.value for i, j in seen.oracle.items() if isinstance(j, Score)}
    judged = {i: float(row["score"]) for i, row in seen.rows.items() if row["score"] is not None}
    pnl = {m.trajectory_id: m.final_pnl for m in group.members if m.final_pnl is not None}
    # The rows of another judge have the oracle's score beside its own.
    is_oracle = bool(seen.rows) and all(row.get("oracle") is None for row in seen.rows.values())
    ranks = {name: _ranks(values) for name, values in (("judge", judged), ("oracle", oracle), ("pnl", pnl))}
    against = "" if not seen.rows else "pnl" if is_oracle or not oracle else "oracle"
    order = sorted(
        group.members,
        key=lambda m: (-(judged or oracle).get(m.trajectory_id, -1.0), -(pnl.get(m.trajectory_id) or 0.0)),
    )
    members = []
    for place, member in enumerate(order, start=1):
        identity = member.trajectory_id
        row = seen.rows.get(identity)
        here, there = ranks["judge"].get(identity), ranks[against].get(identity) if against else None
        members.append(
            MemberView(
                number=place,
                trajectory_id=identity,
                agent_id=member.agent_id,
                role=member.role,
                model=_model(member),
                judge=Ranked(judged.get(identity), here),
                oracle=Ranked(oracle.get(identity), ranks["oracle"].get(identity)),
                pnl=Ranked(pnl.get(identity), ranks["pnl"].get(identity)),
                reason="" if row is None else row["reason"] or "",
                explanation=("" if row is None else row["explanation"] or "") or _words_of(seen, identity),
                spread=None if row is None else row["spread"],
                moved=None if here is None or there is None else there - here,
                steps=len(member.steps),
                failed=sum(not step.action.success for step in member.steps),
                tokens=_tokens(member),
                sliced="@" in identity,
                parts=tuple(seen.parts.get(identity, ())),
            )
        )
    return WindowView(
        id=group.group_id,
        window=group.window,
        iteration=seen.iteration,
        members=tuple(members),
        against=against,
        instruments=tuple(_instruments(order, group.window, group.truth, vocabulary)),
        has_truth=group.truth is not None,
        gone=seen.gone,
    )


def _words_of(seen: Seen, identity: str) -> str:
    """The oracle's words about a member that no judge explained."""
    judgment = seen.oracle.get(identity)
    return judgment.explanation if isinstance(judgment, Score) and not seen.rows else ""


def _ranks(values: Mapping[str, float]) -> dict[str, int]:
    """Ranks from 1 for the largest; equal values share one."""
    found: dict[str, int] = {}
    last: tuple[float, int] | None = None
    for place, (identity, value) in enumerate(sorted(values.items(), key=lambda item: -item[1]), start=1):
        rank = last[1] if last is not None and last[0] - value <= TIED else place
        found[identity], last = rank, (value, rank)
    return found


def _model(member: Trajectory) -> str:
    names = dict.fromkeys(
        call.model + (f"@{call.model_version}" if call.model_version else "")
        for step in member.steps
        for call in step.llm_calls
    )
    return ", ".join(names)


def _tokens(member: Trajectory) -> int | None:
    """Counts the tokens of the member's answers; None where none was recorded."""
    counts = [
        len(call.token_ids) if call.token_ids is not None else call.completion_tokens
        for step in member.steps
        for call in step.llm_calls
    ]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


# --- the market -----------------------------------------------------------------------------------------------------


def _instruments(
    members: Sequence[Trajectory], window: Window, truth: GroundTruth | None, vocabulary: Vocabulary
) -> Iterable[InstrumentView]:
    """Prices, trades and outcome of every instrument that was seen, traded or resolved, those traded most first."""
    prices: dict[str, dict[float, float]] = {}
    questions: set[str] = set()
    trades: dict[str, list[TradeMark]] = {}
    for place, member in enumerate(members, start=1):
        positions = Positions(vocabulary)
        for step in member.steps:
            minute = round((step.timestamp - window.start).total_seconds() / 60.0, 3)
            for found in seen_objects(step):
                if (name := text(found, TICKERS)) and (price := number(found, PRICES)) is not None:
                    prices.setdefault(name, {})[minute] = price
                elif (name := text(found, QUESTIONS)) and (chance := number(found, YES_PRICES)) is not None:
                    prices.setdefault(name, {})[minute] = chance
                    questions.add(name)
            if not step.action.success:
                continue
            trade = positions.apply(step)
            if isinstance(trade, Trade):
                trades.setdefault(trade.instrument, []).append(_mark(trade, minute, place, member.agent_id, prices))
    outcomes = _outcomes(truth)
    questions |= {name for name, outcome in outcomes.items() if outcome[3]}
    names = sorted(prices.keys() | trades.keys() | outcomes.keys(), key=lambda n: (-len(trades.get(n, ())), n))
    for name in names:
        end, words, news, _ = outcomes.get(name, (None, "", (), False))
        yield InstrumentView(
            name=name,
            is_question=name in questions,
            seen=tuple(sorted(prices.get(name, {}).items())),
            trades=tuple(trades.get(name, ())),
            end=end,
            outcome=words,
            news=news,
        )


def _mark(
    trade: Trade, minute: float, member: int, agent: str, prices: Mapping[str, Mapping[float, float]]
) -> TradeMark:
    at = prices.get(trade.instrument, {}).get(minute)
    price = at if at is not None else trade.price if trade.price is not None else 0.0
    does = ("closes " if trade.closes else "") + ("buys" if trade.direction > 0 else "sells")
    paid = "" if trade.price is None else f" at {trade.price:,.4g}"
    return TradeMark(minute, price, trade.direction, member, f"{member} {agent} {does} {trade.size:,.4g}{paid}")


def _outcomes(truth: GroundTruth | None) -> dict[str, tuple[float | None, str, tuple[str, ...], bool]]:
    """The outcomes by instrument: end price or payout, in words, news, and whether it is a question."""
    if truth is None:
        return {}
    found: dict[str, tuple[float | None, str, tuple[str, ...], bool]] = {
        t.ticker: (
            t.end_price,
            f"{t.start_price:,.4g} to {t.end_price:,.4g}" + ("" if not t.start_price else f" ({t.change_pct:+.1f} %)"),
            t.news,
            False,
        )
        for t in truth.tickers
    }
    for q in truth.questions:
        payout = {"YES": 1.0, "NO": 0.0}.get(q.outcome, q.final_probability)
        told = f"resolved {q.outcome}" if q.outcome != "UNRESOLVED" else "unresolved"
        found[q.question_id] = (payout, told, (q.question,) if q.question else (), True)
    return found
