"""Commands: one thin module a task, each with its ``COMMAND``."""

from __future__ import annotations

import importlib
from typing import cast

from mmo_rl.commands.base import Command
from mmo_rl.config.tasks import Options

MODULES = {"import": "import_play"}
"""Modules whose task is named by a word that Python keeps for itself."""


def command_of(task: str) -> Command[Options, object]:
    """Returns the command of a task. Its module is imported here, so that start-up costs nothing of the others."""
    module = importlib.import_module(f"mmo_rl.commands.{MODULES.get(task, task)}")
    return cast(Command[Options, object], module.COMMAND)
