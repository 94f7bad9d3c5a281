"""mmo_rl: reinforcement learning of LLM agents from recorded play in a game that never ends.

In Python, as from a notebook: ``mmo_rl.run(["judge=oracle"])`` runs a job, ``mmo_rl.load_run("runs/default/KEY")``
loads the results of one.
"""

from typing import TYPE_CHECKING

from mmo_rl.version import __version__ as __version__

if TYPE_CHECKING:
    from mmo_rl.cli.python_api import run as run
    from mmo_rl.report.frames import load_run as load_run
    from mmo_rl.report.frames import load_runs as load_runs

_HOMES = {
    "run": "mmo_rl.cli.python_api",
    "load_run": "mmo_rl.report.frames",
    "load_runs": "mmo_rl.report.frames",
}
"""Modules of the names that are imported at their first use, so that ``import mmo_rl`` costs nothing."""


def __getattr__(name: str) -> object:
    """Imports a name of the Python API."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
