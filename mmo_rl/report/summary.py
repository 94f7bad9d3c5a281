"""The flat numbers of a finished run: every key of summary.json, and what it is made from.

A key whose value does not exist is there with null: missing is not zero. ``_low`` and ``_high`` behind a key are the
bounds of its 95 % interval (`mmo_rl.stats.bootstrap`, by market). Values under ``eval/`` are of sampled decoding, the
same keys under ``eval/greedy/`` of greedy decoding, which shows learning beyond a mere sharpening of the choices.

    eval/pnl_*                 mean P&L of an agent in a market, game dollars
    eval/pnl_improvement       trained minus base, paired by market and agent: always there
    eval/pnl_improvement_pct   the same in percent of the base, only where the base certainly earns: the interval of its
                               own P&L lies above 0 (a percentage of a P&L near or below 0 means nothing)
    eval/oracle_share_*        P&L as a share of the oracle's on the same markets, where the oracle certainly earns
    eval/win_rate_*            share of rollouts that ended above 0, in [0, 1]; ``eval/win_rate_change`` paired
    eval/error_rate_*          failed actions by all actions, in [0, 1]; ``eval/error_rate_change`` paired
    eval/recorded/*            of evaluate=recorded alone (`mmo_rl.evaluate.recorded`): rank agreement, margin in nats,
                               change of the importance-weighted reward (null: refused), effective decisions
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmo_rl.evaluate.base import RecordedVerdict
from mmo_rl.numbers import finite_number
from mmo_rl.report.judging import KEYS
from mmo_rl.stats.bootstrap import Value, improvement_pct, mean_interval, oracle_share, paired_difference
from mmo_rl.stats.interval import Interval
from mmo_rl.types import JudgeUsage, Measured, Selection, Trained

Number = float | int | str | None
Summary = dict[str, Number]

STAGES = ("collect", "select", "judge", "train", "evaluate", "total")
DECODINGS = {"sampled": "eval/", "greedy": "eval/greedy/"}
VALIDATED = "validation/pnl_improvement"
"""The gain in P&L on validation markets, by which a search chooses."""
VALUES: tuple[Value, ...] = ("pnl", "win_rate", "error_rate")
CHANGE: dict[str, str] = {"pnl": "pnl_improvement", "win_rate": "win_rate_change", "error_rate": "error_rate_change"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluations:
    """Measurements on the held-out markets, None where there is none; the oracle's are the ceiling. Those of
    ``validation`` are on markets of their own, by which a search chooses."""

    base: Measured | None = None
    trained: Measured | None = None
    base_greedy: Measured | None = None
    trained_greedy: Measured | None = None
    oracle: Measured | None = None
    validation_base: Measured | None = None
    validation_trained: Measured | None = None
    recorded: RecordedVerdict | None = None


def build_summary(
    *,
    selections: Sequence[Selection],
    rejected: Mapping[str, int],
    usage: JudgeUsage,
    unscored: int,
    trained: Sequence[Trained],
    evaluations: Evaluations,
    stage_seconds: Mapping[str, float],
    seed: int,
    resamples: int = 2000,
    judged: Mapping[str, float] | None = None,
) -> Summary:
    """All numbers of one finished run.

    ``selections`` and ``trained`` are those of all its iterations, also the ones done before a resume; ``rejected``
    counts unreadable rows by reason, ``unscored`` judgments that could not be had, ``judged`` says how good the others
    are (`mmo_rl.report.judging`); ``stage_seconds`` are wall seconds by name of `STAGES` (others are kept under
    ``time/`` too). Raises `ValueError` where policies were measured on different markets.
    """
    summary: Summary = {
        **_data(selections),
        **{f"data/rejected/{reason}": count for reason, count in sorted(rejected.items())},
        **_judge(usage, unscored, judged or {}),
        "train/iterations": len(trained),
        "train/gradient_steps": sum(t.gradient_steps for t in trained),
        "train/tokens": sum(t.tokens for t in trained),
        "train/tokens_selected": _total([t.tokens_selected for t in trained]),
        "train/groups_skipped_zero_variance": sum(t.groups_skipped_zero_variance for t in trained),
        **_trained_how(trained),
    }
    e = evaluations
    for prefix, base, tuned in (
        (DECODINGS["sampled"], e.base, e.trained),
        (DECODINGS["greedy"], e.base_greedy, e.trained_greedy),
    ):
        summary |= _evaluation(prefix, base, tuned, e.oracle, seed=seed, resamples=resamples)
    if e.validation_base is not None and e.validation_trained is not None:
        change = paired_difference(e.validation_base, e.validation_trained, "pnl", seed=seed, resamples=resamples)
        summary |= _interval(VALIDATED, change)
    if e.recorded is not None:
        summary |= _recorded(e.recorded)
    oracle = None if e.oracle is None else mean_interval(e.oracle, "pnl", seed=seed, resamples=resamples)
    summary |= _interval("eval/pnl_oracle", oracle)
    measured = next((m for m in (e.trained, e.base, e.trained_greedy, e.base_greedy) if m is not None), None)
    summary["eval/markets"] = None if measured is None else len({r.market for r in measured.rollouts})
    summary["eval/agents"] = None if measured is None else len({r.agent for r in measured.rollouts})
    summary |= {f"time/{stage}_s": None for stage in STAGES}
    summary |= {f"time/{stage}_s": round(seconds, 3) for stage, seconds in stage_seconds.items()}
    return summary


def _recorded(verdict: RecordedVerdict) -> Summary:
    return {
        "eval/recorded/windows": verdict.windows,
        "eval/recorded/decisions": verdict.decisions,
        **_interval("eval/recorded/rank_agreement", verdict.rank_agreement),
        **_interval("eval/recorded/margin", verdict.margin),
        **_interval("eval/recorded/reward_change", verdict.reward_change),
        "eval/recorded/effective_decisions": verdict.effective,
    }


def _trained_how(trained: Sequence[Trained]) -> dict[str, float]:
    """Shares of all trained tokens, and what was left out; nothing where the trainer doesn't say."""
    numbers: dict[str, float] = {}
    tokens = sum(t.tokens for t in trained)
    for share in ("unknown_logprobs_share", "unclipped_tokens_share"):
        told = [t.metrics[share] * t.tokens for t in trained if share in t.metrics]
        if told and tokens:
            numbers[f"train/{share}"] = sum(told) / tokens
    for count in ("histories_too_long", "decisions_without_company"):
        if told := [t.metrics[count] for t in trained if count in t.metrics]:
            numbers[f"train/{count}"] = sum(told)
    return numbers


def _total(counts: Sequence[int | None]) -> int | None:
    """None where one of them was not counted."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def judging_summary(
    *,
    selections: Sequence[Selection],
    rejected: Mapping[str, int],
    usage: JudgeUsage,
    unscored: int,
    judged: Mapping[str, float],
    stage_seconds: Mapping[str, float],
) -> Summary:
    """The numbers of a run that judged and trained nothing; as `build_summary` has them, and ``judge/windows``."""
    return {
        **_data(selections),
        **{f"data/rejected/{reason}": count for reason, count in sorted(rejected.items())},
        **_judge(usage, unscored, judged),
        **{f"time/{stage}_s": round(seconds, 3) for stage, seconds in stage_seconds.items()},
    }


def is_judging(summary: Mapping[str, object]) -> bool:
    """True for the summary of a run that judged and trained nothing."""
    return "judge/windows" in summary


def _judge(usage: JudgeUsage, unscored: int, judged: Mapping[str, float]) -> Summary:
    return {
        "judge/calls": usage.calls,
        "judge/cache_hits": usage.cache_hits,
        "judge/unscored": unscored,
        "judge/prompt_tokens": usage.prompt_tokens,
        "judge/completion_tokens": usage.completion_tokens,
        "judge/cost_usd": usage.cost_usd,
        **dict.fromkeys(KEYS),
        **judged,
    }


# --- evaluation -----------------------------------------------------------------------------------------------------


def _evaluation(
    prefix: str, base: Measured | None, tuned: Measured | None, oracle: Measured | None, *, seed: int, resamples: int
) -> Summary:
    out: Summary = {}
    for value in VALUES:
        for name, measured in (("base", base), ("trained", tuned)):
            mean = None if measured is None else mean_interval(measured, value, seed=seed, resamples=resamples)
            out |= _interval(f"{prefix}{value}_{name}", mean)
        change = None
        if base is not None and tuned is not None:
            change = paired_difference(base, tuned, value, seed=seed, resamples=resamples)
        out |= _interval(f"{prefix}{CHANGE[value]}", change)
    pct = None
    if base is not None and tuned is not None:
        pct = improvement_pct(base, tuned, seed=seed, resamples=resamples)
    out |= _interval(f"{prefix}pnl_improvement_pct", pct)
    for name, measured in (("base", base), ("trained", tuned)):
        share = None
        if measured is not None and oracle is not None:
            share = oracle_share(measured, oracle, seed=seed, resamples=resamples)
        out |= _interval(f"{prefix}oracle_share_{name}", share)
    return out


def _interval(key: str, interval: Interval | None) -> Summary:
    if interval is None:
        return {key: None, f"{key}_low": None, f"{key}_high": None}
    return {
        key: interval.estimate,
        f"{key}_low": finite_number(interval.low),
        f"{key}_high": finite_number(interval.high),
    }


# --- data -----------------------------------------------------------------------------------------------------------


def _data(selections: Sequence[Selection]) -> Summary:
    """Windows and trajectories, each counted once however many iterations saw it.

    Available trajectories are those of the windows that were taken, before dropout; what kept others out is counted
    under ``data/excluded``, as the last iteration found it.
    """
    windows_used = len({w.window.id for s in selections for w in s.windows})
    used = len({i for s in selections for i in s.trajectory_ids})
    available = max([used, *(s.available + s.excluded.get("already_used", 0) for s in selections)])
    offered = sum(s.available for s in selections)
    last = selections[-1].excluded if selections else {}
    return {
        "data/windows_available": max([windows_used, *(s.windows_available for s in selections)]),
        "data/windows_used": windows_used,
        "data/trajectories_available": available,
        "data/trajectories_used": used,
        "data/trajectories_dropped": available - used,
        "data/dropout_rate": sum(s.dropout_rate * s.available for s in selections) / offered if offered else None,
        **{f"data/excluded/{reason}": count for reason, count in sorted(last.items()) if reason != "already_used"},
        **_shares(selections),
    }


def _shares(selections: Sequence[Selection]) -> Summary:
    """Number of agents, and the share of the one with the most trajectories, before and after dropout."""
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    for selection in selections:
        for agent, (offered, kept) in selection.agents.items():
            before[agent] += offered
            after[agent] += kept
    if not before.total():
        return {}
    return {
        "data/agents": len(before),
        "data/largest_agent_share_before": max(before.values()) / before.total(),
        "data/largest_agent_share_after": max(after.values()) / after.total() if after.total() else None,
    }
