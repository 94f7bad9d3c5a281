"""The name ``latest`` for the newest finished training, wherever a command asks for a run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmo_rl.config.project import project_root
from mmo_rl.errors import ConfigError
from mmo_rl.report.runs import list_runs

LATEST = "latest"
KEYS = ("compare.runs", "serve.runs", "evaluate.a", "evaluate.b", "policy.path", "run", "replay.run", "from")
"""Config keys whose value is a run, or a list of them."""
_WORD = re.compile(rf"(?<![^\[,= ]){LATEST}(?![^\], ])")


def with_latest(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides with the run's folder in the place of ``latest``, so that a command's run folder and what
    it records name the run itself. Raises `ConfigError` where there is no finished training."""
    if not any(_asks(override) for override in overrides):
        return list(overrides)
    newest = next((run for run in list_runs(project_root()) if run.task == "train" and run.state == "done"), None)
    if newest is None:
        raise ConfigError(
            f"latest: no training is finished under {project_root() / 'runs'}", hint="mmo-rl task=runs lists the runs"
        )
    return [_WORD.sub(str(newest.path), o) if _asks(o) else o for o in overrides]


def _asks(override: str) -> bool:
    key, equals, value = override.lstrip("+").partition("=")
    return bool(equals) and key in KEYS and _WORD.search(f"={value}") is not None
