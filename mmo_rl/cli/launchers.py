"""Checks of a launcher before a sweep starts: its counts, and the package that brings it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from mmo_rl.config.hints import show
from mmo_rl.errors import ConfigError
from mmo_rl.report.run_folder import flat

EXTRAS = {"joblib": "sweep", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}
"""Extras that install the package of a launcher, by the choice of ``hydra/launcher``."""

COUNTS = ("n_jobs", "timeout_min", "cpus_per_task", "tasks_per_node", "nodes", "array_parallelism")
"""Keys of the launchers' presets that are whole numbers from 1 on, wherever they stand."""


def require_counts(config: DictConfig) -> None:
    """Raises `ConfigError` where a count or a time of the launcher is none. The launcher itself finds out only when it
    starts its first job, and that looks as if a worker had died."""
    # To joblib a negative number of jobs is one of processors to leave free.
    signed = "n_jobs" if _choice(config) == "joblib" else None
    wrong = []
    for key in COUNTS:
        value = config.hydra.launcher.get(key)
        if value is not None and not (type(value) is int and (value > 0 or (key == signed and value < 0))):
            wrong.append(f"hydra.launcher.{key}: found {show(value)}, expected a whole number from 1 on")
    minutes, before_s = (config.hydra.launcher.get(key) for key in ("timeout_min", "signal_delay_s"))
    if not wrong and before_s is not None and minutes is not None and 60 * minutes <= before_s:
        wrong.append(
            f"hydra.launcher.timeout_min={minutes} ends each job as it starts: it is told to stop"
            f" hydra.launcher.signal_delay_s={before_s} seconds before its time is up; choose more minutes than"
            f" {before_s // 60}, or fewer seconds"
        )
    if wrong:
        raise ConfigError(wrong[0] if len(wrong) == 1 else "\n  ".join([f"{len(wrong)} things are wrong", *wrong]))


def launcher_missing(config: DictConfig, error: Exception) -> Exception:
    """Returns the error of a launcher that Hydra cannot make: the package to install, or ``error`` itself."""
    choice = _choice(config)
    if choice not in EXTRAS:
        return error
    return ConfigError(
        f"hydra/launcher={choice} needs a package that is not installed", hint=f"pip install 'mmo-rl[{EXTRAS[choice]}]'"
    )


def require_shared_database(config: DictConfig, jobs: Iterable[DictConfig]) -> None:
    """Raises `ConfigError` where jobs of several hosts would use an embedded database: its server and its socket are
    those of one host, and a second server on the same files destroys them."""
    choice = _choice(config)
    if choice == "ray" and config.hydra.launcher.ray.init.get("address") is None:
        return  # a cluster of this machine alone
    if choice not in ("submitit_slurm", "ray"):
        return
    for job in jobs:
        for group in ("source", "database"):
            node = job.get(group)
            if node is not None and "dsn_env" in node and node.dsn_env is None:
                raise ConfigError(
                    f"hydra/launcher={choice} runs jobs on several hosts, and {group}.dsn_env is null: an embedded"
                    " database, which one host alone can use",
                    hint="source=postgres database=source, with the connection string in DATABASE_URL on every host",
                )


def require_one_controller(config: DictConfig, jobs: Mapping[str, DictConfig]) -> None:
    """Raises `ConfigError` where a job, by its name, has a launcher or sweeper of its own: those of the whole sweep,
    ``config``, start it, and what its own say would be ignored."""
    for name, job in jobs.items():
        for group in ("launcher", "sweeper"):
            whole, own = (str(c.hydra.runtime.choices.get(f"hydra/{group}")) for c in (config, job))
            if whole != own:
                raise ConfigError(
                    f"{name} chooses hydra/{group}={own}, and all jobs of a sweep have one {group}",
                    hint=f"type it for the whole sweep: mmo-rl -m hydra/{group}={own} ..., or leave it out of {name};"
                    " or start each as a sweep of its own",
                )
        for node in ("launcher", "sweeper"):
            whole_keys, own_keys = (_leaves(c.hydra.get(node)) for c in (config, job))
            for key, value in own_keys.items():
                if key not in whole_keys or whole_keys[key] != value:
                    told = f"hydra.{node}.{key}={show(value)}"
                    raise ConfigError(
                        f"{name} sets {told}, and that is the whole sweep's",
                        hint=f"type it for the whole sweep: mmo-rl -m {told} ..., or leave it out of {name}",
                    )


def _leaves(node: object) -> dict[str, object]:
    """Lists the keys of a node but those that are swept over, as they are written."""
    tree = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else {}
    return {key: value for key, value in flat(tree) if key.partition(".")[0] != "params"}


def in_this_process(launcher: DictConfig) -> bool:
    """True for the launcher that runs jobs one after the other in the process of the sweep."""
    return issubclass(get_class(launcher["_target_"]), BasicLauncher)


def _choice(config: DictConfig) -> str:
    return str(config.hydra.runtime.choices.get("hydra/launcher"))
