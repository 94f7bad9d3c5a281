from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.report.provenance import data_fingerprint, resolved_config_sha256, write_provenance
from mmo_rl.report.run_folder import RunFolder

SECRET = "sesame-open-7731"


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, "-C", str(root), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "-q")
    (root / "code.py").write_text("x = 1\n")
    (root / "uv.lock").write_text("locked\n")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root


def write(folder: RunFolder, root: Path, argv: list[str] | None = None) -> dict[str, object]:
    write_provenance(folder, project_root=root, argv=argv or ["mmo-rl"], config={"seed": 0}, seeds={"run": 0})
    return json.loads((folder.path / "provenance.json").read_text())


def test_a_clean_tree_is_its_commit(project: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    found = write(folder, project)
    assert found["git"] == {
        "commit": git(project, "rev-parse", "HEAD"),
        "dirty": False,
        "untracked": [],
        "untracked_count": 0,
    }
    assert found["seeds"] == {"run": 0}
    assert found["lock_sha256"] == {"uv.lock": hashlib.sha256(b"locked\n").hexdigest()}
    assert found["config_sha256"] == resolved_config_sha256({"seed": 0})
    assert "numpy" in found["packages"]
    assert not (folder.path / "git.patch").exists()


def test_the_patch_of_a_dirty_tree_brings_the_code_back(project: Path, tmp_path: Path) -> None:
    (project / "code.py").write_text("x = 2\n")
    (project / "new.py").write_text("")
    folder = RunFolder(tmp_path / "run")
    found = write(folder, project)
    state = found["git"]
    assert isinstance(state, dict)
    assert (state["dirty"], state["untracked"], state["patch_masked"]) == (True, ["new.py"], False)
    git(project, "checkout", "-q", "code.py")
    git(project, "apply", str(folder.path / "git.patch"))
    assert (project / "code.py").read_text() == "x = 2\n"


def test_secrets_reach_no_file(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", SECRET)
    monkeypatch.setenv("DATABASE_URL", "postgres://u:hunter22@h/db")
    (project / "code.py").write_text(
        f"token = '{SECRET}'\ndsn = 'postgres://u:hunter22@h/db'\npassword = 'tr0ub4dor'\n"
    )
    (project / f"{SECRET}.txt").write_text("")
    folder = RunFolder(tmp_path / "run")
    found = write(
        folder, project, ["mmo-rl", "judge.api_key=abc123", "source.dsn=host=h password=pw77", "--token", "tok88"]
    )
    assert found["argv"] == ["mmo-rl", "judge.api_key=***", "source.dsn=*** password=***", "--token", "***"]
    state = found["git"]
    assert isinstance(state, dict)
    assert state["patch_masked"] is True
    written = sorted(path.name for path in folder.path.iterdir())
    assert written == ["git.patch", "provenance.json"]
    for path in folder.path.iterdir():
        for secret in (SECRET, "hunter22", "tr0ub4dor", "abc123", "pw77", "tok88"):
            assert secret not in path.read_text(), path


def test_outside_git_and_without_git_the_rest_is_written(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = write(RunFolder(tmp_path / "run"), tmp_path)
    assert "not a git repository" in str(found["git"])
    assert found["lock_sha256"] == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert write(RunFolder(tmp_path / "run"), project)["git"] == {"unavailable": "git is not installed"}


def test_a_repository_without_a_commit_is_no_error(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert write(RunFolder(tmp_path / "run"), tmp_path)["git"] == {"unavailable": "no commit yet"}


def test_fingerprints_depend_on_values_and_on_order_only_where_it_matters() -> None:
    assert resolved_config_sha256({"a": 1, "b": [1, 2]}) == resolved_config_sha256({"b": [1, 2], "a": 1})
    assert resolved_config_sha256({"a": 1}) != resolved_config_sha256({"a": 2})
    assert data_fingerprint(["t1", "t2"], schema="3") == {
        "trajectories": 2,
        "ids_sha256": hashlib.sha256(b"t1\nt2").hexdigest(),
        "schema": "3",
    }
    assert data_fingerprint(["t2", "t1"])["ids_sha256"] != data_fingerprint(["t1", "t2"])["ids_sha256"]


def test_installed_packages_are_read_once_a_process(project: Path, tmp_path: Path, monkeypatch: Any) -> None:
    first = write(RunFolder(tmp_path / "run"), project)["packages"]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: pytest.fail("every job would pay for it again"))
    assert write(RunFolder(tmp_path / "next"), project)["packages"] == first
