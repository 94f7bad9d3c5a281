"""Keys of Hydra's own node that would run code: refused in whatever file or override they stand.

A config is data: copying an experiment, or repeating somebody's run, starts nothing but what mmo-rl itself does. Hydra
would make an object of any class that ``hydra.callbacks`` or a logging config names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mmo_rl.config.hints import show
from mmo_rl.errors import ConfigError

LOGGING_CLASSES = frozenset(
    {
        "mmo_rl.cli.log_format.LineFormatter",
        "colorlog.ColoredFormatter",
        *(f"logging.{name}" for name in ("Formatter", "StreamHandler", "FileHandler", "NullHandler")),
    }
)
"""Classes that a logging config may name; Hydra's own choices use no others."""
PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.")
"""Beginnings of the paths of launchers and sweepers: those of Hydra, and those of installed packages."""


class CheckedConfigs(ConfigLoaderImpl):
    """Config loader of Hydra that refuses code in what it has composed."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        config = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        refuse_code(config)
        return config


def refuse_code(config: DictConfig) -> None:
    """Raises `ConfigError` where Hydra's node names code: callbacks, logging factories, launchers or sweepers that are
    no plugins."""
    hydra = config.get("hydra")
    if hydra is None:
        return
    if hydra.get("callbacks"):
        name = next(iter(hydra.callbacks))
        raise ConfigError(
            f"hydra.callbacks.{name} would run code, and a config never does",
            hint="take it out; code of your own is a class of a project folder (mmo-rl init), or a program around"
            " mmo_rl.run([...])",
        )
    for node in ("launcher", "sweeper"):
        target = (hydra.get(node) or {}).get("_target_")
        if target is not None and not str(target).startswith(PLUGINS):
            raise ConfigError(
                f"hydra.{node}._target_: found {show(target)}, and only Hydra's own and plugins of installed packages"
                " are run",
                hint=f"hydra/{node}=NAME chooses one: mmo-rl --help lists them",
            )
    for node in ("job_logging", "hydra_logging"):
        tree = OmegaConf.to_container(hydra[node], resolve=False) if hydra.get(node) is not None else None
        for place, named in _named(tree, f"hydra.{node}"):
            if named not in LOGGING_CLASSES:
                raise ConfigError(
                    f"{place}: found {show(named)}, and a logging config names no code but Python's own handlers",
                    hint=f"one of {', '.join(sorted(LOGGING_CLASSES))}",
                )


def _named(tree: object, place: str) -> Iterator[tuple[str, str]]:
    """The classes and factories that a logging config names, each with its place."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            here = f"{place}.{key}"
            if key in ("()", "class") and isinstance(value, str):
                yield here, value
            elif key == "()" and value is not None:
                yield here, str(value)
            elif isinstance(value, str) and value.startswith("ext://") and not value.startswith("ext://sys.std"):
                yield here, value
            else:
                yield from _named(value, here)
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from _named(value, f"{place}[{number}]")
