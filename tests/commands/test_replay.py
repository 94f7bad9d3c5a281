"""A run is repeated from its folder, and becomes a committed experiment: real runs in a project of their own."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.commands.replay import _wait_for
from mmo_rl.report.differences import config_differences
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.terminal import Terminal
from tests.harness.database import execute
from tests.harness.project import Project

TINY = ("+experiments=mine", "seed=3", "iterations=1", "collect.agents=5", "evaluate=none", "report=local")
GIT = {f"GIT_{who}_{what}": "x@y.z" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A project under git with one experiment and one finished run of it."""
    folder = Path(tempfile.mkdtemp(prefix="mmo_rl-replay-"))
    folder.chmod(0o755)  # as root the server runs as another user, which has to pass through
    (folder / "experiments").mkdir()
    (folder / "experiments" / "mine.yaml").write_text("# @package _global_\nname: mine\ncollect:\n  windows: 2\n")
    (folder / ".gitignore").write_text("runs/\nhome/\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", *command], cwd=folder, check=True, env={**os.environ, **GIT})
    mmo_rl(folder, *TINY)
    yield folder
    shutil.rmtree(folder)


def mmo_rl(root: Path, *arguments: str, code: int = 0, **more: Any) -> str:
    return Project.at(root).run(*arguments, code=code, **more)


def recorded(root: Path) -> Path:
    (found,) = [p.parent for p in root.glob("runs/mine/*/status.json") if "." not in p.parent.name]
    return found


@pytest.mark.slow
def test_the_same_run_gives_the_same_numbers_and_what_differs_is_told(root: Path) -> None:
    folder = recorded(root)
    told = mmo_rl(root, "task=replay", f"run={folder}")
    assert "Nothing differs" in told and "numbers are equal to the last digit" in told
    again = folder.with_name(f"{folder.name}.replay")
    first, second = ((p / "checkpoints" / "0001" / "model.safetensors").read_bytes() for p in (folder, again))
    assert first == second

    experiment = root / "experiments" / "mine.yaml"
    before = experiment.read_text()
    try:
        experiment.write_text(before + "trainer:\n  learning_rate: 0.001\n")
        told = mmo_rl(root, "task=replay", f"run={folder}", "replay.check_only=true", code=1)
        assert "uncommitted changes" in told
        assert [*map(str.split, told.splitlines())].count(["trainer.learning_rate", "0.0005", "0.001"]) == 1
        shutil.rmtree(again)
        told = mmo_rl(root, "task=replay", f"run={folder}", "replay.code=recorded")
        assert "trainer.learning_rate" in told and "numbers are equal to the last digit" in told
    finally:
        experiment.write_text(before)
    rows = (folder / "metrics.jsonl").read_text()
    try:  # the replay is finished and not repeated; the recorded run has another number now
        (folder / "metrics.jsonl").write_text(re.sub(r'"train/loss": [^,]+', '"train/loss": 0.5', rows))
        told = mmo_rl(root, "task=replay", f"run={folder}", code=1)
        assert "1 of " in told and "numbers differ" in told and "iteration 1 train/loss  0.5" in told
    finally:
        (folder / "metrics.jsonl").write_text(rows)


GROWN = """
    create temporary table later as select * from trajectories;
    update later set id = id || '-later', "trajectoryId" = "trajectoryId" || '-later',
        "windowId" = to_char("windowId"::timestamp + interval '200 hours', 'YYYY-MM-DD"T"HH24:MI'),
        "startTime" = "startTime" + interval '200 hours', "endTime" = "endTime" + interval '200 hours';
    insert into trajectories select * from later
"""
"""A live game: what was played is played again, eight days later."""


def test_a_replay_sees_of_a_database_that_grew_what_the_run_saw(babylon_url: str, tmp_path: Path) -> None:
    run = Project.at(tmp_path, DATABASE_URL=babylon_url).run
    common = ("source=postgres", "judge=heuristic", "iterations=2", "report=local")
    run("task=migrate", "source=postgres")
    run("task=judge", "name=judged", *common)
    run("trainer=export", "name=exported", *common)
    asyncio.run(execute(babylon_url, GROWN))
    run("trainer=export", "name=later", *common)
    data = {p.parent.parent.name: json.loads(p.read_text())["data"] for p in tmp_path.glob("runs/*/*/provenance.json")}
    assert data["judged"] == data["exported"] and data["judged"]["until"] < data["later"]["until"]
    assert data["judged"]["ids_sha256"] != data["later"]["ids_sha256"]
    folders = {name: next((tmp_path / "runs" / name).iterdir()) for name in ("exported", "judged")}
    assert "Nothing differs" in run("task=replay", f"run={folders['exported']}", "replay.check_only=true")
    told = run("task=replay", f"run={folders['judged']}", cwd=tmp_path / "home")
    assert "Nothing differs" in told and "numbers are equal to the last digit" in told, told
    again = json.loads((tmp_path / f"{folders['judged']}.replay" / "provenance.json").read_text())
    assert again["data"] == data["judged"]
    asyncio.run(execute(babylon_url, "delete from trajectories where id not like '%-later'"))
    assert "0 trajectories in 0 windows" in run(
        "task=replay", f"run={folders['judged']}", "replay.check_only=true", code=1
    )


def test_what_cannot_be_replayed(root: Path, tmp_path: Path) -> None:
    assert "is no folder" in mmo_rl(root, "task=replay", "run=nowhere", code=2)
    folder = recorded(root)
    assert f"{folder.name} is a run of it" in mmo_rl(root, "task=replay", "run=runs/mine", code=2)
    assert "run: missing" in mmo_rl(root, "task=replay", code=2)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "overrides.yaml").write_text("- seed=3\n- judge.base_url='https://me:***@host'\n")
    assert "masked" in mmo_rl(root, "task=replay", f"run={copy}", code=2)
    status = json.loads((copy / "status.json").read_text())
    (copy / "status.json").write_text(json.dumps(status | {"status": "failed"}))
    assert "is failed" in mmo_rl(root, "task=replay", f"run={copy}", code=2)


HOLDS = """
import sys
from pathlib import Path
from mmo_rl.report.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
with folder.locked():
    folder.set_status("running")
    print("at work", flush=True)
    sys.stdin.read()
    folder.set_status("done")
"""


def test_the_run_that_a_killed_replay_left_at_work_is_waited_for(tmp_path: Path) -> None:
    again = RunFolder(tmp_path / "run.replay")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(again.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "at work\n"

        class EndsIt(Terminal):
            def print(self, *objects: Any, **more: Any) -> None:
                super().print(*objects, **more)
                process.stdin.close()  # type: ignore[union-attr]

        _wait_for(EndsIt(file=(out := io.StringIO()), width=500), again)
    assert f"at work already, as pid {process.pid}" in out.getvalue()
    assert (again.status() or {})["status"] == "done"
    _wait_for(Terminal(file=(quiet := io.StringIO())), again)
    assert quiet.getvalue() == ""


def test_an_experiment_is_written_from_a_run_and_from_a_sweep(root: Path, tmp_path: Path) -> None:
    folder = recorded(root)
    written = root / "experiments" / "kept.yaml"
    try:
        told = mmo_rl(root, "task=new_experiment", "name=kept", f"from={folder}", "new_experiment.question='Is it so?'")
        assert "mmo-rl +experiments=kept" in told
        text = written.read_text()
        assert text.startswith("# @package _global_\n# Question: Is it so?\n#   mmo-rl +experiments=kept\n# 1 run, ")
        assert "override /evaluate: none" in text and "- mine" in text
        assert "exists" in mmo_rl(root, "task=new_experiment", "name=kept", f"from={folder}", code=2)

        # A sweep: the folder of the same run twice, once with another seed.
        sweep = tmp_path / "mine"
        for number, seed in enumerate((3, 4)):
            shutil.copytree(folder, sweep / f"job{number}")
            for name in ("overrides.yaml", "config.yaml"):
                file = sweep / f"job{number}" / name
                text = file.read_text().replace("seed=3", f"seed={seed}").replace("seed: 3", f"seed: {seed}")
                file.write_text(text)
        overwrite = ("name=kept", f"from={sweep}", "new_experiment.overwrite=true")
        told = mmo_rl(root, "task=new_experiment", *overwrite)
        assert "mmo-rl -m +experiments=kept" in told and "seed: 3,4" in written.read_text()

        before = written.read_text()
        config = sweep / "job1" / "config.yaml"
        config.write_text(config.read_text().replace("iterations: 1", "iterations: 2"))
        told = mmo_rl(root, "task=new_experiment", *overwrite, code=2)
        assert "iterations was 2 and would be 1" in told and written.read_text() == before
    finally:
        written.unlink(missing_ok=True)


def test_an_experiment_needs_a_name_and_runs(root: Path) -> None:
    assert "no name" in mmo_rl(root, "task=new_experiment", f"from={recorded(root)}", code=2)
    assert "is no folder" in mmo_rl(root, "task=new_experiment", "name=x", "from=nowhere", code=2)
    assert "holds no run" in mmo_rl(root, "task=new_experiment", "name=x", "from=experiments", code=2)


def test_a_run_is_the_same_wherever_its_local_data_lies() -> None:
    there, here = (
        {"home": home, "database": {"home": home, "dsn_env": None}, "judge": {"path": f"{home}/cache"}, "seed": 0}
        for home in ("/data/.mmo_rl", "/elsewhere/with space/.mmo_rl")
    )
    assert config_differences(there, here) == []
    assert [d.subject for d in config_differences(there, {**here, "seed": 1})] == ["seed"]


def test_a_job_of_a_committed_sweep_becomes_an_experiment_that_is_none(tmp_path: Path) -> None:
    run = Project.at(tmp_path).run
    (tmp_path / "experiments").mkdir()
    grid = "# @package _global_\nname: grid\nhydra:\n  sweeper:\n    params:\n      seed: 0,1\n"
    (tmp_path / "experiments" / "grid.yaml").write_text(grid)
    sweep = tmp_path / "runs" / "grid"
    for number, choice in enumerate(("hourly", "two_hour")):
        overrides = ["+experiments=grid", f"sampler={choice}", "seed=0", "report.tags=[a,'b c']"]
        folder = RunFolder(sweep / f"job{number}")
        folder.write_overrides(overrides)
        folder.set_status("done")
        (folder.path / "config.yaml").write_text(run(*overrides, "--cfg", "job", "--resolve"))
    run("task=new_experiment", "name=one", f"from={sweep / 'job1'}")
    assert "seed: 0\n" in run("+experiments=one", "--cfg", "job")
    assert "params: null" in run("+experiments=one", "--cfg", "hydra")
    run("task=new_experiment", "name=both", f"from={sweep}")
    params = run("+experiments=both", "--cfg", "hydra").partition("params:\n")[2].splitlines()[:2]
    assert [line.strip() for line in params] == ["seed: '0'", "sampler: hourly,two_hour"]
