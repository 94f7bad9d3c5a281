"""task=collect as it is typed: a home of its own, scripts and endpoints, then task=check."""

from __future__ import annotations

import json

from tests.harness.endpoint import Endpoint, completion
from tests.harness.project import Project


def test_what_was_collected_is_ready_and_is_not_collected_again(project: Project) -> None:
    command = (
        "task=collect",
        "collect.windows=3",
        "collect.agents=5",
        "collect.strategies=[conservative,balanced,aggressive,momentum,contrarian]",
    )
    first = project.attempt(*command)
    assert first.code == 0, first.err
    assert "Ranking by P&L" in first.out and "momentum-03" in first.out
    assert "3 windows, 15 trajectories" in first.out
    checked = project.attempt("task=check", "check.format=json")
    assert checked.code == 0, checked.out + checked.err
    report = json.loads(checked.out)
    assert report["windows_ready"] == 3, report
    again = project.attempt(*command)
    assert "3 windows were recorded before, 0 are new" in again.out
    assert again.out.split("Ranking")[1] == first.out.split("Ranking")[1]


def test_an_endpoints_play_is_recorded_and_one_that_is_down_is_told_at_once(
    project: Project,
    endpoint: Endpoint,
) -> None:
    small = ("task=collect", "collect.windows=1", "collect.agents=5", "policy=endpoint", "policy.model=some-model")
    down = project.attempt(*small, "policy.base_url=http://127.0.0.1:9/v1")
    assert down.code == 1 and "nobody answers" in down.err and "policy.endpoint.base_url" in down.err
    endpoint.script = lambda request, number: completion('{"action":"HOLD"}')
    played = project.attempt(*small, f"policy.base_url={endpoint.url}")
    assert played.code == 0, played.err
    assert "some-model" in played.out and len(endpoint.requests) == 5 * 8
