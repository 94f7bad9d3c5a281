from __future__ import annotations

import json
import logging
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from mmo_rl.errors import ConfigError
from mmo_rl.report.base import ReportParts
from mmo_rl.report.local_report import LocalReport
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.report.wandb_report import WandbReport, has_key
from mmo_rl.types import Group, Score, ScoredGroup, Trajectory, Unscored, Window
from tests.harness.project import Project

SECRET = "sesame-open-7731"
START = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither the tester's W&B login nor their folders take part."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JUDGE_API_KEY", SECRET)
    yield
    import wandb

    # The service outlives a run, and reads the environment only when it starts.
    wandb.teardown()


def scored_group() -> ScoredGroup:
    members = tuple(Trajectory(f"t{i}", f"a{i}", "2025-01-01T00:00", START, START, (), None) for i in range(2))
    group = Group("g", Window("2025-01-01T00:00", START, START), members, None)
    return ScoredGroup(group, {"t0": Score("t0", 0.0, "lost"), "t1": Unscored("t1", "timeout")}, "trajectory")


def records(path: Path) -> list[Any]:
    """All records of a .wandb file: a log in 32 KiB blocks of chunks, each with checksum, length and kind."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    # A run that has finished may still be on its way to the disk; the service stops after it is there.
    wandb.teardown()
    data = path.read_bytes()
    position, pending, found = 7, b"", []
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        pending += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(pending))
            pending = b""
    return found


def only_wandb_file(folder: RunFolder) -> Path:
    (path,) = folder.path.glob("wandb/offline-run-*/*.wandb")
    return path


def history(path: Path) -> list[dict[str, Any]]:
    """The rows of iterations; the table of judgments, at the end, is a row as well."""
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]
    return [row for row in rows if not any(key.startswith("judge/judgments") for key in row)]


def ours(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """What the terminal would show: W&B's own logger does not propagate, and pytest listens to it all the same."""
    return [r.message for r in caplog.records if r.levelno >= level and r.name.startswith("mmo_rl")]


def play(report: LocalReport | WandbReport, *, iterations: int = 2, config: dict[str, Any] | None = None) -> None:
    failed = True
    try:
        report.start(config or {"seed": 0})
        for i in range(iterations):
            report.iteration(i, {"play/pnl": 1.5 * i, "train/kl": float("nan")})
            report.judgments(i, [scored_group()], {"t0": 0.25})
        report.finish({"eval/pnl_base": 2.0, "eval/pnl_improvement_pct": None})
        failed = False
    finally:
        report.close(failed=failed)


def test_local_report_writes_the_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "pilot" / "k1")
    play(LocalReport(parts=ReportParts(folder=folder)))
    assert folder.read("metrics") == [
        {"iteration": 0, "play/pnl": 0.0, "train/kl": None},
        {"iteration": 1, "play/pnl": 1.5, "train/kl": None},
    ]
    assert folder.read("judgments")[:2] == [
        {
            "iteration": 0,
            "window_id": "2025-01-01T00:00",
            "group_id": "g",
            "trajectory_id": "t0",
            "score": 0.0,
            "reason": None,
            "explanation": "lost",
            "spread": None,
            "oracle": 0.25,
            "pnl": None,
        },
        {
            "iteration": 0,
            "window_id": "2025-01-01T00:00",
            "group_id": "g",
            "trajectory_id": "t1",
            "score": None,
            "reason": "timeout",
            "explanation": None,
            "spread": None,
            "oracle": None,
            "pnl": None,
        },
    ]
    assert folder.summary() == {"eval/pnl_base": 2.0, "eval/pnl_improvement_pct": None}


def test_two_jobs_of_one_process_are_two_wandb_runs_with_their_own_rows(tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path / "pilot" / key) for key in ("k1", "k2")]
    for seed, folder in enumerate(folders):
        folder.write_overrides([f"seed={seed}", "judge.api_key=abcd"])
        play(WandbReport(parts=ReportParts(folder=folder)), iterations=2 + seed, config={"seed": seed})
    ids = set()
    for seed, folder in enumerate(folders):
        path = only_wandb_file(folder)
        rows = history(path)
        assert [row["iteration"] for row in rows] == list(range(1, 3 + seed))
        assert [row["play/pnl"] for row in rows] == [1.5 * i for i in range(2 + seed)]
        assert all("train/kl" not in row for row in rows)
        run = next(r.run for r in records(path) if r.WhichOneof("record_type") == "run")
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert (config["seed"], config["job"]) == (seed, folder.path.name)
        assert (run.run_group, run.job_type, run.display_name) == ("pilot", "train", f"seed={seed} judge.api_key=***")
        ids.add(run.run_id)
        summaries = {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for record in records(path)
            if record.WhichOneof("record_type") == "summary"
            for item in record.summary.update
        }
        assert summaries["eval/pnl_base"] == 2.0
        assert "eval/pnl_improvement_pct" not in summaries
        exits = [r.exit.exit_code for r in records(path) if r.WhichOneof("record_type") == "exit"]
        assert exits == [0]
    assert len(ids) == 2


def test_a_resumed_job_continues_its_wandb_run_and_a_fresh_folder_begins_one(tmp_path: Path) -> None:
    folder, fresh = RunFolder(tmp_path / "pilot" / "k1"), RunFolder(tmp_path / "again" / "k1")
    ids = []
    for each in (folder, folder, fresh):
        play(WandbReport(parts=ReportParts(folder=each)))
        ids.append((each.path / "run-id.txt").read_text())
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]
    assert all(i.startswith("k1-") for i in ids)


def test_no_secret_reaches_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["mmo-rl", f"judge.api_key={SECRET}", "source.dsn=postgres://u:hunter22@h/db"])
    folder = RunFolder(tmp_path / "pilot" / "k1")
    folder.write_overrides([f"judge.api_key={SECRET}"])
    play(
        WandbReport(parts=ReportParts(folder=folder)),
        config={"judge": {"api_key": "literal-key-5", "note": f"with {SECRET}"}, "dsn": "postgres://u:hunter22@h/db"},
    )
    assert history(only_wandb_file(folder))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        for secret in (SECRET, "hunter22", "literal-key-5"):
            assert secret.encode() not in content, path


def test_a_job_that_fails_in_the_middle_leaves_the_next_one_a_run_of_its_own(project: Project) -> None:
    # W&B itself logs the next run of a process into one that was left open, whatever name and config it is given.
    play = project.root / "play.jsonl"
    project.run("task=collect", "collect.windows=2", "collect.agents=4", "market.ticks=3")
    project.run("task=dump", f"dump.output={play}")
    offline = ("name=two", "report.mode=offline", "source=jsonl", "collect=none", "evaluate=none", "iterations=1",
               "sampler.min_agents=2", "sampler.min_actions=1")  # fmt: skip
    told = project.run("-m", *offline, f"source.path=none.jsonl,{play}", code=1)
    assert "1 failed" in told and "1 done" in told
    ends = {}
    for folder in project.folders("two/*"):
        path = only_wandb_file(RunFolder(folder))
        found = records(path)
        run = next(r.run for r in found if r.WhichOneof("record_type") == "run")
        code = next(r.exit.exit_code for r in found if r.WhichOneof("record_type") == "exit")
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        ends[config["source.path"]] = (code, len(history(path)), config["job"] == folder.name)
    assert ends == {"none.jsonl": (1, 0, True), str(play): (0, 1, True)}


def test_decimals_of_a_database_are_numbers(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "pilot" / "k1")
    report = WandbReport(mode="offline", parts=ReportParts(folder=folder))
    report.start({"limit": Decimal("0.5")})
    report.iteration(0, {"play/pnl": Decimal("1.25"), "play/win_rate": Decimal("NaN")})  # type: ignore[dict-item]
    report.close(failed=False)
    assert folder.read("metrics") == [{"iteration": 0, "play/pnl": 1.25, "play/win_rate": None}]
    (row,) = history(only_wandb_file(folder))
    assert row["play/pnl"] == 1.25 and "play/win_rate" not in row


def test_a_failed_job_is_marked_failed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "pilot" / "k1")
    report = WandbReport(parts=ReportParts(folder=folder))
    report.start({})
    report.close(failed=True)
    report.close(failed=True)
    exits = [r.exit.exit_code for r in records(only_wandb_file(folder)) if r.WhichOneof("record_type") == "exit"]
    assert exits == [1]


def test_disabled_writes_only_the_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "pilot" / "k1")
    play(WandbReport(mode="disabled", parts=ReportParts(folder=folder)))
    assert not (folder.path / "wandb").exists()
    assert len(folder.read("metrics")) == 2


def test_one_line_says_where_the_run_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path / "pilot" / "k1")
    with caplog.at_level(logging.INFO, logger="mmo_rl"):
        play(WandbReport(parts=ReportParts(folder=folder)))
    assert ours(caplog, logging.INFO) == [f"W&B run: {only_wandb_file(folder).parent}"]
    assert capfd.readouterr() == ("", "")


def test_online_without_a_key_is_refused_before_the_run(tmp_path: Path) -> None:
    report = WandbReport(mode="online", parts=ReportParts(folder=RunFolder(tmp_path)))
    with pytest.raises(ConfigError, match=r"W&B has no key.*(\n.*)*WANDB_API_KEY"):
        report.start({})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("machine", "online"), [("api.wandb.ai", True), ("example.org", False), ("default", False)])
def test_auto_goes_online_only_where_there_is_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, online: bool
) -> None:
    login = tmp_path / "netrc"
    login.write_text(f"{'' if machine == 'default' else 'machine '}{machine} login user password {'0' * 40}\n")
    login.chmod(0o600)
    monkeypatch.setenv("NETRC", str(login))
    assert has_key() == online


def test_a_server_that_refuses_costs_one_warning_and_the_run_goes_on_offline(
    tmp_path: Path, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    httpserver.expect_request("/graphql").respond_with_data("no", status=401)
    monkeypatch.setenv("WANDB_BASE_URL", httpserver.url_for("").rstrip("/"))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    folder = RunFolder(tmp_path / "pilot" / "k1")
    with caplog.at_level(logging.INFO, logger="mmo_rl"):
        play(WandbReport(parts=ReportParts(folder=folder)))
    warnings = ours(caplog, logging.WARNING)
    assert len(warnings) == 1
    assert "could not go online" in warnings[0]
    assert "0123456789" * 4 not in warnings[0]
    assert len(folder.read("metrics")) == 2
    assert [row["iteration"] for row in history(only_wandb_file(folder))] == [1, 2]


def test_wandb_breaking_in_the_middle_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path / "pilot" / "k1")
    report = WandbReport(parts=ReportParts(folder=folder))
    report.start({})

    import wandb

    wandb.finish()  # behind the report's back: logging to a finished run raises
    for i in range(3):
        report.iteration(i, {"play/pnl": 1.0})
    report.finish({"eval/pnl_base": 1.0})
    report.close(failed=False)
    warnings = ours(caplog, logging.WARNING)
    assert len(warnings) == 1
    assert "lost an iteration" in warnings[0]
    assert len(folder.read("metrics")) == 3
    assert folder.summary() == {"eval/pnl_base": 1.0}


def test_a_run_that_only_judges_and_one_upload_that_fails_leave_the_rest_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    folder = RunFolder(tmp_path / "pilot" / "k1")
    report = WandbReport(parts=ReportParts(folder=folder))
    report.start({"task": "judge"})
    report.judgments(0, [scored_group()])
    folder.append("checkpoints", {"iteration": 0, "group_id": "w0", "usage": {}})  # as task=judge writes them
    monkeypatch.setattr(wandb, "Table", None)
    report.finish({"judge/calls": 2})
    report.close(failed=False)
    (warning,) = ours(caplog, logging.WARNING)
    assert "lost the table of judgments" in warning
    found = records(only_wandb_file(folder))
    (selection,) = (r.artifact for r in found if r.WhichOneof("record_type") == "artifact")
    assert selection.type == "dataset" and [entry.path for entry in selection.manifest.contents] == ["selection.jsonl"]
    assert [r.exit.exit_code for r in found if r.WhichOneof("record_type") == "exit"] == [0]


def test_weights_are_not_copied_for_an_offline_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "pilot" / "k1")
    report = WandbReport(parts=ReportParts(folder=folder))
    report.start({})
    weights = folder.path / "checkpoints" / "0001" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"w" * 3_000_000)
    folder.append("checkpoints", {"iteration": 0, "version": 1, "selection": {"windows": []}})
    report.finish({})
    report.close(failed=False)
    sizes = {p: p.stat().st_size for p in (folder.path / "wandb").rglob("*") if p.is_file()}
    assert sum(sizes.values()) < 500_000, sizes
    assert weights.stat().st_size == 3_000_000


def test_a_run_that_was_killed_is_whole_in_the_last_of_its_offline_folders(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "pilot" / "k1")
    started = f"""
import os, sys
from pathlib import Path
from mmo_rl.report.base import ReportParts
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.report.wandb_report import WandbReport
report = WandbReport(mode="offline", parts=ReportParts(folder=RunFolder(Path({str(folder.path)!r}))))
report.start({{"seed": 0}})
number = int(sys.argv[1])
report.iteration(number, {{"play/pnl": 1.5 * number}})
os._exit(9)
"""
    for number in (0, 1):  # the second time it dies again, and goes on with what the first one left
        ended = subprocess.run([sys.executable, "-c", started, str(number)], check=False, capture_output=True)
        assert ended.returncode == 9, ended.stderr
    report = WandbReport(mode="offline", parts=ReportParts(folder=folder))
    report.start({"seed": 0})
    report.iteration(2, {"play/pnl": 3.0})
    report.finish({"eval/pnl_base": 2.0})
    report.close(failed=False)
    kept = [(row["iteration"], row["play/pnl"]) for row in history(only_wandb_file(folder))]
    assert kept == [(1, 0.0), (2, 1.5), (3, 3.0)]
    assert len(list(folder.path.glob("wandb/superseded-offline-run-*"))) == 2


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"tags": ["x" * 65]}, "65 characters, expected 1 to 64"),
        ({"tags": ["fine", ""]}, "found '' of 0 characters"),
        ({"project": "a/b"}, "report.project: found 'a/b'"),
        ({"project": ""}, "report.project: found ''"),
        ({"project": "p" * 129}, "expected 1 to 128 characters"),
    ],
)
def test_what_wandb_would_refuse_is_refused_before_the_start(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        WandbReport.check_keys(**keys)
    WandbReport.check_keys(project="p" * 128, tags=["x" * 64])


def test_tags_of_the_environment_are_used_where_the_config_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_TAGS", "nightly,gpu")
    for number, (tags, expected) in enumerate(((["own"], ["own"]), ([], ["nightly", "gpu"]))):
        report = WandbReport(
            mode="offline", tags=tags, parts=ReportParts(folder=RunFolder(tmp_path / "p" / str(number)))
        )
        report.start({"seed": 0})
        assert sorted(report._run.tags) == sorted(expected)
        report.close(failed=False)
