"""Whole runs with trainer=serverless, each a process of its own, on an install without torch, against a fake of W&B."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.database.database import Database
from tests.harness.project import Project
from tests.trainer.fake_wandb_training import KEY, Fake, serving

SMALL = ("collect.windows=2", "collect.agents=5", "evaluate.markets=2", "evaluate.agents=2", "iterations=2")
BASE_INSTALL = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "peft", "safetensors", "wandb"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from mmo_rl.__main__ import main
sys.exit(main())
"""
"""The command as it is where only the base install is there; W&B's own package is missing too, so that a run that
would report there fails."""


class Noted(threading.Event):
    """A fake's hold that tells when a job is looked at while it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = threading.Event()

    def is_set(self) -> bool:
        held = super().is_set()
        if held:
            self.looked.set()
        return held


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mmo_rl-run-") as folder:
        Path(folder).chmod(0o755)  # as root the server runs as another user, which has to pass through
        yield Path(folder)


def start(root: Path, *arguments: str, key: str | None = KEY) -> subprocess.Popen[str]:
    project = Project.at(root) if key is None else Project.at(root, WANDB_API_KEY=key)
    return project.start("trainer=serverless", "report=local", *arguments, program=("-c", BASE_INSTALL))


def ended(process: subprocess.Popen[str], *, code: int) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    assert KEY not in out + err
    return out + err


async def rows(root: Path, sql: str) -> list[Any]:
    async with Database(dsn_env=None, home=root / "home") as database, database.acquire() as connection:
        return [tuple(row) for row in await connection.fetch(sql)]


def test_without_a_key_nothing_is_started(root: Path) -> None:
    told = ended(start(root, "model=qwen3_14b", key=None), code=2)
    assert "WANDB_API_KEY is not set" in told and "trainer=local" in told and "Traceback" not in told
    assert not (root / "home" / "postgres").exists()


@pytest.mark.slow
async def test_a_run_survives_a_kill_and_a_failed_job_and_ends_with_everything_registered(root: Path) -> None:
    fake = Fake(hold=Noted())
    fake.hold.set()
    with serving(fake):
        command = ("model=qwen3_14b", f"trainer.base_url={fake.url}", "trainer.poll_s=0.05", *SMALL)
        killed = start(root, *command)
        looked = await asyncio.to_thread(fake.hold.looked.wait, 240)  # type: ignore[attr-defined]
        killed.send_signal(signal.SIGKILL)
        told = killed.communicate()
        assert looked, told
        fake.fail = "out of memory on the trainer"
        fake.hold.clear()
        failed = ended(start(root, *command), code=1)
        assert "training job job-1 of iteration 0 failed: out of memory on the trainer" in failed
        assert "Traceback" not in failed and len(fake.jobs) == 1, "the killed run's job was followed"
        assert await rows(root, "select status from training_batches") == [("failed",)]
        fake.fail = None
        ended(start(root, *command), code=0)
        played = {chat["model"].rpartition(":")[2] for chat in fake.chats}
        (model,) = fake.models.values()
    assert len(fake.jobs) == 3 and played == {"step0", "step1", "step2"}
    (folder,) = [p.parent for p in root.glob("runs/*/*/status.json")]
    history = [json.loads(line) for line in (folder / "checkpoints.jsonl").read_text().splitlines()]
    name = f"wandb-artifact:///team/mmo-rl/{model['name']}"
    assert [row["trained"]["policy"]["path"] for row in history] == [f"{name}:step1", f"{name}:step2"]
    assert await rows(root, "select status from training_batches") == [("completed",)] * 2
    stored = 'select version, "storagePath", status from trained_models order by version'
    assert await rows(root, stored) == [("1", f"{name}:step1", "ready"), ("2", f"{name}:step2", "ready")]
    used = await rows(root, 'select count(*) from trajectories where "usedInTraining"')
    assert used == [(20,)]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["train/gradient_steps"] == 8 and summary["train/tokens"] > 0
    assert summary["eval/pnl_trained"] is not None and summary["eval/greedy/pnl_base"] is not None
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    assert KEY not in "".join(p.read_text() for p in folder.rglob("*") if p.is_file())
