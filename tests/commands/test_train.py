"""The whole loop on real parts: embedded server, shipped model, ART, offline W&B. Each run is a process of its own."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.database.database import Database

SMALL = ("collect.windows=2", "collect.agents=5", "evaluate.markets=4", "evaluate.agents=2")
DESIGN_KEYS = {
    "data/": "windows_available windows_used trajectories_available trajectories_used dropout_rate",
    "judge/": "calls cache_hits unscored cost_usd",
    "train/": "gradient_steps tokens groups_skipped_zero_variance",
    "eval/": "pnl_base pnl_trained pnl_improvement_pct pnl_improvement_pct_low pnl_improvement_pct_high"
    " oracle_share_base oracle_share_trained win_rate_base win_rate_trained error_rate_base error_rate_trained",
    "eval/greedy/": "pnl_base pnl_trained win_rate_base win_rate_trained error_rate_base error_rate_trained",
    "time/": "select_s judge_s train_s evaluate_s total_s",
}


@dataclass
class Place:
    """A project folder of its own, with its own embedded server."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MMO_RL_", "DATABASE_"))}
        return kept | {"MMO_RL_ROOT": str(self.root), "MMO_RL_HOME": str(self.root / "home"), "COLUMNS": "160"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "mmo_rl", *arguments],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, out + err
        return out + err

    def folder(self) -> Path:
        (found,) = [p.parent for p in self.root.glob("runs/*/*/status.json")]
        return found

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.folder() / "summary.json").read_text())
        return summary


@pytest.fixture
def place() -> Iterator[Callable[[], Place]]:
    made: list[Path] = []

    def make() -> Place:
        root = Path(tempfile.mkdtemp(prefix="mmo_rl-run-"))
        root.chmod(0o755)  # as root the server runs as another user, which has to pass through
        made.append(root)
        return Place(root)

    yield make
    for root in made:
        shutil.rmtree(root)


async def rows(place: Place, query: str) -> list[dict[str, Any]]:
    async with (
        Database(dsn_env=None, home=place.root / "home") as database,
        database.acquire() as connection,
    ):
        return [dict(row) for row in await connection.fetch(query)]


async def test_the_loop_from_play_to_report_and_nothing_is_done_twice(place: Callable[[], Place]) -> None:
    here = place()
    out = here.run("iterations=2", *SMALL)
    folder = here.folder()
    assert str(folder / "report.html") in out and "Same 4 held-out markets" in out
    summary = here.summary()
    assert {level + key for level, keys in DESIGN_KEYS.items() for key in keys.split()} <= set(summary)
    assert summary["data/windows_used"] == 4 and summary["data/trajectories_used"] == 20
    assert summary["train/gradient_steps"] > 0 and summary["train/tokens"] > 0
    planned = json.loads((folder / "plan.json").read_text())
    assert planned["data/windows_used"] == 4 and planned["data/trajectories_used"] == 20
    assert planned["judge/calls"] == summary["judge/calls"] == 0
    # However much of what is selected still differs in reward, as much is selected as was planned.
    assert summary["train/tokens_selected"] == pytest.approx(planned["train/tokens_selected"], rel=0.05)
    assert 0 < summary["train/tokens"] <= summary["train/tokens_selected"]
    assert 0 < planned["train/tokens"] <= planned["train/tokens_selected"]
    assert [json.loads(r)["iteration"] for r in (folder / "metrics.jsonl").read_text().splitlines()] == [0, 1]
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    assert json.loads((folder / "provenance.json").read_text())["data"]["trajectories"] == 20
    assert len(list(folder.glob("wandb/**/offline-run-*/run-*.wandb"))) == 1
    judged = [json.loads(line) for line in (folder / "judgments.jsonl").read_text().splitlines()]
    assert len(judged) == 20 and all(0 <= j["score"] <= 1 for j in judged)

    models = await rows(here, 'select status, version, "wandbRunId" from trained_models order by version')
    assert [m["status"] for m in models] == ["ready", "ready"]
    assert {m["wandbRunId"] for m in models} == {(folder / "run-id.txt").read_text().strip()}
    assert [b["status"] for b in await rows(here, "select status from training_batches")] == ["completed"] * 2
    (used,) = await rows(
        here,
        'select count(*) n, count(*) filter (where "usedInTraining") used, count(distinct "windowId") w'
        " from trajectories",
    )
    assert used == {"n": 20, "used": 20, "w": 4}
    (calls,) = await rows(here, "select count(*) n from llm_call_logs")
    assert calls["n"] == 20 * 8
    (outcomes,) = await rows(here, 'select count(distinct "windowId") n from market_outcomes')
    assert outcomes["n"] == 4

    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    again = here.run("iterations=2", *SMALL)
    assert "finished" in again and "Same 4 held-out markets" in again
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before
    assert "READY" in here.run("task=check")


def without_times(summary: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in summary.items() if not k.startswith("time/")}


async def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(place: Callable[[], Place]) -> None:
    command = ("iterations=3", "sampler.target_trajectories=8", *SMALL)
    whole, broken = place(), place()
    whole.run(*command)
    process = broken.start(*command)
    deadline = time.monotonic() + 240
    while not (list(broken.root.glob("runs/*/*/checkpoints.jsonl")) or process.poll() is not None):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    broken.run(*command)
    assert without_times(broken.summary()) == without_times(whole.summary())
    assert [json.loads(r)["iteration"] for r in (broken.folder() / "metrics.jsonl").read_text().splitlines()] == [
        0,
        1,
        2,
    ]
    assert whole.summary()["data/dropout_rate"] > 0
    # The ids differ in the part that belongs to one run folder alone, and in nothing else.
    recorded = (
        """select regexp_replace("trajectoryId", '-[0-9a-f]{6}-w', '-w') id, "finalPnL" from trajectories order by 1"""
    )
    assert await rows(broken, recorded) == await rows(whole, recorded)
    fingerprints = [json.loads((p.folder() / "provenance.json").read_text())["data"] for p in (broken, whole)]
    assert fingerprints[0] == fingerprints[1]


async def test_a_run_whose_folder_was_deleted_is_a_new_run_with_the_same_numbers(place: Callable[[], Place]) -> None:
    """What the earlier run recorded is neither trained on again nor lost."""
    here = place()
    command = ("iterations=2", "sampler.target_trajectories=8", "report=local", *SMALL)
    here.run(*command)
    first = without_times(here.summary())
    shutil.rmtree(here.root / "runs")
    here.run(*command)
    assert without_times(here.summary()) == first
    assert first["data/windows_used"] == 4
    counted = await rows(here, 'select count(distinct "windowId") w, count(distinct "scenarioId") s from trajectories')
    assert counted == [{"w": 8, "s": 2}]
    batches = await rows(here, "select status, count(*) n from training_batches group by 1")
    assert batches == [{"status": "completed", "n": 4}]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("sampler.min_agents=9", "sampler.min_agents=9"),
        ("source=jsonl source.path=nowhere.jsonl", "collect=none"),
    ],
)
async def test_play_that_could_not_be_trained_on_is_never_played(
    place: Callable[[], Place], wrong: str, said: str
) -> None:
    here = place()
    out = here.run("report=local", *wrong.split(), code=2)
    assert said in out and "Traceback" not in out
    assert not (here.root / "home" / "postgres").exists()


async def test_recorded_play_of_scripts_can_be_trained_on(place: Callable[[], Place]) -> None:
    here = place()
    out = here.run(
        "task=collect", "collect.windows=3", "collect.agents=5", "collect.strategies=[balanced,momentum,aggressive]"
    )
    assert "3 windows, 15 trajectories" in out and "balanced-00" in out
    here.run("collect=none", "iterations=5", "evaluate=none", "report=local", "sampler.max_windows=2")
    summary = here.summary()
    assert summary["data/windows_used"] == 3  # the third iteration finds none left
    assert summary["train/iterations"] == 2
    assert summary["eval/pnl_base"] is None
    metrics = json.loads((here.folder() / "metrics.jsonl").read_text().splitlines()[0])
    assert metrics["train/unknown_logprobs_share"] == 1.0 and metrics["train/kl"] < 0.1


async def test_no_window_is_an_error_that_says_what_to_type(place: Callable[[], Place]) -> None:
    out = place().run("collect=none", "evaluate=none", "report=local", code=1)
    assert "no window has been recorded" in out and "mmo-rl task=collect" in out and "Traceback" not in out


class _Judge(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that prefers the trajectory whose id sorts first."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = "\n".join(str(m["content"]) for m in body["messages"])

        ids = sorted(set(re.findall(r'^<trajectory[^>]*\bid="([^"]+)"', text, re.MULTILINE)))
        scores = [
            {"trajectory_id": i, "explanation": "by order", "score": round(1 - n / max(1, len(ids)), 3)}
            for n, i in enumerate(ids)
        ]
        message = {"role": "assistant", "content": json.dumps({"scores": scores})}
        answer = json.dumps(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def judge_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Judge)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


async def test_ruler_judges_the_loop_over_http(place: Callable[[], Place], judge_url: str) -> None:
    here = place()
    ruler = ("judge=ruler", "judge.model=judge-1", f"judge.base_url={judge_url}", "judge.api_key_env=null")
    here.run("iterations=1", "report=local", *ruler, *SMALL)
    summary = here.summary()
    assert summary["judge/calls"] == 2 and summary["judge/unscored"] == 0
    assert summary["judge/prompt_tokens"] == 200
    assert summary["train/gradient_steps"] > 0
    planned = json.loads((here.folder() / "plan.json").read_text())
    assert planned["judge/calls"] == 2 and planned["data/trajectories_used"] == 10
    assert "The plan and what was spent" in (here.folder() / "report.html").read_text()


def test_weights_that_cannot_be_had_are_missed_before_anything_is_played(place: Callable[[], Place]) -> None:
    here = place()
    told = here.run("model=qwen2_5_3b", "model.path=nowhere", "report=local", *SMALL, code=1)
    assert "model.path=nowhere is not there" in told
    assert not (here.root / "home" / "postgres").exists()


async def test_a_judge_that_is_down_ends_the_run_at_once(place: Callable[[], Place]) -> None:
    here = place()
    out = here.run(
        "iterations=1",
        "report=local",
        "judge=ruler",
        "judge.base_url=http://127.0.0.1:9/v1",
        "judge.api_key_env=null",
        *SMALL,
        code=1,
    )
    assert "127.0.0.1:9" in out and "Traceback" not in out
    assert json.loads((here.folder() / "status.json").read_text())["status"] == "failed"
    assert await rows(here, "select 1 from trained_models") == []
