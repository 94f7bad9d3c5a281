"""Reader of the runs of a W&B group, as `wandb_report` logged them, for comparisons."""

from __future__ import annotations

import json
import os
from typing import Any

from mmo_rl.errors import ConfigError, MmoRlError
from mmo_rl.report.mask import mask
from mmo_rl.report.run_folder import SummaryValue
from mmo_rl.report.runs import Run, flat_config
from mmo_rl.report.wandb_report import has_key

TIMEOUT_S = 60
ROWS = 10_000
"""Of a run's history; with more, W&B sends a sample."""
STATES = {
    "finished": "done",
    "running": "running",
    "failed": "failed",
    "crashed": "interrupted",
    "killed": "interrupted",
}
OURS = ("data/", "judge/", "train/", "eval/", "ab/", "play/", "time/")
"""What the names of our numbers begin with; W&B keeps its own beside them."""


def wandb_runs(path: str) -> list[Run]:
    """The runs of ``entity/project/group``, the oldest first.

    Raises `ConfigError` for another form of path, without a key, and where the group has no run; `MmoRlError` where
    W&B cannot be asked.
    """
    parts = path.strip("/").split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise ConfigError(
            f"compare.wandb: found {path!r}, expected entity/project/group",
            hint="for example compare.wandb=my-team/mmo-rl/window_length; the group is the run's name=...",
        )
    if not has_key():
        raise ConfigError(
            "compare.wandb: W&B has no key", hint="set WANDB_API_KEY or type `wandb login`; compare.runs needs none"
        )
    entity, project, group = parts
    import wandb
    from wandb.errors import Error as WandbError

    try:
        api = wandb.Api(timeout=TIMEOUT_S, overrides={"base_url": os.environ.get("WANDB_BASE_URL")})
        found = list(api.runs(f"{entity}/{project}", filters={"group": group}, order="+created_at", lazy=False))
        runs = [_run(one) for one in found]
    except (WandbError, ValueError, OSError) as error:
        raise MmoRlError(
            f"W&B could not be asked for {path}: {mask(str(error) or type(error).__name__)}",
            hint="is WANDB_API_KEY set, and may that key read this project? wandb login --verify checks it",
        ) from None
    if not runs:
        raise ConfigError(
            f"compare.wandb: there is no run in the group {group!r} of {entity}/{project}",
            hint="the group is the runs' name=...; offline runs get there with: wandb sync runs/NAME/*/wandb",
        )
    return runs


def _run(found: Any) -> Run:
    logged = {k: v for k, v in dict(found.config).items() if not k.startswith("_")}
    overrides = logged.pop("overrides", None)
    if not isinstance(overrides, list):  # an older version logged none: what the run is called begins with them
        overrides = str(found.name or "").split() if "=" in str(found.name) else []
    config = flat_config(logged)
    summary = {k: v for k, v in _plain(found.summary).items() if k.startswith(OURS)}
    state = STATES.get(found.state, str(found.state))
    seed = config.get("seed")
    history = found.history(samples=ROWS, pandas=False) if state == "done" and summary else []
    rows = [dict(row) for row in history if isinstance(row.get("iteration"), (int, float))]
    first = min((int(row["iteration"]) for row in rows), default=0)  # earlier versions counted from 0 there
    return Run(
        id=f"{found.group or found.project}/{found.id}",
        location=str(found.url),
        state=state,
        reason="" if state == "done" and summary else f"W&B says {found.state}" + ("" if summary else ", no summary"),
        seed=seed if isinstance(seed, int) else None,
        task=str(config.get("task", "train")),
        config=config,
        overrides=tuple(str(override) for override in overrides),
        summary=summary,
        rows=[{**row, "iteration": int(row["iteration"]) - min(first, 1)} for row in rows],
        commit=getattr(found, "commit", None),
        ended=str(getattr(found, "heartbeat_at", None) or found.created_at or ""),
    )


def _plain(summary: Any) -> dict[str, SummaryValue]:
    held = getattr(summary, "_json_dict", summary)
    return json.loads(held) if isinstance(held, str) else dict(held)
