"""Summary of a training run as text: the rows of the final table, and the result in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mmo_rl.numbers import finite_number
from mmo_rl.report.numbers import MINUS, MISSING, Unit, amount
from mmo_rl.report.summary import CHANGE, DECODINGS, is_judging


@dataclass(frozen=True, slots=True)
class Cell:
    """A number as shown and its 95 % interval (empty where there is none). ``good`` tells whether the interval of a
    change lies wholly on the better side (True), the worse (False), or neither (None)."""

    value: str
    interval: str = ""
    good: bool | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the final table."""

    label: str
    base: Cell
    trained: Cell
    change: Cell


Kind = Literal["better", "worse", "unclear", "missing"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``title`` is the run's result in a sentence; ``detail`` what to know before quoting it."""

    kind: Kind
    title: str
    detail: str


def cell(
    summary: Mapping[str, object],
    key: str,
    unit: Unit,
    *,
    signed: bool = False,
    higher_is_better: bool = True,
    bare: bool = False,
) -> Cell:
    """The number under ``key`` and its interval; ``good`` is told of changes (``signed``) only."""
    value, low, high = (finite_number(summary.get(key + suffix)) for suffix in ("", "_low", "_high"))
    if value is None:
        return Cell(MISSING)
    shown = amount(value, unit, signed=signed, bare=bare)
    if low is None or high is None:
        return Cell(shown)
    good = (low > 0) == higher_is_better if signed and (low > 0 or high < 0) else None
    bounds = (amount(bound, unit, signed=signed and not bare, bare=bare) for bound in (low, high))
    return Cell(shown, ("[{}, {}]" if bare else "{} to {}").format(*bounds), good)


def lines(summary: Mapping[str, object], decoding: str) -> list[Line]:
    """The final table for ``sampled`` or ``greedy`` decoding; empty where that was not measured."""
    prefix = DECODINGS[decoding]
    if summary.get(f"{prefix}pnl_base") is None and summary.get(f"{prefix}pnl_trained") is None:
        return []
    rows: list[Line] = []
    table: tuple[tuple[str, str, Unit, bool], ...] = (
        ("P&L, $", "pnl", "usd", True),
        ("Win rate, %", "win_rate", "share", True),
        ("Error rate, %", "error_rate", "share", False),
    )
    for label, value, unit, up in table:
        base, trained = (cell(summary, f"{prefix}{value}_{who}", unit, bare=True) for who in ("base", "trained"))
        change = cell(summary, prefix + CHANGE[value], unit, signed=True, higher_is_better=up, bare=True)
        rows.append(Line(label, base, trained, change))
    base, trained = (cell(summary, f"{prefix}oracle_share_{who}", "share", bare=True) for who in ("base", "trained"))
    before, after = (finite_number(summary.get(f"{prefix}oracle_share_{who}")) for who in ("base", "trained"))
    points = None if before is None or after is None else after - before
    rows.append(Line("Oracle share, %", base, trained, Cell(amount(points, "share", signed=True, bare=True))))
    return rows


def run_verdict(summary: Mapping[str, object]) -> Verdict:
    """Result of a training run by its sampled P&L, or by its greedy P&L where that alone was measured."""
    for decoding in DECODINGS:
        change = cell(summary, DECODINGS[decoding] + "pnl_improvement", "usd", signed=True)
        if change.value != MISSING:
            break
    else:
        if is_judging(summary):
            return Verdict("missing", "Judged", "This run scored windows and trained nothing.")
        if summary.get("train/gradient_steps") == 0:
            return Verdict("missing", "Exported", "This run wrote training sets and trained no policy.")
        return Verdict("missing", "Not evaluated", "This run trained without measuring its policy on held-out markets.")
    interval = f"95% interval {change.interval}" if change.interval else "one market only, so no interval"
    gain = f"{change.value} per agent and market ({interval})"
    if change.good is None:
        return Verdict("unclear", f"No difference shown: {gain}", _detail(summary, decoding, change))
    if change.good:
        return Verdict("better", f"The trained policy earns more: {gain}", _detail(summary, decoding, change))
    return Verdict("worse", f"The trained policy earns less: {gain}", _detail(summary, decoding, change))


def _detail(summary: Mapping[str, object], decoding: str, change: Cell) -> str:
    prefix = DECODINGS[decoding]
    sentences = []
    pct, low, high = (
        finite_number(summary.get(f"{prefix}pnl_improvement_pct{suffix}")) for suffix in ("", "_low", "_high")
    )
    if pct is None:
        sentences.append("The base's P&L is not certainly above 0, so a percentage of it would mean nothing.")
    else:
        bounds = "" if low is None or high is None else f" ({_percent(low)} to {_percent(high)}%)"
        sentences.append(f"That is {_percent(pct)}%{bounds} of the base's P&L.")
    before, after = (finite_number(summary.get(f"{prefix}oracle_share_{who}")) for who in ("base", "trained"))
    if before is not None and after is not None:
        sentences.append(
            f"Of what an oracle that knows the future earns there, the base makes {amount(before, 'share')} and the "
            f"trained policy {amount(after, 'share')}."
        )
    greedy = cell(summary, DECODINGS["greedy"] + "pnl_improvement", "usd", signed=True)
    if decoding == "sampled" and greedy.value != MISSING:
        sentences.append(_greedy(greedy, sampled_gain=change.good is True))
    return " ".join(sentences)


def _greedy(change: Cell, *, sampled_gain: bool) -> str:
    """A gain in sampled play alone may be a policy that is only surer of what it did before."""
    gain = f"{change.value} ({change.interval})" if change.interval else change.value
    if change.good is None:
        doubt = ": the gain in sampled play may be mere sharpening" if sampled_gain else ""
        return f"Decoded greedily no difference is shown, {gain}{doubt}."
    if change.good:
        too = " too, {}: it learnt more than to be sure of itself" if sampled_gain else ", {}"
        return "Decoded greedily it earns more" + too.format(gain) + "."
    return f"Decoded greedily it earns less, {gain}."


def _percent(value: float) -> str:
    return f"{'+' if value >= 0 else MINUS}{abs(value):.0f}"
