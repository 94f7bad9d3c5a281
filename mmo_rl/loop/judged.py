"""What is kept of judgments, how good they are, and when nothing is trained on them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from mmo_rl.errors import JudgeError
from mmo_rl.loop.reasons import outcomes_command
from mmo_rl.types import ScoredGroup


def is_oracle(judge: Any) -> bool:
    """Whether the judge is what others are measured by."""
    from mmo_rl.judge.oracle import OracleJudge

    return isinstance(judge, OracleJudge)


def keep_judgments(report: Any, judge: Any, iteration: int, scored: Sequence[ScoredGroup]) -> list[dict[str, Any]]:
    """Writes the rows of judgments.jsonl, the oracle's score beside the judge's where the judge is another."""
    from mmo_rl.judge.oracle import oracle_scores

    oracle = {} if is_oracle(judge) else {i: v for s in scored for i, v in oracle_scores(s.group).items()}
    rows: list[dict[str, Any]] = report.judgments(iteration, scored, oracle)
    return rows


def refuse_if_poor(judge: Any, rows: Sequence[Mapping[str, Any]], overrides: Sequence[str], *, seed: int) -> None:
    """Raises `JudgeError` where the judge agrees less with the oracle than ``judge.min_agreement`` asks for over all
    the run's ``rows`` so far, or where that cannot be measured."""
    from mmo_rl.report.judging import agreement

    least = judge.min_agreement
    if least is None or is_oracle(judge):
        return
    found = agreement(rows, "oracle", seed=seed)
    if found is None and not any(row.get("oracle") is not None for row in rows):
        raise JudgeError(
            f"judge.min_agreement={least:g} asks how far the judge agrees with the oracle, and the oracle scores none"
            f" of {len(rows)} trajectories, for want of outcomes; nothing was trained",
            hint=f"derive the outcomes from recorded prices first: {outcomes_command(overrides)}; or train without the"
            f" bar: {without_bar(overrides)}",
        )
    if found is None:
        raise JudgeError(
            f"judge.min_agreement={least:g} asks how far the judge agrees with the oracle, and one of the two gave all"
            " members of every window the same score; nothing was trained",
            hint=f"the run's judgments.jsonl has both; train all the same: {without_bar(overrides)}",
        )
    if found.estimate < least:
        raise JudgeError(
            f"the judge agrees too little with the oracle: Kendall's tau-b {found.estimate:.3f}, judge.min_agreement="
            f"{least:g}; nothing was trained on these judgments",
            hint="the run's judgments.jsonl has both scores of every trajectory; choose another judge.model or"
            f" judge/template, raise judge.repeats, or train all the same: {without_bar(overrides)}",
        )


def without_bar(overrides: Sequence[str]) -> str:
    kept = [o for o in overrides if o.lstrip("+").partition("=")[0] != "judge.min_agreement"]
    return shlex.join(["mmo-rl", *kept, "judge.min_agreement=null"])
