"""Quality of a judge: agreement with the oracle and with P&L, ties and gaps, from the rows of judgments.jsonl.

Every row has the judge's ``score`` of a member, the ``oracle``'s of the same member, and its ``pnl``. Agreement is
Kendall's tau-b over pairs of members inside a window: 1 is the same order, 0 no relation, -1 the reverse; pairs are
summed over windows, and windows are resampled for the 95 % interval (`mmo_rl.stats.ranks`).

    judge/oracle_tau           agreement with the oracle, with ``_low`` and ``_high``; not told of the oracle itself
    judge/pnl_tau              agreement with realised P&L, likewise
    judge/windows_compared     windows in which at least two members have both the judge's and the oracle's score
    judge/unscored_share       members without a score, in [0, 1]
    judge/zero_variance_share  of the groups with two scores or more, those in which all are equal, in [0, 1]
    judge/repeat_spread ...    what the judge noticed of itself, by the names of `mmo_rl.judge.findings`
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mmo_rl.report.mask import mask
from mmo_rl.report.numbers import MISSING
from mmo_rl.report.run_folder import JudgmentRow
from mmo_rl.stats.interval import Interval
from mmo_rl.stats.ranks import TIED, RankPairs, rank_pairs, tau_interval

Other = Literal["oracle", "pnl"]
"""A column of the rows that the judge's scores are compared with."""
KEYS = (
    *(f"judge/{name}_tau{end}" for name in ("oracle", "pnl") for end in ("", "_low", "_high")),
    "judge/windows_compared",
    "judge/unscored_share",
    "judge/zero_variance_share",
    "judge/repeat_spread",
    "judge/position_effect",
    "judge/position_effect_se",
    "judge/canary_shift",
)
"""What every summary has, with null where there is none."""
LONGEST_EXPLANATION = 400


def quality(rows: Sequence[JudgmentRow], findings: Mapping[str, float], *, seed: int) -> dict[str, float]:
    """The numbers told above; what does not exist is left out."""
    groups = by_group(rows).values()
    out: dict[str, float] = {}
    others: tuple[Other, ...] = ("oracle", "pnl")
    for name in others:
        interval = agreement(rows, name, seed=seed)
        if interval is not None:
            bounds = {"": interval.estimate, "_low": interval.low, "_high": interval.high}
            out |= {f"judge/{name}_tau{end}": value for end, value in bounds.items() if math.isfinite(value)}
    if any(row.get("oracle") is not None for row in rows):
        compared = {g[0]["window_id"] for g in groups if len(_pairs_of(g, "oracle")) > 1}
        out["judge/windows_compared"] = float(len(compared))
    if rows:
        out["judge/unscored_share"] = sum(row["score"] is None for row in rows) / len(rows)
    scored = [values for g in groups if len(values := [row["score"] for row in g if row["score"] is not None]) > 1]
    if scored:
        out["judge/zero_variance_share"] = sum(max(v) - min(v) <= TIED for v in scored) / len(scored)
    return out | {f"judge/{name}": value for name, value in findings.items()}


def agreement(rows: Sequence[JudgmentRow], other: Other, *, seed: int) -> Interval | None:
    """Of the judge's scores with the column ``other``; None where it cannot be measured."""
    windows: dict[str, RankPairs] = {}
    for group in by_group(rows).values():
        window = group[0]["window_id"]
        windows[window] = windows.get(window, RankPairs()).plus(_rank_pairs(group, other))
    return tau_interval(list(windows.values()), seed=seed, resamples=1000)


def by_group(rows: Iterable[JudgmentRow]) -> dict[tuple[int, str], list[JudgmentRow]]:
    """The rows of each group of each iteration, in their order."""
    groups: dict[tuple[int, str], list[JudgmentRow]] = {}
    for row in rows:
        groups.setdefault((row.get("iteration"), row.get("group_id") or row["window_id"]), []).append(row)
    return groups


def _rank_pairs(group: Sequence[JudgmentRow], other: Other) -> RankPairs:
    both = _pairs_of(group, other)
    return rank_pairs([score for score, _ in both], [value for _, value in both])


def _pairs_of(group: Sequence[JudgmentRow], other: Other) -> list[tuple[float, float]]:
    return [(score, value) for _, score, value in _ranked_by_both(group, other)]


def _ranked_by_both(group: Sequence[JudgmentRow], other: Other) -> list[tuple[JudgmentRow, float, float]]:
    """The rows that have both numbers, with the judge's score and the other number."""
    numbers = ((row, row["score"], row.get(other)) for row in group)
    return [(row, score, value) for row, score, value in numbers if score is not None and value is not None]


# --- for people -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """A member in one of two orders. ``moved`` is how many places higher (+) or lower (-) the other order has it."""

    rank: int
    member: str
    score: float
    pnl: str
    moved: int
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Dispute:
    """A group side by side: by the judge, and by the oracle or, where that is the judge, by P&L."""

    group: str
    against: str
    tau: float
    judge: tuple[Place, ...]
    other: tuple[Place, ...]


def most_disputed(rows: Sequence[JudgmentRow]) -> Dispute | None:
    """The group whose order by the judge differs most from that by the oracle: the lowest tau-b, of equal ones the
    largest, then the first. None where no group has two members that both rank."""
    other: Other = "oracle" if any(row.get("oracle") is not None for row in rows) else "pnl"
    worst: tuple[float, int, tuple[int, str]] | None = None
    groups = by_group(rows)
    for key, group in groups.items():
        tau, members = _rank_pairs(group, other).tau_b, len(_pairs_of(group, other))
        if tau is not None and (worst is None or (tau, -members) < worst[:2]):
            worst = (tau, -members, key)
    if worst is None:
        return None
    tau, _, key = worst
    ranked = _ranked_by_both(groups[key], other)
    scores = {row["trajectory_id"]: score for row, score, _ in ranked}
    values = {row["trajectory_id"]: value for row, _, value in ranked}
    judge, others = _ranks(scores), _ranks(values)
    names = _without_common_start(list(scores))
    members_of = {row["trajectory_id"]: row for row, _, _ in ranked}

    def places(by: Mapping[str, float], here: Mapping[str, int], there: Mapping[str, int]) -> tuple[Place, ...]:
        return tuple(
            Place(
                rank=here[member],
                member=names[member],
                score=by[member],
                pnl=_signed(members_of[member].get("pnl")),
                moved=here[member] - there[member],
                explanation=_explanation(members_of[member]) if by is scores else "",
            )
            for member in sorted(by, key=lambda member: -by[member])
        )

    return Dispute(key[1], other, tau, places(scores, judge, others), places(values, others, judge))


def _signed(pnl: float | None) -> str:
    return MISSING if pnl is None else f"{pnl:+,.2f}"


def _explanation(row: JudgmentRow) -> str:
    text = mask(str(row.get("explanation") or ""))
    return text if len(text) <= LONGEST_EXPLANATION else text[:LONGEST_EXPLANATION] + " ..."


def _ranks(values: Mapping[str, float]) -> dict[str, int]:
    """Ranks from 1 for the largest; equal values share one."""
    ranks: dict[str, int] = {}
    before: str | None = None
    for position, member in enumerate(sorted(values, key=lambda member: -values[member]), start=1):
        tied = before is not None and abs(values[before] - values[member]) <= TIED
        ranks[member] = ranks[before] if tied and before is not None else position
        before = member
    return ranks


def _without_common_start(ids: Sequence[str]) -> dict[str, str]:
    """Ids without the beginning that all of them share, cut where a word begins."""
    first, last = min(ids), max(ids)  # what these two share, all share
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    cut = max(first[:same].rfind(mark) + 1 for mark in "-_/:")
    return {i: i[cut:] for i in ids}
