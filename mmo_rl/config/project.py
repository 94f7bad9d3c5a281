"""Folders and names of a run: the project root, the config folders that choices are read from, the job key.

The project root is the folder that holds ``runs/`` and, unless ``MMO_RL_HOME`` says otherwise, ``.mmo_rl/``:

1. ``MMO_RL_ROOT``, where it is set;
2. else the nearest folder at or above the working directory whose ``experiments/`` holds a YAML file, or whose
   ``conf/`` holds choices (`has_choices`);
3. else the working directory.

So a checkout is found from any of its sub-folders, and an installed ``mmo-rl``, wheel or editable, works in any folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mmo_rl.config.machine import jobs_at_once
from mmo_rl.config.recipe import from_recipe
from mmo_rl.config.renamed import former_key

PACKAGE = Path(__file__).resolve().parent.parent
CONF = "mmo_rl.conf"
"""Entry points of installed packages that bring choices: ``theirs = "their_package.conf"``."""


def project_root() -> Path:
    """The folder that ``runs/`` and ``.mmo_rl/`` are made in; see this module's rules."""
    override = os.environ.get("MMO_RL_ROOT")
    if override:
        return Path(override).expanduser().resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if any((folder / "experiments").glob("*.yaml")) or has_choices(folder / "conf"):
            return folder
    return here


def has_choices(conf: Path) -> bool:
    """True for a ``conf/`` of one's own: it has a YAML file in a folder named as one of our groups, and none at its
    top, where another Hydra application has its primary config (``conf/config.yaml``)."""
    if not conf.is_dir() or any(conf.glob("*.yaml")):
        return False
    return any(any((conf / group).rglob("*.yaml")) for group in groups())


def groups() -> list[str]:
    """The names of the shipped config groups, without Hydra's own."""
    return sorted(folder.name for folder in shipped("conf").iterdir() if folder.is_dir() and folder.name != "hydra")


def home() -> Path:
    """Folder of local data (embedded server, caches): ``MMO_RL_HOME`` or ``.mmo_rl`` in the project root."""
    override = os.environ.get("MMO_RL_HOME")
    return Path(override).expanduser().resolve() if override else project_root() / ".mmo_rl"


def shipped(folder: str) -> Path:
    """``conf`` or ``experiments``: inside the package where a wheel put it, else beside it in the checkout."""
    packaged = PACKAGE / folder
    return packaged if packaged.is_dir() else PACKAGE.parent / folder


def choice_folders() -> list[Path]:
    """The folders of choices that come before the shipped ones, first come first: ``conf/`` of the project, then those
    that installed packages register (entry points of the group ``mmo_rl.conf``, whose value names a package)."""
    own = project_root() / "conf"
    found = [own] if own != shipped("conf") and has_choices(own) else []
    for entry in registered(CONF).values():
        package, *below = entry.value.replace(":", ".").split(".")
        spec = importlib.util.find_spec(package)
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        found += [folder for place in places if (folder := Path(place, *below)).is_dir()]
    return found


def registered(group: str) -> Mapping[str, EntryPoint]:
    """The entry points of a group by name, of all packages that are installed."""
    return _entry_points(group, tuple(sys.path))


@cache
def _entry_points(group: str, _path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def hidden_choices(choices: Mapping[str, object]) -> list[str]:
    """A line for each of these choices (by group) whose file in a choice folder hides the shipped one of its name."""
    lines = []
    for group, choice in choices.items():
        path = Path(group.partition("@")[0], f"{choice}.yaml")
        own = next((folder / path for folder in choice_folders() if (folder / path).is_file()), None)
        if own is not None and (shipped("conf") / path).is_file():
            lines.append(f"{path.parent.as_posix()}={choice} is {own}, not the shipped choice of this name.")
    return lines


def searched() -> str:
    """The folders that choices and experiments are read from, for messages."""
    own = project_root()
    foreign = own / "conf" != shipped("conf") and any((own / "conf").glob("*.yaml"))
    note = " (not its conf/, which is another application's: it has YAML files at its top)" if foreign else ""
    folders = [str(f) for f in choice_folders()]
    return ", ".join([*folders, f"{own / 'experiments'}{note}", "the shipped ones"])


def job_key(overrides: Sequence[str]) -> str:
    """Ten hex digits that stand for the overrides, whatever their order and quoting; the default task adds nothing.

    The last of several overrides of one key counts, as it does in Hydra.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values: dict[str, str] = {}
    for override in parsed:
        key = f"{former_key(override.key_or_group)}@{override.package or ''}"
        values[key] = "~" if override.is_delete() else json.dumps(override.value(), sort_keys=True, default=str)
    if values.get("task@") == '"train"':
        del values["task@"]
    return hashlib.blake2b(json.dumps(sorted(values.items())).encode(), digest_size=5).hexdigest()


def register_resolvers() -> None:
    """Registers ``${mmo_rl.root:}``, ``${mmo_rl.home:}``, ``${mmo_rl.searched:}``, ``${mmo_rl.jobs:GB}``,
    ``${mmo_rl.recipe:KEY,DEFAULT}`` and ``${mmo_rl.job_key:${hydra.overrides.task}}`` for the YAML files."""
    OmegaConf.register_new_resolver("mmo_rl.root", lambda: str(project_root()), replace=True)
    OmegaConf.register_new_resolver("mmo_rl.searched", lambda: searched(), replace=True)
    OmegaConf.register_new_resolver("mmo_rl.home", lambda: str(home()), replace=True)
    OmegaConf.register_new_resolver("mmo_rl.job_key", lambda overrides: job_key(overrides), replace=True)
    OmegaConf.register_new_resolver("mmo_rl.jobs", lambda gigabytes: jobs_at_once(gigabytes), replace=True)
    OmegaConf.register_new_resolver("mmo_rl.recipe", from_recipe, replace=True)


register_resolvers()
