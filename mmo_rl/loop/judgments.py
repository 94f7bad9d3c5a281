"""Judgments of a run: their rows beside the oracle's, and the refusal to train on a judge that disagrees with it."""

from __future__ import annotations

from collections.abc import Sequence

from mmo_rl.command_line import command_line
from mmo_rl.errors import JudgeError
from mmo_rl.judge.base import Judge
from mmo_rl.judge.oracle import OracleJudge, oracle_scores
from mmo_rl.loop.refusals import outcomes_command
from mmo_rl.report.base import Report
from mmo_rl.report.judging import agreement
from mmo_rl.report.run_folder import JudgmentRow
from mmo_rl.types import ScoredGroup
from mmo_rl.vocabulary import Vocabulary
from mmo_rl.wording import counted


def keep_judgments(
    report: Report, judge: Judge, iteration: int, scored: Sequence[ScoredGroup], *, vocabulary: Vocabulary
) -> list[JudgmentRow]:
    """Writes the rows of judgments.jsonl, the oracle's score beside the judge's where the judge is another."""
    own = isinstance(judge, OracleJudge)
    oracle = {} if own else {i: v for s in scored for i, v in oracle_scores(s.group, vocabulary).items()}
    return report.judgments(iteration, scored, oracle)


def refuse_if_poor(judge: Judge, rows: Sequence[JudgmentRow], overrides: Sequence[str], *, seed: int) -> None:
    """Raises `JudgeError` where the judge agrees less with the oracle than ``judge.min_agreement`` asks for over all
    the run's ``rows`` so far, or where that cannot be measured."""
    least = judge.min_agreement
    if least is None or isinstance(judge, OracleJudge):
        return
    found = agreement(rows, "oracle", seed=seed)
    if found is None and not any(row.get("oracle") is not None for row in rows):
        raise JudgeError(
            f"judge.min_agreement={least:g} asks how far the judge agrees with the oracle, and the oracle scores none"
            f" of {counted(len(rows), 'trajectory', 'trajectories')}, for want of outcomes; nothing was trained",
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
    """The same command without the least agreement that it asks for."""
    kept = [o for o in overrides if o.lstrip("+").partition("=")[0] != "judge.min_agreement"]
    return command_line(*kept, "judge.min_agreement=null")
