"""Transport of a sweep's checked configs to its workers, so that later edits of YAML files do not reach running sweeps.

Launchers hand a worker nothing but overrides, and the worker composes the config from the files again. So the first
override carries the config: Hydra keeps the text of an override as it is, and a subclass of str keeps its attributes
when it is pickled.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from omegaconf import DictConfig

import mmo_rl.config.project  # noqa: F401 (a worker that unpickles a config needs the resolvers that it names)
from mmo_rl.cli.hydra_keys import CheckedConfigs


class Carrier(str):
    """Override that also holds the whole composed config of its job."""

    __slots__ = ("config",)
    config: DictConfig


def carrying(overrides: Sequence[str], config: DictConfig) -> list[str]:
    """Attaches ``config`` to the first of the overrides; a job without overrides composes its config again."""
    if not overrides:
        return []
    first = Carrier(overrides[0])
    first.config = config
    return [first, *overrides[1:]]


class CarriedConfigs(CheckedConfigs):
    """Config loader of Hydra that returns a copy of the carried config where the overrides carry one."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        for override in sweep_overrides:
            if isinstance(override, Carrier):
                return copy.deepcopy(override.config)
        return super().load_sweep_config(master_config, sweep_overrides)
