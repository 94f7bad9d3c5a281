from __future__ import annotations

import json
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from mmo_rl.errors import ConfigError, MmoRlError
from mmo_rl.report.run_folder import RunFolder

HOLDER = """
import sys
from pathlib import Path
from mmo_rl.report.run_folder import RunFolder

folder = RunFolder(Path(sys.argv[1]))
with folder.locked():
    folder.set_status("running")
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """A process that has taken the folder and keeps it until it is killed or its stdin closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_holds_the_folder_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "job")
    with hold(folder.path) as process:
        with pytest.raises(ConfigError, match=f"in use by pid {process.pid}"), folder.locked():
            pass
        assert (folder.status() or {})["status"] == "running"
        process.kill()
    status = folder.status()
    assert status is not None
    assert (status["status"], status["error"]) == ("interrupted", "the process was killed")
    with folder.locked():
        folder.set_status("running")
        assert (folder.status() or {})["status"] == "running"


def test_the_same_process_cannot_take_a_folder_twice(tmp_path: Path) -> None:
    with RunFolder(tmp_path).locked(), pytest.raises(ConfigError, match="in use"), RunFolder(tmp_path).locked():
        pass
    with RunFolder(tmp_path).locked():
        pass


def test_status_tells_when_where_and_why(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.status() is None
    with folder.locked():
        folder.set_status("running", config_sha256="ab")
        running = folder.status()
        folder.set_status("failed", error="no route to postgres://u:hunter22@h/db")
    failed = folder.status()
    assert running is not None
    assert failed is not None
    assert failed["error"] == "no route to postgres://u:***@h/db"
    assert failed["config_sha256"] == "ab"
    assert failed["started"] == running["started"]
    started, ended = datetime.fromisoformat(failed["started"]), datetime.fromisoformat(failed["ended"])
    assert started.tzinfo == UTC
    assert started <= ended
    assert running["ended"] is None
    with folder.locked():
        folder.set_status("running")
        again = folder.status()
    assert again is not None
    assert (again["error"], again["ended"], again.get("config_sha256")) == (None, None, None)


def test_rows_come_back_and_a_torn_line_is_repaired_by_the_next_append(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read("metrics") == []
    folder.append("metrics", {"iteration": 0, "note": "a\nb\u2028c"}, {"iteration": 1})
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"iteration": 2, "x": ')
    assert [row["iteration"] for row in folder.read("metrics")] == [0, 1]
    folder.append("metrics", {"iteration": 2})
    assert [row["iteration"] for row in folder.read("metrics")] == [0, 1, 2]
    assert folder.read("metrics")[0]["note"] == "a\nb\u2028c"


def test_a_file_that_is_all_torn_is_repaired(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"iter')
    assert folder.read("metrics") == []
    folder.append("metrics", {"iteration": 0})
    assert folder.read("metrics") == [{"iteration": 0}]


def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"iteration": 0}\n{"iter\n{"iteration": 2}\n')
    with pytest.raises(MmoRlError, match="line 2 is not JSON"):
        RunFolder(tmp_path).read("metrics")


def test_a_resumed_run_has_each_iteration_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append("metrics", *({"iteration": i} for i in range(5)), {"note": "no iteration"})
    folder.truncate_after("metrics", 2)
    folder.append("metrics", {"iteration": 3})
    assert [row.get("iteration") for row in folder.read("metrics")] == [0, 1, 2, None, 3]
    folder.truncate_after("metrics", -1)
    assert folder.read("metrics") == [{"note": "no iteration"}]
    folder.truncate_after("judgments", 0)
    assert folder.read("judgments") == []


def test_nan_and_infinity_never_enter_json(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append("metrics", {"a": float("nan"), "b": np.float32("inf"), "c": np.int64(3), "d": [float("-inf"), 0.0]})
    folder.write_summary({"a": float("nan"), "b": np.float64(1.5), "c": None})
    assert folder.read("metrics") == [{"a": None, "b": None, "c": 3, "d": [None, 0.0]}]
    assert folder.summary() == {"a": None, "b": 1.5, "c": None}
    for path in tmp_path.glob("*.json*"):
        assert "NaN" not in path.read_text()
        assert "Infinity" not in path.read_text()


def test_documents_come_back_masked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.summary() is None
    assert folder.config() is None
    assert folder.overrides() == []
    folder.write_config({"seed": 0, "source": {"dsn": "postgres://u:hunter22@h/db"}, "span": (1, 2), "when": tmp_path})
    folder.write_overrides(["seed=0", "judge.api_key=abcd"])
    assert folder.config() == {"seed": 0, "source": {"dsn": "***"}, "span": [1, 2], "when": str(tmp_path)}
    assert folder.overrides() == ["seed=0", "judge.api_key=***"]


def test_a_replaced_file_is_whole_or_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.write_summary({"a": 1})

    def fail(*_: object) -> None:
        raise OSError("disk is gone")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk is gone"):
        folder.write_summary({"a": 2})
    monkeypatch.undo()
    assert json.loads((tmp_path / "summary.json").read_text()) == {"a": 1}


def test_a_full_disk_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_summary({"a": 1})
    folder.append("metrics", {"iteration": 0})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        for write in (folder.write_summary, lambda row: folder.append("metrics", row)):
            with pytest.raises(OSError, match="File too large"):
                write({"iteration": 1, "a": "x" * 2000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert folder.summary() == {"a": 1} and folder.read("metrics") == [{"iteration": 0}]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "summary.json"]
    folder.append("metrics", {"iteration": 1})
    assert folder.read("metrics") == [{"iteration": 0}, {"iteration": 1}]


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        RunFolder(tmp_path / "file" / "job").append("metrics", {"iteration": 0})
