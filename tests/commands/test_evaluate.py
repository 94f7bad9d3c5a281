"""task=evaluate as it is typed: verdict, page, JSON, what is wrong, and going on after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

from tests.harness.endpoint import Endpoint, completion, refusal
from tests.harness.project import Project

SMALL = ("task=evaluate", "report=local", "evaluate.markets=16", "evaluate.looks=2")


def folder(root: Path) -> Path:
    (found,) = (path.parent for path in root.glob("runs/*/*/summary.json"))
    return found


def test_the_better_strategy_is_told_with_its_interval_and_a_page(project: Project) -> None:
    ran = project.attempt(*SMALL, "evaluate.a=noop", "evaluate.b=informed", "evaluate.scenarios=[default,bull]")
    assert ran.code == 0, ran.err
    summary = json.loads((folder(project.root) / "summary.json").read_text())
    assert summary["ab/better"] == "B" and summary["ab/pnl_a"] == 0.0
    assert summary["ab/pnl_difference_low"] > 0 and summary["ab/scenario/bull/pnl_difference"] > 0
    (line,) = [line for line in ran.out.splitlines() if line.startswith("B better: +$")]
    page = (folder(project.root) / "report.html").read_text()
    assert line.split(":")[1].strip().replace("+", "&#43;").split("&")[0] in page and "bull" in page
    assert "http" not in page.split("<body>")[1].replace("http-equiv", "").replace("http://www.w3.org/", "")
    earned = {side: [r["pnl"] for r in project.rows("evaluations") if r["measured"] == side] for side in "ab"}
    assert len(earned["a"]) == len(earned["b"]) == summary["ab/markets"] * summary["ab/agents"]
    assert fmean(earned["b"]) - fmean(earned["a"]) == pytest.approx(summary["ab/pnl_difference"])
    again = project.attempt(*SMALL, "evaluate.a=noop", "evaluate.b=informed", "evaluate.scenarios=[default,bull]")
    assert "nothing is done again" in again.out and line in again.out


def test_the_base_does_not_differ_from_itself_and_machines_are_told_in_json(project: Project) -> None:
    command = (*SMALL, "evaluate.markets=4", "evaluate.b=base", "evaluate.format=json")
    first, again = project.attempt(*command), project.attempt(*command)
    assert first.code == 0, first.err
    told = json.loads(first.out)
    assert told == json.loads(again.out)
    assert told["verdict"].startswith("no difference shown") and told["ab/better"] is None
    assert [told[f"ab/pnl_difference{end}"] for end in ("", "_low", "_high")] == [0.0, 0.0, 0.0]
    assert told["ab/markets"] == told["ab/markets_planned"] == 4


def test_an_endpoint_against_a_strategy_and_what_was_played_is_kept(
    project: Project,
    endpoint: Endpoint,
) -> None:
    """The endpoint breaks in the second look; the same command asks for that one alone."""
    look = 8 * 8 * 2  # markets, ticks, and a seat in each of two seatings
    hold = completion('{"action":"HOLD"}')
    endpoint.script = lambda request, number: hold if number < look else refusal(400, "broken")
    command = (*SMALL, "evaluate.agents=2", f"evaluate.a=some-model@{endpoint.url}", "evaluate.b=noop")
    first = project.attempt(*command)
    assert first.code == 0, first.err
    rows = [json.loads(line) for line in (folder(project.root) / "checkpoints.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [0, 1]
    assert json.loads((folder(project.root) / "summary.json").read_text())["ab/error_rate_a"] == pytest.approx(0.5)
    run, asked = folder(project.root), len(endpoint.requests)
    (run / "summary.json").unlink()
    (run / "checkpoints.jsonl").write_text(json.dumps(rows[0]) + "\n")
    status = json.loads((run / "status.json").read_text()) | {"status": "interrupted"}
    (run / "status.json").write_text(json.dumps(status))
    endpoint.script = lambda request, number: hold
    resumed = project.attempt(*command)
    assert resumed.code == 0 and "continues" in resumed.out
    assert len(endpoint.requests) - asked == look
    assert json.loads((run / "summary.json").read_text())["ab/error_rate_a"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("evaluate.b=informd",), 2, "did you mean informed"),
        (("evaluate.b=runs",), 1, "holds no checkpoint"),
        (("evaluate.scenarios=[default,bul]",), 2, "did you mean bull"),
        (("evaluate.markets=3", "evaluate.looks=4"), 2, "a look needs two markets"),
        (("evaluate=market",), 2, "evaluate=pair"),
        (("evaluate.a=m@http://127.0.0.1:9/v1",), 1, "nobody answers"),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_is_played(
    project: Project,
    arguments: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    (project.root / "runs").mkdir()
    base = ("task=evaluate", "report=local") if arguments == ("evaluate=market",) else SMALL
    ran = project.attempt(*base, *arguments)
    assert (ran.code, told in ran.err) == (code, True), ran.err
    assert not list(project.root.glob("runs/*/*/checkpoints.jsonl"))
    assert code == 1 or not list(project.root.glob("runs/*/*")), "a wrong name leaves nothing behind"


def test_a_sweep_with_a_wrong_name_starts_nothing(project: Project) -> None:
    ran = project.attempt("-m", *SMALL, "evaluate.a=noop", "evaluate.b=informed,randm")
    assert ran.code == 2 and "did you mean random" in ran.err and "nothing was started" in ran.err
    assert not list(project.root.glob("runs/*/*"))


def test_a_warning_is_told_once(project: Project) -> None:
    markets = "evaluate.scenarios=[default,scandal]"
    ran = project.attempt(*SMALL, "evaluate.a=noop", "evaluate.b=random", markets, "market.maker=game_2025")
    assert ran.code == 0 and ran.err.count("never for training") == 1, ran.err
