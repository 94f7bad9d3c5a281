"""The runs of a W&B group read over the wire, from a server that answers as W&B's does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from mmo_rl.errors import ConfigError, MmoRlError
from mmo_rl.report.compared import Compared, compare_runs, estimate
from mmo_rl.report.runs import Run
from mmo_rl.report.wandb_page import config_keys, write_wandb_report
from mmo_rl.report.wandb_runs import wandb_runs

KEY = "0123456789" * 4
WHEN = "2026-01-01T00:00:00Z"


def node(
    name: str, *, seed: int, rate: float, state: str = "finished", summary: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A run as W&B's GraphQL tells it: config values are wrapped, and documents are text."""
    typed = [f"sampler.max_dropout={rate}", f"seed={seed}"]
    config = {"seed": seed, "task": "train", "sampler.max_dropout": rate, "home": f"/home/{name}", "overrides": typed}
    return {
        "id": f"id-{name}",
        "projectId": "1",
        "name": name,
        "displayName": " ".join(typed)[:16],  # a long one is cut off
        "state": state,
        "group": "dropout",
        "jobType": "train",
        "tags": [],
        "config": json.dumps({"_wandb": {"value": {}}} | {k: {"value": v, "desc": None} for k, v in config.items()}),
        "summaryMetrics": json.dumps(
            {"eval/pnl_trained": 100.0 - rate + seed, "_step": 9} if summary is None else summary
        ),
        "systemMetrics": "{}",
        "createdAt": "2026-01-01T00:00:00Z",
        "heartbeatAt": "2026-01-01T01:00:00Z",
        "commit": "abcdef1",
        "readOnly": False,
        "historyLineCount": 2,
        "user": {"name": "me", "username": "me"},
        "historyKeys": None,
        "sweepName": None,
        "description": None,
        "notes": None,
    }


@pytest.fixture
def server(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    monkeypatch.setenv("WANDB_BASE_URL", httpserver.url_for("").rstrip("/"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield httpserver
    import wandb

    wandb.teardown()


def answering(server: HTTPServer, runs: list[dict[str, Any]], *, first: int = 1) -> list[dict[str, Any]]:
    """Answers what is asked of the project; gives the list of what was asked."""
    asked: list[dict[str, Any]] = []

    def answer(request: Request) -> Response:
        body = request.get_json()
        asked.append(body)
        query, variables = body["query"], body.get("variables") or {}
        data: dict[str, Any] = {}
        if "query Runs" in query:
            group = json.loads(variables["filters"])["group"]
            edges = [{"node": run, "cursor": run["id"]} for run in runs if run["group"] == group]
            page = {"endCursor": None, "hasNextPage": False}
            data = {
                "project": {
                    "internalId": "1",
                    "runCount": len(edges),
                    "readOnly": False,
                    "runs": {"edges": edges, "pageInfo": page},
                }
            }
        elif "upsertView" in query:
            view = {
                "id": "Vmlldzox",
                "type": "runs/draft",
                "name": "n",
                "displayName": "d",
                "description": "",
                "updatedAt": WHEN,
            }
            place = {"project": {"id": "1", "name": "mmo-rl", "entityName": "team"}, "createdAt": WHEN}
            me = {"name": "me", "username": "me", "photoUrl": None}
            data = {"upsertView": {"view": {**view, **place, "user": me, "spec": variables["spec"]}, "inserted": True}}
        elif "query GetProjects" in query:
            project = {"id": "1", "internalId": "1", "name": "mmo-rl", "entityName": "team", "createdAt": WHEN}
            ours = {"node": {**project, "isBenchmark": False, "user": None, "__typename": "Project"}, "cursor": "c"}
            page = {"endCursor": None, "hasNextPage": False, "__typename": "PageInfo"}
            data = {"models": {"edges": [ours], "pageInfo": page, "__typename": "ProjectConnection"}}
        elif "query ProjectInternalId" in query:
            data = {"project": {"id": "1", "internalId": "1"}}
        elif "history" in query:
            rows = [json.dumps({"_step": i, "iteration": i + first, "play/pnl": 10.0 * i}) for i in range(2)]
            data = {"project": {"run": {"history": rows}}}
        elif "viewer" in query.lower():
            data = {
                "viewer": {
                    "id": "1",
                    "entity": "team",
                    "username": "me",
                    "email": "",
                    "flags": "{}",
                    "teams": {"edges": []},
                }
            }
        return Response(json.dumps({"data": data}), content_type="application/json")

    server.expect_request("/graphql", method="POST").respond_with_handler(answer)
    return asked


@pytest.mark.parametrize("first", [0, 1], ids=["as earlier versions counted", "as people count"])
def test_a_group_is_compared_as_its_folders_would_be(server: HTTPServer, first: int) -> None:
    runs = [node(f"r{rate}{seed}", seed=seed, rate=rate) for rate in (0.0, 0.5) for seed in (0, 1)]
    runs += [
        node("lost", seed=2, rate=0.0, state="crashed", summary={}),
        {**node("x", seed=0, rate=0.9), "group": "other"},
    ]
    asked = answering(server, runs, first=first)
    found = wandb_runs("team/mmo-rl/dropout")
    compared = compare_runs(found)
    assert compared.columns == ("sampler.max_dropout",)
    assert [(arm.values["sampler.max_dropout"], estimate(arm, "eval/pnl_trained").value) for arm in compared.arms] == [
        (0.0, 100.5),
        (0.5, 100.0),
    ]
    assert [(run.id, run.state, why) for run, why in compared.left_out] == [
        ("dropout/lost", "interrupted", "W&B says crashed, no summary")
    ]
    assert [row["iteration"] for row in compared.runs[0].rows] == [0, 1]
    assert compared.runs[0].rows[1]["play/pnl"] == 10.0
    assert compared.runs[0].overrides == ("sampler.max_dropout=0.0", "seed=0")
    assert {(q["variables"]["entity"], q["variables"]["project"]) for q in asked if "query Runs" in q["query"]} == {
        ("team", "mmo-rl")
    }


def test_an_empty_group_and_a_refusal_say_what_to_do(server: HTTPServer) -> None:
    answering(server, [])
    with pytest.raises(ConfigError, match="no run in the group 'nothing' of team/mmo-rl"):
        wandb_runs("team/mmo-rl/nothing")
    server.clear()
    server.expect_request("/graphql").respond_with_data("no", status=401)
    with pytest.raises(MmoRlError, match="W&B could not be asked") as error:
        wandb_runs("team/mmo-rl/dropout")
    assert KEY not in str(error.value)


def test_without_a_key_nobody_is_asked_to_type_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match="W&B has no key"):
        wandb_runs("team/mmo-rl/dropout")


@pytest.mark.parametrize("path", ["mmo-rl", "team/mmo-rl", "team//dropout", ""])
def test_another_form_of_path_is_refused_before_anything_is_asked(path: str) -> None:
    with pytest.raises(ConfigError, match="expected entity/project/group"):
        wandb_runs(path)


def group() -> Compared:
    config = {"name": "dropout", "task": "train"}
    return compare_runs(
        [
            Run(
                id=f"dropout/{rate}{seed}",
                location="/x",
                state="done",
                seed=seed,
                config={**config, "sampler.max_dropout": rate},
                summary={"eval/pnl_trained": 100.0 - 50 * rate + seed * (1 + rate), "train/tokens": 1000 - 500 * rate},
                rows=[{"iteration": 0, "play/pnl": 1.0}],
            )
            for rate in (0.0, 0.5)
            for seed in (0, 1)
        ]
    )


def test_a_report_names_a_component_by_the_class_that_the_flat_config_has() -> None:
    runs = [
        Run(
            id=f"g/{name}",
            location="/x",
            state="done",
            seed=0,
            config={"judge._target_": f"mmo_rl.judge.{name}.{name.title()}Judge", "trainer.learning_rate": rate},
            summary={"eval/pnl_trained": 1.0},
        )
        for name, rate in (("oracle", 0.1), ("heuristic", 0.1), ("outcome", 0.2))
    ]
    compared = compare_runs(runs, by=["judge", "trainer.learning_rate"])
    assert config_keys(compared) == ["judge._target_", "trainer.learning_rate"]


def test_a_report_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(ConfigError, match="needs the package wandb-workspaces") as error:
        write_wandb_report(group(), "team/mmo-rl/dropout")
    assert "mmo-rl[reports]" in str(error.value.hint)


@pytest.mark.filterwarnings("ignore")  # that package's own
def test_a_report_holds_the_verdict_the_tables_and_charts_of_the_group(server: HTTPServer) -> None:
    """By the real package, where this extra is installed, to a server that takes it."""
    pytest.importorskip("wandb_workspaces")
    asked = answering(server, [])
    assert write_wandb_report(group(), "team/mmo-rl/dropout").startswith(server.url_for("/team/mmo-rl/reports/"))
    (sent,) = (q["variables"] for q in asked if "upsertView" in q["query"])
    assert (sent["entityName"], sent["projectName"], sent["type"]) == ("team", "mmo-rl", "runs/draft")
    spec = json.loads(sent["spec"])
    blocks = {block["type"]: block for block in spec["blocks"]}
    assert "max_dropout=0 is highest" in json.dumps(blocks["heading"])
    grid = blocks["panel-grid"]["metadata"]
    assert grid["runSets"][0]["filters"]["filters"][0]["value"] == "dropout"
    kinds = [panel["viewType"] for panel in grid["panelBankSectionConfig"]["panels"]]
    assert kinds == ["Run History Line Plot", "Scatter Plot", "Parallel Coordinates Plot"]
