"""Checks of a launcher before a sweep starts: its counts, and the package that brings it."""

from __future__ import annotations

from omegaconf import DictConfig

from mmo_rl.errors import ConfigError

EXTRAS = {
    "hydra_joblib_launcher": "sweep",
    "submitit": "slurm",
    "hydra_ray_launcher": "ray",
}
"""What is named in a launcher's class, by the extra that installs its package."""

COUNTS = ("n_jobs", "timeout_min", "cpus_per_task", "tasks_per_node", "nodes", "array_parallelism")
"""Keys of the launchers' presets that are whole numbers from 1 on, wherever they stand."""


def require_counts(launcher: DictConfig) -> None:
    """Raises `ConfigError` where a count or a time of the ``launcher`` is none. It would find out only when it starts
    its first job, and that looks as if a worker had died."""
    from mmo_rl.config.hints import show

    # To joblib a negative number of jobs is one of processors to leave free.
    signed = "n_jobs" if "joblib" in str(launcher.get("_target_")) else None
    wrong = []
    for key in COUNTS:
        value = launcher.get(key)
        if value is not None and not (type(value) is int and (value > 0 or (key == signed and value < 0))):
            wrong.append(f"hydra.launcher.{key}: found {show(value)}, expected a whole number from 1 on")
    if wrong:
        raise ConfigError(wrong[0] if len(wrong) == 1 else "\n  ".join([f"{len(wrong)} things are wrong", *wrong]))


def launcher_missing(config: DictConfig, error: Exception) -> Exception:
    """What to raise where Hydra cannot make the launcher: which package to install, or ``error`` itself."""
    target = str(config.hydra.launcher.get("_target_"))
    choice = str(config.hydra.runtime.choices.get("hydra/launcher"))
    for part, extra in EXTRAS.items():
        if part in target:
            return ConfigError(
                f"hydra/launcher={choice} needs a package that is not installed", hint=f"pip install 'mmo-rl[{extra}]'"
            )
    return error
