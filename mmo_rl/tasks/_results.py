"""What a finished run says of itself: its numbers and what it was made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mmo_rl.tasks._history import Iteration, total_usage

if TYPE_CHECKING:
    from mmo_rl.config import Context
    from mmo_rl.report.run_folder import RunFolder
    from mmo_rl.report.summary import Evaluations, Summary


def note_provenance(context: Context, folder: RunFolder, history: Sequence[Iteration]) -> None:
    """What the run was made of; the data's fingerprint covers the iterations done so far."""
    from mmo_rl.cli.project import project_root
    from mmo_rl.config import masked
    from mmo_rl.report.provenance import data_fingerprint, write_provenance

    ids = [i for done in history for i in done.selection.trajectory_ids]
    write_provenance(
        folder,
        project_root=project_root(),
        argv=["mmo-rl", *context.overrides],
        config=masked(context.settings),
        seeds={"seed": context.settings.seed},
        data=data_fingerprint(ids, windows=sum(len(done.selection.windows) for done in history)) if ids else None,
    )


def add_seconds(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Wall seconds by stage, summed."""
    return {stage: sum(part.get(stage, 0.0) for part in parts) for part in parts for stage in part}


def summarize(
    context: Context, history: Sequence[Iteration], evaluations: Evaluations, seconds: Mapping[str, float]
) -> Summary:
    """The flat numbers of summary.json, over all iterations of the run, also those before a resume."""
    from mmo_rl.report.summary import build_summary

    rejected: Counter[str] = Counter()
    for iteration in history:
        rejected.update(iteration.rejected)
    return build_summary(
        selections=[i.selection for i in history],
        rejected=rejected,
        usage=total_usage(history),
        unscored=sum(i.unscored for i in history),
        trained=[i.trained for i in history],
        evaluations=evaluations,
        stage_seconds={**seconds, "total": sum(seconds.values())},
        seed=context.settings.seed,
    )
