"""Composed and validated configs, and the context that a command gets, without the command line."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mmo_rl.commands.base import Context
from mmo_rl.config.composition import Components, Session, compose
from mmo_rl.config.project import shipped
from mmo_rl.config.settings import Settings, validate
from mmo_rl.terminal import Terminal


def compose_config(*overrides: str) -> DictConfig:
    """Composes the config of these overrides, as Hydra does for a job."""
    loader = ConfigLoaderImpl(create_config_search_path(f"file://{shipped('conf')}"))
    config = loader.load_configuration("config", list(overrides), run_mode=RunMode.RUN)
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def compose_launcher(choice: str, *overrides: str) -> DictConfig:
    """Composes the config of a sweep with this launcher, as Hydra does for its controller."""
    loader = ConfigLoaderImpl(create_config_search_path(f"file://{shipped('conf')}"))
    typed = [f"hydra/launcher={choice}", *overrides]
    return loader.load_configuration("config", typed, run_mode=RunMode.MULTIRUN)


def compose_settings(*overrides: str) -> Settings:
    """Composes and validates the config of these overrides."""
    return validate(compose_config(*overrides))


def make_context(*overrides: str, home: Path, width: int = 80, **components: Any) -> Context:
    """Makes the context of a command without a run folder; ``components`` take the place of those that the config
    names. What it prints is kept for `printed`."""
    settings = compose_settings(f"home={home}", *overrides)
    made: Components = replace(compose(settings), **components)
    console = Terminal(file=io.StringIO(), width=width)
    return Context(settings=settings, session=Session(made), console=console, folder=None, overrides=overrides)


def printed(context: Context) -> str:
    """Everything that the command has printed so far."""
    assert isinstance(context.console.file, io.StringIO)
    return context.console.file.getvalue()
