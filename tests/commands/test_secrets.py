"""Secrets are planted wherever a user keeps them, commands are run, and every byte that comes out is searched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.harness.endpoint import Endpoint, refusal
from tests.harness.project import Project
from tests.report.wandb_server import KEY as WANDB_KEY
from tests.report.wandb_server import WandbServer, serving

JUDGE_KEY, PASSWORD = "planted-judge-key-81", "planted-password-82"
LITERAL, IN_CODE = "planted-literal-83", "planted-84"
SECRETS = (JUDGE_KEY, PASSWORD, LITERAL, IN_CODE, WANDB_KEY)
GIT = {f"GIT_{who}_{what}": "x@y.z" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@pytest.fixture
def wandb() -> Iterator[WandbServer]:
    with serving() as server:
        yield server


@pytest.fixture
def project(babylon_url: str, wandb: WandbServer, tmp_path: Path) -> Project:
    """A project under git, with a secret in its uncommitted changes and others around it."""
    url = urlsplit(babylon_url)
    user, _, host = url.netloc.rpartition("@")
    dsn = urlunsplit(url._replace(netloc=f"{user.partition(':')[0] or 'postgres'}:{PASSWORD}@{host}"))
    (tmp_path / "notes.py").write_text("token = None\n")
    (tmp_path / ".gitignore").write_text("runs/\nhome/\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, env={**os.environ, **GIT})
    (tmp_path / "notes.py").write_text(f'token = "{IN_CODE}"\n')
    return Project.at(
        tmp_path,
        DATABASE_URL=dsn,
        OPENAI_API_KEY=JUDGE_KEY,
        WANDB_API_KEY=WANDB_KEY,
        WANDB_BASE_URL=wandb.url,
        HYDRA_FULL_ERROR="1",  # tracebacks, too, go to the terminal
        HOME=str(tmp_path / "home"),
    )


def leaks(root: Path, *texts: str | bytes) -> list[str]:
    """Where a planted secret is found: files below ``root`` but the planted one and git's own, or given texts."""
    found = []
    for path in (p for p in root.rglob("*") if p.is_file() and p.name != "notes.py" and ".git" not in p.parts):
        found += [f"{path}: {secret}" for secret in SECRETS if secret.encode() in path.read_bytes()]
        found += [f"name of {path}" for secret in SECRETS if secret in str(path)]
    for text in texts:
        data = text.encode() if isinstance(text, str) else text
        found += [f"{data[:80]!r}: {secret}" for secret in SECRETS if secret in data.decode(errors="replace")]
    return found


@pytest.mark.slow
def test_no_planted_secret_comes_out(project: Project, wandb: WandbServer, endpoint: Endpoint, tmp_path: Path) -> None:
    told = [project.run("task=migrate", "source=postgres"), project.run("task=outcomes", "source=postgres")]
    told.append(project.run("source=postgres", "judge=oracle", "trainer=export"))
    assert wandb.runs and wandb.artifacts, "the run was logged online"
    (patch,) = tmp_path.glob("runs/*/*/git.patch")
    assert 'token = "***"' in patch.read_text() or "token = ***" in patch.read_text()
    from wandb import teardown

    teardown()  # W&B's service stops only after the file of a finished run is there
    (wandb_file,) = tmp_path.glob("runs/*/*/wandb/run-*/*.wandb")
    assert wandb_file.stat().st_size > 1000

    # A judge that refuses a key tells which one, as the well-known services do in part.
    endpoint.script = lambda request, number: refusal(401, f"Incorrect API key provided: {JUDGE_KEY}")
    judge = ("judge=ruler", f"judge.base_url={endpoint.url}", "judge.model=m")
    told.append(project.run("source=postgres", *judge, "trainer=export", "name=refused", code=1))
    assert endpoint.requests[0].headers["authorization"].endswith(JUDGE_KEY), "the key was really used"
    assert "API key" in told[-1]

    # Literals on the command line.
    literal = f"postgres://game:{LITERAL}@localhost/game"
    for arguments in (
        [f"source.dsn={literal}"],
        ["-m", f"+source.dsn={literal}", "seed=0,1"],
        [f"+judge.api_key={LITERAL}"],
        [f"name={literal}"],
    ):
        told.append(project.run(*arguments, code=2))
        assert "environment variable" in told[-1]
    assert leaks(tmp_path, *told, *wandb.bodies) == []
    assert leaks(tmp_path, f"the search finds {PASSWORD}") != []
