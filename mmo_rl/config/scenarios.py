"""Configs composed beside the run's own: the other markets that a task plays in, and the config of another run."""

from __future__ import annotations

from collections.abc import Sequence

from mmo_rl.config import extensions
from mmo_rl.config.hints import near
from mmo_rl.config.renamed import renamed_overrides
from mmo_rl.config.schema import Node
from mmo_rl.config.settings import Settings, validate
from mmo_rl.errors import ConfigError


def market_node(name: str, overrides: Sequence[str]) -> Node:
    """The validated ``market`` node of a run that was started with ``overrides`` and ``market=name``; what the
    overrides set of the market holds in each. Raises `ConfigError` where there is no such market."""
    from hydra.core.global_hydra import GlobalHydra

    loader = GlobalHydra.instance().config_loader()
    known = sorted(loader.get_group_options("market"))
    if name not in known:
        raise ConfigError(
            f"evaluate.scenarios: found {name!r}, expected some of {', '.join(known)}{near(name, known)}",
            hint=f"evaluate.scenarios=[{','.join(known)}]",
        )
    kept = [override for override in overrides if override.partition("=")[0] != "market"]
    node = composed([*kept, f"market={name}"]).nodes["market"]
    assert node is not None
    return node


def composed(overrides: Sequence[str]) -> Settings:
    """The validated settings of a run with these overrides. Raises `ConfigError` where they no longer fit."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    added = extensions.search_path_override()
    try:
        try:
            config = compose("config", overrides=[*overrides, *added])
        except HydraException:
            config = compose("config", overrides=[*renamed_overrides(overrides), *added])
        return validate(config)
    except (HydraException, OmegaConfBaseException) as error:
        from mmo_rl.config.explain import explain

        raise ConfigError(explain(error, list(overrides)).message) from None
