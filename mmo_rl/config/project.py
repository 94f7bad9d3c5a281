"""Where things are and what a run is called: the project root, the shipped config folders, the job key.

The project root is the folder that holds ``runs/`` and, unless ``MMO_RL_HOME`` says otherwise, ``.mmo_rl/``:

1. ``MMO_RL_ROOT``, where it is set;
2. else the nearest folder at or above the working directory whose ``experiments/`` holds a YAML file;
3. else the working directory.

So a checkout is found from any of its sub-folders, and an installed ``mmo-rl``, wheel or editable, works in any folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mmo_rl.config.machine import jobs_at_once

PACKAGE = Path(__file__).resolve().parent.parent


def project_root() -> Path:
    """The folder that ``runs/`` and ``.mmo_rl/`` are made in; see this module's rules."""
    override = os.environ.get("MMO_RL_ROOT")
    if override:
        return Path(override).expanduser().resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if any((folder / "experiments").glob("*.yaml")):
            return folder
    return here


def home() -> Path:
    """Where local data lives (embedded server, caches): ``MMO_RL_HOME`` or ``.mmo_rl`` in the project root."""
    override = os.environ.get("MMO_RL_HOME")
    return Path(override).expanduser().resolve() if override else project_root() / ".mmo_rl"


def shipped(folder: str) -> Path:
    """``conf`` or ``experiments``: inside the package where a wheel put it, else beside it in the checkout."""
    packaged = PACKAGE / folder
    return packaged if packaged.is_dir() else PACKAGE.parent / folder


def job_key(overrides: Sequence[str]) -> str:
    """Ten hex digits that stand for the overrides, whatever their order and quoting; the default task adds nothing.

    The last of several overrides of one key counts, as it does in Hydra.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values: dict[str, str] = {}
    for override in parsed:
        key = f"{override.key_or_group}@{override.package or ''}"
        values[key] = "~" if override.is_delete() else json.dumps(override.value(), sort_keys=True, default=str)
    if values.get("task@") == '"train"':
        del values["task@"]
    return hashlib.blake2b(json.dumps(sorted(values.items())).encode(), digest_size=5).hexdigest()


def register_resolvers() -> None:
    """``${mmo_rl.root:}``, ``${mmo_rl.home:}``, ``${mmo_rl.job_key:${hydra.overrides.task}}`` and ``${mmo_rl.jobs:GB}``
    for the YAML files."""
    OmegaConf.register_new_resolver("mmo_rl.root", lambda: str(project_root()), replace=True)
    OmegaConf.register_new_resolver("mmo_rl.home", lambda: str(home()), replace=True)
    OmegaConf.register_new_resolver("mmo_rl.job_key", lambda overrides: job_key(overrides), replace=True)
    OmegaConf.register_new_resolver("mmo_rl.jobs", lambda gigabytes: jobs_at_once(gigabytes), replace=True)


register_resolvers()
