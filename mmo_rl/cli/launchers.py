"""Checks of a launcher before a sweep starts: its counts, and the package that brings it."""

from __future__ import annotations

from omegaconf import DictConfig

from mmo_rl.errors import ConfigError

EXTRAS = {
    "hydra_joblib_launcher": "sweep",
    "submitit": "slurm",
    "hydra_ray_launcher": "ray",
}
"""Extra that installs a launcher's package, by the part of its class path that names the package."""

COUNTS = ("n_jobs", "timeout_min", "cpus_per_task", "tasks_per_node", "nodes", "array_parallelism")
"""Keys of the launchers' presets that are whole numbers from 1 on."""


def require_counts(launcher: DictConfig) -> None:
    """Raises `ConfigError` for a count or time of the ``launcher`` that is no whole number. The launcher itself fails
    only at its first job, which looks like a dead worker."""
    from mmo_rl.config.hints import show

    # A negative n_jobs of joblib counts processors to leave free.
    signed = "n_jobs" if "joblib" in str(launcher.get("_target_")) else None
    wrong = []
    for key in COUNTS:
        value = launcher.get(key)
        if value is not None and not (type(value) is int and (value > 0 or (key == signed and value < 0))):
            wrong.append(f"hydra.launcher.{key}: found {show(value)}, expected a whole number from 1 on")
    if wrong:
        raise ConfigError(wrong[0] if len(wrong) == 1 else "\n  ".join([f"{len(wrong)} things are wrong", *wrong]))


def launcher_missing(config: DictConfig, error: Exception) -> Exception:
    """Returns the error to raise where Hydra cannot make the launcher: the package to install, or ``error`` itself."""
    target = str(config.hydra.launcher.get("_target_"))
    choice = str(config.hydra.runtime.choices.get("hydra/launcher"))
    for part, extra in EXTRAS.items():
        if part in target:
            return ConfigError(
                f"hydra/launcher={choice} needs a package that is not installed", hint=f"pip install 'mmo-rl[{extra}]'"
            )
    return error
