"""Planned against spent resources: plan.json beside summary.json, by the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mmo_rl.numbers import finite_number
from mmo_rl.report.numbers import MISSING

Kind = Literal["count", "usd", "seconds", "share"]
ROWS: tuple[tuple[str, str, Kind], ...] = (
    ("data/windows_used", "windows", "count"),
    ("data/trajectories_used", "trajectories", "count"),
    ("data/dropout_rate", "dropout", "share"),
    ("judge/calls", "judge calls", "count"),
    ("judge/cache_hits", "judgments from the cache", "count"),
    ("judge/prompt_tokens", "judge prompt tokens", "count"),
    ("judge/completion_tokens", "judge answer tokens", "count"),
    ("judge/cost_usd", "judge cost", "usd"),
    ("train/tokens_selected", "tokens selected for training", "count"),
    ("train/tokens", "of these trained, because their groups differed in reward", "count"),
    ("time/total_s", "time", "seconds"),
)


@dataclass(frozen=True, slots=True)
class PlannedLine:
    """One number as it was planned, as it was spent, and the difference in percent of the plan (a dash where either is
    unknown or the plan is 0)."""

    label: str
    planned: str
    spent: str
    difference: str


def planned_lines(plan: Mapping[str, object] | None, summary: Mapping[str, object]) -> list[PlannedLine]:
    """Lines of planned and spent numbers; none without a plan or a finished run, nor where both numbers are 0.

    How many of the selected tokens are trained depends on what the policy will have learnt: agents that came to do the
    same are no longer compared. The plan takes them to differ as at the start.
    """
    if plan is None or not summary:
        return []
    found = []
    for key, label, kind in ROWS:
        planned, spent = finite_number(plan.get(key)), finite_number(summary.get(key))
        if planned or spent or (planned is None) != (spent is None):
            found.append(PlannedLine(label, _shown(planned, kind), _shown(spent, kind), _difference(planned, spent)))
    return found


def _shown(value: float | None, kind: Kind) -> str:
    if value is None:
        return "unknown"
    if kind == "usd":
        return f"${value:,.2f}" if value >= 1 or not value else f"${value:.4f}"
    if kind == "share":
        return f"{value:.1%}"
    return f"{value:,.0f}" + (" s" if kind == "seconds" else "")


def _difference(planned: float | None, spent: float | None) -> str:
    if planned is None or spent is None:
        return MISSING
    if planned == spent:
        return "as planned"
    return f"{(spent - planned) / planned:+.1%}" if planned else MISSING
