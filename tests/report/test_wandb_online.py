"""W&B's online path, and `wandb sync` of an offline run, against a server on loopback that keeps what it gets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmo_rl.report.base import ReportParts
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.report.wandb_report import WandbReport
from mmo_rl.types import Score, ScoredGroup
from tests.report.test_reports import scored_group
from tests.report.wandb_server import KEY, WandbServer, serving

SECRET = "sesame-open-7731"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    import wandb

    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JUDGE_API_KEY", SECRET)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        wandb.teardown()  # where another test of this process used it, it would keep the address from then
        yield server
        wandb.teardown()


def run(folder: RunFolder, **options: object) -> WandbReport:
    """A finished run of two iterations whose judge quoted a secret."""
    report = WandbReport(tags=["nightly"], **options, parts=ReportParts(folder=folder))  # type: ignore[arg-type]
    report.start({"seed": 0, "task": "train", "trainer": {"learning_rate": 0.5, "note": SECRET}})
    for iteration, pnl in enumerate((30.0, 20.0)):
        report.iteration(iteration, {"play/pnl": pnl})
        group = scored_group()
        judgments = {**group.judgments, "t0": Score("t0", 0.0, f"it said {SECRET}")}
        report.judgments(iteration, [ScoredGroup(group.group, judgments, group.credit)])
        window = {"window": {"id": f"w{iteration}"}, "trajectory_ids": [f"a{iteration}", f"b{iteration}"]}
        row = {"iteration": iteration, "version": iteration + 1, "selection": {"windows": [window]}}
        folder.append("checkpoints", row)
        weights = folder.path / "checkpoints" / f"{iteration + 1:04d}"
        weights.mkdir(parents=True)
        (weights / "model.safetensors").write_bytes(b"weights" * (iteration + 1))
        (weights / "optimizer.pt").write_bytes(b"only to go on")
    report.finish({"eval/pnl_trained": 12.5})
    report.close(failed=False)
    return report


def check(server: WandbServer, name: str) -> None:
    """What a run of `run` left on the server."""
    assert server.unknown == []
    (entry,) = server.runs.values()
    assert entry["groupName"] == name and entry["jobType"] == "train" and entry["project"] == "mmo-rl"
    config = {key: value["value"] for key, value in json.loads(entry["config"]).items() if key != "_wandb"}
    assert config["trainer.learning_rate"] == 0.5 and config["trainer.note"] == "***"
    assert [(row["iteration"], row["play/pnl"]) for row in server.rows if "play/pnl" in row] == [(1, 30.0), (2, 20.0)]
    summary = server.summaries[-1]
    assert summary["play/pnl"] == {"max": 30.0, "last": 20.0} and summary["eval/pnl_trained"] == 12.5
    by_type = {artifact["type"]: name for name, artifact in server.artifacts.items() if artifact.get("committed")}
    assert set(by_type) == {"run_table", "dataset", "model"}
    uploads = {tuple(key.split("/", 2)[1:]): body for key, body in server.files.items() if key.startswith("artifact/")}
    selection = uploads[by_type["dataset"], "selection.jsonl"].splitlines()
    assert [json.loads(line)["windows"] for line in selection] == [{"w0": ["a0", "b0"]}, {"w1": ["a1", "b1"]}]
    assert {key[1]: body for key, body in uploads.items() if key[0] == by_type["model"]} == {
        "model.safetensors": b"weightsweights"
    }
    (table,) = (json.loads(body) for key, body in uploads.items() if key[0] == by_type["run_table"])
    assert table["columns"][:4] == ["iteration", "window_id", "group_id", "trajectory_id"]
    assert "explanation" not in table["columns"] and len(table["data"]) == 4
    assert not any(SECRET.encode() in body for body in server.bodies)
    assert not any(KEY.encode() in body for body in server.bodies)


def test_a_run_with_a_key_is_whole_on_the_server(server: WandbServer, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "pilot" / "k1")
    run(folder)
    check(server, "pilot")
    written = [p for p in folder.path.rglob("*") if p.is_file() and p.name != "judgments.jsonl"]
    assert not any(secret.encode() in p.read_bytes() for p in written for secret in (SECRET, KEY))


@pytest.mark.slow
def test_an_offline_run_is_whole_after_wandb_sync(server: WandbServer, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "pilot" / "k1")
    run(folder, mode="offline")
    assert server.bodies == []
    (offline,) = folder.path.glob("wandb/offline-run-*")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("wandb")), "sync", str(offline)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    check(server, "pilot")


def test_a_policy_above_the_limit_is_a_reference_and_explanations_come_when_asked_for(
    server: WandbServer, tmp_path: Path
) -> None:
    run(RunFolder(tmp_path / "pilot" / "k1"), checkpoint_limit_mb=0.0, explanations=True)
    assert not any("model.safetensors" in key for key in server.files)
    (manifest,) = (json.loads(body) for key, body in server.files.items() if key.startswith("manifest/policy"))
    assert any(str(entry.get("ref")).startswith("file://") for entry in manifest["contents"].values())
    (table,) = (json.loads(body) for key, body in server.files.items() if key.startswith("artifact/run-"))
    column = table["columns"].index("explanation")
    assert table["data"][0][column] == "it said ***"
