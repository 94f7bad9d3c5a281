"""Row of metrics.jsonl: the data of an iteration, the play and the scores in it, and the numbers of training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from mmo_rl.stats.bootstrap import Value, mean_interval
from mmo_rl.types import Measured, Rollout, Score, ScoredGroup, Selection, Trained, Trajectory


def iteration_metrics(
    *,
    selection: Selection,
    scored: Sequence[ScoredGroup],
    trained: Trained,
    stage_seconds: Mapping[str, float],
    seed: int,
    judged: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Builds one row of metrics.jsonl; numbers that do not exist are left out.

    ``play/*`` is how the agents of the iteration's data played (with ``collect=simulated``: the current policy, before
    this iteration trained it), with 95 % intervals by window; ``judge/score_std`` the mean spread of the scores inside
    a group (no spread, no signal); ``judged`` how good the judge was (`mmo_rl.report.judging`); ``train/*`` what the
    trainer reports.
    """
    row: dict[str, float] = {
        "data/windows_used": len({w.window.id for w in selection.windows}),
        "data/trajectories_available": selection.available,
        "data/trajectories_used": selection.used,
        "data/trajectories_dropped": selection.dropped,
        "data/dropout_rate": selection.dropout_rate,
        **{f"data/excluded/{reason}": count for reason, count in sorted(selection.excluded.items())},
        **_shares(selection),
        **_play(scored, seed=seed),
        **_scores(scored),
        **(judged or {}),
        "train/gradient_steps": trained.gradient_steps,
        "train/tokens": trained.tokens,
        **({} if trained.tokens_selected is None else {"train/tokens_selected": trained.tokens_selected}),
        "train/groups_skipped_zero_variance": trained.groups_skipped_zero_variance,
        **{(k if "/" in k else f"train/{k}"): v for k, v in trained.metrics.items()},
        **{f"time/{stage}_s": round(seconds, 3) for stage, seconds in stage_seconds.items()},
    }
    return {k: v for k, v in row.items() if math.isfinite(v)}


def _shares(selection: Selection) -> dict[str, float]:
    shares = {name: selection.largest_share(after=name == "after") for name in ("before", "after")}
    return {f"data/largest_agent_share_{name}": share for name, share in shares.items() if share is not None}


def _play(scored: Sequence[ScoredGroup], *, seed: int) -> dict[str, float]:
    by_window: dict[str, dict[str, Trajectory]] = {}
    for group in scored:
        window = by_window.setdefault(group.group.window.id, {})
        window.update((t.trajectory_id, t) for t in group.group.members)
    everyone = _as_measured(by_window.values())
    with_pnl = _as_measured([_with_pnl(window) for window in by_window.values()])
    sources: dict[Value, Measured] = {"pnl": with_pnl, "win_rate": with_pnl, "error_rate": everyone}
    out: dict[str, float] = {}
    for value, measured in sources.items():
        if measured.rollouts:
            interval = mean_interval(measured, value, seed=seed, resamples=1000)
            out[f"play/{value}"] = interval.estimate
            out[f"play/{value}_low"], out[f"play/{value}_high"] = interval.low, interval.high
    return out


def _with_pnl(trajectories: Mapping[str, Trajectory]) -> dict[str, Trajectory]:
    return {i: t for i, t in trajectories.items() if t.final_pnl is not None}


def _as_measured(windows: Iterable[Mapping[str, Trajectory]]) -> Measured:
    """Converts recorded play to the type of an evaluation: a window is a market."""
    return Measured(
        "play",
        "sampled",
        tuple(
            Rollout(
                market,
                agent,
                trajectory.final_pnl or 0.0,
                len(trajectory.steps),
                sum(not step.action.success for step in trajectory.steps),
            )
            for market, window in enumerate(windows)
            for agent, trajectory in enumerate(window.values())
        ),
    )


def _scores(scored: Sequence[ScoredGroup]) -> dict[str, float]:
    out: dict[str, float] = {"judge/unscored": 0.0}
    values: list[float] = []
    spreads: list[float] = []
    for group in scored:
        scores = [j.value for j in group.judgments.values() if isinstance(j, Score)]
        out["judge/unscored"] += len(group.judgments) - len(scores)
        values += scores
        if len(scores) > 1:
            mean = sum(scores) / len(scores)
            spreads.append(math.sqrt(sum((s - mean) ** 2 for s in scores) / len(scores)))
    if values:
        out["judge/score_mean"] = sum(values) / len(values)
    if spreads:
        out["judge/score_std"] = sum(spreads) / len(spreads)
    return out
