"""Report into the files of the run folder; every other report writes them too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmo_rl.report.base import ReportParts
from mmo_rl.report.run_folder import JudgmentRow
from mmo_rl.types import Score, ScoredGroup, Unscored

ANSWER_CHARACTERS = 4000
"""Characters of a judge's refused answer that are kept."""


class LocalReport:
    """Writes config.yaml, metrics.jsonl, judgments.jsonl and summary.json of the run's folder; uses no network."""

    def __init__(self, *, parts: ReportParts) -> None:
        self._folder = parts.folder

    @property
    def tracking_id(self) -> str | None:
        return None

    def start(self, config: Mapping[str, object]) -> None:
        self._folder.write_config(config)

    def iteration(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self._folder.append("metrics", {"iteration": iteration, **metrics})

    def judgments(
        self, iteration: int, groups: Sequence[ScoredGroup], oracle: Mapping[str, float] | None = None
    ) -> list[JudgmentRow]:
        """Appends a row a member to judgments.jsonl, and returns the rows."""
        pnl = {m.trajectory_id: m.final_pnl for group in groups for m in group.group.members}
        rows = [
            JudgmentRow(
                iteration=iteration,
                window_id=group.group.window.id,
                group_id=group.group.group_id,
                trajectory_id=trajectory_id,
                score=judgment.value if isinstance(judgment, Score) else None,
                reason=None if isinstance(judgment, Score) else judgment.reason,
                explanation=judgment.explanation if isinstance(judgment, Score) else None,
                spread=judgment.spread if isinstance(judgment, Score) else None,
                oracle=(oracle or {}).get(trajectory_id),
                pnl=pnl[trajectory_id],
            )
            for group in groups
            for trajectory_id, judgment in group.judgments.items()
        ]
        unscored = {i: j for group in groups for i, j in group.judgments.items() if isinstance(j, Unscored)}
        for row in rows:
            if (missing := unscored.get(row["trajectory_id"])) is not None and missing.answer:
                row["answer"] = missing.answer[:ANSWER_CHARACTERS]
        self._folder.append("judgments", *rows)
        return rows

    def finish(self, summary: Mapping[str, float | int | str | None]) -> None:
        self._folder.write_summary(summary)

    def close(self, *, failed: bool) -> None:
        """Does nothing: no file is open between calls."""
