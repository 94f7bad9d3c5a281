"""Configs run no code of others: not by Hydra's own keys, not by a class, not by a copied run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmo_rl.cli.hydra_keys import refuse_code
from mmo_rl.errors import ConfigError
from tests.harness.config import compose_launcher
from tests.harness.project import Project

CALLBACK = "hydra.experimental.callbacks.LogJobReturnCallback"
LOGGING = "hydra: {job_logging: {filters: {mine: {(): builtins.print}}}}"


@pytest.mark.parametrize(
    ("hydra", "told"),
    [
        (f"hydra: {{callbacks: {{mine: {{_target_: {CALLBACK}}}}}}}", "hydra.callbacks.mine would run code"),
        (LOGGING, "hydra.job_logging.filters.mine.(): found 'builtins.print'"),
        ("hydra: {hydra_logging: {handlers: {console: {class: x.Y}}}}", "hydra_logging.handlers.console.class"),
        ("hydra: {launcher: {_target_: builtins.print}}", "hydra.launcher._target_: found 'builtins.print'"),
    ],
)
@pytest.mark.parametrize("flags", [(), ("-m", "seed=0,1")], ids=["run", "sweep"])
def test_an_experiment_that_names_code_is_refused(
    project: Project, hydra: str, told: str, flags: tuple[str, ...]
) -> None:
    (project.root / "experiments").mkdir()
    (project.root / "experiments" / "copied.yaml").write_text(f"# @package _global_\n{hydra}\n")
    assert told in project.run(*flags, "+experiments=copied", "task=plan", code=2)


@pytest.mark.parametrize("choice", ["basic", "joblib", "submitit_local", "submitit_slurm"])
def test_the_shipped_launchers_and_loggings_are_plugins(choice: str) -> None:
    for logging in ("mmo_rl", "default", "disabled", "none"):
        refuse_code(compose_launcher(choice, f"hydra/job_logging={logging}", f"hydra/hydra_logging={logging}"))
    with pytest.raises(ConfigError, match="names no code"):
        refuse_code(compose_launcher(choice, "++hydra.job_logging.handlers.console.level=ext://os.environ"))


@pytest.mark.parametrize("target", ["mmo_rl.files.write_text", "mmo_rl.report.mask.mask"])
def test_a_function_of_the_package_is_no_component(project: Project, target: str) -> None:
    told = project.run("task=plan", f"++vocabulary={{_target_: {target}, path: x, text: y}}", code=2)
    assert "is no vocabulary" in told or "expected a class" in told
    assert not (project.root / "x").exists()


def test_a_copied_run_folder_decides_nothing_about_hydra(project: Project) -> None:
    folder = project.root / "runs" / "theirs" / "0123456789"
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"status": "done", "started": None}))
    (folder / "overrides.yaml").write_text("[seed=1, hydra.run.dir=elsewhere, '+hydra.callbacks.x._target_=y.Z']")
    for command in (("task=replay", f"run={folder}", "replay.check_only=true"),
                    ("task=new_experiment", "name=mine", f"from={folder}")):  # fmt: skip
        told = project.run(*command, code=2)
        assert "sets Hydra's own keys" in told and "hydra.run.dir=elsewhere, +hydra.callbacks.x._target_=y.Z" in told
    assert not Path(project.root / "experiments" / "mine.yaml").exists()
