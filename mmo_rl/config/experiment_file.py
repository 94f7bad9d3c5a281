"""Experiment files made of the overrides of runs: a command line as committed YAML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmo_rl.errors import ConfigError


def experiment(overrides: Sequence[Sequence[str]], *, name: str) -> tuple[dict[str, Any], int]:
    """Makes the content of ``experiments/<name>.yaml`` from the overrides of one run, or of all runs of a sweep;
    returns it with the number of its runs. Keys that differ between the runs become a sweep.

    Raises `ConfigError` where an override cannot be written in YAML, or where the runs are no whole grid."""
    runs = [_parsed(run) for run in overrides]
    keys = list(dict.fromkeys(key for run in runs for key in run))
    content: dict[str, Any] = {"defaults": [], "name": name}
    swept: dict[str, list[str]] = {}
    for key in keys:
        values = list(dict.fromkeys(run[key].input_line if key in run else "" for run in runs))
        if len(values) == 1:
            _place(content, next(run[key] for run in runs if key in run))
        elif "" in values:
            raise ConfigError(
                f"{key} is set in some of these runs and not in others, which no sweep can express",
                hint="give the folder of one run: from=runs/NAME/KEY",
            )
        else:
            swept[key] = list(dict.fromkeys(run[key].get_value_element_as_str() for run in runs))
    if math.prod(len(values) for values in swept.values()) != len(runs):
        raise ConfigError(
            f"the {len(runs)} runs are not all combinations of {', '.join(swept)}",
            hint="run the rest of the sweep first, or give the folder of one run: from=runs/NAME/KEY",
        )
    params: dict[str, str] | None = {key: ",".join(values) for key, values in swept.items()}
    inherited = _inherited(content["defaults"])
    if params:
        # An inherited grid is extended, so its keys that are fixed in these runs have to be written.
        fixed = {key: runs[0][key].get_value_element_as_str() for key in inherited if key in runs[0]}
        params = {**fixed, **params}
    if params or inherited:
        content["hydra"] = {"sweeper": {"params": params or None}}
    if not content["defaults"]:
        del content["defaults"]
    return content, len(runs)


def _inherited(defaults: Sequence[Any]) -> list[str]:
    """Lists the keys that the experiments among ``defaults`` sweep over."""
    from hydra import compose

    names = [name for name in defaults if isinstance(name, str)]
    if not names:
        return []
    config = compose("config", overrides=[f"+experiments=[{','.join(names)}]"], return_hydra_config=True)
    return list(config.hydra.sweeper.get("params") or {})


def _parsed(overrides: Sequence[str]) -> dict[str, Any]:
    """Parses overrides, by key, the last of each; without the run's name, which is not the experiment's."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {override.get_key_element().lstrip("+"): override for override in parsed if override.key_or_group != "name"}


def _place(content: dict[str, Any], override: Any) -> None:
    from hydra.core.global_hydra import GlobalHydra

    key, value = override.key_or_group, override.value()
    if override.is_delete():
        raise ConfigError(f"{override.input_line}: a deletion cannot be written in an experiment file")
    if key == "experiments":
        content["defaults"] = [value, *content["defaults"]]
    elif GlobalHydra.instance().config_loader().get_group_options(key):
        package = f"@{override.package}" if override.package else ""
        content["defaults"].append({f"override /{key}{package}": value})
    else:
        *parents, last = key.split(".")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value


def swept_overrides(content: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """Returns the overrides of a run that the experiment sweeps over."""
    params = content.get("hydra", {}).get("sweeper", {}).get("params") or {}
    return [override.input_line for key, override in _parsed(overrides).items() if key in params]
