"""Results of a run: its summary, its provenance, the card of exported data, and the commands that use a checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mmo_rl.command_line import command_line, override
from mmo_rl.config import extensions
from mmo_rl.config.project import project_root
from mmo_rl.config.settings import Settings, masked
from mmo_rl.errors import PolicyError
from mmo_rl.judge.findings import added, numbers
from mmo_rl.lm.model import find_checkpoint
from mmo_rl.loop.history import WARM_START, Iteration, total_usage
from mmo_rl.report.judging import quality
from mmo_rl.report.provenance import data_fingerprint, write_provenance
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.report.summary import Evaluations, Summary, build_summary
from mmo_rl.terminal import Terminal
from mmo_rl.types import JsonDict, PolicyVersion, Selection


def note_provenance(
    settings: Settings, overrides: Sequence[str], folder: RunFolder, selections: Sequence[Selection]
) -> None:
    """Writes provenance.json; the data's fingerprint covers the trajectories selected so far."""
    # A world made for this run gives its name to the ids in it; the same data are the same without it.
    world = f"{settings.name}-{folder.run_id()}-"
    ids = [i.removeprefix(world) for selection in selections for i in selection.trajectory_ids]
    until = max((s.until for s in selections if s.until is not None), default=None)
    windows = sum(len(selection.windows) for selection in selections)
    write_provenance(
        folder,
        project_root=project_root(),
        argv=["mmo-rl", *overrides],
        config=masked(settings),
        seeds={"seed": settings.seed},
        data=data_fingerprint(ids, windows=windows, until=until and f"{until:%Y-%m-%dT%H:%M}", **_chosen(settings))
        if ids
        else None,
        outside=extensions.record(),
    )


def _chosen(settings: Settings) -> dict[str, object]:
    """The choice of recorded play as a fact of the data's fingerprint; nothing where everything is read."""
    where = (settings.nodes["source"] or {}).get("where") or {}
    asked = {key: names for key, names in where.items() if names}
    return {"where": asked} if asked else {}


def add_seconds(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Wall seconds by stage, summed."""
    return {stage: sum(part.get(stage, 0.0) for part in parts) for part in parts for stage in part}


def summarize(
    settings: Settings,
    folder: RunFolder,
    history: Sequence[Iteration],
    evaluations: Evaluations,
    seconds: Mapping[str, float],
) -> Summary:
    """Computes the flat numbers of summary.json over all iterations of the run, also those before a resume."""
    seed = settings.seed
    rejected: Counter[str] = Counter()
    for iteration in history:
        rejected.update(iteration.rejected)
    # Without play of its own a run judges the windows of its warm start again, in its first iteration.
    judged = [row for row in folder.read("judgments") if row.get("iteration") != WARM_START]
    return build_summary(
        selections=[i.selection for i in history],
        rejected=rejected,
        usage=total_usage(history),
        unscored=sum(i.unscored for i in history),
        judged=quality(judged, numbers(added(i.tallies for i in history)), seed=seed),
        trained=[i.trained for i in history],
        evaluations=evaluations,
        stage_seconds={**seconds, "total": sum(seconds.values())},
        seed=seed,
    )


def tell_checkpoint(console: Terminal, overrides: Sequence[str], policy: PolicyVersion) -> None:
    """Prints the folder of the trained policy, and the commands that measure, play and serve it."""
    here = ("trainer.device", "policy.device", "policy.batch_size")
    kept = [
        o
        for o in overrides
        if (key := o.lstrip("+").partition("=")[0]).partition(".")[0] in ("model", "market") or key in here
    ]
    lines = [f"Checkpoint: {policy.path}"]
    for does, task in (
        ("measure", ["task=evaluate", override("evaluate.b", policy.path)]),
        ("play", ["task=collect", override("policy.path", policy.path)]),
        ("serve", ["task=serve", override("serve.runs", [policy.path])]),
    ):
        lines.append(f"  {does:<8} {command_line(*task, *kept)}")
    for line in lines:
        console.say(line)


def tell_checkpoint_of(console: Terminal, overrides: Sequence[str], folder: RunFolder) -> None:
    """Prints the same of a finished run, from its folder; nothing where it has no checkpoint on this machine."""
    try:
        policy = find_checkpoint(str(folder.path), name="")
    except PolicyError:
        return
    tell_checkpoint(console, overrides, policy)


def data_card(settings: Settings, overrides: Sequence[str], history: Sequence[Iteration]) -> JsonDict:
    """Describes exported training data: where they come from, what was left out, and who scored them."""
    config = masked(settings)
    ids = [i for done in history for i in done.selection.trajectory_ids]
    return {
        "experiment": settings.name,
        "command": ["mmo-rl", *overrides],
        "data": data_fingerprint(
            ids, windows=sum(len(done.selection.windows) for done in history), **_chosen(settings)
        ),
        "iterations": [
            {
                "iteration": done.iteration,
                "windows": [selected.window.id for selected in done.selection.windows],
                "trajectories_available": done.selection.available,
                "trajectories_used": done.selection.used,
                "dropout_rate": done.selection.dropout_rate,
                "dropped": done.selection.dropped,
                "excluded": dict(done.selection.excluded),
                "rejected": dict(done.rejected),
                "unscored": done.unscored,
            }
            for done in history
        ],
        "judge": config.get("judge"),
        "config": config,
    }
