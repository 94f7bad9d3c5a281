"""A job of a sweep runs with the very config that was checked, whatever happens to the YAML files meanwhile.

Launchers hand a worker nothing but overrides, and have it compose the config from the files again. So the overrides
carry it: Hydra keeps the text of an override as it is, and a text may bear an attribute through every pickle.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig

import mmo_rl.config.project  # noqa: F401 (a worker that unpickles a config needs the resolvers that it names)


class Carrier(str):
    """An override that also holds the whole composed config of its job."""

    __slots__ = ("config",)
    config: DictConfig


def carrying(overrides: Sequence[str], config: DictConfig) -> list[str]:
    """``overrides`` with ``config`` on the first of them; a job without overrides has nothing to carry it."""
    if not overrides:
        return []
    first = Carrier(overrides[0])
    first.config = config
    return [first, *overrides[1:]]


class CarriedConfigs(ConfigLoaderImpl):
    """Hydra's loader, but a job whose overrides carry a config gets (a copy of) that."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        for override in sweep_overrides:
            if isinstance(override, Carrier):
                return copy.deepcopy(override.config)
        return super().load_sweep_config(master_config, sweep_overrides)
