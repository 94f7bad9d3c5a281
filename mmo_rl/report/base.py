"""Protocol of reports: the receivers of a run's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mmo_rl.report.run_folder import JudgmentRow, RunFolder
from mmo_rl.types import Parts, ScoredGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportParts(Parts):
    """Collaborators of a report: the ``folder`` of the run."""

    folder: RunFolder


class Report(Protocol):
    """Takes a run's numbers as they come; closed in ``finally``, whatever happened.

    Metric names are flat with ``/`` between levels and units at the end (``time/judge_s``). Missing values are left
    out, never written as 0.
    """

    @property
    def tracking_id(self) -> str | None:
        """The run's id in an experiment tracker; None where there is none."""
        ...

    def start(self, config: Mapping[str, object]) -> None: ...

    def iteration(self, iteration: int, metrics: Mapping[str, float]) -> None: ...

    def judgments(
        self, iteration: int, groups: Sequence[ScoredGroup], oracle: Mapping[str, float] | None = None
    ) -> list[JudgmentRow]:
        """Keeps a row a member, beside it the ``oracle``'s score of it where there is one, and returns the rows."""
        ...

    def finish(self, summary: Mapping[str, float | int | str | None]) -> None: ...

    def close(self, *, failed: bool) -> None: ...
